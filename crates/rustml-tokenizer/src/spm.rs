//! SentencePiece's BPE: no words and no list of merges; any two neighbours
//! that spell a token may be joined, the token with the best score first.
//! Characters without a token become bytes.

use crate::error::{bad_vocabulary, Result};
use crate::merge::{Merger, NONE};
use crate::vocab::Vocab;
use crate::words::Glue;

/// The encoder of GGUF's tokenizer model `llama`.
pub(crate) struct Spm {
    /// By id; the lower, the earlier a token is made.
    ranks: Vec<u32>,
    /// The token of every byte, or [`NONE`].
    bytes: [u32; 256],
    /// The token for what has none.
    unknown: Option<u32>,
    glue: Glue,
}

impl Spm {
    /// From the score of every token.
    pub fn new(vocab: &Vocab, scores: &[f32], unknown: Option<u32>) -> Result<Spm> {
        let mut ranks = Vec::with_capacity(scores.len());
        for (id, &score) in scores.iter().enumerate() {
            if score.is_nan() {
                return bad_vocabulary(format!("the score of token {id} is not a number"));
            }
            ranks.push(rank(score));
        }
        let bytes = vocab.byte_tokens();
        let glue = Glue::new(vocab);
        Ok(Spm {
            ranks,
            bytes,
            unknown,
            glue,
        })
    }

    /// Appends the ids of `text`, in which every space is written "▁" already.
    pub fn encode(&self, vocab: &Vocab, text: &str, ids: &mut Vec<u32>) {
        let mut merger = Merger::default();
        for word in self.glue.words(text) {
            self.word(vocab, word, &mut merger, ids);
        }
    }

    fn word(&self, vocab: &Vocab, text: &str, merger: &mut Merger, ids: &mut Vec<u32>) {
        merger.clear();
        let mut buffer = [0; 4];
        for c in text.chars() {
            let id = vocab.piece(c.encode_utf8(&mut buffer)).unwrap_or(NONE);
            merger.push(c.len_utf8() as u32, id);
        }
        merger.run(|left, right| {
            let id = vocab.piece(&text[left.start as usize..right.end as usize])?;
            Some((self.ranks[id as usize], id))
        });
        for symbol in merger.symbols() {
            if symbol.id != NONE {
                ids.push(symbol.id);
                continue;
            }
            // Only single characters are no token.
            let character = &text[symbol.start as usize..symbol.end as usize];
            let bytes = character.bytes().map(|b| self.bytes[usize::from(b)]);
            if bytes.clone().all(|id| id != NONE) {
                ids.extend(bytes);
            } else {
                // Without an unknown token it is left out.
                ids.extend(self.unknown);
            }
        }
    }
}

/// Integers in the opposite order of the scores.
fn rank(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits(); // -0.0 becomes 0.0
    match bits >> 31 {
        0 => !(bits | 1 << 31),
        _ => bits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_scores_upside_down() {
        let scores = [
            f32::INFINITY,
            1e9,
            1.5,
            1.0,
            1e-40,
            0.0,
            -1e-40,
            -1.0,
            -2.0,
            -1e9,
            f32::NEG_INFINITY,
        ];
        for pair in scores.windows(2) {
            assert!(rank(pair[0]) < rank(pair[1]), "{pair:?}");
        }
        assert_eq!(rank(0.0), rank(-0.0));
    }
}
