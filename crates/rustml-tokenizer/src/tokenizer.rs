//! [`Tokenizer`]: one face for both sources.

use std::borrow::Cow;
use std::path::Path;

use rustml_jinja::Rendered;

use crate::chat::ChatTemplate;
use crate::encoder::{Encoder, Special};
use crate::error::{Error, Result};
use crate::input::Place;
use crate::stream::{Decode, Detokenizer};
use crate::vocab::{Kind, Vocab};

/// What [`Tokenizer::encode`] adds and recognises. The default is neither.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Encode {
    /// Adds the tokens a text begins and ends with (BOS, EOS) if the model's
    /// rule says so.
    pub add_special: bool,
    /// Turns control tokens written in the text into their ids. Off, they are
    /// ordinary text, so that what a user types cannot steer the model.
    pub parse_special: bool,
}

/// Text to token ids and back.
///
/// Reading it is all the state there is, so one tokenizer serves any number of
/// threads.
pub struct Tokenizer {
    pub(crate) vocab: Vocab,
    pub(crate) encoder: Encoder,
    /// What texts begin and end with.
    pub(crate) prefix: Vec<u32>,
    pub(crate) suffix: Vec<u32>,
    /// What a pair of texts looks like.
    pub(crate) pair: Vec<Place>,
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Option<u32>,
    pub(crate) end: Vec<u32>,
    /// Encoding puts a space before the text, so decoding drops one.
    pub(crate) drops_space: bool,
    pub(crate) template: Option<ChatTemplate>,
    pub(crate) warnings: Vec<String>,
}

impl Tokenizer {
    /// From a directory with a `tokenizer.json`.
    ///
    /// Further tokens, special tokens and the chat template come from `tokenizer_config.json`,
    /// `special_tokens_map.json`, `generation_config.json`, `config.json` and
    /// `chat_template.jinja`, as far as they exist.
    pub fn from_dir(dir: &Path) -> Result<Tokenizer> {
        crate::directory::load(dir).map(Self::warned)
    }

    /// From the metadata of a GGUF file, which carries everything.
    ///
    /// Supported are the tokenizer models `gpt2` (byte-level BPE, with the
    /// pre-tokenizer that `tokenizer.ggml.pre` names), `gemma4` (BPE of
    /// characters), `llama` (SentencePiece's BPE), `bert` (WordPiece) and `t5`
    /// (Unigram).
    pub fn from_gguf(metadata: &rustml_io::Metadata) -> Result<Tokenizer> {
        crate::gguf::load(metadata).map(Self::warned)
    }

    fn warned(self) -> Tokenizer {
        for warning in &self.warnings {
            tracing::warn!(target: "rustml::load", "the vocabulary: {warning}");
        }
        self
    }

    /// What is odd about the files but does not keep them from being used. It
    /// has been logged.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The ids of a text.
    pub fn encode(&self, text: &str, options: Encode) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(text.len() / 4 + 2);
        if options.add_special {
            ids.extend_from_slice(&self.prefix);
        }
        let special = match options.parse_special {
            true => Special::Parsed,
            false => Special::Text,
        };
        self.append(text, &special, &mut ids)?;
        if options.add_special {
            ids.extend_from_slice(&self.suffix);
        }
        Ok(ids)
    }

    /// The ids of a prompt that a chat template has rendered. Control tokens
    /// count as such where the template wrote them; in what the conversation
    /// brought in they are text. What texts begin with is added unless the
    /// template has written it already. Nothing is added at the end, which is
    /// where the model goes on.
    pub fn encode_chat(&self, rendered: &Rendered) -> Result<Vec<u32>> {
        let text = rendered.as_str();
        let mut ids = Vec::with_capacity(text.len() / 4 + 2);
        self.append(text, &Special::Outside(rendered.input()), &mut ids)?;
        if !ids.starts_with(&self.prefix) {
            ids.splice(0..0, self.prefix.iter().copied());
        }
        Ok(ids)
    }

    fn append(&self, text: &str, special: &Special, ids: &mut Vec<u32>) -> Result<()> {
        // Positions in a text are u32, and a space can become three bytes.
        if text.len() > u32::MAX as usize / 4 {
            return Err(Error::Encode(format!(
                "it is {} bytes long, more than 1 GiB",
                text.len()
            )));
        }
        self.encoder.encode(&self.vocab, text, special, ids)
    }

    /// The text of some ids: control tokens and ids that are no token yield
    /// nothing, bytes that are no UTF-8 yield U+FFFD.
    ///
    /// Where encoding puts a space before the text, decoding drops one.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.decode_with(ids, Decode::default())
    }

    /// [`decode`](Self::decode) with options.
    pub fn decode_with(&self, ids: &[u32], options: Decode) -> String {
        let mut stream = Detokenizer::new(options);
        let mut text = String::new();
        for &id in ids {
            stream.push_to(self, id, &mut text);
        }
        text.extend(stream.finish());
        text
    }

    /// The bytes a token stands for: the byte-level alphabet, "▁" and `<0xNN>`
    /// undone. They need not be whole characters. Control tokens stand for
    /// their own text; whether one is meant is for [`Self::is_control`] to say.
    /// `None` for ids that are no token.
    pub fn token_bytes(&self, id: u32) -> Option<Cow<'_, [u8]>> {
        self.vocab.bytes(id)
    }

    /// A token as the vocabulary writes it.
    pub fn token_str(&self, id: u32) -> Option<&str> {
        self.vocab.text(id)
    }

    /// The id of a token as the vocabulary writes it.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.vocab.id(token)
    }

    /// One more than the largest id. A model may have more rows than that in
    /// its embedding; no text uses them.
    pub fn vocab_size(&self) -> usize {
        self.vocab.len()
    }

    /// The token that marks the beginning of a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that marks the end of a text.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Every token that ends a generation, in ascending order: what the files
    /// name and what is well known by its name.
    pub fn end_tokens(&self) -> &[u32] {
        &self.end
    }

    /// Whether a token steers the model and is no text. The unknown token
    /// counts, since it stands for no text either.
    pub fn is_control(&self, id: u32) -> bool {
        self.vocab.kind(id) == Some(Kind::Control)
    }

    /// How the model wants a conversation to be written, if the files say.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("prefix", &self.prefix)
            .field("suffix", &self.suffix)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}
