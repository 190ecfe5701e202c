//! The vocabulary: what every id is, as text and as bytes.

use std::borrow::Cow;
use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::error::{bad_vocabulary, Result};
use crate::limits::{beginning, MAX_TOKEN};
use crate::merge::NONE;

/// More than ten times the largest vocabulary known; a bound for what a file
/// can make us allocate.
pub(crate) const MAX_TOKENS: usize = 1 << 22;

/// How the vocabulary writes bytes as text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Alphabet {
    /// GPT-2's: every byte is one character of [`byte_char`].
    ByteLevel,
    /// SentencePiece's: "▁" is a space, `<0xNN>` a byte.
    Spaced,
    /// WordPiece's: a piece continues a word if it begins with "##", else a
    /// space goes before it.
    WordPiece {
        /// No space goes before punctuation and contractions.
        cleanup: bool,
    },
    /// Every token is its own text and a space goes before it.
    Words,
    /// Every token is its own text.
    Plain,
}

/// What a token is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// A piece of text.
    Normal,
    /// Steers the model and is no text: `<|im_end|>`, the unknown token...
    Control,
    /// Text that is always one token, found before everything else.
    Added,
    /// One byte, written `<0xNN>`.
    Byte,
    /// No token has this id.
    Absent,
}

/// All tokens, their texts in one string.
pub(crate) struct Vocab {
    text: String,
    /// Where the text of each token ends in `text`.
    ends: Vec<u32>,
    kinds: Vec<Kind>,
    /// Ids by the hash of their text.
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    alphabet: Alphabet,
    /// Longest text of a token, in bytes.
    longest: usize,
    /// The first two tokens that have one text, and how many more there are.
    repeated: Option<(u32, u32, usize)>,
}

impl Vocab {
    /// Of all tokens in order of their ids.
    pub fn new<'a>(
        alphabet: Alphabet,
        tokens: impl ExactSizeIterator<Item = (Cow<'a, str>, Kind)>,
    ) -> Result<Vocab> {
        let count = tokens.len();
        if count == 0 {
            return bad_vocabulary("it has no tokens");
        }
        if count > MAX_TOKENS {
            return bad_vocabulary(format!("it has {count} tokens, more than {MAX_TOKENS}"));
        }
        let mut vocab = Vocab {
            text: String::new(),
            ends: Vec::with_capacity(count),
            kinds: Vec::with_capacity(count),
            index: HashTable::with_capacity(count),
            hasher: DefaultHashBuilder::default(),
            alphabet,
            longest: 0,
            repeated: None,
        };
        for (token, kind) in tokens {
            vocab.push(&token, kind)?;
        }
        Ok(vocab)
    }

    /// Of a model's tokens and ids, and of `(text, id, is a control token)` for
    /// those that were added to it, which may be among them.
    pub fn arrange<'a>(
        alphabet: Alphabet,
        model: impl Iterator<Item = (Cow<'a, str>, u32)>,
        added: impl Iterator<Item = (String, u32, bool)>,
    ) -> Result<Vocab> {
        let mut tokens: Vec<(Cow<str>, Kind)> = Vec::new();
        let mut put = |id: u32, text: Cow<'a, str>, kind| {
            let id = id as usize;
            if id >= MAX_TOKENS {
                return bad_vocabulary(format!("{text:?} has the id {id}, above {MAX_TOKENS}"));
            }
            if id >= tokens.len() {
                tokens.resize(id + 1, (Cow::Borrowed(""), Kind::Absent));
            }
            let (old, old_kind) = &tokens[id];
            if *old_kind != Kind::Absent && *old != text {
                return bad_vocabulary(format!(
                    "tokens {old:?} and {text:?} both have the id {id}"
                ));
            }
            tokens[id] = (text, kind);
            Ok(())
        };
        for (text, id) in model {
            let byte = alphabet == Alphabet::Spaced && parse_byte(&text).is_some();
            put(id, text, if byte { Kind::Byte } else { Kind::Normal })?;
        }
        for (text, id, control) in added {
            // One character steers nothing, but many texts have it: some files
            // have "!" to fill up with.
            let control = control && text.chars().nth(1).is_some();
            let kind = if control { Kind::Control } else { Kind::Added };
            put(id, Cow::Owned(text), kind)?;
        }
        let vocab = Vocab::new(alphabet, tokens.into_iter())?;
        match vocab.repeated {
            Some((one, other, _)) => bad_vocabulary(format!(
                "tokens {one} and {other} are both {:?}",
                vocab.text(one).unwrap_or_default()
            )),
            None => Ok(vocab),
        }
    }

    /// A warning if tokens have the same text: of these the last is found.
    pub fn repeats(&self) -> Option<String> {
        let (one, other, more) = self.repeated?;
        let text = self.text(one).unwrap_or_default();
        let more = match more {
            0 => String::new(),
            more => format!(", and {more} more are repeated"),
        };
        Some(format!(
            "tokens {one} and {other} are both {text:?}{more}; text becomes the last of equal tokens"
        ))
    }

    fn push(&mut self, token: &str, kind: Kind) -> Result<()> {
        let id = self.ends.len() as u32;
        if self.text.len() + token.len() > u32::MAX as usize {
            return bad_vocabulary("its tokens are longer than 4 GiB together");
        }
        if token.len() > MAX_TOKEN {
            return bad_vocabulary(format!(
                "token {id} has {} bytes, more than {MAX_TOKEN}; it begins {:?}",
                token.len(),
                beginning(token)
            ));
        }
        if kind == Kind::Byte && parse_byte(token).is_none() {
            return bad_vocabulary(format!(
                "token {id} is marked as a byte but reads {token:?} instead of <0xNN>"
            ));
        }
        self.text.push_str(token);
        self.ends.push(self.text.len() as u32);
        self.kinds.push(kind);
        self.longest = self.longest.max(token.len());
        if kind == Kind::Absent {
            return Ok(());
        }
        let Vocab {
            text,
            ends,
            index,
            hasher,
            ..
        } = self;
        let hash = |id: &u32| hasher.hash_one(slice(text, ends, *id));
        match index.entry(
            hasher.hash_one(token),
            |&i| slice(text, ends, i) == token,
            hash,
        ) {
            hashbrown::hash_table::Entry::Occupied(mut other) => {
                let old = std::mem::replace(other.get_mut(), id);
                match &mut self.repeated {
                    Some((.., more)) => *more += 1,
                    none => *none = Some((old, id, 0)),
                }
            }
            hashbrown::hash_table::Entry::Vacant(slot) => drop(slot.insert(id)),
        }
        Ok(())
    }

    /// Bytes of the longest token.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Number of ids, absent ones included.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// A token as the vocabulary writes it.
    pub fn text(&self, id: u32) -> Option<&str> {
        self.kind(id).map(|_| slice(&self.text, &self.ends, id))
    }

    /// What a token is for; `None` for ids that are no token.
    pub fn kind(&self, id: u32) -> Option<Kind> {
        self.kinds
            .get(id as usize)
            .copied()
            .filter(|&kind| kind != Kind::Absent)
    }

    /// Makes a token a control token.
    pub fn set_control(&mut self, id: u32) {
        self.kinds[id as usize] = Kind::Control;
    }

    /// The id of a token, by its text in the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        let found = |&id: &u32| slice(&self.text, &self.ends, id) == token;
        self.index.find(self.hasher.hash_one(token), found).copied()
    }

    /// The id of a piece of text. Never a control token or a byte, so that text
    /// cannot turn into one.
    pub fn piece(&self, token: &str) -> Option<u32> {
        if token.len() > self.longest {
            return None;
        }
        let id = self.id(token)?;
        matches!(self.kinds[id as usize], Kind::Normal | Kind::Added).then_some(id)
    }

    /// The token `<0xNN>` of every byte, or [`NONE`].
    pub fn byte_tokens(&self) -> [u32; 256] {
        let mut tokens = [NONE; 256];
        for id in (0..self.len() as u32).filter(|&id| self.kinds[id as usize] == Kind::Byte) {
            if let Some(byte) = self.text(id).and_then(parse_byte) {
                tokens[usize::from(byte)] = id;
            }
        }
        tokens
    }

    /// The token of every byte in GPT-2's alphabet, or [`NONE`].
    pub fn byte_pieces(&self) -> [u32; 256] {
        std::array::from_fn(|byte| {
            let mut buffer = [0; 4];
            let character = byte_char(byte as u8).encode_utf8(&mut buffer);
            self.piece(character).unwrap_or(NONE)
        })
    }

    /// The bytes a token stands for; of control tokens, their text.
    pub fn bytes(&self, id: u32) -> Option<Cow<'_, [u8]>> {
        let text = self.text(id)?;
        Some(match (self.kinds[id as usize], self.alphabet) {
            (Kind::Byte, _) => Cow::Owned(vec![parse_byte(text)?]),
            (Kind::Control, _) => Cow::Borrowed(text.as_bytes()),
            (_, Alphabet::Spaced) if text.contains(SPACE) => {
                Cow::Owned(text.replace(SPACE, " ").into_bytes())
            }
            (Kind::Normal, Alphabet::ByteLevel) => {
                let bytes: Option<Vec<u8>> = text.chars().map(char_byte).collect();
                bytes.map_or(Cow::Borrowed(text.as_bytes()), Cow::Owned)
            }
            (_, Alphabet::WordPiece { cleanup }) => match text.strip_prefix("##") {
                Some(rest) => Cow::Borrowed(rest.as_bytes()),
                None if cleanup && CLOSE.iter().any(|close| text.starts_with(close)) => {
                    Cow::Borrowed(text.as_bytes())
                }
                None => Cow::Owned(format!(" {text}").into_bytes()),
            },
            (_, Alphabet::Words) => Cow::Owned(format!(" {text}").into_bytes()),
            _ => Cow::Borrowed(text.as_bytes()),
        })
    }
}

fn slice<'a>(text: &'a str, ends: &[u32], id: u32) -> &'a str {
    let start = match id {
        0 => 0,
        _ => ends[id as usize - 1],
    };
    &text[start as usize..ends[id as usize] as usize]
}

/// What WordPiece's clean-up moves to the word before.
const CLOSE: &[&str] = &[".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re"];

/// SentencePiece's visible space, U+2581.
pub(crate) const SPACE: char = '\u{2581}';

/// The byte of `<0xNN>`.
pub(crate) fn parse_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let hex = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    hex.then(|| u8::from_str_radix(digits, 16).ok())?
}

/// The character GPT-2's alphabet writes for a byte: printable Latin-1 for
/// itself, the other 68 bytes as U+0100 and on, in order.
pub(crate) fn byte_char(byte: u8) -> char {
    let shift = match byte {
        0..=0x20 => 0x100,
        0x7f..=0xa0 => 0x121 - 0x7f,
        0xad => 0x143 - 0xad,
        _ => 0,
    };
    char::from_u32(u32::from(byte) + shift).expect("below the surrogates")
}

/// The byte a character of GPT-2's alphabet stands for.
pub(crate) fn char_byte(c: char) -> Option<u8> {
    let byte = match c as u32 {
        c @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => c,
        c @ 0x100..=0x120 => c - 0x100,
        c @ 0x121..=0x142 => c - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocab(alphabet: Alphabet, tokens: &[(&'static str, Kind)]) -> Result<Vocab> {
        Vocab::new(
            alphabet,
            tokens
                .iter()
                .map(|&(text, kind)| (Cow::Borrowed(text), kind)),
        )
    }

    #[test]
    fn the_byte_alphabet_is_gpt2s() {
        let mut next = 256;
        for byte in 0..=255u8 {
            let shown = (33..127).contains(&byte) || (161..173).contains(&byte) || byte >= 174;
            let expected = if shown {
                u32::from(byte)
            } else {
                next += 1;
                next - 1
            };
            assert_eq!(byte_char(byte) as u32, expected);
            assert_eq!(char_byte(byte_char(byte)), Some(byte));
        }
        assert_eq!(next, 0x144);
        for other in ['\u{ad}', ' ', '\u{7f}', '\u{144}', '▁', '日'] {
            assert_eq!(char_byte(other), None);
        }
    }

    #[test]
    fn tokens_are_found_by_text_and_by_id() {
        let v = vocab(
            Alphabet::Spaced,
            &[
                ("<s>", Kind::Control),
                ("▁a", Kind::Normal),
                ("<0x0A>", Kind::Byte),
                ("", Kind::Absent),
            ],
        )
        .unwrap();
        assert_eq!((v.len(), v.longest), (4, 6));
        assert_eq!((v.id("<s>"), v.piece("<s>")), (Some(0), None));
        assert_eq!((v.id("▁a"), v.piece("▁a")), (Some(1), Some(1)));
        assert_eq!((v.id("<0x0A>"), v.piece("<0x0A>")), (Some(2), None));
        assert_eq!(
            (v.id(""), v.text(3), v.kind(3), v.text(4)),
            (None, None, None, None)
        );
        assert_eq!(v.bytes(0).unwrap(), &b"<s>"[..]);
        assert_eq!(v.bytes(1).unwrap(), &b" a"[..]);
        assert_eq!(v.bytes(2).unwrap(), &b"\n"[..]);
        assert_eq!(v.bytes(3), None);
    }

    #[test]
    fn byte_level_tokens_outside_the_alphabet_are_their_text() {
        let v = vocab(
            Alphabet::ByteLevel,
            &[
                ("Ġé", Kind::Normal),
                ("é", Kind::Added),
                ("日", Kind::Normal),
            ],
        )
        .unwrap();
        assert_eq!(v.bytes(0).unwrap(), &b" \xe9"[..]);
        assert_eq!(v.bytes(1).unwrap(), "é".as_bytes());
        assert_eq!(v.bytes(2).unwrap(), "日".as_bytes());
    }

    #[test]
    fn of_equal_tokens_the_last_is_found() {
        let tokens = [("a", Kind::Normal), ("b", Kind::Normal), ("a", Kind::Added)];
        let v = vocab(Alphabet::Plain, &tokens).unwrap();
        assert_eq!((v.id("a"), v.text(0)), (Some(2), Some("a")));
        assert!(v
            .repeats()
            .unwrap()
            .starts_with("tokens 0 and 2 are both \"a\";"));
        let ids = [("a", 0), ("b", 1), ("a", 2)].map(|(t, id)| (t.into(), id));
        let e = Vocab::arrange(Alphabet::Plain, ids.into_iter(), std::iter::empty());
        let e = e.err().unwrap().to_string();
        assert!(e.contains("tokens 0 and 2 are both \"a\""), "{e}");
    }

    #[test]
    fn broken_vocabularies_are_refused() {
        let error = |tokens: &[_]| vocab(Alphabet::Spaced, tokens).err().unwrap().to_string();
        assert_eq!(error(&[]), "the vocabulary is unusable: it has no tokens");
        let long = "x".repeat(MAX_TOKEN + 1).leak();
        assert!(error(&[(long, Kind::Normal)]).contains("token 0 has 2049 bytes, more than 2048"));
        for text in ["", "<0x>", "<0xG0>", "<0x0>", "<0x+1>", "<0x001>", "0A"] {
            assert!(error(&[(text, Kind::Byte)]).contains("token 0 is marked as a byte"));
        }
    }
}
