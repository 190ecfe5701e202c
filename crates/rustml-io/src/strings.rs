//! Many strings, such as a vocabulary.

use std::collections::TryReserveError;
use std::fmt;

/// Strings in one piece of memory: those of a vocabulary are short, and of 262 144 each
/// by itself would take several times what its text does.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Strings {
    text: String,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Strings {
    /// None, with room for so many.
    ///
    /// # Errors
    /// If there is no memory for them.
    pub fn with_room(count: usize) -> Result<Strings, TryReserveError> {
        let mut strings = Strings::default();
        strings.ends.try_reserve_exact(count)?;
        Ok(strings)
    }

    /// Adds a string.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn push(&mut self, string: &str) -> Result<(), TryReserveError> {
        self.ends.try_reserve(1)?;
        self.text.try_reserve(string.len())?;
        self.text.push_str(string);
        self.ends.push(self.text.len());
        Ok(())
    }

    /// Gives back the room that is not needed.
    pub fn shrink(&mut self) {
        self.text.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// One of them.
    pub fn get(&self, i: usize) -> Option<&str> {
        let end = *self.ends.get(i)?;
        let start = i.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.text[start..end])
    }

    /// All, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        (0..self.len()).map(|i| self.get(i).unwrap_or_default())
    }
}

impl Default for &Strings {
    fn default() -> Self {
        static NONE: Strings = Strings {
            text: String::new(),
            ends: Vec::new(),
        };
        &NONE
    }
}

impl fmt::Debug for Strings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<S: AsRef<str>> FromIterator<S> for Strings {
    fn from_iter<I: IntoIterator<Item = S>>(all: I) -> Strings {
        let mut strings = Strings::default();
        for s in all {
            strings.text.push_str(s.as_ref());
            strings.ends.push(strings.text.len());
        }
        strings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_come_back_as_they_were() {
        let words = ["", "a", "\u{1f600}", "", "two words", ""];
        let mut strings = Strings::with_room(2).unwrap();
        words.iter().for_each(|w| strings.push(w).unwrap());
        strings.shrink();
        assert_eq!(strings.iter().collect::<Vec<_>>(), words);
        assert_eq!(strings, words.iter().collect());
        assert_eq!((strings.len(), strings.is_empty()), (6, false));
        assert_eq!((strings.get(2), strings.get(6)), (Some("\u{1f600}"), None));
        assert_eq!(
            format!("{:?}", ["a", "b"].iter().collect::<Strings>()),
            r#"["a", "b"]"#
        );
        assert!(<&Strings>::default().is_empty());
        assert!(Strings::with_room(usize::MAX).is_err());
    }
}
