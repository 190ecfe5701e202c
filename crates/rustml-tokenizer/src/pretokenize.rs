//! Cutting text into words, which byte-level BPE never joins across.
//!
//! Almost all rules end in `\s+(?!\S)|\s+`: white space, but not the last
//! character of it if a word follows. That is the only look-ahead there is, and
//! doing it by hand ([`Spaces`]) leaves regular expressions in the strict
//! sense: time linear in the text, no backtracking and no limit to run into.

use std::ops::Range;

use regex_automata::meta::{Config, Regex};
use regex_automata::{Anchored, Input};

use crate::error::{Error, Result};
use crate::limits::Deadline;
use crate::rules::{Rule, Spaces, Step};
use crate::steps::MAX_COMPILED;

/// Steps, ready to use.
pub(crate) struct PreTokenizer {
    steps: Vec<Ready>,
}

enum Ready {
    Matches(Regex, Spaces),
    Thousands(Regex),
    ThousandsAlone(Regex),
    ThousandsBefore(Regex),
}

/// The pattern of a step's `\s+`, in the order they are tried.
const SPACES: usize = 1;
/// The pattern of digits and a letter.
const FOLLOWED: usize = 0;

impl PreTokenizer {
    /// Compiles the rule's expressions.
    pub fn new(rule: &Rule) -> PreTokenizer {
        let constant = "a constant of this crate, compiled in a test";
        let ready = |step: &Step| match *step {
            Step::Matches(pattern, spaces) => {
                Ready::Matches(compile(pattern, spaces).expect(constant), spaces)
            }
            Step::Thousands => Ready::Thousands(build(&[r"\p{N}+"]).expect(constant)),
            Step::ThousandsAlone => {
                let followed = r"\p{Nd}+[[\w\p{N}]--\p{Nd}]";
                Ready::ThousandsAlone(build(&[followed, r"\p{Nd}+"]).expect(constant))
            }
            Step::ThousandsBefore => Ready::ThousandsBefore(build(&[r"\p{Nd}+"]).expect(constant)),
        };
        PreTokenizer {
            steps: rule.steps.iter().map(ready).collect(),
        }
    }

    /// Of the expressions in a tokenizer.json, if they are of the kind that
    /// this module can do.
    pub fn from_patterns<'a>(patterns: impl Iterator<Item = &'a str>) -> Option<PreTokenizer> {
        let steps = patterns.map(|pattern| {
            if possessive(pattern) {
                return None;
            }
            let (pattern, spaces) = match pattern.strip_suffix(r"|\s+(?!\S)|\s+") {
                Some(rest) => (rest, Spaces::Last),
                None => (pattern, Spaces::Nothing),
            };
            Some(Ready::Matches(compile(pattern, spaces)?, spaces))
        });
        Some(PreTokenizer {
            steps: steps.collect::<Option<_>>()?,
        })
    }

    /// The words of a text; together they are the text.
    pub fn words(&self, text: &str) -> Result<Vec<Range<usize>>> {
        let until = Deadline::new(text.len());
        let mut words = Vec::new();
        if !text.is_empty() {
            words.push(0..text.len());
        }
        for step in &self.steps {
            let mut finer = Vec::with_capacity(words.len());
            for word in words {
                // Cut out, not searched within: what surrounds a word is
                // none of the next step's business.
                let add = |r: Range<usize>| finer.push(word.start + r.start..word.start + r.end);
                step.split(&text[word.clone()], until, add)?;
            }
            words = finer;
        }
        Ok(words)
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

fn compile(pattern: &str, spaces: Spaces) -> Option<Regex> {
    let patterns = [pattern, r"\s+"];
    build(&patterns[..1 + usize::from(spaces != Spaces::Nothing)])
}

/// Several expressions at once. Of two that match at one place, the first counts.
fn build(patterns: &[&str]) -> Option<Regex> {
    let config = Config::new().nfa_size_limit(Some(MAX_COMPILED));
    Regex::builder().configure(config).build_many(patterns).ok()
}

impl Ready {
    /// Cuts a text into words.
    fn split(&self, text: &str, until: Deadline, mut word: impl FnMut(Range<usize>)) -> Result<()> {
        let (Ready::Matches(regex, _)
        | Ready::Thousands(regex)
        | Ready::ThousandsAlone(regex)
        | Ready::ThousandsBefore(regex)) = self;
        // Everything before `done` has been given to `word`.
        let (mut done, mut from) = (0, 0);
        for round in 1.. {
            let input = Input::new(text).range(from..).anchored(Anchored::No);
            let Some(found) = regex.find(input) else {
                break;
            };
            if round % 64 == 0 && until.is_over() {
                return Err(Error::Encode(
                    "a pattern of the pre-tokenizer takes too long for it".into(),
                ));
            }
            let (start, mut end) = (found.start(), found.end());
            if matches!(self, Ready::ThousandsAlone(_)) && found.pattern().as_usize() == FOLLOWED {
                from = end;
                continue;
            }
            if let Ready::ThousandsBefore(_) = self {
                groups(&text[start..end], |group| {
                    let before = start + group.start;
                    let digits = text[before..start + group.end].chars().count();
                    if digits == 3 && done < before {
                        word(done..before);
                        done = before;
                    }
                });
                from = end;
                continue;
            }
            if done < start {
                word(done..start);
                done = start;
            }
            match self {
                _ if start == end => {
                    // An empty match only cuts; the next one is looked for
                    // after the next character.
                    match text[end..].chars().next() {
                        Some(c) => from = end + c.len_utf8(),
                        None => break,
                    }
                    continue;
                }
                Ready::Matches(_, spaces) if found.pattern().as_usize() == SPACES => {
                    end = start + spaces.first(&text[start..end], end == text.len());
                    word(start..end);
                }
                Ready::Matches(..) => word(start..end),
                _ => groups(&text[start..end], |r| {
                    word(start + r.start..start + r.end);
                }),
            }
            (done, from) = (end, end);
        }
        if done < text.len() {
            word(done..text.len());
        }
        Ok(())
    }
}

impl Spaces {
    /// How many bytes of a run of white space are the next word, if a word
    /// follows, or if the text ends there.
    fn first(self, run: &str, ends: bool) -> usize {
        let count = run.chars().count();
        // `(?!\S)`: what may be taken before a word.
        let usable = if ends { count } else { count - 1 };
        let taken = match self {
            Spaces::Halves => {
                let sizes = [512, 256, 128, 64, 32, 16, 8, 4, 2];
                sizes.into_iter().find(|&size| size <= usable)
            }
            _ => (usable > 0).then_some(usable),
        };
        run.chars()
            .take(taken.unwrap_or(1))
            .map(char::len_utf8)
            .sum()
    }
}

/// Groups of three digits from the right.
fn groups(digits: &str, mut word: impl FnMut(Range<usize>)) {
    let starts: Vec<usize> = digits.char_indices().map(|(at, _)| at).collect();
    let mut start = 0;
    for (i, &at) in starts.iter().enumerate().skip(1) {
        if (starts.len() - i).is_multiple_of(3) {
            word(start..at);
            start = at;
        }
    }
    word(start..digits.len());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::rule;
    use std::collections::BTreeMap;

    /// What `tokenizers` makes of hard texts with the expressions of each rule.
    #[derive(serde::Deserialize)]
    struct Reference {
        texts: Vec<String>,
        /// Of each rule and text, the characters of each word.
        words: BTreeMap<String, Vec<Vec<usize>>>,
    }

    fn reference() -> Reference {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let bytes = std::fs::read(root.join("testdata/tokenizers/words.json")).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[test]
    fn named_rules_cut_as_tokenizers_does() {
        let Reference { texts, words: all } = reference();
        assert!(all.len() > 25 && texts.len() > 15);
        for (name, expected) in &all {
            for (text, expected) in texts.iter().zip(expected) {
                let found = words(name, text);
                let lens: Vec<usize> = found.iter().map(|w| w.chars().count()).collect();
                assert_eq!(&lens, expected, "{name}: {found:?}");
            }
        }
    }

    fn words<'a>(name: &str, text: &'a str) -> Vec<&'a str> {
        let rule = rule(name).unwrap();
        let words = PreTokenizer::new(&rule).words(text).unwrap();
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
    fn bert_cuts_at_the_marks_that_tokenizers_knows() {
        use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
        use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _};

        let ours = PreTokenizer::new(&crate::rules::BERT);
        let all: Vec<char> = ('\0'..=char::MAX).collect();
        for some in all.chunks(500) {
            let text: String = some.iter().flat_map(|&c| [c, 'a']).collect();
            let words = ours
                .words(&text)
                .unwrap()
                .into_iter()
                .map(|word| &text[word]);
            let words: Vec<&str> = words.filter(|w| !w.trim().is_empty()).collect();
            let mut theirs = PreTokenizedString::from(&*text);
            BertPreTokenizer.pre_tokenize(&mut theirs).unwrap();
            let splits = theirs.get_splits(OffsetReferential::Original, OffsetType::Byte);
            let expected: Vec<&str> = splits.into_iter().map(|(word, ..)| word).collect();
            assert_eq!(words, expected);
        }
    }

    #[test]
    fn words_are_the_text() {
        let text = "It's 3½ %\r\n\r\n\t  naïve ÀÉ日本語۱۲۳ — <|x|> \u{85}\u{0}\u{1F468}\u{200d}\u{1F469}   \u{a0} ";
        for name in reference().words.keys() {
            assert_eq!(words(name, text).concat(), text, "{name}");
        }
    }

    #[test]
    fn patterns_of_tokenizer_json() {
        let words = |pattern: &str, text: &'static str| {
            let pre = PreTokenizer::from_patterns([pattern].into_iter())?;
            Some(
                pre.words(text)
                    .unwrap()
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
        for name in reference().words.keys() {
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
