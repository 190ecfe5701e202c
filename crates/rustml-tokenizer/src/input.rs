//! What encoder models take: a text or a pair of texts, with the tokens that go
//! around them, cut off where the model ends.

use crate::error::{Error, Result};
use crate::tokenizer::{Encode, Tokenizer};

/// Which end of a text is cut off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The beginning.
    Left,
    /// The end.
    Right,
}

/// How many tokens an input may have, and what is cut off beyond that. Of a
/// pair, the longer text is cut first, and then both to the same length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Truncate {
    /// The most tokens, those around the texts included.
    pub tokens: usize,
    /// Where texts are cut.
    pub side: Side,
}

/// A text or a pair as a model takes it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Input {
    /// The tokens.
    pub ids: Vec<u32>,
    /// Of each token, which text it belongs to, as the model counts (BERT: 0 and
    /// 1, RoBERTa: always 0).
    pub types: Vec<u32>,
    /// How many tokens of the texts were cut off.
    pub cut: usize,
}

/// A place in an input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// A token that is always there.
    Token { id: u32, kind: u32 },
    /// The first or second text.
    Text { second: bool, kind: u32 },
}

/// What a model's pairs look like: the tokens around a single text around each,
/// and `between` them. The second text has the type `kind`.
pub(crate) fn pair(prefix: &[u32], suffix: &[u32], between: &[u32], kind: u32) -> Vec<Place> {
    let token = |kind| move |&id: &u32| Place::Token { id, kind };
    let text = |second, kind| Place::Text { second, kind };
    let first = prefix.iter().map(token(0)).chain([text(false, 0)]);
    let first = first.chain(suffix.iter().map(token(0)));
    let second = between.iter().map(token(kind)).chain([text(true, kind)]);
    first
        .chain(second.chain(suffix.iter().map(token(kind))))
        .collect()
}

impl Tokenizer {
    /// The ids of a text, or of a pair of texts that are compared, with the tokens
    /// that the model wants around them.
    ///
    /// [`Encode::add_special`] says whether it gets those. With `most`, what is
    /// too long is cut off, which [`Input::cut`] tells; it is an error if not even
    /// the tokens around the texts fit.
    pub fn encode_input(
        &self,
        text: &str,
        second: Option<&str>,
        options: Encode,
        most: Option<Truncate>,
    ) -> Result<Input> {
        let bare = Encode {
            add_special: false,
            ..options
        };
        let mut texts = [self.encode(text, bare)?, Vec::new()];
        if let Some(second) = second {
            texts[1] = self.encode(second, bare)?;
        }
        let mut places = match second {
            Some(_) => self.pair.clone(),
            None => {
                let token = |&id: &u32| Place::Token { id, kind: 0 };
                let text = Place::Text {
                    second: false,
                    kind: 0,
                };
                let before = self.prefix.iter().map(token).chain([text]);
                before.chain(self.suffix.iter().map(token)).collect()
            }
        };
        if !options.add_special {
            places.retain(|place| matches!(place, Place::Text { .. }));
        }
        let mut input = Input::default();
        if let Some(Truncate { tokens, side }) = most {
            let around = places.len() - 1 - usize::from(second.is_some());
            let Some(room) = tokens.checked_sub(around) else {
                return Err(Error::Encode(format!(
                    "at most {tokens} tokens are wanted, but {around} go around every text"
                )));
            };
            let keep = share(texts[0].len(), texts[1].len(), room);
            for (text, keep) in texts.iter_mut().zip(keep) {
                let cut = text.len() - keep;
                input.cut += cut;
                match side {
                    Side::Left => drop(text.drain(..cut)),
                    Side::Right => text.truncate(keep),
                }
            }
        }
        for place in places {
            let (ids, kind) = match &place {
                Place::Token { id, kind } => (std::slice::from_ref(id), *kind),
                Place::Text { second, kind } => (&*texts[usize::from(*second)], *kind),
            };
            input.ids.extend_from_slice(ids);
            input.types.resize(input.ids.len(), kind);
        }
        Ok(input)
    }
}

/// How many tokens of two texts are kept, as Hugging Face's `longest_first` has it.
fn share(first: usize, second: usize, room: usize) -> [usize; 2] {
    if first + second <= room {
        return [first, second];
    }
    let (short, swapped) = (first.min(second), first > second);
    let (short, long) = match room.saturating_sub(short) {
        rest if short <= room && rest >= short => (short, rest),
        _ => (room / 2, room - room / 2),
    };
    if swapped {
        [long, short]
    } else {
        [short, long]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_text_is_cut_first() {
        assert_eq!(share(3, 4, 7), [3, 4]);
        assert_eq!(share(3, 9, 8), [3, 5]);
        assert_eq!(share(9, 3, 8), [5, 3]);
        assert_eq!(share(9, 9, 7), [3, 4]);
        assert_eq!(share(10, 9, 7), [4, 3]);
        assert_eq!(share(9, 0, 5), [5, 0]);
        assert_eq!(share(9, 9, 0), [0, 0]);
    }
}
