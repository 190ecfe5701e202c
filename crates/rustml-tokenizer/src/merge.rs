//! The one loop behind both kinds of byte pair encoding: join the best pair of
//! neighbours until no pair can be joined.
//!
//! Classic BPE ranks pairs by their place in a list of merges, SentencePiece
//! by the score of the token they make; that difference is the `join` closure.
//! The queue holds every candidate once, so a word of n symbols costs
//! O(n log n), however long it is.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// No symbol, or no token.
pub(crate) const NONE: u32 = u32::MAX;

/// A stretch of the text that is (or may become) one token. Symbols are linked
/// in the order of the text; one that was joined to its left neighbour is empty.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Symbol {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
    /// The token it is, or [`NONE`].
    pub id: u32,
    previous: u32,
    next: u32,
}

/// A pair that may be joined. Ordered by rank, then from left to right.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Candidate {
    rank: u32,
    left: u32,
    right: u32,
    /// Bytes of both; tells whether either has grown since.
    size: u32,
    id: u32,
}

/// Symbols and queue, kept between words to save the allocations.
#[derive(Default)]
pub(crate) struct Merger {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<Candidate>>,
}

impl Merger {
    /// Forgets the last word.
    pub fn clear(&mut self) {
        self.symbols.clear();
        self.queue.clear();
    }

    /// Adds a symbol to the right; it starts where the last one ended.
    pub fn push(&mut self, len: u32, id: u32) {
        let index = self.symbols.len() as u32;
        let start = self.symbols.last().map_or(0, |s| s.end);
        if let Some(last) = self.symbols.last_mut() {
            last.next = index;
        }
        let previous = index.checked_sub(1).unwrap_or(NONE);
        self.symbols.push(Symbol {
            start,
            end: start + len,
            id,
            previous,
            next: NONE,
        });
    }

    /// Joins the pair with the lowest rank, the leftmost of equals, again and
    /// again. `join` says which rank and id a pair of neighbours has.
    pub fn run(&mut self, join: impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>) {
        let offer = |symbols: &[Symbol], queue: &mut BinaryHeap<_>, left: u32, right: u32| {
            if left == NONE || right == NONE {
                return;
            }
            let (l, r) = (&symbols[left as usize], &symbols[right as usize]);
            if let Some((rank, id)) = join(l, r) {
                queue.push(Reverse(Candidate {
                    rank,
                    left,
                    right,
                    size: r.end - l.start,
                    id,
                }));
            }
        };
        for right in 1..self.symbols.len() as u32 {
            offer(&self.symbols, &mut self.queue, right - 1, right);
        }
        while let Some(Reverse(best)) = self.queue.pop() {
            let (left, right) = (
                self.symbols[best.left as usize],
                self.symbols[best.right as usize],
            );
            // A symbol only ever grows to the right or disappears, so if both
            // are there and their sizes add up, nothing has happened to them.
            let size = (left.end - left.start) + (right.end - right.start);
            if left.start == left.end || right.start == right.end || size != best.size {
                continue;
            }
            let joined = &mut self.symbols[best.left as usize];
            joined.end = right.end;
            joined.id = best.id;
            joined.next = right.next;
            let gone = &mut self.symbols[best.right as usize];
            gone.end = gone.start;
            if right.next != NONE {
                self.symbols[right.next as usize].previous = best.left;
            }
            offer(&self.symbols, &mut self.queue, left.previous, best.left);
            offer(&self.symbols, &mut self.queue, best.left, right.next);
        }
    }

    /// The symbols that are left, in order.
    pub fn symbols(&self) -> impl Iterator<Item = &Symbol> {
        self.symbols.iter().filter(|s| s.start < s.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    type Merges = HashMap<(u32, u32), (u32, u32)>;

    fn fast(word: &[u32], merges: &Merges) -> Vec<u32> {
        let mut merger = Merger::default();
        for &id in word {
            merger.push(1, id);
        }
        merger.run(|l, r| merges.get(&(l.id, r.id)).copied());
        merger.symbols().map(|s| s.id).collect()
    }

    /// The definition: look at all pairs, join the best one, start again.
    fn naive(word: &[u32], merges: &Merges) -> Vec<u32> {
        let mut word = word.to_vec();
        loop {
            let best = (1..word.len())
                .filter_map(|i| {
                    merges
                        .get(&(word[i - 1], word[i]))
                        .map(|&(rank, id)| (rank, i, id))
                })
                .min();
            let Some((_, i, id)) = best else { return word };
            word[i - 1] = id;
            word.remove(i);
        }
    }

    #[test]
    fn joins_in_order_of_rank_then_from_the_left() {
        let merges: Merges = [((1, 1), (0, 2)), ((2, 1), (1, 3)), ((2, 2), (2, 4))].into();
        assert_eq!(fast(&[1, 1, 1], &merges), [3]);
        assert_eq!(fast(&[1, 1, 1, 1], &merges), [4]);
        assert_eq!(fast(&[1, 1, 1, 1, 1], &merges), [2, 3]);
        assert_eq!(fast(&[], &merges), [0u32; 0]);
    }

    proptest! {
        /// Few symbols and many rules, so that candidates overlap and go stale.
        #[test]
        fn equals_the_definition(
            word in prop::collection::vec(0u32..4, 0..24),
            rules in prop::collection::vec((0u32..12, 0u32..12), 0..40),
        ) {
            let merges: Merges = rules
                .iter()
                .enumerate()
                .map(|(i, &pair)| (pair, (i as u32, 4 + i as u32 % 8)))
                .collect();
            prop_assert_eq!(fast(&word, &merges), naive(&word, &merges));
        }
    }
}
