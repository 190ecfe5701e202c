//! A template's text to tokens.

use crate::error::{fail, Fault};

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    /// Text outside of tags.
    Data(String),
    /// `{{`, `}}`, `{%`, `%}`.
    PrintStart,
    PrintEnd,
    BlockStart,
    BlockEnd,
    Name(String),
    Str(String),
    Int(i64),
    Float(f64),
    Op(&'static str),
}

/// A token and the line where it begins.
pub(crate) type Spanned = (Token, u32);

/// Longest first.
const OPERATORS: &[&str] = &[
    "**", "//", "==", "!=", ">=", "<=", "+", "-", "*", "/", "%", "~", "|", "=", "<", ">", "(", ")",
    "[", "]", "{", "}", ".", ",", ":", ";",
];

/// All tokens of a template. Blocks are trimmed as `transformers` does:
/// a newline after a block goes, and so does the indentation before one.
pub(crate) fn tokens(source: &str) -> Result<Vec<Spanned>, Fault> {
    let mut source = source.replace("\r\n", "\n").replace('\r', "\n");
    if source.ends_with('\n') {
        source.pop();
    }
    let mut lexer = Lexer {
        source: &source,
        at: 0,
        line: 1,
        tokens: Vec::new(),
    };
    lexer.run().map_err(|fault| fault.at_line(lexer.line))?;
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    line: u32,
    tokens: Vec<Spanned>,
}

/// What a tag says about the white space beside it.
#[derive(Clone, Copy, PartialEq)]
enum Trim {
    Usual,
    All,
    Nothing,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn advance(&mut self, bytes: usize) {
        let passed = &self.source.as_bytes()[self.at..self.at + bytes];
        self.line += memchr::memchr_iter(b'\n', passed).count() as u32;
        self.at += bytes;
    }

    fn push(&mut self, token: Token) {
        self.tokens.push((token, self.line));
    }

    fn run(&mut self) -> Result<(), Fault> {
        let mut before = Trim::Nothing;
        loop {
            let rest = self.rest();
            let tag = find_tag(rest);
            let end = tag.unwrap_or(rest.len());
            let kind = tag.map(|at| rest.as_bytes()[at + 1]);
            let sign = tag.and_then(|at| rest.as_bytes().get(at + 2).copied());
            let after = match (sign, kind) {
                (Some(b'-'), _) => Trim::All,
                (Some(b'+'), _) | (_, Some(b'{')) => Trim::Nothing,
                _ => Trim::Usual,
            };
            let first = self.at == 0;
            self.data(
                &rest[..end],
                before,
                tag.map_or(Trim::Nothing, |_| after),
                first,
            );
            self.advance(end);
            let Some(kind) = kind else {
                return Ok(());
            };
            let signed = matches!(sign, Some(b'-' | b'+'));
            self.advance(2 + usize::from(signed));
            before = match kind {
                b'#' => self.comment()?,
                b'{' => {
                    self.push(Token::PrintStart);
                    self.inside("}}", Token::PrintEnd)?
                }
                _ => match self.raw()? {
                    Some(trim) => trim,
                    None => {
                        self.push(Token::BlockStart);
                        self.inside("%}", Token::BlockEnd)?
                    }
                },
            };
        }
    }

    fn data(&mut self, text: &str, before: Trim, after: Trim, first: bool) {
        let mut text = match before {
            Trim::All => text.trim_start(),
            Trim::Usual => text.strip_prefix('\n').unwrap_or(text),
            Trim::Nothing => text,
        };
        match after {
            Trim::All => text = text.trim_end(),
            Trim::Usual => {
                let line = text.rfind('\n').map(|at| at + 1);
                let trimmed_newline =
                    before == Trim::Usual && line.is_none() && self.rest().starts_with('\n');
                // Otherwise it begins in the middle of a line.
                let start = line.or((first || trimmed_newline).then_some(0));
                if let Some(start) = start {
                    if text[start..].chars().all(char::is_whitespace) {
                        text = &text[..start];
                    }
                }
            }
            Trim::Nothing => {}
        }
        if !text.is_empty() {
            self.push(Token::Data(text.to_owned()));
        }
    }

    fn comment(&mut self) -> Result<Trim, Fault> {
        let Some(end) = self.rest().find("#}") else {
            return fail("a comment that begins here has no end");
        };
        let sign = self.rest()[..end].chars().next_back();
        self.advance(end + 2);
        Ok(match sign {
            Some('-') => Trim::All,
            Some('+') => Trim::Nothing,
            _ => Trim::Usual,
        })
    }

    /// `{% raw %}`: everything up to `{% endraw %}` is data.
    fn raw(&mut self) -> Result<Option<Trim>, Fault> {
        let rest = self.rest();
        let Some((open, before)) = bare_tag(rest, "raw") else {
            return Ok(None);
        };
        let mut from = open;
        while let Some(at) = memchr::memmem::find(&rest.as_bytes()[from..], b"{%") {
            let start = from + at;
            from = start + 2;
            let sign = rest.as_bytes().get(from).copied();
            let signed = matches!(sign, Some(b'-' | b'+'));
            let inner = from + usize::from(signed);
            let Some((close, after)) = rest.get(inner..).and_then(|r| bare_tag(r, "endraw")) else {
                continue;
            };
            let trim = match sign {
                Some(b'-') => Trim::All,
                Some(b'+') => Trim::Nothing,
                _ => Trim::Usual,
            };
            self.advance(open);
            // A newline behind it stays, other than behind other tags.
            let before = match before {
                Trim::Usual => Trim::Nothing,
                before => before,
            };
            self.data(&rest[open..start], before, trim, false);
            self.advance(inner + close - open);
            return Ok(Some(after));
        }
        fail("a raw block that begins here has no end")
    }

    /// The tokens of a tag, up to its end.
    fn inside(&mut self, end: &str, token: Token) -> Result<Trim, Fault> {
        let mut open = 0usize;
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start();
            self.advance(rest.len() - trimmed.len());
            let rest = trimmed;
            if open == 0 {
                let (sign, tail) = match rest.as_bytes().first() {
                    Some(b'-') => (Trim::All, &rest[1..]),
                    Some(b'+') => (Trim::Nothing, &rest[1..]),
                    _ => (Trim::Usual, rest),
                };
                if tail.starts_with(end) {
                    self.push(token);
                    self.advance(rest.len() - tail.len() + end.len());
                    let print = end == "}}";
                    return Ok(match sign {
                        Trim::Usual if print => Trim::Nothing,
                        sign => sign,
                    });
                }
            }
            let Some(c) = rest.chars().next() else {
                return fail("a tag has no end");
            };
            if c == '"' || c == '\'' {
                self.string(c)?;
            } else if c.is_ascii_digit() {
                self.number()?;
            } else if c == '_' || c.is_alphabetic() {
                let length = rest
                    .find(|c: char| c != '_' && !c.is_alphanumeric())
                    .unwrap_or(rest.len());
                self.push(Token::Name(rest[..length].to_owned()));
                self.advance(length);
            } else {
                let Some(op) = OPERATORS.iter().find(|op| rest.starts_with(**op)) else {
                    return fail(format!("the character {c:?} has no meaning here"));
                };
                match *op {
                    "(" | "[" | "{" => open += 1,
                    ")" | "]" | "}" => open = open.saturating_sub(1),
                    _ => {}
                }
                self.push(Token::Op(op));
                self.advance(op.len());
            }
        }
    }

    fn string(&mut self, quote: char) -> Result<(), Fault> {
        let rest = self.rest();
        let mut text = String::new();
        let mut chars = rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            if c == quote {
                self.push(Token::Str(text));
                self.advance(at + 1);
                return Ok(());
            }
            if c != '\\' {
                text.push(c);
                continue;
            }
            let Some((_, escape)) = chars.next() else {
                break;
            };
            let digits = match escape {
                'x' => 2,
                'u' => 4,
                'U' => 8,
                _ => 0,
            };
            if digits > 0 {
                let code: String = chars.by_ref().take(digits).map(|(_, c)| c).collect();
                let value = u32::from_str_radix(&code, 16).ok().and_then(char::from_u32);
                match value.filter(|_| code.len() == digits) {
                    Some(c) => text.push(c),
                    None => return fail(format!("\\{escape}{code} is no character")),
                }
                continue;
            }
            if let Some(mut code) = escape.to_digit(8) {
                for _ in 0..2 {
                    let Some(digit) = chars.clone().next().and_then(|(_, c)| c.to_digit(8)) else {
                        break;
                    };
                    code = 8 * code + digit;
                    chars.next();
                }
                text.extend(char::from_u32(code));
                continue;
            }
            match escape {
                '\n' => {}
                'n' => text.push('\n'),
                't' => text.push('\t'),
                'r' => text.push('\r'),
                'a' => text.push('\x07'),
                'b' => text.push('\x08'),
                'f' => text.push('\x0c'),
                'v' => text.push('\x0b'),
                '\\' | '\'' | '"' => text.push(escape),
                other => text.extend(['\\', other]),
            }
        }
        fail("a string that begins here has no end")
    }

    fn number(&mut self) -> Result<(), Fault> {
        let rest = self.rest();
        let bytes = rest.as_bytes();
        let radix = match rest.get(..2) {
            Some("0x" | "0X") => 16,
            Some("0o" | "0O") => 8,
            Some("0b" | "0B") => 2,
            _ => 10,
        };
        let digit = |b: &u8| b.is_ascii_digit() || *b == b'_';
        let (length, float) = if radix != 10 {
            let more = |b: &&u8| b.is_ascii_alphanumeric() || **b == b'_';
            (2 + bytes[2..].iter().take_while(more).count(), false)
        } else {
            let run = |from: usize| bytes[from..].iter().take_while(|b| digit(b)).count();
            let mut length = run(0);
            let mut float = false;
            if bytes.get(length) == Some(&b'.')
                && bytes.get(length + 1).is_some_and(u8::is_ascii_digit)
            {
                length += 1 + run(length + 1);
                float = true;
            }
            if matches!(bytes.get(length), Some(b'e' | b'E')) {
                let sign = usize::from(matches!(bytes.get(length + 1), Some(b'+' | b'-')));
                let digits = run((length + 1 + sign).min(bytes.len()));
                if digits > 0 {
                    length += 1 + sign + digits;
                    float = true;
                }
            }
            (length, float)
        };
        let shown: String = rest[..length].chars().take(40).collect();
        let plain = rest[..length].replace('_', "");
        let token = match (float, radix) {
            (true, _) => plain.parse().ok().map(Token::Float),
            (_, 10) => plain.parse().ok().map(Token::Int),
            _ => i64::from_str_radix(&plain[2..], radix).ok().map(Token::Int),
        };
        let Some(token) = token else {
            return fail(format!("{shown} is no number of 64 bits"));
        };
        self.push(token);
        self.advance(length);
        Ok(())
    }
}

/// Where the next tag begins.
fn find_tag(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    memchr::memchr_iter(b'{', bytes)
        .find(|&at| matches!(bytes.get(at + 1), Some(b'{' | b'%' | b'#')))
}

/// A tag that says `name` and nothing else, as it stands behind `{%` and its
/// sign: how long it is, and what it says about the white space after it.
fn bare_tag(rest: &str, name: &str) -> Option<(usize, Trim)> {
    let tail = rest.trim_start().strip_prefix(name)?.trim_start();
    let (sign, tail) = match tail.as_bytes().first()? {
        b'-' => (Trim::All, &tail[1..]),
        b'+' => (Trim::Nothing, &tail[1..]),
        _ => (Trim::Usual, tail),
    };
    let tail = tail.strip_prefix("%}")?;
    Some((rest.len() - tail.len(), sign))
}
