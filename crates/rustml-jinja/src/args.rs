//! Arguments of calls.

use crate::error::{fail, mistake, shown, Fault};
use crate::meter::Meter;
use crate::text::Text;
use crate::value::{integer, Value};
use crate::write;

#[derive(Default)]
pub(crate) struct Args {
    pub positional: Vec<Value>,
    pub named: Vec<(String, Value)>,
}

/// Arguments in the order of their names.
pub(crate) struct Bound<const N: usize> {
    names: [&'static str; N],
    values: [Option<Value>; N],
}

impl Args {
    /// Gives each argument its name.
    pub fn bind<const N: usize>(
        self,
        what: &str,
        names: [&'static str; N],
    ) -> Result<Bound<N>, Fault> {
        let mut values = [const { None }; N];
        if self.positional.len() > N {
            return fail(format!("{what} takes {N} arguments at most"));
        }
        for (place, value) in values.iter_mut().zip(self.positional) {
            *place = Some(value);
        }
        for (name, value) in self.named {
            match names.iter().position(|n| *n == name) {
                Some(at) if values[at].is_none() => values[at] = Some(value),
                Some(_) => return fail(format!("{what} was given {name} twice")),
                None => return fail(format!("{what} has no argument {:?}", shown(&name))),
            }
        }
        Ok(Bound { names, values })
    }

    /// None at all.
    pub fn none(self, what: &str) -> Result<(), Fault> {
        self.bind::<0>(what, []).map(drop)
    }
}

impl<const N: usize> Bound<N> {
    pub fn get(&self, at: usize) -> Option<&Value> {
        self.values[at].as_ref()
    }

    /// An argument that has to be there.
    pub fn need(&self, at: usize) -> Result<&Value, Fault> {
        let missing = || mistake(format!("the argument {:?} is missing", self.names[at]));
        self.values[at].as_ref().ok_or_else(missing)
    }

    /// Text, if it is there and not none.
    pub fn text(&self, at: usize) -> Result<Option<&Text>, Fault> {
        match self.get(at) {
            None | Some(Value::None) => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(other) => fail(format!(
                "the argument {:?} has to be a string, not a {}",
                self.names[at],
                other.type_name()
            )),
        }
    }

    pub fn need_text(&self, at: usize) -> Result<&Text, Fault> {
        self.need(at)?;
        let missing = || mistake(format!("the argument {:?} is none", self.names[at]));
        self.text(at)?.ok_or_else(missing)
    }

    /// Whatever it is as text.
    pub fn as_text(&self, at: usize, default: &str, meter: &Meter) -> Result<Text, Fault> {
        match self.get(at) {
            None => Ok(Text::template(default)),
            Some(value) => write::text_of(value, meter),
        }
    }

    pub fn int(&self, at: usize) -> Result<Option<i64>, Fault> {
        match self.get(at) {
            None | Some(Value::None) => Ok(None),
            Some(value) => integer(value, &format!("the argument {:?}", self.names[at])).map(Some),
        }
    }

    /// A size; less than nothing is nothing.
    pub fn size(&self, at: usize, default: usize) -> Result<usize, Fault> {
        let n = self.int(at)?;
        Ok(n.map_or(default, |n| usize::try_from(n).unwrap_or(0)))
    }

    pub fn is(&self, at: usize, default: bool) -> bool {
        self.get(at).map_or(default, Value::is_true)
    }
}
