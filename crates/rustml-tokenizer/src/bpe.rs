//! Byte-level BPE: words, the bytes of a word, and a list of merges.

use hashbrown::HashMap;

use crate::error::{bad_vocabulary, Error, Result};
use crate::merge::{Merger, NONE};
use crate::pretokenize::{PreTokenizer, Rule};
use crate::vocab::{byte_char, Vocab};

/// The encoder of GGUF's tokenizer model `gpt2`.
pub(crate) struct Bpe {
    pre: PreTokenizer,
    /// Pairs of ids to rank and id of what they make.
    merges: HashMap<(u32, u32), (u32, u32)>,
    /// The token of every byte, or [`NONE`].
    bytes: [u32; 256],
    ignore_merges: bool,
}

impl Bpe {
    /// From the merges, each "left right", the most important first.
    pub fn new(vocab: &Vocab, rule: &Rule, merges: &[String]) -> Result<Bpe> {
        let mut table = HashMap::with_capacity(merges.len());
        let mut joined = String::new();
        for (rank, merge) in merges.iter().enumerate() {
            // The left half may begin with a space in vocabularies that do not
            // map it, so the separator is looked for after the first character.
            let first = merge.chars().next().map_or(0, char::len_utf8);
            let Some(at) = merge[first..].find(' ').map(|at| first + at) else {
                return bad_vocabulary(format!("merge {rank}, {merge:?}, is not two tokens"));
            };
            let (left, right) = (&merge[..at], &merge[at + 1..]);
            joined.clear();
            joined.push_str(left);
            joined.push_str(right);
            let id = |token: &str| {
                vocab.id(token).ok_or_else(|| {
                    Error::Vocabulary(format!(
                        "merge {rank}, {merge:?}, needs the token {token:?}, which does not exist"
                    ))
                })
            };
            let (pair, made) = ((id(left)?, id(right)?), id(&joined)?);
            let rank = u32::try_from(rank).map_err(|_| {
                Error::Vocabulary(format!("it has {} merges, more than 2^32", merges.len()))
            })?;
            table.entry(pair).or_insert((rank, made));
        }
        let bytes = std::array::from_fn(|byte| {
            let mut buffer = [0; 4];
            vocab
                .piece(byte_char(byte as u8).encode_utf8(&mut buffer))
                .unwrap_or(NONE)
        });
        let pre = PreTokenizer::new(rule);
        Ok(Bpe {
            pre,
            merges: table,
            bytes,
            ignore_merges: rule.ignore_merges,
        })
    }

    /// Appends the ids of `text`.
    pub fn encode(&self, vocab: &Vocab, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let mut merger = Merger::default();
        let mut mapped = String::new();
        for word in self.pre.words(text) {
            let word = &text[word];
            if self.ignore_merges {
                mapped.clear();
                mapped.extend(word.bytes().map(byte_char));
                if let Some(id) = vocab.piece(&mapped) {
                    ids.push(id);
                    continue;
                }
            }
            merger.clear();
            for byte in word.bytes() {
                let id = self.bytes[usize::from(byte)];
                if id == NONE {
                    return Err(Error::Encode(format!(
                        "the vocabulary has no token for the byte 0x{byte:02X} of {:?}",
                        word.chars().take(40).collect::<String>()
                    )));
                }
                merger.push(1, id);
            }
            merger.run(|left, right| self.merges.get(&(left.id, right.id)).copied());
            ids.extend(merger.symbols().map(|symbol| symbol.id));
        }
        Ok(())
    }
}
