//! The object of a call, read as it comes.
//!
//! Every byte is looked at once, however the text is cut. Where a key comes
//! twice, the first one counts: what was sent of it cannot be taken back.

use std::ops::Range;

/// What reading came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Step {
    /// The text ends before the object does.
    More,
    /// The name is known now; there may be more.
    Named,
    /// The object ends here.
    End,
    /// This is no JSON.
    Not,
}

/// Where the next byte stands.
#[derive(Clone, Copy, Debug, Default)]
enum State {
    /// Before the object.
    #[default]
    Before,
    /// Between its fields.
    Between,
    /// In a key that begins at this byte.
    Key(usize),
    Colon,
    /// Before a value.
    Ahead,
    /// In a value that begins at this byte.
    Value(usize),
    Over,
}

/// What a field is for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Field {
    Name,
    Arguments,
    #[default]
    Other,
}

/// An object that may be a call, as far as it goes.
#[derive(Debug, Default)]
pub(crate) struct Object {
    text: String,
    /// Bytes that were read.
    at: usize,
    state: State,
    field: Field,
    depth: usize,
    string: bool,
    escaped: bool,
    name: Option<String>,
    arguments: Option<Range<usize>>,
    /// Bytes of the arguments that were taken.
    taken: usize,
}

impl Object {
    /// Goes on with this text.
    pub fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// The function's name, once it is there.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Whether arguments have begun.
    pub fn has_arguments(&self) -> bool {
        self.arguments.is_some()
    }

    /// What is new of the arguments. Those that a model wrote as a string are
    /// what the string holds, once it is complete.
    pub fn take_arguments(&mut self) -> String {
        let over = matches!(self.state, State::Over);
        let Some(range) = self.arguments.clone() else {
            let none = over && std::mem::replace(&mut self.taken, 2) == 0;
            return if none { "{}".into() } else { String::new() };
        };
        let reading = self.field == Field::Arguments && matches!(self.state, State::Value(_));
        if self.text[range.start..].starts_with('"') {
            if reading || self.taken > 0 {
                return String::new();
            }
            self.taken = range.len();
            let raw = &self.text[range];
            return serde_json::from_str(raw).unwrap_or_else(|_| raw.into());
        }
        let new = &self.text[range.start + self.taken..range.end];
        self.taken = range.len();
        new.into()
    }

    /// What was read, and what follows it.
    pub fn split(mut self) -> (String, String) {
        let rest = self.text.split_off(self.at);
        (self.text, rest)
    }

    /// Reads on.
    pub fn read(&mut self) -> Step {
        while let Some(&byte) = self.text.as_bytes().get(self.at) {
            let (at, blank) = (self.at, byte.is_ascii_whitespace());
            match self.state {
                State::Over => return Step::End,
                State::Value(from) => match self.value(from, byte) {
                    Step::More => {}
                    step => return step,
                },
                State::Key(from) => {
                    self.at += 1;
                    if self.in_string(byte) {
                        continue;
                    }
                    let Ok(key) = serde_json::from_str::<String>(&self.text[from..self.at]) else {
                        return Step::Not;
                    };
                    self.field = match key.as_str() {
                        "name" if self.name.is_none() => Field::Name,
                        "arguments" | "parameters" if self.arguments.is_none() => Field::Arguments,
                        _ => Field::Other,
                    };
                    self.state = State::Colon;
                }
                _ if blank => self.at += 1,
                State::Before if byte == b'{' => self.go(State::Between),
                State::Between if byte == b',' => self.go(State::Between),
                State::Between if byte == b'}' => {
                    self.go(State::Over);
                    return Step::End;
                }
                State::Between if byte == b'"' => self.go(State::Key(at)),
                State::Colon if byte == b':' => self.go(State::Ahead),
                State::Ahead if !b",]}:".contains(&byte) => {
                    self.state = State::Value(at);
                    if self.field == Field::Arguments {
                        self.arguments = Some(at..at);
                    }
                }
                _ => return Step::Not,
            }
        }
        match self.state {
            State::Over => Step::End,
            _ => Step::More,
        }
    }

    fn go(&mut self, state: State) {
        (self.at, self.state) = (self.at + 1, state);
    }

    /// Whether a byte within a string leaves it open.
    fn in_string(&mut self, byte: u8) -> bool {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' => self.escaped = true,
            b'"' => return false,
            _ => {}
        }
        true
    }

    /// Reads a byte of a value; `More` unless it tells something.
    fn value(&mut self, from: usize, byte: u8) -> Step {
        let mut over = false;
        if self.string {
            self.string = self.in_string(byte);
            over = !self.string && self.depth == 0;
        } else {
            match byte {
                b'"' => self.string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' if self.depth > 0 => {
                    self.depth -= 1;
                    over = self.depth == 0;
                }
                // The end of a number or word is not part of it.
                b',' | b'}' | b']' if self.depth == 0 => return self.done(from),
                _ if self.depth == 0 && byte.is_ascii_whitespace() => return self.done(from),
                _ => {}
            }
        }
        self.at += 1;
        if let (Field::Arguments, Some(range)) = (self.field, &mut self.arguments) {
            range.end = self.at;
        }
        match over {
            true => self.done(from),
            false => Step::More,
        }
    }

    /// A value is complete.
    fn done(&mut self, from: usize) -> Step {
        self.state = State::Between;
        if self.field != Field::Name {
            return Step::More;
        }
        match serde_json::from_str(&self.text[from..self.at]) {
            Ok(name) => {
                self.name = Some(name);
                Step::Named
            }
            Err(_) => Step::Not,
        }
    }
}
