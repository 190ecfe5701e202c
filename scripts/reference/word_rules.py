#!/usr/bin/env python3
"""Write testdata/tokenizers/words.json: where named pre-tokenizers cut hard texts into words.

    python scripts/reference/word_rules.py

`tokenizers` does the cutting. The expressions are the models' own, as llama.cpp quotes them in
src/llama-vocab.cpp beside what std::regex makes it write instead; where it quotes none, they are
llama.cpp's. A word is given by the number of its characters.
"""

import json
from pathlib import Path

from tokenizers import Regex, pre_tokenizers

OUT = Path(__file__).resolve().parent.parent.parent / "testdata" / "tokenizers" / "words.json"

TEXTS = [
    "I'll DON'T we'Ve 'S it’s O'Neill'd", "a  b   c\n\n d \t\n\r\n  e  ", " \n \n x\u3000\u3000y\u00a0\u00a0z\u0085",
    "1 12 123 1234 12345678 1234567890", "x1234y 1234. v1.2.3-rc4 12,345,678.90 _1234_", "١٢٣٤۵ 1½²34Ⅳ 一二三四",
    "ÉcoleÉCOLE HTTPServer iPhone ǅabc ßẞ", "=== !!! ...\n\n### a==b+c<=d^e~f|g`h $5 €5 ©®",
    "日本語のテキスト、漢字。カタカナ한국어 조선ㅋㅋㅎ、〜！？…“x”ㄅㄆㄇ", "ไทยลาວខ្មែរမြန်မာ हिन्दी বাংলা", "e\u0301a\u0308 \u0301x नि",
    "👩\u200d👩\u200d👧👍🏽🇩🇪", "/path/to//file.rs\n\t\treturn;\r\n", "a\u200bb\ufeffc\x00\x07d", "<sentinel:12> IMGIMGABZ<x>",
    "foo_bar(x)[0]={y}; #include <a.h>", "the   end \n", "Straße Ærø Ελλάς русский ქარ Ⴀ ꭰ 𐐀 𝟘𝟙𝟚𝟛", "Türkiye'nin İstanbul'dan", "a\n\n\nb\n c", "      q",
]

S = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
END = r"|\s+(?!\S)|\s+"
WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED = r"[^\r\n\p{L}\p{N}]?" + UPPER + "*" + LOWER + r"+%s|[^\r\n\p{L}\p{N}]?" + UPPER + "+" + LOWER + "*%s"
MARKS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+" + END
LLAMA3 = S + "|" + WORD + r"|\p{N}{1,3}|" + MARKS
QWEN2 = S + "|" + WORD + r"|\p{N}|" + MARKS + END
GPT4O = CASED % (S + "?", S + "?") + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+" + END
ASCII_MARK = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+"""
DEEPSEEK3 = ASCII_MARK + r"[\r\n]*|\s*[\r\n]+" + END
CJK = "[一-龥぀-ゟ゠-ヿ]+"
BLOOM = " ?[^(\\s|.,!?…。，、।۔،)]+"
HALVES = "".join(r"|\s{%d}(?!\S)" % n for n in (512, 256, 128, 64, 32, 16, 8, 4)) + r"|\s{1,2}(?!\S)|\s{1}"
DEEPSEEK_LLM = (
    r"\s?[A-Za-z"
    "\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377"
    "\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556"
    "\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a"
    "\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4"
    "\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc"
    "\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f"
    "\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b"
    "\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a"
    "\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    "\U000118a0-\U000118df\U0001e900-\U0001e943"
    "]+"
)
HAN = r"\p{Han}"
KIMI = (
    rf"[{HAN}]+|" + (r"[^\r\n\p{L}\p{N}]?[" + UPPER[1:-1] + rf"&&[^{HAN}]]*[" + LOWER[1:-1] + rf"&&[^{HAN}]]+{S}?")
    + r"|[^\r\n\p{L}\p{N}]?[" + UPPER[1:-1] + rf"&&[^{HAN}]]+[" + LOWER[1:-1] + rf"&&[^{HAN}]]*{S}?"
    + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+" + END
)

RULES = {
    "gpt-2": [GPT2],
    "smollm": [r"\p{N}", GPT2],
    "default": [r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
    "falcon": [r"[\p{P}$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]"],
    "llama-bpe": [LLAMA3 + END],
    "jais-2": [LLAMA3 + HALVES],
    "qwen2": [QWEN2],
    "qwen35": [S + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+" + END],
    "minicpm5": [r"\p{N}{1,3}", S + "|" + WORD + r"|\p{N}+|" + MARKS + END],
    "tekken": [CASED % ("", "") + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+" + END],
    "gpt-4o": [GPT4O],
    "deepseek-llm": ["[\r\n]", DEEPSEEK_LLM, r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", "[一-龥ࠀ-一가-퟿]+", r"\p{N}+"],
    "deepseek-coder": ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"],
    "deepseek-v3": [r"\p{N}{1,3}", CJK, DEEPSEEK3],
    "spark2_5": [r"\p{N}{1,3}", CJK, ASCII_MARK + r"|[\r\n]" + END, r"\p{N}"],
    "youtu": [
        "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+",
        CASED % (S + "?", S + "?") + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+" + END,
    ],
    "bloom": [BLOOM],
    "viking": [BLOOM, r"\p{N}"],
    "seed-coder": [S + "|" + WORD + r"|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+" + END],
    "bailingmoe": [r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]" + END],
    "kimi-k2": [KIMI],
    "ufakzeka": [WORD + r"|\p{N}|" + MARKS + END],
    "exaone-moe": [
        S + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]" + END
    ],
    # llama.cpp has no expression for the digits, but a function that makes groups from the right.
    "afmoe": [
        r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))",
        "[一-鿿㐀-䶿\uf900-\ufaff぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-໿ក-៿က-႟ꩠ-ꩿꧠ-꧿가-힯ᄀ-ᇿ]+",
        DEEPSEEK3,
    ],
    "tiny_aya": [r"\d{1,3}(?=(?:\d{3})*\b)", GPT4O],
    "superbpe": [r"\p{N}+", r"(?=(\d{3})+(?!\d))"],
    "laguna": [r"[^\n]+|[\n]+", QWEN2],
    "chameleon": ["<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", r"([\t\n]|    |  )", r"\p{N}", r"[\p{P}!-/:-@\[-`{-~]", GPT2],
    "whitespace": [r"\S+"],
}


def words(steps, text):
    pre = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(step), "isolated") for step in steps])
    pieces = [word for word, _ in pre.pre_tokenize_str(text)]
    assert "".join(pieces) == text
    return [len(word) for word in pieces]


def main():
    value = {"texts": TEXTS, "words": {name: [words(steps, text) for text in TEXTS] for name, steps in RULES.items()}}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(all, separators=(',', ':'))}" for name, all in value["words"].items())
    texts = json.dumps(TEXTS, ensure_ascii=False)
    OUT.write_text(f'{{\n "texts": {texts},\n "words": {{\n{lines}\n }}\n}}\n')


if __name__ == "__main__":
    main()
