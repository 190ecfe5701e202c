//! Calls of functions, in what a model writes.
//!
//! Models write them in one of three ways, all of which are read whichever the
//! template speaks of: `<tool_call>{...}</tool_call>` (Hermes, Qwen),
//! `[TOOL_CALLS] [{...}]` (Mistral), and an object alone (Llama 3). An object
//! is `{"name": ..., "arguments": {...}}`, or `"parameters"` in the last case.

/// What models put around a call.
pub(crate) const OPEN: &str = "<tool_call>";
pub(crate) const CLOSE: &str = "</tool_call>";

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Piece {
    /// Text goes on.
    Text(String),
    /// A call begins.
    Call { index: usize, name: String },
    /// The arguments of a call go on.
    Arguments { index: usize, text: String },
}

/// Finds calls in text as it comes.
pub(crate) struct CallParser {
    names: Vec<String>,
    parallel: bool,
    /// Text that is not decided yet.
    held: String,
    calls: usize,
    /// Whether text came out, after which an object alone is no call.
    said: bool,
    /// The call that `held` begins with.
    call: Option<Open>,
    /// Whether there was the one call that may be.
    done: bool,
}

/// A call that has begun.
struct Open {
    /// What stood before it.
    before: String,
    /// Bytes of the arguments that came out; `None` before its name did.
    sent: Option<usize>,
}

impl CallParser {
    /// A parser of calls of these functions; of one alone, unless `parallel`.
    pub fn new(names: Vec<String>, parallel: bool) -> CallParser {
        CallParser {
            names,
            parallel,
            held: String::new(),
            calls: 0,
            said: false,
            call: None,
            done: false,
        }
    }

    /// Calls that have begun.
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// Takes text; with `last`, nothing follows.
    pub fn push(&mut self, text: &str, last: bool) -> Vec<Piece> {
        if self.done {
            return Vec::new();
        }
        self.held.push_str(text);
        let mut out = Vec::new();
        while match self.call {
            Some(_) => self.in_call(&mut out, last),
            None => self.in_text(&mut out, last),
        } {}
        out
    }

    fn say(&mut self, text: String, out: &mut Vec<Piece>) {
        // White space around calls is theirs.
        let blank = text.trim().is_empty();
        if !text.is_empty() && !(blank && (self.calls > 0 || !self.said)) {
            self.said = true;
            out.push(Piece::Text(text));
        }
    }

    /// Returns whether there may be more.
    fn in_text(&mut self, out: &mut Vec<Piece>, last: bool) -> bool {
        if let Some(at) = self.held.find(OPEN) {
            let text: String = self.held.drain(..at).collect();
            self.say(text, out);
            self.begin(OPEN.len());
            return true;
        }
        let lead = self.held.len() - self.held.trim_start_matches(char::is_whitespace).len();
        let rest = &self.held[lead..];
        if !self.said || self.calls > 0 {
            let marks = wrapping(rest);
            let (object, over) = (rest[marks..].starts_with('{'), marks == rest.len());
            if object {
                self.begin(lead + marks);
                return true;
            }
            // Nothing but marks so far, which mean nothing if nothing follows.
            if marks > 0 && over {
                if !last {
                    return false;
                }
                if self.calls > 0 {
                    self.held.clear();
                }
            }
        }
        let blank = self.held.trim().is_empty();
        let held = match last {
            true => 0,
            false if !self.said && blank => self.held.len(),
            false => [OPEN, "[TOOL_CALLS]", "<|python_tag|>"]
                .iter()
                .map(|m| overlap(&self.held, m))
                .max()
                .unwrap_or(0),
        };
        let text: String = self.held.drain(..self.held.len() - held).collect();
        self.say(text, out);
        false
    }

    /// What begins after `len` bytes may be a call.
    fn begin(&mut self, len: usize) {
        let before = self.held.drain(..len).collect();
        self.call = Some(Open { before, sent: None });
    }

    fn in_call(&mut self, out: &mut Vec<Piece>, last: bool) -> bool {
        let Some(open) = &mut self.call else {
            return false;
        };
        let found = scan(&self.held);
        let known = |f: &Scan| f.name.as_ref().is_none_or(|n| self.names.contains(n));
        let found = match found {
            Some(f) if known(&f) && (f.name.is_some() || (f.end.is_none() && !last)) => f,
            _ => return self.no_call(out),
        };
        let index = self.calls - usize::from(open.sent.is_some());
        let ready = found.end.is_some() || found.arguments.is_some();
        if let (None, Some(name), true) = (open.sent, &found.name, ready) {
            out.push(Piece::Call {
                index,
                name: name.clone(),
            });
            open.sent = Some(0);
            self.calls += 1;
        }
        if let Some(sent) = open.sent {
            let text = match &found.arguments {
                Some(range) => arguments(&self.held[range.clone()], found.complete),
                None => "{}".into(),
            };
            if let Some(text) = text.get(sent..).filter(|t| !t.is_empty()) {
                open.sent = Some(sent + text.len());
                out.push(Piece::Arguments {
                    index,
                    text: text.into(),
                });
            }
        }
        let Some(end) = found.end else {
            return false;
        };
        let after = self.held[end..].trim_start();
        let rest = after.strip_prefix(CLOSE);
        if rest.is_none() && CLOSE.starts_with(after) && !last {
            return false; // The closing tag may be on its way.
        }
        self.held = rest.unwrap_or(after).to_owned();
        self.call = None;
        self.done = !self.parallel;
        self.parallel
    }

    /// What looked like a call was none, or is cut off.
    fn no_call(&mut self, out: &mut Vec<Piece>) -> bool {
        let Some(open) = self.call.take() else {
            return false;
        };
        if open.sent.is_none() {
            let text = open.before + &std::mem::take(&mut self.held);
            self.said = true;
            out.push(Piece::Text(text));
        }
        self.held.clear();
        false
    }
}

/// Bytes of what models put before an object that is a call, white space
/// included.
fn wrapping(text: &str) -> usize {
    let mut rest = text;
    while let Some(after) = ["[TOOL_CALLS]", "<|python_tag|>", "[", "]", ","]
        .iter()
        .find_map(|mark| rest.strip_prefix(mark))
    {
        rest = after.trim_start();
    }
    text.len() - rest.len()
}

/// The longest end of `text` that `mark` begins with.
fn overlap(text: &str, mark: &str) -> usize {
    let most = mark.len().min(text.len());
    (1..=most)
        .rev()
        .find(|&n| text.as_bytes().ends_with(&mark.as_bytes()[..n]))
        .unwrap_or(0)
}

/// Arguments as they come out: an object that a model wrote as a string is what
/// the string holds, once it is complete.
fn arguments(raw: &str, complete: bool) -> String {
    if !raw.starts_with('"') {
        return raw.into();
    }
    match complete {
        true => serde_json::from_str(raw).unwrap_or_else(|_| raw.into()),
        false => String::new(),
    }
}

/// What is known of a call as far as it goes.
#[derive(Debug, Default, PartialEq)]
struct Scan {
    name: Option<String>,
    /// Bytes of the arguments.
    arguments: Option<std::ops::Range<usize>>,
    /// Whether those are all.
    complete: bool,
    /// Where the object ends.
    end: Option<usize>,
}

/// Reads the beginning of an object; `None` if it is no JSON.
fn scan(text: &str) -> Option<Scan> {
    let mut found = Scan::default();
    let skip = |at: usize| at + text[at..].len() - text[at..].trim_start().len();
    let mut at = skip(0);
    if at == text.len() {
        return Some(found);
    }
    at = text[at..].starts_with('{').then_some(at + 1)?;
    loop {
        at = skip(at);
        match text.as_bytes().get(at) {
            None => return Some(found),
            Some(b'}') => {
                found.end = Some(at + 1);
                return Some(found);
            }
            Some(b',') => {
                at += 1;
                continue;
            }
            Some(b'"') => {}
            Some(_) => return None,
        }
        let (end, complete) = value(text, at);
        if !complete {
            return Some(found);
        }
        let key: String = serde_json::from_str(&text[at..end]).ok()?;
        at = skip(end);
        match text.as_bytes().get(at) {
            None => return Some(found),
            Some(b':') => at = skip(at + 1),
            Some(_) => return None,
        }
        let (end, complete) = value(text, at);
        match key.as_str() {
            "name" if complete => found.name = Some(serde_json::from_str(&text[at..end]).ok()?),
            "arguments" | "parameters" if end > at => {
                found.arguments = Some(at..end);
                found.complete = complete;
            }
            _ => {}
        }
        if !complete {
            return Some(found);
        }
        at = end;
    }
}

/// Where the value that begins at `from` ends, and whether it is all there.
fn value(text: &str, from: usize) -> (usize, bool) {
    let (mut depth, mut string, mut escaped) = (0usize, false, false);
    for (i, b) in text.bytes().enumerate().skip(from) {
        if string {
            match b {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => {
                    string = false;
                    if depth == 0 {
                        return (i + 1, true);
                    }
                }
                _ => {}
            }
            continue;
        }
        match b {
            b'"' => string = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth > 1 => depth -= 1,
            b'}' | b']' if depth == 1 => return (i + 1, true),
            b',' | b'}' | b']' if depth == 0 => return (i, i > from),
            _ if depth == 0 && b.is_ascii_whitespace() => return (i, i > from),
            _ => {}
        }
    }
    (text.len(), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parser(parallel: bool) -> CallParser {
        CallParser::new(vec!["add".into(), "now".into()], parallel)
    }

    /// The pieces put together: text, and calls.
    fn read(text: &str, parallel: bool, step: usize) -> (String, Vec<(String, String)>) {
        let (mut p, mut said, mut calls) = (parser(parallel), String::new(), Vec::new());
        let chars: Vec<char> = text.chars().collect();
        let mut pieces: Vec<_> = chars
            .chunks(step)
            .flat_map(|c| p.push(&c.iter().collect::<String>(), false))
            .collect();
        pieces.extend(p.push("", true));
        for piece in pieces {
            match piece {
                Piece::Text(t) => said += &t,
                Piece::Call { index, name } => {
                    assert_eq!(index, calls.len());
                    calls.push((name, String::new()));
                }
                Piece::Arguments { index, text } => calls[index].1 += &text,
            }
        }
        assert_eq!(p.calls(), calls.len());
        (said, calls)
    }

    #[test]
    fn calls_are_found_however_they_are_cut() {
        let add = |a: &str| ("add".to_owned(), a.to_owned());
        let now = || ("now".to_owned(), "{}".to_owned());
        let tagged = "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": \"}\\\"<\", \"b\": [1]}}\n</tool_call>";
        let args = "{\"a\": \"}\\\"<\", \"b\": [1]}";
        let two = "<tool_call>{\"name\":\"add\",\"arguments\":{}}</tool_call>\n<tool_call>{\"name\":\"now\"}</tool_call>\n";
        for (text, said, calls) in [
            ("Hello, 1 < 2 {}", "Hello, 1 < 2 {}", vec![]),
            (tagged, "", vec![add(args)]),
            (&format!("Let me see. {tagged}"), "Let me see. ", vec![add(args)]),
            (two, "", vec![add("{}"), now()]),
            ("{\"name\": \"add\", \"parameters\": {\"a\": 1}}", "", vec![add("{\"a\": 1}")]),
            ("{\"arguments\": {\"a\": 1}, \"name\": \"add\"}", "", vec![add("{\"a\": 1}")]),
            ("{\"name\": \"add\", \"arguments\": \"{\\\"a\\\": 1}\"}", "", vec![add("{\"a\": 1}")]),
            ("[TOOL_CALLS] [{\"name\": \"add\", \"arguments\": {}}, {\"name\": \"now\", \"arguments\": {}}]", "", vec![add("{}"), now()]),
            ("[{\"name\": \"add\", \"arguments\": {}}]", "", vec![add("{}")]),
            ("{\"name\": \"nobody\", \"arguments\": {}}", "{\"name\": \"nobody\", \"arguments\": {}}", vec![]),
            ("{\"a\": 1}", "{\"a\": 1}", vec![]),
            ("[1, 2]", "[1, 2]", vec![]),
            ("{no JSON", "{no JSON", vec![]),
            ("<tool_call>\n{\"name\": \"ad", "<tool_call>\n{\"name\": \"ad", vec![]),
            ("<tool_ca", "<tool_ca", vec![]),
            ("{\"name\": \"add\", \"arguments\": {\"a\": 1", "", vec![add("{\"a\": 1")]),
        ] {
            for step in [1, 2, 3, 7, 1000] {
                let (s, c) = read(text, true, step);
                assert_eq!((s.trim_start(), c), (said, calls.clone()), "{text:?} by {step}");
            }
        }
        let (said, calls) = read(two, false, 5);
        assert_eq!(
            (said.as_str(), calls),
            ("", vec![add("{}")]),
            "one call alone"
        );
    }

    #[test]
    fn arguments_come_out_as_they_come_in() {
        let mut p = parser(true);
        assert_eq!(p.push("{\"name\": \"add\"", false), []);
        let call = Piece::Call {
            index: 0,
            name: "add".into(),
        };
        let more = |text: &str| Piece::Arguments {
            index: 0,
            text: text.into(),
        };
        assert_eq!(
            p.push(", \"arguments\": {\"a\"", false),
            [call, more("{\"a\"")]
        );
        assert_eq!(p.push(": 1}", false), [more(": 1}")]);
        assert_eq!(p.push("}", false), []);
        assert_eq!(p.push("", true), []);
    }
}
