//! Grammars in llama.cpp's syntax, GBNF, as grammars in Lark's.
//!
//! What does not refer to itself is written as one regular expression, so that
//! no letter is decided too early. The rest become rules around such
//! expressions.

use std::collections::HashMap;
use std::fmt::Write;

/// Bytes of the result.
const MAX_BYTES: usize = 256 << 10;

/// Groups within groups, and rules within rules.
const MAX_DEPTH: usize = 100;

/// Times that something may be repeated.
const MAX_TIMES: u32 = 10_000;

/// What a rule is made of.
#[derive(Clone, Debug)]
enum Node {
    /// A regular expression of it.
    Regex(String),
    Rule(usize),
    All(Vec<Node>),
    Any(Vec<Node>),
    Times(Box<Node>, u32, Option<u32>),
}

/// Whether a grammar is one of these: a rule is `name ::= ...`.
pub(crate) fn is_gbnf(text: &str) -> bool {
    let rule = |line: &str| {
        let name = line.split_once("::=").map(|(name, _)| name.trim());
        name.is_some_and(|n| !n.is_empty() && n.chars().all(is_letter))
    };
    text.lines().any(rule)
}

fn is_letter(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

/// The same grammar in Lark's syntax.
pub(crate) fn to_lark(text: &str) -> Result<String, String> {
    let mut reader = Reader {
        text,
        at: 0,
        names: HashMap::new(),
        uses: Vec::new(),
    };
    let mut rules: HashMap<usize, Node> = HashMap::new();
    reader.space();
    while reader.at < text.len() {
        let name = reader.word();
        reader.space();
        if name.is_empty() || !reader.take("::=") {
            return Err(reader.fault("a rule is expected, as in name ::= ..."));
        }
        let index = reader.name(name);
        let node = reader.choice(0)?;
        if rules.insert(index, node).is_some() {
            return Err(reader.fault(&format!("there are two rules {name:?} before")));
        }
    }
    for (name, index, at) in &reader.uses {
        if !rules.contains_key(index) {
            return Err(format!(
                "line {}: there is no rule {name:?}",
                line(text, *at)
            ));
        }
    }
    let Some(&root) = reader.names.get("root") else {
        return Err("there is no rule \"root\", which GBNF begins with".to_owned());
    };
    let mut writer = Writer {
        rules: &rules,
        known: HashMap::new(),
        bytes: 0,
    };
    let mut out = String::new();
    let mut open = vec![root];
    let mut seen = vec![root];
    while let Some(index) = open.pop() {
        let body = writer.rule(&rules[&index], &mut open, &mut seen)?;
        let name = if index == root {
            "start".into()
        } else {
            format!("g{index}")
        };
        let _ = writeln!(out, "{name}: {body}");
    }
    // Others may refer to it as well.
    let _ = writeln!(out, "g{root}: start");
    Ok(out)
}

fn line(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// Reads a grammar.
struct Reader<'t> {
    text: &'t str,
    at: usize,
    names: HashMap<&'t str, usize>,
    uses: Vec<(&'t str, usize, usize)>,
}

impl<'t> Reader<'t> {
    fn fault(&self, why: &str) -> String {
        let line = line(self.text, self.at);
        format!("line {line}: {why} (it was read as GBNF, for its ::=)")
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Result<char, String> {
        let c = self.peek().ok_or_else(|| self.fault("it ends too early"))?;
        self.at += c.len_utf8();
        Ok(c)
    }

    fn take(&mut self, text: &str) -> bool {
        let there = self.rest().starts_with(text);
        self.at += if there { text.len() } else { 0 };
        there
    }

    /// White space and comments.
    fn space(&mut self) {
        while let Some(c) = self.peek() {
            match c {
                '#' => self.at += self.rest().find('\n').unwrap_or(self.rest().len()),
                _ if c.is_whitespace() => self.at += c.len_utf8(),
                _ => break,
            }
        }
    }

    fn word(&mut self) -> &'t str {
        let rest = self.rest();
        let len = rest.find(|c| !is_letter(c)).unwrap_or(rest.len());
        self.at += len;
        &rest[..len]
    }

    fn name(&mut self, name: &'t str) -> usize {
        let next = self.names.len();
        *self.names.entry(name).or_insert(next)
    }

    fn choice(&mut self, depth: usize) -> Result<Node, String> {
        if depth > MAX_DEPTH {
            return Err(self.fault("groups nest too deeply"));
        }
        let mut forms = Vec::new();
        loop {
            forms.push(self.sequence(depth)?);
            if !self.take("|") {
                return Ok(match forms.len() {
                    1 => forms.remove(0),
                    _ => Node::Any(forms),
                });
            }
        }
    }

    fn sequence(&mut self, depth: usize) -> Result<Node, String> {
        let mut all: Vec<Node> = Vec::new();
        loop {
            self.space();
            let Some(c) = self.peek() else { break };
            let node = match c {
                '"' => self.literal()?,
                '[' => self.class()?,
                '.' => {
                    self.at += 1;
                    Node::Regex("[\\s\\S]".to_owned())
                }
                '(' => {
                    self.at += 1;
                    let node = self.choice(depth + 1)?;
                    if !self.take(")") {
                        return Err(self.fault("\")\" is expected"));
                    }
                    node
                }
                '*' | '+' | '?' | '{' => {
                    let (least, most) = self.times()?;
                    let last = all.pop();
                    let last = last.ok_or_else(|| self.fault("there is nothing to repeat"))?;
                    Node::Times(last.into(), least, most)
                }
                _ if is_letter(c) => {
                    let at = self.at;
                    let name = self.word();
                    let after = self.at;
                    self.space();
                    if self.rest().starts_with("::=") {
                        self.at = at; // The next rule.
                        break;
                    }
                    self.at = after;
                    let index = self.name(name);
                    self.uses.push((name, index, at));
                    Node::Rule(index)
                }
                '|' | ')' if c == '|' || depth > 0 => break,
                '<' | '!' => {
                    return Err(self.fault("tokens cannot be named here; write their text"))
                }
                _ => return Err(self.fault(&format!("{c:?} is not expected"))),
            };
            all.push(node);
        }
        Ok(match all.len() {
            1 => all.remove(0),
            _ => Node::All(all),
        })
    }

    fn times(&mut self) -> Result<(u32, Option<u32>), String> {
        Ok(match self.next()? {
            '*' => (0, None),
            '+' => (1, None),
            '?' => (0, Some(1)),
            _ => {
                let (inner, _) = self.rest().split_once('}').unwrap_or_default();
                self.at += inner.len() + 1;
                let number = |n: &str| n.trim().parse().ok().filter(|n| *n <= MAX_TIMES);
                let (least, most) = match inner.split_once(',') {
                    None => (number(inner), number(inner).map(Some)),
                    Some((least, "")) => (number(least), Some(None)),
                    Some(("", most)) => (Some(0), number(most).map(Some)),
                    Some((least, most)) => (number(least), number(most).map(Some)),
                };
                match (least, most) {
                    (Some(l), Some(m)) if m.is_none_or(|m| l <= m) => (l, m),
                    _ => {
                        self.at = self.at.min(self.text.len());
                        let says =
                            format!("{{m}}, {{m,}} or {{m,n}} is expected, {MAX_TIMES} at most");
                        return Err(self.fault(&says));
                    }
                }
            }
        })
    }

    fn literal(&mut self) -> Result<Node, String> {
        self.at += 1;
        let mut regex = String::new();
        while !self.take("\"") {
            let c = self.letter()?;
            let _ = write!(regex, "\\x{{{:X}}}", c as u32);
        }
        Ok(Node::Regex(regex))
    }

    fn class(&mut self) -> Result<Node, String> {
        self.at += 1;
        let mut regex = String::from(if self.take("^") { "[^" } else { "[" });
        let begins = regex.len();
        while !self.take("]") {
            let from = self.letter()?;
            let range = self.rest().starts_with('-') && !self.rest().starts_with("-]");
            let to = match range {
                true => {
                    self.at += 1;
                    self.letter()?
                }
                false => from,
            };
            if to < from {
                return Err(self.fault("a range goes backwards"));
            }
            let _ = write!(regex, "\\x{{{:X}}}-\\x{{{:X}}}", from as u32, to as u32);
        }
        if regex.len() == begins {
            return Err(self.fault("nothing is in the brackets"));
        }
        Ok(Node::Regex(regex + "]"))
    }

    /// A letter, which may be escaped.
    fn letter(&mut self) -> Result<char, String> {
        let c = self.next()?;
        if c != '\\' {
            return Ok(c);
        }
        let digits = match self.next()? {
            'n' => return Ok('\n'),
            'r' => return Ok('\r'),
            't' => return Ok('\t'),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            c @ ('"' | '\\' | '[' | ']' | '-' | '/' | '^') => return Ok(c),
            c => return Err(self.fault(&format!("\\{c} means nothing"))),
        };
        let code = self.rest().get(..digits);
        let code = code.and_then(|d| u32::from_str_radix(d, 16).ok());
        let c = code.and_then(char::from_u32);
        let c = c.ok_or_else(|| self.fault("the number of a letter is expected"))?;
        self.at += digits;
        Ok(c)
    }
}

/// Writes rules.
struct Writer<'r> {
    rules: &'r HashMap<usize, Node>,
    /// Rules as expressions; none if they refer to themselves.
    known: HashMap<usize, Option<String>>,
    bytes: usize,
}

impl Writer<'_> {
    /// A rule's body; rules it needs go to `open`.
    fn rule(
        &mut self,
        node: &Node,
        open: &mut Vec<usize>,
        seen: &mut Vec<usize>,
    ) -> Result<String, String> {
        if let Some(regex) = self.regex(node, 0)? {
            return Ok(terminal(&regex));
        }
        let out = match node {
            Node::Regex(regex) => terminal(regex),
            Node::Rule(index) => {
                if !seen.contains(index) {
                    seen.push(*index);
                    open.push(*index);
                }
                format!("g{index}")
            }
            Node::Any(forms) => {
                let forms: Result<Vec<_>, _> =
                    forms.iter().map(|n| self.rule(n, open, seen)).collect();
                format!("({})", forms?.join(" | "))
            }
            Node::All(all) => {
                // What is regular in a row is one expression.
                let (mut parts, mut row) = (Vec::new(), String::new());
                for node in all {
                    match self.regex(node, 0)? {
                        Some(regex) => row += &regex,
                        None => {
                            if !row.is_empty() {
                                parts.push(terminal(&std::mem::take(&mut row)));
                            }
                            parts.push(self.rule(node, open, seen)?);
                        }
                    }
                }
                if !row.is_empty() {
                    parts.push(terminal(&row));
                }
                format!("({})", parts.join(" "))
            }
            Node::Times(node, least, most) => {
                let inner = self.rule(node, open, seen)?;
                match (least, most) {
                    (0, None) => format!("({inner})*"),
                    (1, None) => format!("({inner})+"),
                    (0, Some(1)) => format!("({inner})?"),
                    (least, None) => format!("({inner}){{{least},}}"),
                    (least, Some(most)) => format!("({inner}){{{least},{most}}}"),
                }
            }
        };
        self.count(out.len())?;
        Ok(out)
    }

    fn count(&mut self, bytes: usize) -> Result<(), String> {
        self.bytes += bytes;
        match self.bytes > MAX_BYTES {
            true => Err("it takes too much once its rules are written out".to_owned()),
            false => Ok(()),
        }
    }

    /// A regular expression of it; none if there is no such.
    fn regex(&mut self, node: &Node, depth: usize) -> Result<Option<String>, String> {
        if depth > MAX_DEPTH {
            return Err("rules nest too deeply".to_owned());
        }
        let regex = match node {
            Node::Regex(regex) => Some(regex.clone()),
            Node::Rule(index) => {
                if let Some(known) = self.known.get(index) {
                    known.clone()
                } else {
                    // None while it is looked at: it would refer to itself.
                    self.known.insert(*index, None);
                    let rules = self.rules;
                    let regex = self.regex(&rules[index], depth + 1)?;
                    self.known.insert(*index, regex.clone());
                    regex
                }
            }
            Node::All(all) => {
                let mut out = Some(String::new());
                for node in all {
                    let part = self.regex(node, depth + 1)?;
                    out = out.zip(part).map(|(out, part)| out + &part);
                }
                out
            }
            Node::Any(forms) => {
                let mut out = Some(Vec::new());
                for node in forms {
                    let part = self.regex(node, depth + 1)?;
                    out = out.zip(part).map(|(mut out, part)| {
                        out.push(part);
                        out
                    });
                }
                out.map(|out| format!("(?:{})", out.join("|")))
            }
            Node::Times(node, least, most) => {
                let most = most.map_or(String::new(), |m| m.to_string());
                let inner = self.regex(node, depth + 1)?;
                inner.map(|inner| format!("(?:{inner}){{{least},{most}}}"))
            }
        };
        self.count(regex.as_ref().map_or(1, String::len))?;
        Ok(regex)
    }
}

fn terminal(regex: &str) -> String {
    match regex.is_empty() {
        true => "\"\"".to_owned(),
        false => format!("/{regex}/"),
    }
}
