//! Cutting text into words, which byte-level BPE never joins across.
//!
//! A GGUF file names the rule (`tokenizer.ggml.pre`) and does not carry it.
//! The rules here are those of the models' own tokenizer.json files, under the
//! names that llama.cpp gives them. Where llama.cpp had to approximate one,
//! because `std::regex` cannot tell upper from lower case beyond ASCII (gpt-4o,
//! tekken), this is the original: the models were trained with it.
//!
//! Almost all of them end in `\s+(?!\S)|\s+`: white space, but not the last
//! character of it if a word follows. That is the only look-ahead there is, and
//! doing it by hand ([`Step::spaces`]) leaves regular expressions in the strict
//! sense: time linear in the text, no backtracking and no limit to run into.

use std::ops::Range;

use regex_automata::meta::Regex;
use regex_automata::{Anchored, Input};

use crate::error::{Error, Result};

/// One regular expression. Its matches are words, and so is what lies between
/// two of them; the next step cuts these further.
#[derive(Clone, Copy)]
struct Step {
    pattern: &'static str,
    /// Whether `|\s+(?!\S)|\s+` follows.
    spaces: bool,
}

const fn exact(pattern: &'static str) -> Step {
    Step {
        pattern,
        spaces: false,
    }
}

const fn then_spaces(pattern: &'static str) -> Step {
    Step {
        pattern,
        spaces: true,
    }
}

const GPT2: Step = then_spaces(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+");
const DIGIT: Step = exact(r"\p{N}");
const DIGITS: Step = exact(r"\p{N}+");
const UP_TO_THREE_DIGITS: Step = exact(r"\p{N}{1,3}");
const LLAMA3: Step = then_spaces(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
);
const QWEN2: Step = then_spaces(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
);
const QWEN35: Step = then_spaces(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+",
);
const MINICPM5: Step = then_spaces(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
);
const SEED: Step = then_spaces(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+",
);
const BAILING: Step = then_spaces(
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]",
);
const TEKKEN: Step = then_spaces(concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+",
));
const GPT4O: Step = then_spaces(concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+",
));
const DEEPSEEK3: Step = then_spaces(concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+",
));
/// Han, Hiragana, Katakana.
const DEEPSEEK3_CJK: Step = exact(r"[\x{4e00}-\x{9fa5}\x{3040}-\x{309f}\x{30a0}-\x{30ff}]+");
const DEEPSEEK_CODER_CJK: Step = exact(r"[\x{4e00}-\x{9fa5}\x{800}-\x{4e00}\x{ac00}-\x{d7ff}]+");
const THREE_DIGITS: Step = exact("[0-9][0-9][0-9]");
const DEFAULT_PUNCTUATION: Step = exact(r"[\p{P}$+<=>^~|]+");
const FALCON_PUNCTUATION: Step = exact(r"[\p{P}$+<=>^~|`]+");
const LINE_END: Step = exact(r"[\r\n]");
const LETTERS: Step = exact(r"\s?\p{L}+");
const PUNCTUATION: Step = exact(r"\s?\p{P}+");
const BLOOM: Step = exact(" ?[^(\\s|.,!?…。，、।۔،)]+");

/// A named rule and what models that name it also expect.
#[derive(Clone, Copy)]
pub(crate) struct Rule {
    steps: &'static [Step],
    /// A word that is a token stays one, whatever the merges say.
    pub ignore_merges: bool,
    /// Texts begin with the BOS token unless the file says otherwise.
    pub add_bos: bool,
}

/// The rule that `tokenizer.ggml.pre` names; a file without a name means
/// "default".
pub(crate) fn rule(name: &str) -> Result<Rule> {
    let steps: &'static [Step] = match name {
        "gpt-2" | "phi-2" | "mpt" | "olmo" | "jais" | "trillion" | "granite-docling"
        | "exaone4" | "gigachat" | "a.x-4.0" | "mellum" | "modern-bert" | "jina-es" | "jina-de"
        | "jina-v2-es" | "jina-v2-de" | "jina-v1-en" | "jina-v2-code" | "roberta-bpe" => &[GPT2],
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b"
        | "mellum2" => &[DIGIT, GPT2],
        "default" => &[DEFAULT_PUNCTUATION, GPT2, DIGITS, THREE_DIGITS],
        "falcon" => &[FALCON_PUNCTUATION, GPT2, THREE_DIGITS],
        "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0"
        | "lfm2" | "jina-v5-nano" | "dbrx" | "smaug-bpe" | "glm4" | "chatglm-bpe" => &[LLAMA3],
        "qwen2" | "stablelm2" | "deepseek-r1-qwen" | "megrez" | "hunyuan" | "solar-open"
        | "grok-2" | "kormo" | "f2llmv2" => &[QWEN2],
        "qwen35" => &[QWEN35],
        "minicpm5" => &[UP_TO_THREE_DIGITS, MINICPM5],
        "tekken" => &[TEKKEN],
        "gpt-4o" | "llama4" | "kanana2" | "talkie" | "minimax-m2" => &[GPT4O],
        "deepseek-v3" | "hunyuan-dense" | "joyai-llm" | "hy_v4" => {
            &[UP_TO_THREE_DIGITS, DEEPSEEK3_CJK, DEEPSEEK3]
        }
        "deepseek-coder" => &[LINE_END, LETTERS, PUNCTUATION, DEEPSEEK_CODER_CJK, DIGIT],
        "bloom" | "poro-chat" | "gpt3-finnish" => &[BLOOM],
        "viking" => &[BLOOM, DIGIT],
        "seed-coder" => &[SEED],
        "bailingmoe" | "bailingmoe2" | "llada-moe" => &[BAILING],
        _ => {
            return Err(Error::Unsupported(format!(
                "the pre-tokenizer `{name}` (tokenizer.ggml.pre) is not supported; \
                 load the model from a directory with its tokenizer.json instead"
            )))
        }
    };
    let like_llama3 = matches!(
        name,
        "llama3"
            | "llama-v3"
            | "llama-bpe"
            | "falcon3"
            | "falcon-h1"
            | "pixtral"
            | "midm-2.0"
            | "lfm2"
            | "jina-v5-nano"
            | "tekken"
    );
    Ok(Rule {
        steps,
        ignore_merges: like_llama3 || name == "minicpm5",
        add_bos: like_llama3,
    })
}

/// Expressions, ready to use.
pub(crate) struct PreTokenizer {
    steps: Vec<Regex>,
}

/// The pattern of a step's `\s+`, in the order they are tried.
const SPACES: usize = 1;

impl PreTokenizer {
    /// Compiles the rule's expressions.
    pub fn new(rule: &Rule) -> PreTokenizer {
        let compile = |step: &Step| {
            compile(step.pattern, step.spaces).expect("a constant of this file, compiled in a test")
        };
        PreTokenizer {
            steps: rule.steps.iter().map(compile).collect(),
        }
    }

    /// Of the expressions in a tokenizer.json, if they are of the kind that
    /// this module can do.
    pub fn from_patterns<'a>(patterns: impl Iterator<Item = &'a str>) -> Option<PreTokenizer> {
        let steps = patterns.map(|pattern| {
            if possessive(pattern) {
                return None;
            }
            match pattern.strip_suffix(r"|\s+(?!\S)|\s+") {
                Some(rest) => compile(rest, true),
                None => compile(pattern, false),
            }
        });
        Some(PreTokenizer {
            steps: steps.collect::<Option<_>>()?,
        })
    }

    /// The words of a text; together they are the text.
    pub fn words(&self, text: &str) -> Vec<Range<usize>> {
        let mut words = Vec::new();
        if !text.is_empty() {
            words.push(0..text.len());
        }
        for regex in &self.steps {
            let mut finer = Vec::with_capacity(words.len());
            for word in words {
                // Cut out, not searched within: what surrounds a word is
                // none of the next step's business.
                split(regex, &text[word.clone()], |r| {
                    finer.push(word.start + r.start..word.start + r.end)
                });
            }
            words = finer;
        }
        words
    }
}

/// Whether a pattern may have possessive quantifiers, such as `a++`: what they
/// mean there is a repeated repetition in this crate's expressions.
fn possessive(pattern: &str) -> bool {
    let counted = |(at, _)| {
        let inside = pattern[..at].rsplit('{').next().unwrap_or_default();
        inside.bytes().all(|b| b.is_ascii_digit() || b == b',')
    };
    ["?+", "*+", "++"]
        .iter()
        .any(|quantifier| pattern.contains(quantifier))
        || pattern.match_indices("}+").any(counted)
}

fn compile(pattern: &str, spaces: bool) -> Option<Regex> {
    let patterns = [pattern, r"\s+"];
    Regex::new_many(&patterns[..1 + usize::from(spaces)]).ok()
}

fn split(regex: &Regex, text: &str, mut word: impl FnMut(Range<usize>)) {
    let mut done = 0;
    while done < text.len() {
        let input = Input::new(text).range(done..).anchored(Anchored::No);
        let Some(found) = regex.find(input) else {
            break;
        };
        let (start, mut end) = (found.start(), found.end());
        if found.pattern().as_usize() == SPACES && end < text.len() {
            // `\s+(?!\S)`: leave the last one to the word that follows, unless
            // it is the only one.
            let last = text[start..end]
                .chars()
                .next_back()
                .map_or(0, char::len_utf8);
            if end - last > start {
                end -= last;
            }
        }
        if done < start {
            word(done..start);
        }
        word(start..end);
        done = end;
    }
    if done < text.len() {
        word(done..text.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &[&str] = &[
        "gpt-2",
        "smollm",
        "default",
        "falcon",
        "llama-bpe",
        "qwen2",
        "qwen35",
        "minicpm5",
        "tekken",
        "gpt-4o",
        "deepseek-v3",
        "deepseek-coder",
        "bloom",
        "viking",
        "seed-coder",
        "bailingmoe",
    ];

    fn words<'a>(name: &str, text: &'a str) -> Vec<&'a str> {
        let rule = rule(name).unwrap();
        let words = PreTokenizer::new(&rule).words(text);
        words.into_iter().map(|range| &text[range]).collect()
    }

    #[test]
    fn gpt2_words() {
        assert_eq!(
            words("gpt-2", "I'll go, it's 1234½!"),
            ["I", "'ll", " go", ",", " it", "'s", " 1234½", "!"]
        );
        assert_eq!(
            words("gpt-2", "a   b  \n c  "),
            ["a", "  ", " b", "  \n", " c", "  "]
        );
        assert_eq!(words("gpt-2", "\tx\n\ny"), ["\t", "x", "\n", "\n", "y"]);
        assert_eq!(
            words("gpt-2", "a\u{3000}\u{3000}b"),
            ["a", "\u{3000}", "\u{3000}", "b"]
        );
        assert_eq!(words("gpt-2", ""), [""; 0]);
    }

    #[test]
    fn smollm_splits_everything_numeric() {
        assert_eq!(words("smollm", "x² 12½"), ["x", "²", " ", "1", "2", "½"]);
        assert_eq!(words("smollm", "a  1"), ["a", "  ", "1"]);
    }

    #[test]
    fn llama3_words() {
        assert_eq!(
            words("llama-bpe", "I'LL 12345 x!\n\n y"),
            ["I", "'LL", " ", "123", "45", " x", "!\n\n", " y"]
        );
        assert_eq!(
            words("llama-bpe", "a \n \n  b\t"),
            ["a", " \n \n", " ", " b", "\t"]
        );
        assert_eq!(words("qwen2", "(word) 12"), ["(word", ")", " ", "1", "2"]);
    }

    #[test]
    fn case_matters_beyond_ascii() {
        assert_eq!(
            words("gpt-4o", "ÉcoleÉcole HTTPServer's"),
            ["École", "École", " HTTPServer's"]
        );
        assert_eq!(
            words("tekken", "aB 12/\n"),
            ["a", "B", " ", "1", "2", "/\n"]
        );
    }

    #[test]
    fn steps_cut_the_words_of_the_step_before() {
        assert_eq!(words("default", "a==1234 b"), ["a", "==", "123", "4", " b"]);
        assert_eq!(words("falcon", "ab`12345"), ["ab", "`", "123", "45"]);
        assert_eq!(
            words("deepseek-v3", "12345漢字 abc.d"),
            ["123", "45", "漢字", " abc", ".d"]
        );
        assert_eq!(
            words("deepseek-coder", "a\n b12!"),
            ["a", "\n", " b", "1", "2", "!"]
        );
        assert_eq!(words("viking", "a. b12"), ["a", ".", " b", "1", "2"]);
        assert_eq!(words("bailingmoe", "a\n\nb"), ["a", "\n\n", "b"]);
    }

    #[test]
    fn words_are_the_text() {
        let text = "It's 3½ %\r\n\r\n\t  naïve ÀÉ日本語۱۲۳ — <|x|> \u{85}\u{0}\u{1F468}\u{200d}\u{1F469}   \u{a0} ";
        for name in NAMES {
            assert_eq!(words(name, text).concat(), text, "{name}");
        }
    }

    #[test]
    fn patterns_of_tokenizer_json() {
        let words = |pattern: &str, text: &'static str| {
            let pre = PreTokenizer::from_patterns([pattern].into_iter())?;
            Some(
                pre.words(text)
                    .into_iter()
                    .map(|range| &text[range])
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(
            words(r"\w+|\s+(?!\S)|\s+", "ab  c").unwrap(),
            ["ab", " ", " ", "c"]
        );
        assert_eq!(words(r"\p{L}+", "ab  c").unwrap(), ["ab", "  ", "c"]);
        for beyond in [
            r"\d{1,3}(?=(?:\d{3})*\b)",
            r"[^\s]++",
            r"\p{L}?+a",
            r"(a)\1",
            "[",
        ] {
            assert_eq!(words(beyond, "a"), None, "{beyond}");
        }
    }

    #[test]
    fn unknown_names_are_named() {
        let error = rule("no-such-rule").err().unwrap().to_string();
        assert!(error.contains("`no-such-rule`"), "{error}");
    }

    #[test]
    fn long_runs_take_linear_time() {
        for name in NAMES {
            for unit in ["a", " ", "\n", "1", "!", "é", "A", " a"] {
                let text = unit.repeat(200_000);
                let cut = words(name, &text);
                assert_eq!(
                    cut.iter().map(|w| w.len()).sum::<usize>(),
                    text.len(),
                    "{name} {unit:?}"
                );
            }
        }
    }
}
