//! Reading little-endian values off a slice, every length checked.

use std::fmt::Display;

use crate::error::{malformed, Problem};

/// A position in the header of a file.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Why there are no bytes beyond the last one.
    end: &'static str,
}

impl<'a> Cursor<'a> {
    /// At the beginning of `bytes`, at most `limit` of which belong to it.
    pub fn new(bytes: &'a [u8], limit: usize) -> Cursor<'a> {
        if bytes.len() > limit {
            let end = "and a header may not be longer than 256 MiB: the file is damaged";
            Cursor {
                bytes: &bytes[..limit],
                at: 0,
                end,
            }
        } else {
            Cursor {
                bytes,
                at: 0,
                end: "the file is truncated or damaged",
            }
        }
    }

    pub fn position(&self) -> usize {
        self.at
    }

    fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn short<T>(&self, needed: impl Display, what: impl Display) -> Result<T, Problem> {
        malformed!(
            "{what} needs {needed} bytes, but {} remain: {}",
            self.remaining(),
            self.end
        )
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize, what: impl Display) -> Result<&'a [u8], Problem> {
        let Some(taken) = self.bytes[self.at..].get(..len) else {
            return self.short(len, what);
        };
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: impl Display) -> Result<[u8; N], Problem> {
        let Some(taken) = self.bytes[self.at..].first_chunk::<N>() else {
            return self.short(N, what);
        };
        self.at += N;
        Ok(*taken)
    }

    pub fn u32(&mut self, what: impl Display) -> Result<u32, Problem> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub fn u64(&mut self, what: impl Display) -> Result<u64, Problem> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A number of things, each of which takes at least `each` bytes, so that
    /// memory can be reserved for them.
    pub fn count(&mut self, each: usize, what: impl Display) -> Result<usize, Problem> {
        let count = self.u64(&what)?;
        match usize::try_from(count)
            .ok()
            .and_then(|n| Some((n, n.checked_mul(each)?)))
        {
            Some((n, bytes)) if bytes <= self.remaining() => Ok(n),
            Some((_, bytes)) => self.short(bytes, what),
            None => self.short(format_args!("{count} times {each}"), what),
        }
    }

    /// A string as GGUF writes it: a 64-bit length, then the bytes.
    pub fn string(&mut self, what: impl Display) -> Result<&'a [u8], Problem> {
        let len = self.count(1, &what)?;
        self.take(len, what)
    }
}
