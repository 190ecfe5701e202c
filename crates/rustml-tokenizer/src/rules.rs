//! Named rules for cutting text into words.
//!
//! A GGUF file names the rule (`tokenizer.ggml.pre`) and does not carry it.
//! The rules here are those of the models' own tokenizer.json files, under the
//! names that llama.cpp gives them. Where llama.cpp had to approximate one,
//! because `std::regex` cannot tell upper from lower case beyond ASCII (gpt-4o,
//! tekken), this is the original: the models were trained with it.

use crate::error::{Error, Result};

/// One step. What it finds are words, and so is what lies between two of them;
/// the next step cuts these further.
#[derive(Clone, Copy)]
pub(crate) enum Step {
    /// The matches of a regular expression, and what is done with white space.
    Matches(&'static str, Spaces),
    /// Runs of digits in groups of three from the right: 1 234 567.
    Thousands,
    /// The same, of decimal digits that no letter follows.
    ThousandsAlone,
    /// Cuts before each group of three decimal digits, from the right.
    ThousandsBefore,
}

/// What follows an expression for white space that it does not take itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Spaces {
    /// Nothing.
    Nothing,
    /// `|\s+(?!\S)|\s+`: all but the last before a word, which the word takes
    /// if it can.
    Last,
    /// `|\s{512}(?!\S)|\s{256}(?!\S)|...|\s{4}(?!\S)|\s{1,2}(?!\S)|\s`.
    Halves,
}

const fn exact(pattern: &'static str) -> Step {
    Step::Matches(pattern, Spaces::Nothing)
}

const fn then_spaces(pattern: &'static str) -> Step {
    Step::Matches(pattern, Spaces::Last)
}

const GPT2: Step = then_spaces(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+");
const DIGIT: Step = exact(r"\p{N}");
const DIGITS: Step = exact(r"\p{N}+");
const UP_TO_THREE_DIGITS: Step = exact(r"\p{N}{1,3}");
const LLAMA3_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+";
const LLAMA3: Step = then_spaces(LLAMA3_PATTERN);
const JAIS2: Step = Step::Matches(LLAMA3_PATTERN, Spaces::Halves);
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

const DEEPSEEK_LLM_LETTERS: Step = exact(concat!(
    r"\s?[",
    r"A-Za-z\x{b5}\x{c0}-\x{d6}\x{d8}-\x{f6}\x{f8}-\x{1ba}\x{1bc}-\x{1bf}\x{1c4}-\x{293}",
    r"\x{295}-\x{2af}\x{370}-\x{373}\x{376}\x{377}\x{37b}-\x{37d}\x{37f}\x{386}\x{388}-\x{38a}",
    r"\x{38c}\x{38e}-\x{3a1}\x{3a3}-\x{3f5}\x{3f7}-\x{481}\x{48a}-\x{52f}\x{531}-\x{556}",
    r"\x{10a0}-\x{10c5}\x{13a0}-\x{13f5}\x{13f8}-\x{13fd}\x{1c90}-\x{1cba}\x{1cbd}-\x{1cbf}",
    r"\x{1d00}-\x{1d2b}\x{1d6b}-\x{1d77}\x{1d79}-\x{1d9a}\x{1e00}-\x{1f15}\x{1f18}-\x{1f1d}",
    r"\x{1f20}-\x{1f45}\x{1f48}-\x{1f4d}\x{1f50}-\x{1f57}\x{1f59}\x{1f5b}\x{1f5d}\x{1f5f}-\x{1f7d}",
    r"\x{1f80}-\x{1fb4}\x{1fb6}-\x{1fbc}\x{1fbe}\x{1fc2}-\x{1fc4}\x{1fc6}-\x{1fcc}",
    r"\x{1fd0}-\x{1fd3}\x{1fd6}-\x{1fdb}\x{1fe0}-\x{1fec}\x{1ff2}-\x{1ff4}\x{1ff6}-\x{1ffc}",
    r"\x{2102}\x{2107}\x{210a}-\x{2113}\x{2115}\x{2119}-\x{211d}\x{2124}\x{2126}\x{2128}",
    r"\x{212a}-\x{212d}\x{212f}-\x{2134}\x{2139}\x{213c}-\x{213f}\x{2145}-\x{2149}\x{214e}\x{2183}",
    r"\x{2184}\x{2c00}-\x{2c7b}\x{2c7e}-\x{2ce4}\x{2ceb}-\x{2cee}\x{2cf2}\x{2cf3}\x{a640}-\x{a66d}",
    r"\x{a680}-\x{a69b}\x{a722}-\x{a76f}\x{a771}-\x{a787}\x{a78b}-\x{a78e}\x{ab70}-\x{abbf}",
    r"\x{fb00}-\x{fb06}\x{fb13}-\x{fb17}\x{ff21}-\x{ff3a}\x{ff41}-\x{ff5a}\x{10400}-\x{1044f}",
    r"\x{104b0}-\x{104d3}\x{104d8}-\x{104fb}\x{10c80}-\x{10cb2}\x{10cc0}-\x{10cf2}",
    r"\x{118a0}-\x{118df}\x{1e900}-\x{1e943}",
    r"]+",
));
const DEEPSEEK_LLM_PUNCTUATION: Step =
    exact(r"\s?[!-/:-~\x{ff01}-\x{ff0f}\x{ff1a}-\x{ff5e}\x{2018}-\x{201f}\x{3000}-\x{3002}]+");
const SPACES_AT_END: Step = exact(r"\s+$");
const SPARK: Step = then_spaces(concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]",
));
/// Korean, Chinese punctuation, Bopomofo, and the rest of CJK.
const YOUTU_CJK: Step = exact(concat!(
    r"[\x{ac00}-\x{d7a3}\x{3131}-\x{318e}]+",
    r"|[\x{ff01}\x{2026}\x{201c}\x{201d}\x{2018}\x{2019}\x{2014}\x{ff1a}\x{ff1b}\x{ff0c}\x{3001}-\x{303f}\x{fe30}-\x{fe4f}]+",
    r"|[\x{3105}-\x{312f}]+|[\x{4e00}-\x{9fa5}\x{3040}-\x{309f}\x{30a0}-\x{30ff}]+",
));
const YOUTU: Step = then_spaces(concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+",
));
const KIMI: Step = then_spaces(concat!(
    r"[\p{Han}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
));
const UFAKZEKA: Step =
    then_spaces(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+");
const EXAONE_MOE: Step = then_spaces(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]",
);
/// Chinese, Japanese, Thai, Lao, Khmer, Burmese, Korean.
const AFMOE_CJK: Step = exact(concat!(
    r"[\x{4e00}-\x{9fff}\x{3400}-\x{4dbf}\x{f900}-\x{faff}\x{3040}-\x{309f}\x{30a0}-\x{30ff}",
    r"\x{ff65}-\x{ff9f}\x{2f00}-\x{2fdf}\x{e40}-\x{e7f}\x{e80}-\x{eff}\x{1780}-\x{17ff}",
    r"\x{1000}-\x{109f}\x{aa60}-\x{aa7f}\x{a9e0}-\x{a9ff}\x{ac00}-\x{d7af}\x{1100}-\x{11ff}]+",
));
const LINES: Step = exact(r"[^\n]+|\n+");
const CHAMELEON_SENTINELS: Step = exact("<sentinel:[0-9]+>");
const CHAMELEON_IMAGES: Step = exact("IMGIMG[A-I]{1,4}Z");
const CHAMELEON_SPACES: Step = exact(r"[\t\n]|    |  ");
const CHAMELEON_PUNCTUATION: Step = exact(r"[\p{P}!-/:-@\[-`{-~]");
const WORDS: Step = exact(r"\S+");

/// A named rule and what models that name it also expect.
#[derive(Clone, Copy)]
pub(crate) struct Rule {
    pub steps: &'static [Step],
    /// What words are made of.
    pub units: Letters,
    /// A word that is a token stays one, whatever the merges say.
    pub ignore_merges: bool,
    /// Texts begin with the BOS token unless the file says otherwise.
    pub add_bos: bool,
    /// The separator goes between the texts of a pair unless the file says otherwise.
    pub add_separator: bool,
}

/// How a vocabulary writes the text of a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Letters {
    /// Its bytes, in GPT-2's alphabet.
    Bytes,
    /// As it is.
    Plain,
    /// As it is, with "▁" for spaces.
    Spaced,
}

/// BERT's words: white space is between them, and each punctuation mark, which
/// is what it takes all of ASCII's symbols for, is one. `tokenizers` has the marks
/// of Unicode 8, so this does as well.
pub(crate) const BERT: Rule = Rule {
    steps: &[exact(
        r"\s+|[[\p{P}&&\p{age:8.0}]\x{166d}\x{111c9}!-/:-@\[-`{-~]",
    )],
    units: Letters::Plain,
    ignore_merges: false,
    add_bos: true,
    add_separator: false,
};

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
        | "lfm2" | "jina-v5-nano" | "dbrx" | "smaug-bpe" | "glm4" | "glm5" | "chatglm-bpe" => {
            &[LLAMA3]
        }
        "qwen2" | "stablelm2" | "deepseek-r1-qwen" | "megrez" | "hunyuan" | "solar-open"
        | "grok-2" | "kormo" | "f2llmv2" => &[QWEN2],
        "qwen35" => &[QWEN35],
        "minicpm5" => &[UP_TO_THREE_DIGITS, MINICPM5],
        "tekken" => &[TEKKEN],
        "gpt-4o" | "llama4" | "kanana2" | "talkie" | "minimax-m2" | "granite-embed-multi-97m" => {
            &[GPT4O]
        }
        "deepseek-v3" | "hunyuan-dense" | "joyai-llm" | "hy_v4" => {
            &[UP_TO_THREE_DIGITS, DEEPSEEK3_CJK, DEEPSEEK3]
        }
        "deepseek-coder" => &[LINE_END, LETTERS, PUNCTUATION, DEEPSEEK_CODER_CJK, DIGIT],
        "bloom" | "poro-chat" | "gpt3-finnish" => &[BLOOM],
        "viking" => &[BLOOM, DIGIT],
        "seed-coder" => &[SEED],
        "bailingmoe" | "bailingmoe2" | "llada-moe" => &[BAILING],
        "jais-2" => &[JAIS2],
        "deepseek-llm" => &[
            LINE_END,
            DEEPSEEK_LLM_LETTERS,
            DEEPSEEK_LLM_PUNCTUATION,
            SPACES_AT_END,
            DEEPSEEK_CODER_CJK,
            DIGITS,
        ],
        "spark2_5" => &[UP_TO_THREE_DIGITS, DEEPSEEK3_CJK, SPARK, DIGIT],
        "youtu" => &[YOUTU_CJK, YOUTU],
        "kimi-k2" => &[KIMI],
        "ufakzeka" => &[UFAKZEKA],
        "exaone-moe" => &[EXAONE_MOE],
        "afmoe" => &[Step::Thousands, AFMOE_CJK, DEEPSEEK3],
        "tiny_aya" | "cohere2moe" => &[Step::ThousandsAlone, GPT4O],
        "superbpe" => &[DIGITS, Step::ThousandsBefore],
        "laguna" => &[LINES, QWEN2],
        "chameleon" => &[
            CHAMELEON_SENTINELS,
            CHAMELEON_IMAGES,
            CHAMELEON_SPACES,
            DIGIT,
            CHAMELEON_PUNCTUATION,
            GPT2,
        ],
        "gemma4" | "granite-embed-multi-311m" | "sarvam-moe" => &[],
        "whitespace" => &[WORDS],
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
    let whole_words = matches!(
        name,
        "minicpm5" | "glm4" | "glm5" | "youtu" | "granite-embed-multi-97m"
    );
    Ok(Rule {
        steps,
        units: match name {
            "gemma4" | "granite-embed-multi-311m" | "sarvam-moe" => Letters::Spaced,
            "whitespace" => Letters::Plain,
            _ => Letters::Bytes,
        },
        ignore_merges: like_llama3 || whole_words,
        add_separator: matches!(name, "jina-v1-en" | "jina-v2-code" | "roberta-bpe"),
        add_bos: like_llama3 || matches!(name, "chameleon" | "gemma4" | "granite-embed-multi-311m"),
    })
}
