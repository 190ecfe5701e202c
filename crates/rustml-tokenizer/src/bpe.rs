//! BPE in the classic sense: words, the units of a word, and a list of merges.

use hashbrown::HashMap;

use crate::error::{bad_vocabulary, Result};
use crate::merge::{Merger, NONE};
use crate::pretokenize::PreTokenizer;
use crate::vocab::{byte_char, Vocab};
use crate::words::Glue;

/// What merging starts with.
pub(crate) enum Units {
    /// The bytes of words, in GPT-2's alphabet. A word that is a token can stay
    /// one, whatever the merges say.
    Bytes {
        pre: PreTokenizer,
        ignore_merges: bool,
    },
    /// The characters of words; those without a token become the tokens of
    /// their bytes. Words are cut where spaces are "▁".
    Characters {
        pre: PreTokenizer,
        glue: Glue,
        /// Words of white space go away.
        drops_white: bool,
    },
}

/// Units and merges.
pub(crate) struct Bpe {
    units: Units,
    /// Pairs of ids to rank and id of what they make.
    merges: HashMap<(u32, u32), (u32, u32)>,
    /// The token of every byte, or [`NONE`].
    bytes: [u32; 256],
}

/// The halves of a merge that is written "left right".
pub(crate) fn halves(merge: &str) -> Result<(&str, &str)> {
    // Looked for after the first character, which may be a space itself.
    let first = merge.chars().next().map_or(0, char::len_utf8);
    match merge[first..].find(' ') {
        Some(at) => Ok((&merge[..first + at], &merge[first + at + 1..])),
        None => bad_vocabulary(format!("the merge {merge:?} is not two tokens")),
    }
}

impl Bpe {
    /// The most important merge comes first.
    pub fn new<'a>(
        vocab: &Vocab,
        units: Units,
        merges: impl ExactSizeIterator<Item = Result<(&'a str, &'a str)>>,
    ) -> Result<Bpe> {
        let mut table = HashMap::with_capacity(merges.len());
        let mut joined = String::new();
        for (rank, merge) in (0..u32::MAX).zip(merges) {
            let (left, right) = merge?;
            joined.clear();
            joined.push_str(left);
            joined.push_str(right);
            let id = |token: &str| match vocab.id(token) {
                Some(id) => Ok(id),
                None => bad_vocabulary(format!(
                    "the merge of {left:?} and {right:?} needs the token {token:?}, which does \
                     not exist"
                )),
            };
            table
                .entry((id(left)?, id(right)?))
                .or_insert((rank, id(&joined)?));
        }
        let bytes = match units {
            Units::Bytes { .. } => vocab.byte_pieces(),
            Units::Characters { .. } => vocab.byte_tokens(),
        };
        Ok(Bpe {
            units,
            merges: table,
            bytes,
        })
    }

    /// Whether every byte has a token, so that every text has ids.
    pub fn knows_all_bytes(&self) -> bool {
        !self.bytes.contains(&NONE)
    }

    /// Appends the ids of `text`.
    pub fn encode(&self, vocab: &Vocab, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let mut merger = Merger::default();
        match &self.units {
            Units::Bytes { pre, ignore_merges } => {
                let mut mapped = String::new();
                for word in pre.words(text)? {
                    let word = &text[word];
                    if *ignore_merges {
                        mapped.clear();
                        mapped.extend(word.bytes().map(byte_char));
                        if let Some(id) = vocab.piece(&mapped) {
                            ids.push(id);
                            continue;
                        }
                    }
                    merger.clear();
                    word.bytes()
                        .for_each(|b| merger.push(1, self.bytes[usize::from(b)]));
                    self.merge(&mut merger, word, ids);
                }
            }
            Units::Characters {
                pre,
                glue,
                drops_white,
            } => {
                let mut buffer = [0; 4];
                let words = pre.words(text)?;
                let words = words.into_iter().map(|word| &text[word]);
                let keep = |word: &&str| !(*drops_white && word.starts_with(char::is_whitespace));
                for word in words.filter(keep).flat_map(|word| glue.words(word)) {
                    merger.clear();
                    for c in word.chars() {
                        let id = vocab.piece(c.encode_utf8(&mut buffer)).unwrap_or(NONE);
                        merger.push(c.len_utf8() as u32, id);
                    }
                    self.merge(&mut merger, word, ids);
                }
            }
        }
        Ok(())
    }

    fn merge(&self, merger: &mut Merger, word: &str, ids: &mut Vec<u32>) {
        // A unit without a token is in no merge and stays what it is.
        merger.run(|left, right| self.merges.get(&(left.id, right.id)).copied());
        for symbol in merger.symbols() {
            if symbol.id != NONE {
                ids.push(symbol.id);
                continue;
            }
            // A byte without a token is left out, as llama.cpp does it, and
            // `tokenizers` where there is no unknown token.
            let bytes = &word.as_bytes()[symbol.start as usize..symbol.end as usize];
            let bytes = bytes.iter().map(|&byte| self.bytes[usize::from(byte)]);
            ids.extend(bytes.filter(|&id| id != NONE));
        }
    }
}
