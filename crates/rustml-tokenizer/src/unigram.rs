//! Unigram: the tokens whose scores have the largest sum. SentencePiece's, for
//! T5, XLM-R and embedding models of many languages.

use crate::error::{bad_vocabulary, Result};
use crate::limits::MAX_PIECE;
use crate::vocab::{Kind, Vocab, SPACE};

/// What an unknown character costs more than the worst token.
const PENALTY: f64 = 10.0;

/// Where texts are cut before pieces are looked for, and what becomes of spaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cut {
    /// Nowhere: spaces are "▁" already.
    Nowhere,
    /// Before each "▁", which spaces become; one more goes before the text unless
    /// it begins with one. `tokenizers` calls this Metaspace.
    Spaces,
    /// At all white space, which goes away, and then so.
    WhiteSpace,
}

/// The encoder of GGUF's tokenizer model `t5`, and of most files with Unigram.
pub(crate) struct Unigram {
    cut: Cut,
    /// By id.
    scores: Vec<f64>,
    unknown: Option<u32>,
    unknown_score: f64,
}

/// The best way to a place in the text: score, where its last token begins, and
/// that token, which is `None` for an unknown character.
type Best = (f64, usize, Option<u32>);

impl Unigram {
    /// From the score of every token.
    pub fn new(
        vocab: &Vocab,
        mut scores: Vec<f64>,
        unknown: Option<u32>,
        cut: Cut,
    ) -> Result<Unigram> {
        if let Some(id) = scores.iter().position(|score| !score.is_finite()) {
            return bad_vocabulary(format!("the score of token {id} is not a finite number"));
        }
        if vocab.longest() > MAX_PIECE {
            let len = vocab.longest();
            return bad_vocabulary(format!(
                "it has a piece of {len} bytes, more than {MAX_PIECE}"
            ));
        }
        let kind = |id: usize| vocab.kind(id as u32);
        let normal = (0..scores.len()).filter(|&id| kind(id) == Some(Kind::Normal));
        let worst = normal.map(|id| scores[id]).fold(0.0, f64::min);
        for (id, score) in scores.iter_mut().enumerate() {
            // What the makers of the vocabulary added always wins.
            if kind(id) == Some(Kind::Added) {
                *score = 0.0;
            }
        }
        Ok(Unigram {
            cut,
            scores,
            unknown,
            unknown_score: worst - PENALTY,
        })
    }

    /// Appends the ids of `text`, which is normalised already.
    pub fn encode(&self, vocab: &Vocab, text: &str, ids: &mut Vec<u32>) {
        let mut spaced = String::new();
        let mut words = |text: &str| {
            spaced.clear();
            if !text.starts_with([SPACE, ' ']) {
                spaced.push(SPACE);
            }
            spaced.extend(text.chars().map(|c| if c == ' ' { SPACE } else { c }));
            let mut start = 0;
            let ends = spaced.match_indices(SPACE).map(|(at, _)| at).skip(1);
            for end in ends.chain([spaced.len()]) {
                self.word(vocab, &spaced[start..end], ids);
                start = end;
            }
        };
        match self.cut {
            Cut::Nowhere => self.word(vocab, text, ids),
            _ if text.is_empty() => {}
            Cut::Spaces => words(text),
            Cut::WhiteSpace => text.split_whitespace().for_each(words),
        }
    }

    fn word(&self, vocab: &Vocab, text: &str, ids: &mut Vec<u32>) {
        let mut best: Vec<Option<Best>> = vec![None; text.len() + 1];
        best[0] = Some((0.0, 0, None));
        for (start, c) in text.char_indices() {
            // Every character can be unknown, so every place can be reached.
            let Some((before, ..)) = best[start] else {
                continue;
            };
            let mut offer = |end: usize, score: f64, id| {
                let sum = before + score;
                if best[end].is_none_or(|(other, ..)| sum > other) {
                    best[end] = Some((sum, start, id));
                }
            };
            let mut alone = false;
            let ends = text[start..]
                .char_indices()
                .map(|(at, c)| at + c.len_utf8());
            for end in ends.take_while(|&end| end <= vocab.longest()) {
                if let Some(id) = vocab.piece(&text[start..start + end]) {
                    alone |= end == c.len_utf8();
                    offer(start + end, self.scores[id as usize], Some(id));
                }
            }
            if !alone {
                offer(start + c.len_utf8(), self.unknown_score, None);
            }
        }
        let first = ids.len();
        let (mut end, mut unknown) = (text.len(), false);
        while end > 0 {
            let Some((_, start, id)) = best[end] else {
                break;
            };
            // Unknown characters in a row are one token.
            if id.is_some() || !unknown {
                ids.extend(id.or(self.unknown));
            }
            unknown = id.is_none();
            end = start;
        }
        ids[first..].reverse();
    }
}
