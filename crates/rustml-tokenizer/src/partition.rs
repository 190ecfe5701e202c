//! Finding the tokens that are found before everything else.
//!
//! Control tokens and added tokens are cut out of the text first; what is left
//! between them goes to the encoder. Where two of them overlap, llama.cpp and
//! Hugging Face differ, so there are two [`Order`]s.

use std::ops::Range;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use memchr::memmem::Finder;

use crate::error::{bad_vocabulary, Result};

/// A part of the text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    /// Bytes of the text, for the encoder.
    Text(Range<usize>),
    /// A token found in the text.
    Token(u32),
}

struct Entry {
    text: String,
    id: u32,
    control: bool,
    /// White space after it belongs to it.
    strips: bool,
}

/// Who wins where tokens overlap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    /// The longest, wherever it is; llama.cpp's.
    Longest,
    /// The first, and of those that begin there the longest; Hugging Face's.
    Leftmost,
}

/// The tokens to look for.
pub(crate) struct Partition {
    order: Order,
    /// The longest first, then by id.
    entries: Vec<Entry>,
    /// All of them; [`Order::Longest`] only asks it which occur at all.
    any: Option<AhoCorasick>,
}

impl Partition {
    /// Of `(text, id, is a control token)`.
    pub fn new(
        order: Order,
        tokens: impl Iterator<Item = (String, u32, bool)>,
    ) -> Result<Partition> {
        let mut entries: Vec<Entry> = tokens
            .filter(|(text, ..)| !text.is_empty())
            .map(|(text, id, control)| Entry {
                text,
                id,
                control,
                strips: false,
            })
            .collect();
        entries.sort_by_key(|e| (std::cmp::Reverse(e.text.len()), e.id));
        let any = if entries.is_empty() {
            None
        } else {
            let built = AhoCorasick::builder()
                .match_kind(match order {
                    Order::Longest => MatchKind::Standard,
                    Order::Leftmost => MatchKind::LeftmostLongest,
                })
                .kind(Some(AhoCorasickKind::ContiguousNFA))
                .build(entries.iter().map(|e| &e.text));
            match built {
                Ok(any) => Some(any),
                Err(e) => return bad_vocabulary(format!("too many control tokens: {e}")),
            }
        };
        Ok(Partition {
            order,
            entries,
            any,
        })
    }

    /// Makes white space after some tokens part of them.
    pub fn strip_after(&mut self, which: impl Fn(&str) -> bool) {
        for entry in &mut self.entries {
            entry.strips = which(&entry.text);
        }
    }

    /// Cuts `text` into tokens and the text between them; with `control`
    /// false, control tokens are ordinary text.
    pub fn split(&self, text: &str, control: bool) -> Vec<Part> {
        match self.order {
            Order::Longest => self.longest(text, control),
            Order::Leftmost => self.leftmost(text, control),
        }
    }

    fn leftmost(&self, text: &str, control: bool) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut done = 0;
        for hit in self.any.iter().flat_map(|any| any.find_iter(text)) {
            let entry = &self.entries[hit.pattern().as_usize()];
            if entry.control && !control {
                continue;
            }
            if done < hit.start() {
                parts.push(Part::Text(done..hit.start()));
            }
            parts.push(Part::Token(entry.id));
            done = hit.end();
        }
        if done < text.len() {
            parts.push(Part::Text(done..text.len()));
        }
        parts
    }

    fn longest(&self, text: &str, control: bool) -> Vec<Part> {
        let mut texts: Vec<Range<usize>> = Vec::new();
        if !text.is_empty() {
            texts.push(0..text.len());
        }
        // (where it starts, which)
        let mut tokens: Vec<(usize, u32)> = Vec::new();
        for entry in self.present(text, control) {
            let finder = Finder::new(&entry.text);
            let mut rest = Vec::with_capacity(texts.len());
            for mut range in texts {
                while let Some(at) = finder.find(&text.as_bytes()[range.clone()]) {
                    let start = range.start + at;
                    let mut end = start + entry.text.len();
                    tokens.push((start, entry.id));
                    if entry.strips {
                        let after = &text[end..range.end];
                        let blank = |c: char| c.is_ascii_whitespace() || c == '\x0b';
                        end = range.end - after.trim_start_matches(blank).len();
                    }
                    if range.start < start {
                        rest.push(range.start..start);
                    }
                    range.start = end;
                }
                if !range.is_empty() {
                    rest.push(range);
                }
            }
            texts = rest;
        }
        let texts = texts
            .into_iter()
            .map(|range| (range.start, Part::Text(range)));
        let tokens = tokens
            .into_iter()
            .map(|(start, id)| (start, Part::Token(id)));
        let mut parts: Vec<_> = texts.chain(tokens).collect();
        parts.sort_by_key(|&(start, _)| start);
        parts.into_iter().map(|(_, part)| part).collect()
    }

    /// The entries that occur in `text`, the longest first.
    fn present(&self, text: &str, control: bool) -> impl Iterator<Item = &Entry> {
        let mut found = vec![false; self.entries.len()];
        if let Some(any) = &self.any {
            for hit in any.find_overlapping_iter(text) {
                found[hit.pattern().as_usize()] = true;
            }
        }
        let entries = self.entries.iter().zip(found);
        entries
            .filter(move |(e, found)| *found && (control || !e.control))
            .map(|(e, _)| e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(partition: &Partition, text: &str, control: bool) -> Vec<String> {
        let show = |part| match part {
            Part::Text(range) => text[range].to_string(),
            Part::Token(id) => format!("#{id}"),
        };
        partition
            .split(text, control)
            .into_iter()
            .map(show)
            .collect()
    }

    fn sample(order: Order) -> Partition {
        let tokens = [
            ("<a>", 0, true),
            ("\n", 1, false),
            ("\n\n", 2, false),
            ("xy", 3, false),
            ("yzz", 4, true),
        ];
        Partition::new(
            order,
            tokens.into_iter().map(|(t, id, c)| (t.to_string(), id, c)),
        )
        .unwrap()
    }

    #[test]
    fn cuts_tokens_out_longest_first() {
        let p = sample(Order::Longest);
        assert_eq!(show(&p, "", true), [""; 0]);
        assert_eq!(show(&p, "plain", true), ["plain"]);
        assert_eq!(show(&p, "1<a>2<a><a>", true), ["1", "#0", "2", "#0", "#0"]);
        assert_eq!(show(&p, "<a>é\n\n\né", true), ["#0", "é", "#2", "#1", "é"]);
        // "yzz" is longer, so it wins although "xy" begins before it.
        assert_eq!(show(&p, "xyzz", true), ["x", "#4"]);
    }

    #[test]
    fn cuts_tokens_out_leftmost_first() {
        let p = sample(Order::Leftmost);
        assert_eq!(show(&p, "", true), [""; 0]);
        assert_eq!(show(&p, "<a>é\n\n\né", true), ["#0", "é", "#2", "#1", "é"]);
        assert_eq!(show(&p, "xyzz", true), ["#3", "zz"]);
        assert_eq!(show(&p, "1<a>\n", false), ["1<a>", "#1"]);
    }

    #[test]
    fn control_tokens_are_text_unless_asked_for() {
        let p = sample(Order::Longest);
        assert_eq!(show(&p, "1<a>\n", false), ["1<a>", "#1"]);
        assert_eq!(show(&p, "xyzz", false), ["#3", "zz"]);
    }

    #[test]
    fn white_space_can_belong_to_a_token() {
        let mut p = sample(Order::Longest);
        p.strip_after(|text| text == "<a>");
        assert_eq!(show(&p, "<a> \t b<a>  ", true), ["#0", "b", "#0"]);
        assert_eq!(show(&p, "<a>\n b", true), ["#0", "b"]);
    }

    #[test]
    fn no_tokens_at_all() {
        let p = Partition::new(Order::Longest, std::iter::empty()).unwrap();
        assert_eq!(show(&p, "a<a>", true), ["a<a>"]);
    }
}
