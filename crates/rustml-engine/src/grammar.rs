//! JSON schemas, regular expressions and grammars as constraints, by the
//! `llguidance` crate.
//!
//! What clients send is bounded before it is compiled, by its length and by how
//! deep it nests, since the compiler recurses; and while it is, by the work and
//! the memory that it may take. So is what every token takes. Beyond any of
//! these a grammar is refused or its request fails; nothing hangs.

use crate::constraint::Constraint;
use crate::guided::Guided;
use crate::schema;
use crate::{gbnf, lark};
use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, TokRxInfo, TokTrie};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory};
use rustml_tokenizer::Tokenizer;
use serde_json::{json, Value};
use std::sync::Arc;

/// Bytes of a grammar or schema.
const MAX_BYTES: usize = 64 << 10;

/// Brackets within brackets.
const MAX_DEPTH: usize = 100;

/// Stack for compiling: rules may follow from each other as many times as fit
/// into a grammar, and the compiler goes after each. Only what is used is taken.
const STACK: usize = 512 << 20;

/// White space between the parts of a JSON text: enough for the indentation of
/// some levels, and short, since small models like to go on with it for ever.
const WHITE_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,24}";

/// Why a grammar cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// It is too long.
    #[error("the {what} is {bytes} bytes long, but {MAX_BYTES} are the most")]
    TooLong {
        /// Schema, grammar or regular expression.
        what: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// It nests too deeply.
    #[error("the {what} nests deeper than {MAX_DEPTH} levels")]
    TooDeep {
        /// Schema, grammar or regular expression.
        what: &'static str,
    },
    /// It means nothing, or more than can be had.
    #[error("the {what} cannot be used: {why}")]
    Refused {
        /// Schema, grammar or regular expression.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// Something in a schema cannot be kept.
    #[error("the schema cannot be used: {}{at}: {why}", if at.is_empty() { "#" } else { "" })]
    Schema {
        /// Where it stands, as a JSON pointer.
        at: String,
        /// What is wrong with it.
        why: String,
    },
    /// The vocabulary cannot be arranged.
    #[error("texts cannot be constrained with this tokenizer: {0}")]
    Tokenizer(String),
}

/// Makes constraints for texts in one vocabulary. It is made once, and serves
/// any number of threads.
///
/// Where `RUST_BACKTRACE` is set, a server should set `RUST_LIB_BACKTRACE=0` before
/// it starts threads, as the `rustml` command does: otherwise an error in a rule that
/// thousands of others lead to walks the stack at each of them, which took 11 s for a
/// grammar of 3000 rules.
pub struct Grammars {
    factory: ParserFactory,
}

impl Grammars {
    /// Arranges the tokens of a vocabulary. For a large one that takes some
    /// tenths of a second.
    ///
    /// # Errors
    /// If there are no tokens.
    pub fn new(tokenizer: &Tokenizer) -> Result<Grammars, GrammarError> {
        let size = tokenizer.vocab_size();
        let mut words: Vec<Vec<u8>> = (0..size as u32).map(|id| word(tokenizer, id)).collect();
        let mut ends: Vec<u32> = tokenizer.end_tokens().to_vec();
        ends.retain(|&id| (id as usize) < size);
        if ends.is_empty() {
            // One that no model has.
            ends.push(size as u32);
            words.push(Vec::new());
        }
        for &id in &ends {
            // As special tokens are marked here: no text has this byte.
            words[id as usize] = format!("\u{0}[{id}]").into_bytes();
            words[id as usize][0] = TokTrie::SPECIAL_TOKEN_MARKER;
        }
        if words.iter().all(|w| w.is_empty()) {
            return Err(GrammarError::Tokenizer("it has no tokens".to_owned()));
        }
        let info = TokRxInfo::new(words.len() as u32, ends[0]);
        let trie = TokTrie::from(&info, &words).with_eos_tokens(&ends);
        let env: llguidance::toktrie::TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&env)
            .map_err(|e| GrammarError::Tokenizer(first_line(&e.to_string())))?;
        factory.quiet();
        *factory.limits_mut() = limits();
        Ok(Grammars { factory })
    }

    /// Texts that are valid by a JSON schema.
    ///
    /// # Errors
    /// If it is no schema, or has something that cannot be guaranteed.
    pub fn json_schema(&self, schema: &Value) -> Result<Grammar, GrammarError> {
        let what = "schema";
        if depth_of(schema) > MAX_DEPTH {
            return Err(GrammarError::TooDeep { what });
        }
        let bytes = schema.to_string().len();
        if bytes > MAX_BYTES {
            return Err(GrammarError::TooLong { what, bytes });
        }
        let grammar = || Ok(TopLevelGrammar::from_json_schema(prepared(schema)?));
        self.compile(what, grammar)
    }

    /// Any JSON object.
    ///
    /// # Errors
    /// None is known.
    pub fn json_object(&self) -> Result<Grammar, GrammarError> {
        self.json_schema(&json!({"type": "object"}))
    }

    /// Texts that a regular expression matches as a whole.
    ///
    /// # Errors
    /// If it is none, or would need too much.
    pub fn regex(&self, regex: &str) -> Result<Grammar, GrammarError> {
        let what = "regular expression";
        check(what, regex)?;
        let refused = |why| GrammarError::Refused { what, why };
        schema::check_regex(regex).map_err(refused)?;
        self.compile(what, || Ok(TopLevelGrammar::from_regex(regex)))
    }

    /// Texts of a grammar in Lark's syntax, as `llguidance` has it, or in GBNF, as
    /// llama.cpp has it.
    ///
    /// # Errors
    /// If it is none, or would need too much.
    pub fn lark(&self, grammar: &str) -> Result<Grammar, GrammarError> {
        let what = "grammar";
        check(what, grammar)?;
        let refused = |why| GrammarError::Refused { what, why };
        let grammar = || {
            let lark = match gbnf::is_gbnf(grammar) {
                true => gbnf::to_lark(grammar).map_err(refused)?,
                false => lark::bounded(grammar).map_err(refused)?,
            };
            Ok(TopLevelGrammar::from_lark(lark))
        };
        self.compile(what, grammar)
    }

    fn compile(
        &self,
        what: &'static str,
        grammar: impl FnOnce() -> Result<TopLevelGrammar, GrammarError> + Send,
    ) -> Result<Grammar, GrammarError> {
        let refused = |why: String| {
            let why = first_line(&why);
            GrammarError::Refused { what, why }
        };
        let compile = || {
            let parser = self.factory.create_parser(grammar()?);
            let mut matcher = Matcher::new(parser).into_cancellable();
            if let Some(why) = matcher.get_error() {
                return Err(refused(why));
            }
            // What is found only when the text begins.
            let first = matcher.compute_mask_or_eos();
            first.map_err(|e| refused(e.to_string())).map(|_| matcher)
        };
        let compiled = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(STACK);
            let thread = thread.spawn_scoped(scope, compile);
            let thread =
                thread.map_err(|e| refused(format!("no thread can be had for it: {e}")))?;
            let failed = |_| Err(refused("the compiler failed on it".to_owned()));
            thread.join().unwrap_or_else(failed)
        });
        compiled.map(Grammar)
    }
}

/// What texts have to be like: any number of constraints, compiled once.
pub struct Grammar(Matcher);

impl Grammar {
    /// A constraint for one text. It shares nothing with others.
    pub fn constraint(&self) -> Box<dyn Constraint> {
        Box::new(Guided::new(self.0.deep_clone()))
    }
}

impl From<schema::Fault> for GrammarError {
    fn from(fault: schema::Fault) -> GrammarError {
        GrammarError::Schema {
            at: fault.at,
            why: fault.why,
        }
    }
}

/// A schema as the compiler takes it.
pub(crate) fn prepared(schema: &Value) -> Result<Value, GrammarError> {
    let what = "schema";
    if depth_of(schema) > MAX_DEPTH {
        return Err(GrammarError::TooDeep { what });
    }
    let mut schema = match schema::normalize(schema)? {
        Value::Bool(true) => json!({}),
        schema if schema.is_object() => schema,
        _ => {
            let why = "nothing is valid by it".to_owned();
            return Err(GrammarError::Refused { what, why });
        }
    };
    let options = JsonCompileOptions {
        whitespace_pattern: Some(WHITE_SPACE.to_owned()),
        ..JsonCompileOptions::default()
    };
    options.apply_to(&mut schema);
    Ok(schema)
}

/// The bytes a token stands for in a text; none where it steers the model.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let bytes = tokenizer
        .token_bytes(id)
        .filter(|_| !tokenizer.is_control(id));
    let bytes = bytes.map_or(Vec::new(), |b| b.into_owned());
    match bytes.contains(&TokTrie::SPECIAL_TOKEN_MARKER) {
        true => Vec::new(),
        false => bytes,
    }
}

fn limits() -> ParserLimits {
    ParserLimits {
        max_grammar_size: 100_000,
        max_lexer_states: 20_000,
        // Takes longer than it saves for a single text.
        precompute_large_lexemes: false,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

/// Bounds what is compiled: recursion goes as deep as brackets do.
fn check(what: &'static str, text: &str) -> Result<(), GrammarError> {
    let bytes = text.len();
    if bytes > MAX_BYTES {
        return Err(GrammarError::TooLong { what, bytes });
    }
    let (mut depth, mut escaped) = (0usize, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(GrammarError::TooDeep { what });
        }
    }
    Ok(())
}

/// How deep a value nests, counted without recursion.
fn depth_of(value: &Value) -> usize {
    let (mut deepest, mut open) = (0, vec![(value, 1)]);
    while let Some((value, depth)) = open.pop() {
        deepest = deepest.max(depth);
        match value {
            Value::Array(all) => open.extend(all.iter().map(|v| (v, depth + 1))),
            Value::Object(all) => open.extend(all.values().map(|v| (v, depth + 1))),
            _ => {}
        }
    }
    deepest
}

/// What went wrong, without the compiler's own trace.
pub(crate) fn first_line(message: &str) -> String {
    const MOST: usize = 300;
    if message.contains("NoExtension") {
        return "no text begins so".to_owned();
    }
    let line = message.lines().next().unwrap_or_default();
    line.chars().take(MOST).collect()
}
