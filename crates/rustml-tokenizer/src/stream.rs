//! Token ids to text as they come.

use crate::tokenizer::Tokenizer;

/// How ids become text. The default is the text of a whole document: no
/// control tokens, and without the space that encoding put before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Decode {
    /// Writes control tokens out instead of leaving them out.
    pub control: bool,
    /// The ids go on where other text ended, so a space before them is meant:
    /// what a model writes after a prompt that is no chat.
    pub continues: bool,
}

/// Turns ids into text one by one.
///
/// The pieces together are what [`Tokenizer::decode_with`] makes of all ids,
/// and no piece holds a part of a character: bytes wait until their character
/// is complete, or until it is certain that it will never be, and only then
/// become U+FFFD.
#[derive(Clone, Debug)]
pub struct Detokenizer {
    options: Decode,
    /// The beginning of a character: at most three bytes between pushes.
    pending: Vec<u8>,
    /// Nothing has been written yet.
    fresh: bool,
}

impl Detokenizer {
    /// Before the first id.
    pub fn new(options: Decode) -> Detokenizer {
        Detokenizer {
            options,
            pending: Vec::new(),
            fresh: true,
        }
    }

    /// The text that `id` completes, if any.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Option<String> {
        let mut text = String::new();
        self.push_to(tokenizer, id, &mut text);
        (!text.is_empty()).then_some(text)
    }

    /// [`push`](Self::push) onto the end of a string.
    pub fn push_to(&mut self, tokenizer: &Tokenizer, id: u32, text: &mut String) {
        if !self.options.control && tokenizer.is_control(id) {
            return;
        }
        let Some(bytes) = tokenizer.token_bytes(id) else {
            return;
        };
        let mut bytes = &bytes[..];
        if self.fresh && !bytes.is_empty() {
            self.fresh = false;
            if tokenizer.drops_space && !self.options.continues {
                bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
            }
        }
        self.pending.extend_from_slice(bytes);
        let mut done = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            done += chunk.valid().len();
            let invalid = chunk.invalid();
            if !invalid.is_empty() {
                if done + invalid.len() == self.pending.len() && incomplete(invalid) {
                    break;
                }
                text.push(char::REPLACEMENT_CHARACTER);
                done += invalid.len();
            }
        }
        self.pending.drain(..done);
    }

    /// What is left when no more ids come: U+FFFD for a character that was
    /// never completed.
    pub fn finish(self) -> Option<String> {
        (!self.pending.is_empty()).then(|| String::from_utf8_lossy(&self.pending).into_owned())
    }
}

/// Whether more bytes could make these a character.
fn incomplete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none())
}
