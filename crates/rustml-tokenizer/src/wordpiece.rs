//! WordPiece: of each word, the longest token that it begins with, again and
//! again. BERT's, and so that of many embedding models.

use crate::error::Result;
use crate::pretokenize::PreTokenizer;
use crate::vocab::Vocab;

/// Longer words are unknown, as in the original.
const MAX_CHARS: usize = 100;

/// The encoder of GGUF's tokenizer model `bert`.
pub(crate) struct WordPiece {
    pre: PreTokenizer,
    /// The token for words that cannot be put together.
    unknown: Option<u32>,
}

impl WordPiece {
    /// Tokens within a word begin with "##".
    pub fn new(unknown: Option<u32>) -> WordPiece {
        WordPiece {
            pre: PreTokenizer::new(&crate::rules::BERT),
            unknown,
        }
    }

    /// Appends the ids of `text`, which is normalised already.
    pub fn encode(&self, vocab: &Vocab, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let mut piece = String::new();
        for word in self.pre.words(text)? {
            let word = &text[word];
            if word.starts_with(char::is_whitespace) {
                continue;
            }
            let start = ids.len();
            if !spell(vocab, word, &mut piece, ids) {
                ids.truncate(start);
                ids.extend(self.unknown);
            }
        }
        Ok(())
    }
}

/// Appends the tokens of a word, if there are such.
fn spell(vocab: &Vocab, word: &str, piece: &mut String, ids: &mut Vec<u32>) -> bool {
    if word.chars().count() > MAX_CHARS {
        return false;
    }
    let mut rest = word;
    while !rest.is_empty() {
        let ends = rest.char_indices().map(|(at, c)| at + c.len_utf8());
        let found = ends.rev().find_map(|end| {
            piece.clear();
            if rest.len() < word.len() {
                piece.push_str("##");
            }
            piece.push_str(&rest[..end]);
            Some((vocab.piece(piece)?, end))
        });
        let Some((id, end)) = found else {
            return false;
        };
        ids.push(id);
        rest = &rest[end..];
    }
    true
}
