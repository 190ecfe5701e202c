#!/usr/bin/env python3
"""Write testdata/tokenizers/kinds: a small tokenizer of each kind, and what `tokenizers` makes of odd texts.

    python scripts/reference/tokenizer_kinds.py

Needs the packages tokenizers and sentencepiece. Each folder has a tokenizer.json (and what transformers
reads beside it); cases.json has `texts`, `pairs` (first, second, most tokens, side), and of each folder
`ids` (of every text, without special tokens), `decoded` (those ids as text), and `pairs` (ids and types,
with special tokens).
"""

import base64
import io
import json
import shutil
import tempfile
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = Path(__file__).parent
OUT = HERE.parent.parent / "testdata" / "tokenizers" / "kinds"
CORPUS = (HERE / "corpus.txt").read_text()

TEXTS = [
    "", " ", "   ", "\n", "a", "The time is now.", " The time  is   now ", "Hello, world! It's don't we've", "UPPER lower MiXeD",
    "12 345 6789", "3.14 1,000 x2", "naïve café Ærø Straße", "cafe\u0301 e\u0301 A\u030a", "ﬁne ﬀ Ⅳ ½ ① ｆｕｌｌ", "a\u00a0b\u3000c\u2003d",
    "zero\u200bwidth\u200d \ufeffx", "ctl\x00\x01\x07\x1f\x7f\u0085end", "tab\tnew\nline\r\nx", "日本語 中文字 한국어", "मेरा हिन्दी", "العربية שלום",
    "😀👍🏽👩\u200d👩\u200d👧 🇩🇪", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "x" * 120, "!!!???...", "((a)[b]{c})", "$5 €5 a+b=c <x> ~`^|",
    "snake_case-and-kebab http://a.b/c?d=e#f", "“quoted” — dash… ‘x’", "[MASK] [CLS] </s> <s> <unk> <mask>", "#hash ##hash ▁ under▁score",
    "\ufffd \u2028x\u2029", "İstanbul ǅ ẞ ŉ", "the the the the", "x\u0301\u0302\u0303y", "𝟘𝟙 𝐀𝐁 𐐀",
]
PAIRS = [
    ("What is time?", "The time is now.", 64, "right"), ("", "b", 64, "right"), ("a", "", 64, "right"),
    ("The time is now.", "Hello, world! It's what it is and not what it was.", 14, "right"),
    ("Hello, world! It's what it is and not what it was.", "The time", 12, "left"),
    ("Hello, world! It's what it is.", "The time is now and not then.", 11, "right"),
    ("Hello, world! It's what it is.", "The time is now and not then.", 11, "left"),
    ("Hello, world! It's what it is.", None, 6, "right"), ("Hello, world! It's what it is.", None, 6, "left"),
    ("a", None, 4, "right"), ("The 12 café", None, 64, "left"), ("", None, 64, "right"),
]
# What SentencePiece replaces, in its own notation.
REPLACE = "\n".join(
    " ".join(f"{ord(c):X}" for c in a) + "\t" + " ".join(f"{ord(c):X}" for c in b)
    for a, b in [("ﬁ", "fi"), ("ﬀ", "ff"), ("½", "1⁄2"), ("Ⅳ", "IV"), ("①", "1"), ("\u00a0", " "), ("\u3000", " "), ("\u2003", " "),
                 ("\t", " "), ("\n", " "), ("\r", " "), ("e\u0301", "é"), ("A\u030a", "Å"), ("\u200b", " "), ("\ufeff", " "), ("\x07", ""), ("…", "...")]
    + [(chr(0xFF21 + i), chr(0x41 + i)) for i in range(26)] + [(chr(0xFF41 + i), chr(0x61 + i)) for i in range(26)]
)  # fmt: skip


def sentencepiece_model(vocab, **options):
    """A Unigram model trained on the corpus: (piece, score) and the compiled replacements."""
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder) / "rules.tsv"
        rules.write_text(REPLACE)
        if options.pop("replace"):
            options["normalization_rule_tsv"] = str(rules)
        else:
            options["normalization_rule_name"] = "identity"
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS.split("\n")), model_writer=model, vocab_size=vocab, model_type="unigram",
            character_coverage=0.99, num_threads=1, minloglevel=2, hard_vocab_limit=False, **options,
        )
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    # GGUF keeps scores in single precision: these are the same there.
    pieces = [(p.piece, round(p.score * 1024) / 1024) for p in proto.pieces]
    return pieces, proto.normalizer_spec.precompiled_charsmap


def special(tokenizer, *texts, **options):
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True, **options) for t in texts])


def template(tokenizer, single, pair, *tokens):
    ids = [(t, tokenizer.token_to_id(t)) for t in tokens]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)


def bert(lowercase):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=names, show_progress=False, limit_alphabet=120)
    tokenizer.train_from_iterator(CORPUS.split("\n"), trainer)
    tokenizer.post_processor = template(tokenizer, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", "[CLS]", "[SEP]")
    return tokenizer


def xlmr():
    pieces, charsmap = sentencepiece_model(260, replace=True)
    vocab = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces[3:], ("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=3))
    spaces = normalizers.Replace(Regex(" {2,}"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Precompiled(charsmap), spaces])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special(tokenizer, "<s>", "<pad>", "</s>", "<unk>")
    special(tokenizer, "<mask>", lstrip=True)
    tokenizer.post_processor = template(tokenizer, "<s> $A </s>", "<s> $A </s> </s> $B </s>", "<s>", "</s>")
    return tokenizer


def t5():
    pieces, _ = sentencepiece_model(220, replace=False)
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces[3:], ("<extra_id_0>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=2))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    special(tokenizer, "<pad>", "</s>", "<unk>", "<extra_id_0>")
    tokenizer.post_processor = template(tokenizer, "$A </s>", "$A </s> $B </s>", "</s>")
    return tokenizer


def unigram_bytes():
    pieces, _ = sentencepiece_model(430, replace=False, byte_fallback=True)
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special(tokenizer, "<unk>", "<s>", "</s>")
    tokenizer.post_processor = template(tokenizer, "<s> $A", "<s> $A <s>:1 $B:1", "<s>")
    return tokenizer


def byte_bpe(pre, names, alphabet=None, vocab=340):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet() if alphabet is None else alphabet
    trainer = trainers.BpeTrainer(vocab_size=vocab, initial_alphabet=alphabet, special_tokens=names, show_progress=False)
    tokenizer.train_from_iterator(CORPUS.split("\n"), trainer)
    return tokenizer


def roberta():
    names = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = byte_bpe(pre_tokenizers.ByteLevel(add_prefix_space=True), names)
    special(tokenizer, "<mask>", lstrip=True)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def modern_bert():
    tokenizer = byte_bpe(pre_tokenizers.ByteLevel(add_prefix_space=False), ["[UNK]", "[CLS]", "[SEP]", "[PAD]"])
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_tokens([AddedToken("|||IP|||", normalized=True), AddedToken("   ", normalized=True), AddedToken("12", normalized=True)])
    special(tokenizer, "[MASK]", lstrip=True)
    tokenizer.post_processor = template(tokenizer, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", "[CLS]", "[SEP]")
    return tokenizer


def few_bytes():
    """SmolLM2 has no tokens for some bytes, and no unknown token."""
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    missing = {chr(0x100 + b) for b in (0, 1, 4, 6, 7, 19, 20, 22, 29)} | {"ð", "Ł"}
    alphabet = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - missing)
    return byte_bpe(digits, ["<|endoftext|>"], alphabet, vocab=300)


def word_level():
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase(), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(True)])
    trainer = trainers.WordLevelTrainer(vocab_size=120, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False)
    tokenizer.train_from_iterator(CORPUS.split("\n"), trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return tokenizer


KINDS = {
    "bert": lambda: bert(True), "bert-cased": lambda: bert(False), "xlmr": xlmr, "t5": t5, "unigram-bytes": unigram_bytes,
    "roberta": roberta, "modern-bert": modern_bert, "few-bytes": few_bytes, "word-level": word_level,
}  # fmt: skip


def cases(tokenizer):
    # Control tokens in a text are text.
    tokenizer.encode_special_tokens = True
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
    decoded = [tokenizer.decode(i) for i in ids]
    pairs = []
    for first, second, most, side in PAIRS:
        tokenizer.enable_truncation(most, strategy="longest_first", direction=side)
        encoding = tokenizer.encode(first, second) if second is not None else tokenizer.encode(first)
        pairs.append([encoding.ids, encoding.type_ids])
    tokenizer.no_truncation()
    return {"ids": ids, "decoded": decoded, "pairs": pairs}


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    kinds = {}
    for name, make in KINDS.items():
        tokenizer = make()
        folder = OUT / name
        folder.mkdir(parents=True)
        tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
        kinds[name] = cases(Tokenizer.from_file(str(folder / "tokenizer.json")))
    short = lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"))  # noqa: E731
    lines = ",\n".join(
        f'"{name}": {{\n' + ",\n".join(f' "{key}": {short(value)}' for key, value in kind.items()) + "}" for name, kind in kinds.items()
    )
    (OUT / "cases.json").write_text(f'{{"texts": {short(TEXTS)},\n"pairs": {short(PAIRS)},\n"kinds": {{\n{lines}}}}}\n')


if __name__ == "__main__":
    main()
