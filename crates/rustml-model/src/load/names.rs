//! Which stored tensor is which, and that none is left over.

use super::Loader;
use crate::arch::{Repair, Role};
use crate::error::{show, Result};
use rustml_io::{FileFormat, Tensor};

impl<'a> Loader<'a> {
    fn is_gguf(&self) -> bool {
        matches!(self.store.format(), FileFormat::Gguf { .. })
    }

    /// The name in the architecture's table, and what is done to the tensor.
    fn base_name(&self, role: Role, layer: Option<usize>) -> Result<(String, Repair)> {
        let name = self.arch.tensor(role, self.store.format());
        let name = name.ok_or_else(|| {
            self.error(format!(
                "this architecture has no tensor for {role:?} in this format"
            ))
        })?;
        let base = match layer {
            Some(i) => name.name.replace("{}", &i.to_string()),
            None => name.name.to_owned(),
        };
        Ok((base, name.repair))
    }

    /// What may stand before the table's names: in safetensors the head is
    /// outside the model that the prefix names.
    fn prefixes(&self, role: Role) -> &[&str] {
        match role {
            Role::Head if !self.is_gguf() => &["", "language_model."],
            _ => std::slice::from_ref(&self.prefix),
        }
    }

    fn find(&self, role: Role, base: &str, suffix: &str) -> Option<String> {
        let mut names = self.prefixes(role).iter();
        let mut names = names
            .by_ref()
            .map(|prefix| format!("{prefix}{base}{suffix}"));
        names.find(|n| self.store.find(n).is_some())
    }

    /// The tensor for `role`, and what is to be done to it.
    pub fn tensor(
        &mut self,
        role: Role,
        layer: Option<usize>,
        suffix: &str,
    ) -> Result<(Tensor<'a>, Repair)> {
        let (base, repair) = self.base_name(role, layer)?;
        let Some(name) = self.find(role, &base, suffix) else {
            let prefix = self.prefixes(role)[0];
            return Err(self.error(format!("the tensor {prefix}{base}{suffix} is missing")));
        };
        let tensor = self.store.tensor(&name)?;
        self.used.insert(name);
        Ok((tensor, repair))
    }

    /// Finds out what stands before all names; says early, and in one
    /// sentence, that a file is of other tensors altogether.
    pub fn find_prefix(&mut self) -> Result<()> {
        let (base, _) = self.base_name(Role::Embedding, None)?;
        let prefixes = match self.is_gguf() {
            true => &[""],
            false => self.arch.hf_prefixes,
        };
        for prefix in prefixes {
            self.prefix = prefix;
            if self.find(Role::Embedding, &base, ".weight").is_some() {
                return Ok(());
            }
        }
        let names = self.store.tensors();
        Err(self.error(match names.first() {
            Some(first) => format!(
                "the tensor {}{base}.weight is missing, among {} whose names begin with {}",
                prefixes[0],
                names.len(),
                show(&first.name)
            ),
            None => "the file holds no tensors".into(),
        }))
    }

    /// A tensor that nothing uses is an error: the model would not be the one
    /// in the file.
    pub fn check_leftovers(&self) -> Result<()> {
        // A tied head may be stored all the same; the embedding stands for it.
        let head = match self.spec.head.tied {
            true => self.base_name(Role::Head, None).ok(),
            false => None,
        };
        let head = head.and_then(|(base, _)| self.find(Role::Head, &base, ".weight"));
        let ignored = self.arch.ignored;
        let mut leftovers = self.store.tensors().iter().filter(|t| {
            let name = &t.name;
            !self.used.contains(name)
                && Some(name) != head.as_ref()
                && !ignored
                    .iter()
                    .any(|i| name.starts_with(i) || name.ends_with(i))
        });
        let Some(first) = leftovers.next() else {
            return Ok(());
        };
        let others = match leftovers.count() {
            0 => String::new(),
            n => format!(" (and {n} more)"),
        };
        Err(self.error(format!(
            "nothing in this architecture uses the tensor {}{others}: \
             the file is of another model than its configuration says",
            show(&first.name)
        )))
    }
}
