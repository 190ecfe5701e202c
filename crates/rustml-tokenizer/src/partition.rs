//! Finding the tokens that are found before everything else.
//!
//! Control tokens and added tokens are cut out of the text first; what is left
//! between them goes to the encoder. Where two of them overlap, llama.cpp and
//! Hugging Face differ, so there are two [`Order`]s.

use std::ops::Range;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use memchr::memmem::Finder;

use crate::error::{bad_vocabulary, Result};
use crate::limits::check_added;

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
    /// White space before it does.
    strips_before: bool,
}

/// A token that was found, and where.
struct Match {
    range: Range<usize>,
    id: u32,
    control: bool,
    strips: bool,
    strips_before: bool,
}

impl Entry {
    fn at(&self, range: Range<usize>) -> Match {
        Match {
            range,
            id: self.id,
            control: self.control,
            strips: self.strips,
            strips_before: self.strips_before,
        }
    }
}

/// What is left behind white space.
fn strip(text: &str) -> &str {
    text.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b')
}

/// Tokens, and the text between them.
fn fill(part: Range<usize>, found: Vec<Match>) -> Vec<Part> {
    let mut parts = Vec::with_capacity(2 * found.len() + 1);
    let mut done = part.start;
    for m in found {
        if done < m.range.start {
            parts.push(Part::Text(done..m.range.start));
        }
        parts.push(Part::Token(m.id));
        done = m.range.end;
    }
    if done < part.end {
        parts.push(Part::Text(done..part.end));
    }
    parts
}

/// Who wins where tokens overlap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    /// The longest, wherever it is; llama.cpp's.
    Longest,
    /// The first, and of those that begin there the longest; Hugging Face's.
    Leftmost,
}

/// Different tokens in one text that are looked for one after the other.
const MANY: usize = 64;

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
                strips_before: false,
            })
            .collect();
        check_added(entries.iter().map(|e| (&*e.text, false)))?;
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

    /// Makes white space before some tokens part of them ([`Order::Leftmost`] only).
    pub fn strip_before(&mut self, which: impl Fn(&str) -> bool) {
        for entry in &mut self.entries {
            entry.strips_before = which(&entry.text);
        }
    }

    /// Cuts `text` into tokens and the text between them; with `control`
    /// false, control tokens are ordinary text.
    pub fn split(&self, text: &str, control: bool) -> Vec<Part> {
        fill(0..text.len(), self.find(text, 0..text.len(), control))
    }

    /// Cuts `text` as [`split`](Self::split) does, but control tokens lie only
    /// between these ranges, which are in ascending order, and go first: nothing
    /// that stands in a range makes one, or takes one away.
    pub fn split_apart(&self, text: &str, ranges: &[Range<usize>]) -> Vec<Part> {
        let found = self.control(text, ranges);
        let mut parts = Vec::new();
        let mut done = 0;
        for (i, m) in found.iter().enumerate() {
            let next = found.get(i + 1).map_or(text.len(), |next| next.range.start);
            let before = &text[done..m.range.start];
            let between = match m.strips_before {
                true => done..done + before.trim_end().len(),
                false => done..m.range.start,
            };
            parts.extend(fill(between.clone(), self.find(text, between, false)));
            parts.push(Part::Token(m.id));
            done = match m.strips {
                true => next - strip(&text[m.range.end..next]).len(),
                false => m.range.end,
            };
        }
        let last = done..text.len();
        parts.extend(fill(last.clone(), self.find(text, last, false)));
        parts
    }

    /// Control tokens between these ranges, and where they stand.
    pub fn control_tokens(&self, text: &str, ranges: &[Range<usize>]) -> Vec<(u32, Range<usize>)> {
        let found = self.control(text, ranges).into_iter();
        found.map(|m| (m.id, m.range)).collect()
    }

    fn control(&self, text: &str, ranges: &[Range<usize>]) -> Vec<Match> {
        let ends = ranges.iter().map(|range| range.end);
        let starts = ranges.iter().map(|range| range.start);
        let outside = std::iter::once(0).chain(ends);
        let outside = outside.zip(starts.chain([text.len()]));
        let found = outside.flat_map(|(start, end)| self.find(text, start..end, true));
        found.filter(|m| m.control).collect()
    }

    /// The tokens in a part of the text, in their order.
    fn find(&self, text: &str, part: Range<usize>, control: bool) -> Vec<Match> {
        let mut found = match self.order {
            Order::Longest => self.longest(&text[part.clone()], control),
            Order::Leftmost => self.leftmost(&text[part.clone()], control),
        };
        for m in &mut found {
            m.range.start += part.start;
            m.range.end += part.start;
        }
        found
    }

    fn leftmost(&self, text: &str, control: bool) -> Vec<Match> {
        let mut found = Vec::new();
        let mut done = 0;
        for hit in self.any.iter().flat_map(|any| any.find_iter(text)) {
            let entry = &self.entries[hit.pattern().as_usize()];
            if entry.control && !control {
                continue;
            }
            let start = match entry.strips_before {
                true => done + text[done..hit.start()].trim_end().len(),
                false => hit.start(),
            };
            found.push(entry.at(start..hit.end()));
            done = hit.end();
        }
        found
    }

    fn longest(&self, text: &str, control: bool) -> Vec<Match> {
        let present: Vec<&Entry> = self.present(text, control).collect();
        if present.len() > MANY {
            return self.longest_of_many(text, control);
        }
        let mut texts: Vec<Range<usize>> = Vec::new();
        if !text.is_empty() {
            texts.push(0..text.len());
        }
        let mut found = Vec::new();
        for entry in present {
            let finder = Finder::new(&entry.text);
            let mut rest = Vec::with_capacity(texts.len());
            for mut range in texts {
                while let Some(at) = finder.find(&text.as_bytes()[range.clone()]) {
                    let start = range.start + at;
                    let mut end = start + entry.text.len();
                    if entry.strips {
                        end = range.end - strip(&text[end..range.end]).len();
                    }
                    found.push(entry.at(start..end));
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
        found.sort_by_key(|m| m.range.start);
        found
    }

    /// [`Self::longest`], where looking for each by itself would take long: all
    /// places at once, the longest first, which get what is still free.
    fn longest_of_many(&self, text: &str, control: bool) -> Vec<Match> {
        let hits = self
            .any
            .iter()
            .flat_map(|any| any.find_overlapping_iter(text));
        let mut hits: Vec<(u32, u32)> = hits
            .map(|hit| (hit.pattern().as_u32(), hit.start() as u32))
            .collect();
        // Entries are in order of their lengths already.
        hits.sort_unstable();
        let mut taken = vec![false; text.len()];
        let mut found = Vec::new();
        for (pattern, start) in hits {
            let entry = &self.entries[pattern as usize];
            let start = start as usize;
            let mut end = start + entry.text.len();
            // What is taken is at least as long, so it covers one of these.
            if taken[start] || taken[end - 1] || (entry.control && !control) {
                continue;
            }
            if entry.strips {
                let blanks = text.len() - end - strip(&text[end..]).len();
                let free = taken[end..end + blanks].iter().take_while(|t| !**t);
                end += free.count();
            }
            taken[start..end].fill(true);
            found.push(entry.at(start..end));
        }
        found.sort_by_key(|m| m.range.start);
        found
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

    proptest::proptest! {
        #[test]
        fn many_at_once_equal_one_after_the_other(
            tokens in proptest::collection::hash_set("[ab ]{1,4}", 1..20),
            text in "[ab ]{0,40}",
            strips in "[ab ]{1}",
        ) {
            let tokens: Vec<String> = tokens.into_iter().collect();
            let tokens = tokens.into_iter().zip(0..).map(|(t, id)| (t, id, id % 3 == 0));
            let mut p = Partition::new(Order::Longest, tokens).unwrap();
            p.strip_after(|text| text.contains(&strips));
            for control in [false, true] {
                let many = fill(0..text.len(), p.longest_of_many(&text, control));
                proptest::prop_assert_eq!(many, p.split(&text, control));
            }
        }
    }

    /// Looking for one after the other would take minutes.
    #[test]
    fn many_different_tokens_take_linear_time() {
        let tokens: Vec<String> = (0..20_000).map(|i| format!("<{i}>")).collect();
        let text = tokens.concat();
        let tokens = tokens.into_iter().zip(0..).map(|(t, id)| (t, id, true));
        let p = Partition::new(Order::Longest, tokens).unwrap();
        assert_eq!(p.split(&text, true).len(), 20_000);
    }

    #[test]
    fn tokens_are_neither_too_long_nor_too_many() {
        let error = |tokens: Vec<String>| {
            let tokens = tokens.into_iter().zip(0..).map(|(t, id)| (t, id, true));
            Partition::new(Order::Longest, tokens)
                .err()
                .unwrap()
                .to_string()
        };
        let e = error(vec!["a".repeat(1025)]);
        assert!(
            e.contains("\"aaaaaaaaaaaaaaaaaaaa\"... has 1025 bytes, more than 1024"),
            "{e}"
        );
        let e = error((0..3).map(|i| format!("{i}{}", "a".repeat(900))).collect());
        assert!(e.contains("too long together (2703 bytes)"), "{e}");
        let e = error(
            (0..5000)
                .map(|i| format!("{i}{}", "a".repeat(1000)))
                .collect(),
        );
        assert!(e.contains("too long together"), "{e}");
    }

    #[test]
    fn no_tokens_at_all() {
        let p = Partition::new(Order::Longest, std::iter::empty()).unwrap();
        assert_eq!(show(&p, "a<a>", true), ["a<a>"]);
    }
}
