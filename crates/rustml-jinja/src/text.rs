//! Text that knows which of its bytes the template did not write.

use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

/// Text, and where it comes from.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    text: Arc<str>,
    source: Source,
    /// Escaped for HTML already, or declared to be.
    pub safe: bool,
}

#[derive(Clone, Debug)]
enum Source {
    Template,
    Input,
    /// These bytes are input, in ascending order.
    Mixed(Arc<[Range<usize>]>),
}

impl Text {
    /// What the template itself says.
    pub fn template(text: &str) -> Text {
        Text {
            text: text.into(),
            source: Source::Template,
            safe: false,
        }
    }

    /// What somebody else says.
    pub fn input(text: &str) -> Text {
        Text {
            source: Source::Input,
            ..Text::template(text)
        }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn len(&self) -> usize {
        self.text.len()
    }

    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Characters, which Python counts.
    pub fn chars(&self) -> usize {
        self.text.chars().count()
    }

    pub fn slice(&self, range: Range<usize>) -> Text {
        if range == (0..self.len()) {
            return self.clone();
        }
        let mut part = Builder::default();
        part.push(self, range);
        part.finish().with_safe(self.safe)
    }

    pub fn with_safe(self, safe: bool) -> Text {
        Text { safe, ..self }
    }

    /// The range in pieces of one source each; whether they are input.
    pub fn runs(&self, range: Range<usize>) -> impl Iterator<Item = (Range<usize>, bool)> + '_ {
        let all = [range.clone()];
        let (marks, whole): (&[Range<usize>], bool) = match &self.source {
            Source::Template => (&[], false),
            Source::Input => (&[], true),
            Source::Mixed(marks) => (marks, false),
        };
        let first = marks.partition_point(|m| m.end <= range.start);
        let (mut at, end, mut marks) = (range.start, range.end, &marks[first..]);
        let mut whole = whole.then_some(all[0].clone());
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            if let Some(range) = whole.take() {
                at = end;
                return Some((range, true));
            }
            let next = marks.first().map_or(end, |m| m.start.clamp(at, end));
            let run = match next > at {
                true => (at..next, false),
                false => {
                    let stop = marks[0].end.min(end);
                    marks = &marks[1..];
                    (at..stop, true)
                }
            };
            at = run.0.end;
            Some(run)
        })
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Text) -> bool {
        self.text == other.text
    }
}

impl Eq for Text {}

impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

/// Text in the making.
#[derive(Default)]
pub(crate) struct Builder {
    pub text: String,
    /// Ranges of input, in ascending order, none beside another.
    pub input: Vec<Range<usize>>,
}

impl Builder {
    /// Appends a part of a text.
    pub fn push(&mut self, text: &Text, range: Range<usize>) {
        for (run, input) in text.runs(range) {
            self.push_str(&text.as_str()[run], input);
        }
    }

    /// Appends a whole text.
    pub fn push_all(&mut self, text: &Text) {
        self.push(text, 0..text.len());
    }

    pub fn push_str(&mut self, text: &str, input: bool) {
        let start = self.text.len();
        self.text.push_str(text);
        self.mark(start, input);
    }

    /// Marks what was appended since `start`.
    fn mark(&mut self, start: usize, input: bool) {
        let end = self.text.len();
        if !input || start == end {
            return;
        }
        match self.input.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => self.input.push(start..end),
        }
    }

    pub fn finish(self) -> Text {
        let source = match self.input.first() {
            None => Source::Template,
            Some(range) if *range == (0..self.text.len()) => Source::Input,
            Some(_) => Source::Mixed(self.input.into()),
        };
        Text {
            text: self.text.into(),
            source,
            safe: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(text: &Text, range: Range<usize>) -> Vec<(&str, bool)> {
        let runs = text.runs(range);
        runs.map(|(run, input)| (&text.as_str()[run], input))
            .collect()
    }

    #[test]
    fn parts_keep_their_source() {
        let mut builder = Builder::default();
        builder.push_all(&Text::template("ab"));
        builder.push_all(&Text::input("cd"));
        builder.push_all(&Text::input(""));
        builder.push_all(&Text::input("ef"));
        builder.push_all(&Text::template("gh"));
        builder.push_all(&Text::input("i"));
        let text = builder.finish();
        assert_eq!(
            show(&text, 0..9),
            [("ab", false), ("cdef", true), ("gh", false), ("i", true)]
        );
        assert_eq!(show(&text, 3..7), [("def", true), ("g", false)]);
        assert_eq!(show(&text, 6..6), []);
        let part = text.slice(1..8);
        assert_eq!(
            show(&part, 0..7),
            [("b", false), ("cdef", true), ("gh", false)]
        );
        assert_eq!(show(&text.slice(2..5), 1..3), [("de", true)]);
    }
}
