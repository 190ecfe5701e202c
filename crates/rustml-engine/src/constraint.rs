//! What a text has to be like.

/// A set of tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenMask {
    words: Vec<u32>,
    len: usize,
}

impl TokenMask {
    /// All of the tokens `0..len`.
    pub fn all(len: usize) -> TokenMask {
        let mut mask = TokenMask::default();
        mask.fill(len);
        mask
    }

    /// Makes it all of the tokens `0..len`.
    pub fn fill(&mut self, len: usize) {
        self.len = len;
        self.words.clear();
        self.words.resize(len.div_ceil(32), u32::MAX);
        self.trim();
    }

    /// Tokens there are, allowed or not.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no tokens at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether a token is in the set.
    pub fn contains(&self, id: u32) -> bool {
        let word = self.words.get(id as usize / 32);
        word.is_some_and(|w| w >> (id % 32) & 1 == 1)
    }

    /// Takes a token out.
    pub fn remove(&mut self, id: u32) {
        if let Some(word) = self.words.get_mut(id as usize / 32) {
            *word &= !(1 << (id % 32));
        }
    }

    /// Keeps what is also in this set, given as bits, the lowest first. What
    /// it does not reach to goes.
    pub fn intersect(&mut self, bits: &[u32]) {
        let others = bits.iter().copied().chain(std::iter::repeat(0));
        for (word, other) in self.words.iter_mut().zip(others) {
            *word &= other;
        }
    }

    /// Makes the logits of tokens outside the set minus infinity; returns
    /// whether any is left that is a number above that.
    pub(crate) fn apply(&self, logits: &mut [f32]) -> bool {
        let mut left = false;
        let words = self.words.iter().copied().chain(std::iter::repeat(0));
        for (logits, word) in logits.chunks_mut(32).zip(words) {
            match word {
                0 => logits.fill(f32::NEG_INFINITY),
                _ => {
                    for (bit, logit) in logits.iter_mut().enumerate() {
                        if word >> bit & 1 == 0 {
                            *logit = f32::NEG_INFINITY;
                        }
                    }
                    left |= logits.iter().any(|&l| l > f32::NEG_INFINITY);
                }
            }
        }
        left
    }

    fn trim(&mut self) {
        if let (Some(last), used @ 1..) = (self.words.last_mut(), self.len % 32) {
            *last &= (1 << used) - 1;
        }
    }
}

/// Which tokens may come next, for as long as a text goes on.
///
/// See [`crate::Request::constraint`].
pub trait Constraint: Send {
    /// Takes tokens that may not come next out of the set. Tokens that end
    /// the text are allowed where it may end.
    ///
    /// # Errors
    /// A sentence, if the text cannot go on; the request then fails with it.
    fn mask(&mut self, allowed: &mut TokenMask) -> Result<(), String>;

    /// Takes note of the token that was chosen.
    ///
    /// # Errors
    /// A sentence, if it was not allowed or the text cannot go on.
    fn accept(&mut self, token: u32) -> Result<(), String>;

    /// Whether the text is complete, so that nothing may follow.
    fn is_complete(&self) -> bool;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_takes_out_and_keeps() {
        for len in [0usize, 1, 31, 32, 33, 100] {
            let mut mask = TokenMask::all(len);
            assert!((0..200).all(|id| mask.contains(id) == ((id as usize) < len)));
            mask.remove(0);
            mask.remove(1000);
            mask.intersect(&[0b111]);
            assert!(
                (0..200).all(|id| mask.contains(id) == ((1..3).contains(&id) && id < len as u32))
            );
        }
    }

    #[test]
    fn logits_outside_are_never_chosen() {
        let mut mask = TokenMask::all(70);
        mask.remove(1);
        mask.remove(69);
        let mut logits = vec![1.0; 80];
        assert!(mask.apply(&mut logits));
        for (id, &logit) in logits.iter().enumerate() {
            assert_eq!(logit == 1.0, mask.contains(id as u32), "{id}");
        }
        mask.intersect(&[]);
        assert!(!mask.apply(&mut logits));
        assert!(logits.iter().all(|&l| l == f32::NEG_INFINITY));
    }
}
