//! Which stored tensor is which, and that none is left over.

use super::quantised::SUFFIXES;
use super::Loader;
use crate::arch::{Name, Repair, Role};
use crate::error::{show, Result};
use rustml_io::{FileFormat, Tensor};

impl<'a> Loader<'a> {
    /// What may stand before the head's name in safetensors: it is outside the
    /// model that the prefix names.
    pub const HEAD_PREFIXES: &'static [&'static str] = &["", "language_model."];

    fn is_gguf(&self) -> bool {
        matches!(self.store.format(), FileFormat::Gguf { .. })
    }

    /// The name in the architecture's table, and what is done to the tensor. Where
    /// the table has several, the first that is in the file, or else the first.
    pub(super) fn base_name(&self, role: Role, layer: Option<usize>) -> Result<(String, Repair)> {
        let at = |name: &Name| match layer {
            Some(i) => name.name.replace("{}", &i.to_string()),
            None => name.name.to_owned(),
        };
        let names = || self.arch.names(role, self.store.format());
        let suffixes = [".weight", "", ".bias", "_bias"];
        let is_there = |name: &&Name| {
            let base = at(name);
            let mut suffixes = suffixes.iter().chain(SUFFIXES);
            suffixes.any(|suffix| self.find(role, &base, suffix).is_some())
        };
        let name = names().find(is_there).or_else(|| names().next());
        let name = name.ok_or_else(|| {
            self.error(format!(
                "this architecture has no tensor for {role:?} in this format"
            ))
        })?;
        Ok((at(name), name.repair))
    }

    /// The names in the architecture's table.
    pub(super) fn names_of(&self, role: Role) -> impl Iterator<Item = &'a Name> {
        self.arch.names(role, self.store.format())
    }

    /// What may stand before the table's names.
    fn prefixes(&self, role: Role) -> &[&str] {
        match role {
            Role::Head if !self.is_gguf() => Self::HEAD_PREFIXES,
            Role::ClassDense | Role::ClassNorm | Role::ClassOut => &[""],
            _ => std::slice::from_ref(&self.prefix),
        }
    }

    pub(super) fn find(&self, role: Role, base: &str, suffix: &str) -> Option<String> {
        let mut names = self.prefixes(role).iter();
        let mut names = names
            .by_ref()
            .map(|prefix| format!("{prefix}{base}{suffix}"));
        names.find(|n| self.store.find(n).is_some())
    }

    /// The stored name for `role`. Of a tied pair some files hold the head
    /// alone, which then is the embedding, too.
    fn find_or_tied(&self, role: Role, base: &str, suffix: &str) -> Option<String> {
        let found = self.find(role, base, suffix);
        let tied = self.spec.head.is_some_and(|h| h.tied);
        if found.is_some() || role != Role::Embedding || !tied {
            return found;
        }
        let (head, _) = self.base_name(Role::Head, None).ok()?;
        self.find(Role::Head, &head, suffix)
    }

    /// The tensor for `role`, and what is to be done to it.
    pub fn tensor(
        &mut self,
        role: Role,
        layer: Option<usize>,
        suffix: &str,
    ) -> Result<(Tensor<'a>, Repair)> {
        let (base, repair) = self.base_name(role, layer)?;
        Ok((self.tensor_named(role, &base, suffix)?, repair))
    }

    /// The tensor of that name, but for what stands before it.
    pub(super) fn tensor_named(
        &mut self,
        role: Role,
        base: &str,
        suffix: &str,
    ) -> Result<Tensor<'a>> {
        let Some(name) = self.find_or_tied(role, base, suffix) else {
            let prefix = self.prefixes(role)[0];
            return Err(self.error(format!("the tensor {prefix}{base}{suffix} is missing")));
        };
        let tensor = self.store.tensor(&name)?;
        self.used.insert(name);
        Ok(tensor)
    }

    /// Finds out what stands before all names; says early, and in one
    /// sentence, that a file is of other tensors altogether.
    pub fn find_prefix(&mut self) -> Result<()> {
        let (base, _) = self.base_name(Role::Embedding, None)?;
        let prefixes = match self.is_gguf() {
            true => &[""],
            false => self.arch.hf_prefixes,
        };
        // Any tensor outside the layers tells the prefix; the embedding may be
        // stored as the head, which has none.
        let norm = self.base_name(Role::FinalNorm, None).ok();
        let norm = norm.map(|(norm, _)| (Role::FinalNorm, norm));
        for (role, name) in [(Role::Embedding, base.clone())].into_iter().chain(norm) {
            for prefix in prefixes {
                self.prefix = prefix;
                let embedding = || self.find_or_tied(Role::Embedding, &base, ".weight");
                if self.find(role, &name, ".weight").is_some() && embedding().is_some() {
                    return Ok(());
                }
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

    /// Whether a tensor of floats holds nothing but zeros: packers write such a bias for layers
    /// that have none.
    fn is_zero(&self, name: &str) -> bool {
        let tensor = self.store.tensor(name);
        tensor.is_ok_and(|t| t.data.iter().all(|byte| *byte == 0))
    }

    /// What the names of layers begin with that guess further tokens, which are not computed:
    /// they come after the others, and have a product of an embedding and a hidden state.
    fn further_layers(&self) -> Vec<String> {
        let layers = self.spec.layers.len();
        let last = ["eh_proj.weight", "nextn.eh_proj.weight"];
        let begins = |name: &str| {
            let begin = last.iter().find_map(|end| name.strip_suffix(end))?;
            let number = begin.strip_suffix('.')?.rsplit('.').next()?;
            let beyond = number.parse::<usize>().is_ok_and(|n| n >= layers);
            beyond.then(|| begin.to_owned())
        };
        let names = self.store.tensors().iter();
        names.filter_map(|t| begins(&t.name)).collect()
    }

    /// A tensor that nothing uses is an error: the model would not be the one
    /// in the file.
    pub fn check_leftovers(&self) -> Result<()> {
        // A tied head may be stored all the same; the embedding stands for it.
        let head = match self.spec.head.is_some_and(|h| h.tied) {
            true => self.base_name(Role::Head, None).ok(),
            false => None,
        };
        let head = head.and_then(|(base, _)| self.find(Role::Head, &base, ".weight"));
        let ignored = self.arch.ignored;
        let is_no_bias = |name: &str| {
            let base = name.strip_suffix(".bias").filter(|_| self.scheme.is_some());
            base.is_some_and(|base| {
                let mut suffixes = SUFFIXES.iter();
                suffixes.any(|suffix| self.used.contains(&format!("{base}{suffix}")))
                    && self.is_zero(name)
            })
        };
        let further = self.further_layers();
        let mut leftovers = self.store.tensors().iter().filter(|t| {
            let name = &t.name;
            !self.used.contains(name)
                && !is_no_bias(name)
                && Some(name) != head.as_ref()
                && !further.iter().any(|layer| name.starts_with(layer))
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
