//! Calls of functions, in what a model writes.
//!
//! Models write them in one of three ways, all of which are read whichever the
//! template speaks of: `<tool_call>{...}</tool_call>` (Hermes, Qwen),
//! `[TOOL_CALLS] [{...}]` (Mistral), and an object alone (Llama 3). An object
//! is `{"name": ..., "arguments": {...}}`, or `"parameters"` in the last case.
//!
//! What stands between `<think>` and `</think>` is never a call. What comes out
//! does not depend on how the text is cut, and takes time in proportion to it.

use crate::call_object::{Object, Step};

/// What models put around a call.
pub(crate) const OPEN: &str = "<tool_call>";
pub(crate) const CLOSE: &str = "</tool_call>";

/// What they put around their thoughts.
pub(crate) const THINK: &str = "<think>";
const THOUGHT: &str = "</think>";

/// Bytes of brackets and commas that may lead to an object.
const MAX_MARKS: usize = 256;

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
    /// White space that goes out only with text after it.
    blank: String,
    /// Whether an object alone would be a call: no text came since the
    /// beginning, a call, or thoughts.
    fresh: bool,
    thinking: bool,
    calls: usize,
    call: Option<Open>,
    /// Whether there was the one call that may be.
    done: bool,
}

/// A call that has begun.
struct Open {
    /// What stood before its object.
    before: String,
    object: Object,
    /// Its number, once it was told.
    index: Option<usize>,
    /// Whether the object is through, and what closes it may come.
    over: bool,
}

impl CallParser {
    /// A parser of calls of these functions; of one alone, unless `parallel`.
    /// With `thinking` the text begins within thoughts.
    pub fn new(names: Vec<String>, parallel: bool, thinking: bool) -> CallParser {
        CallParser {
            names,
            parallel,
            held: String::new(),
            blank: String::new(),
            fresh: true,
            thinking,
            calls: 0,
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
        let mut out = Vec::new();
        if self.done {
            return out;
        }
        self.held.push_str(text);
        while match self.call.take() {
            Some(call) => self.in_call(call, &mut out, last),
            None if self.thinking => self.in_thoughts(&mut out, last),
            None => self.in_text(&mut out, last),
        } {}
        out
    }

    /// Puts out the first bytes of what is held.
    fn say(&mut self, len: usize, out: &mut Vec<Piece>) {
        let text: String = self.held.drain(..len).collect();
        self.tell(text, out);
    }

    fn tell(&mut self, text: String, out: &mut Vec<Piece>) {
        if self.fresh && text.trim().is_empty() {
            self.blank.push_str(&text);
        } else if !text.is_empty() {
            self.fresh = false;
            let text = std::mem::take(&mut self.blank) + &text;
            out.push(Piece::Text(text));
        }
    }

    /// Returns whether there may be more, as all of these do.
    fn in_thoughts(&mut self, out: &mut Vec<Piece>, last: bool) -> bool {
        let end = self.held.find(THOUGHT);
        match end {
            Some(at) => {
                self.say(at + THOUGHT.len(), out);
                (self.thinking, self.fresh) = (false, true);
            }
            None => {
                let kept = if last {
                    0
                } else {
                    overlap(&self.held, THOUGHT)
                };
                self.say(self.held.len() - kept, out);
            }
        }
        end.is_some()
    }

    fn in_text(&mut self, out: &mut Vec<Piece>, last: bool) -> bool {
        if self.fresh {
            let lead = self.held.len() - self.held.trim_start().len();
            self.say(lead, out);
            let (marks, open) = wrapping(&self.held);
            if marks <= MAX_MARKS {
                if self.held[marks..].starts_with('{') {
                    self.begin(marks);
                    return true;
                }
                // Nothing but marks so far, which mean nothing if nothing follows.
                if open && marks > 0 {
                    if !last {
                        return false;
                    }
                    if self.calls > 0 && marks == self.held.len() {
                        self.held.clear();
                    }
                }
            }
        }
        let found = [OPEN, THINK].map(|mark| self.held.find(mark));
        match found {
            [Some(call), thought] if thought.is_none_or(|t| call < t) => {
                self.say(call, out);
                self.begin(OPEN.len());
                true
            }
            [_, Some(thought)] => {
                self.say(thought + THINK.len(), out);
                self.thinking = true;
                true
            }
            _ => {
                let kept = overlap(&self.held, OPEN).max(overlap(&self.held, THINK));
                let kept = if last { 0 } else { kept };
                self.say(self.held.len() - kept, out);
                false
            }
        }
    }

    /// What begins after `len` bytes may be a call.
    fn begin(&mut self, len: usize) {
        self.call = Some(Open {
            before: self.held.drain(..len).collect(),
            object: Object::default(),
            index: None,
            over: false,
        });
    }

    fn in_call(&mut self, mut call: Open, out: &mut Vec<Piece>, last: bool) -> bool {
        if !call.over {
            call.object.push(&std::mem::take(&mut self.held));
            let mut step = call.object.read();
            while step == Step::Named {
                let known = |n| self.names.iter().any(|name| name == n);
                step = match call.object.name().is_some_and(known) {
                    true => call.object.read(),
                    false => Step::Not,
                };
            }
            if step == Step::End && call.object.name().is_none() {
                step = Step::Not;
            }
            self.report(&mut call, step == Step::End, out);
            match step {
                Step::End => {
                    call.over = true;
                    self.held = std::mem::take(&mut call.object).split().1;
                }
                Step::More if !last => {
                    self.call = Some(call);
                    return false;
                }
                // It is none, or is cut off.
                _ => {
                    let (read, rest) = call.object.split();
                    self.held = rest;
                    match call.index {
                        Some(_) => self.end(),
                        None => self.tell(call.before + &read, out),
                    }
                    return !self.held.is_empty() && !self.done;
                }
            }
        }
        let lead = self.held.len() - self.held.trim_start().len();
        self.held.drain(..lead);
        if let Some(rest) = self.held.strip_prefix(CLOSE) {
            self.held = rest.to_owned();
        } else if CLOSE.starts_with(&self.held) && !last {
            self.call = Some(call); // The closing tag may be on its way.
            return false;
        }
        self.end();
        !self.done
    }

    /// Puts out what is new of a call.
    fn report(&mut self, call: &mut Open, over: bool, out: &mut Vec<Piece>) {
        let ready = over || call.object.has_arguments();
        if let (None, Some(name), true) = (call.index, call.object.name(), ready) {
            let (index, name) = (self.calls, name.to_owned());
            out.push(Piece::Call { index, name });
            call.index = Some(index);
            self.calls += 1;
        }
        if let Some(index) = call.index {
            let text = call.object.take_arguments();
            if !text.is_empty() {
                out.push(Piece::Arguments { index, text });
            }
        }
    }

    /// A call is over.
    fn end(&mut self) {
        self.fresh = true;
        self.blank.clear();
        self.done = !self.parallel;
    }
}

/// Bytes of what models put before an object that is a call, white space
/// included, and whether more of it may follow.
fn wrapping(text: &str) -> (usize, bool) {
    let long = ["[TOOL_CALLS]", "<|python_tag|>"];
    let mut rest = text;
    loop {
        let begun = |mark: &&str| mark.starts_with(rest);
        if rest.is_empty() || long.iter().any(begun) {
            return (text.len(), true);
        }
        let marks = long.iter().chain(&["[", "]", ","]);
        match marks.into_iter().find_map(|m| rest.strip_prefix(m)) {
            Some(after) => rest = after.trim_start(),
            None => return (text.len() - rest.len(), false),
        }
    }
}

/// The longest end of `text` that `mark` begins with.
fn overlap(text: &str, mark: &str) -> usize {
    let most = mark.len().min(text.len());
    (1..=most)
        .rev()
        .find(|&n| text.as_bytes().ends_with(&mark.as_bytes()[..n]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parser(parallel: bool) -> CallParser {
        CallParser::new(vec!["add".into(), "now".into()], parallel, false)
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

    /// A key that came twice used to send what was left of the longer value.
    #[test]
    fn the_first_of_two_keys_counts() {
        for (text, arguments) in [
            (
                r#"{"name":"add","arguments":{"a": 1},"parameters":{"bb": 22}}"#,
                r#"{"a": 1}"#,
            ),
            (
                r#"{"name":"add","parameters":{"a":1},"arguments":{"bbbbb":2}}"#,
                r#"{"a":1}"#,
            ),
            (
                r#"{"name":"add","arguments":"{}","arguments":{"b":2}}"#,
                "{}",
            ),
            (
                r#"{"arguments":{"a":1},"arguments":[1,2,3],"name":"add"}"#,
                r#"{"a":1}"#,
            ),
            (r#"{"name":"add","name":"now","arguments":{}}"#, "{}"),
            (
                r#"{"name":"add","name":7,"x":[{"name":"y"}],"arguments":{}}"#,
                "{}",
            ),
        ] {
            for step in [1, 2, 5, 1000] {
                let call = ("add".to_owned(), arguments.to_owned());
                assert_eq!(
                    read(text, true, step),
                    (String::new(), vec![call]),
                    "{text} by {step}"
                );
            }
        }
    }

    #[test]
    fn thoughts_hold_no_calls() {
        let call = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
        let now = vec![("now".to_owned(), "{}".to_owned())];
        let thought = format!("<think>\nMaybe {call}?\n</think>");
        for step in [1, 3, 1000] {
            let text = format!("{thought}\n\nHello");
            assert_eq!(read(&text, true, step), (text.clone(), vec![]));
            let text = format!("{thought}\n{call}");
            assert_eq!(read(&text, true, step), (thought.clone(), now.clone()));
            let text = format!("{thought}\n{{\"name\": \"now\"}}");
            assert_eq!(read(&text, true, step), (thought.clone(), now.clone()));
            let open = format!("<think>{call}");
            assert_eq!(read(&open, true, step), (open.clone(), vec![]));
        }
        // The prompt may have begun the thoughts.
        let mut p = CallParser::new(vec!["now".into()], true, true);
        let text = format!("hm {call} </think>{call}");
        let pieces = p.push(&text, true);
        assert_eq!(pieces[0], Piece::Text(format!("hm {call} </think>")));
        assert_eq!((pieces.len(), p.calls()), (3, 1));
    }

    proptest::proptest! {
        #[test]
        fn cuts_change_nothing(parts in proptest::collection::vec(0usize..27, 0..14), step in 1usize..9, parallel in proptest::bool::ANY) {
            let all = [
                "<tool_call>", "</tool_call>", "<think>", "</think>", "{\"name\": \"add\", \"arguments\": {\"a\": [\"}\"]}}",
                "{\"name\": \"now\"}", "[TOOL_CALLS]", "[", "]", ", ", " ", "\n", "text", "{", "}", "\"name\":", "\"add\"",
                "\"arguments\":", "\"parameters\": {\"b\": 1}", "{\"a\": 1}", "<tool", "<|python_tag|>", "ü", "\\", "\"",
                "{\"name\": \"who\"}", "7",
            ];
            let text: String = parts.iter().map(|&i| all[i]).collect();
            let whole = read(&text, parallel, usize::MAX);
            proptest::prop_assert_eq!(read(&text, parallel, step), whole, "{}", text);
        }
    }

    /// A quadratic parser takes hours for these.
    #[test]
    fn long_texts_are_read_once() {
        let long = "x ".repeat(250_000);
        let many = "{\"name\":\"now\"},".repeat(20_000);
        // With how much must come out at least; white space alone is nothing said.
        for (text, least) in [
            (
                format!("{{\"name\": \"add\", \"arguments\": {{\"a\": \"{long}\"}}}}"),
                500_000,
            ),
            (format!("{{\"arguments\": {{\"a\": \"{long}\""), 500_000),
            (" ".repeat(500_000), 0),
            ("[ ".repeat(250_000), 400_000),
            ("<think>".repeat(70_000), 400_000),
            ("<tool_call>".repeat(45_000), 400_000),
            ("{\"name\": \"now\"}".to_owned() + &" ".repeat(500_000), 5),
            (many, 50_000),
        ] {
            let (said, calls) = read(&text, true, 3);
            let long = calls.iter().map(|(n, a)| n.len() + a.len());
            let came = said.len() + long.sum::<usize>();
            assert!(
                came >= least,
                "{came} of {least}: {}",
                &text[..40.min(text.len())]
            );
        }
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
