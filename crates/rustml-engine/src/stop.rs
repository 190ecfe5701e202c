//! Strings at which a text ends.

/// Finds stop strings in a text that comes in pieces, and lets only through
/// what can no longer become part of one.
///
/// One automaton for each string (Knuth, Morris, Pratt), so that every byte is
/// looked at once however the strings repeat themselves.
pub(crate) struct StopStrings {
    patterns: Vec<Pattern>,
    /// Text that is not let through yet: the longest beginning of a stop
    /// string that the text so far ends with.
    held: String,
}

struct Pattern {
    bytes: Vec<u8>,
    /// For each number of bytes that match, the longest shorter one that
    /// matches as well.
    fallback: Vec<usize>,
    matched: usize,
}

impl Pattern {
    fn new(text: &str) -> Pattern {
        let bytes = text.as_bytes().to_vec();
        let mut fallback = vec![0; bytes.len() + 1];
        let mut k = 0;
        for i in 1..bytes.len() {
            while k > 0 && bytes[i] != bytes[k] {
                k = fallback[k];
            }
            k += usize::from(bytes[i] == bytes[k]);
            fallback[i + 1] = k;
        }
        Pattern {
            bytes,
            fallback,
            matched: 0,
        }
    }

    /// Whether this byte completes it.
    fn push(&mut self, byte: u8) -> bool {
        while self.matched > 0 && self.bytes[self.matched] != byte {
            self.matched = self.fallback[self.matched];
        }
        self.matched += usize::from(self.bytes[self.matched] == byte);
        self.matched == self.bytes.len()
    }
}

impl StopStrings {
    /// None of the strings may be empty.
    pub fn new(strings: &[String]) -> StopStrings {
        StopStrings {
            patterns: strings.iter().map(|s| Pattern::new(s)).collect(),
            held: String::new(),
        }
    }

    /// Takes the next text, and leaves in its place what may come out. When a
    /// string is complete, that is the rest before it, and the result is which
    /// one: the first to be complete, and of several the longest.
    pub fn push(&mut self, text: &mut String) -> Option<usize> {
        if self.patterns.is_empty() {
            return None;
        }
        let from = self.held.len();
        self.held.push_str(text);
        text.clear();
        for at in from..self.held.len() {
            let byte = self.held.as_bytes()[at];
            let mut found = None;
            for (i, p) in self.patterns.iter_mut().enumerate() {
                if p.push(byte) && found.is_none_or(|(_, len)| p.bytes.len() > len) {
                    found = Some((i, p.bytes.len()));
                }
            }
            if let Some((i, len)) = found {
                let begin = at + 1 - len;
                text.push_str(&self.held[..begin]);
                self.held.clear();
                return Some(i);
            }
        }
        let keep = self.patterns.iter().map(|p| p.matched).max().unwrap_or(0);
        text.extend(self.held.drain(..self.held.len() - keep));
        None
    }

    /// What was held back, when no more text comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn feed(stops: &[&str], pieces: &[&str]) -> (String, Option<usize>) {
        let stops: Vec<String> = stops.iter().map(|s| s.to_string()).collect();
        let mut s = StopStrings::new(&stops);
        let mut out = String::new();
        for piece in pieces {
            let mut text = piece.to_string();
            let found = s.push(&mut text);
            out.push_str(&text);
            if found.is_some() {
                assert_eq!(s.finish(), "");
                return (out, found);
            }
        }
        (out + &s.finish(), None)
    }

    #[test]
    fn stops_are_found_across_pieces() {
        assert_eq!(feed(&["END"], &["a E", "N", "D b"]), ("a ".into(), Some(0)));
        assert_eq!(feed(&["END"], &["a E", "N"]), ("a EN".into(), None));
        assert_eq!(feed(&["aab"], &["aaa", "ab"]), ("aa".into(), Some(0)));
        assert_eq!(feed(&["b", "ab"], &["xab"]), ("x".into(), Some(1)));
        assert_eq!(feed(&["bcd", "c"], &["ab", "cd"]), ("ab".into(), Some(1)));
        assert_eq!(feed(&["ä"], &["oä"]), ("o".into(), Some(0)));
        assert_eq!(feed(&[], &["a", "b"]), ("ab".into(), None));
    }

    proptest! {
        /// As searching in the whole text does.
        #[test]
        fn pieces_do_not_matter(
            stops in prop::collection::vec("[abé]{1,4}", 1..4),
            pieces in prop::collection::vec("[abéc]{0,5}", 0..12),
        ) {
            let whole = pieces.concat();
            let ends = |(i, s): (usize, &String)| {
                whole.find(s.as_str()).map(|at| (at + s.len(), std::cmp::Reverse(s.len()), i))
            };
            let expected = match stops.iter().enumerate().filter_map(ends).min() {
                Some((end, len, i)) => (whole[..end - len.0].to_owned(), Some(i)),
                None => (whole, None),
            };
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            prop_assert_eq!(feed(&stops, &pieces), expected);
        }
    }
}
