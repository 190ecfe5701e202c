"""Tiny tokenizers that work, one in the manner of each family, trained on corpus.txt.

Each is a folder's tokenizer.json and tokenizer_config.json, and what GGUF wants to know of it.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = (Path(__file__).parent / "corpus.txt").read_text()

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

# Llama 3's way of cutting text into words.
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a small model.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

LLAMA3_CHAT = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

GEMMA_CHAT = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = messages[0]['content'] | trim + '\n\n' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\n' }}
{%- endif -%}
"""


@dataclass
class Tiny:
    json: dict
    config: dict
    bos: int | None
    eos: int
    add_bos: bool
    kind: str  # GGUF's tokenizer.ggml.model
    pre: str  # and tokenizer.ggml.pre
    types: list
    stop: list  # ids that end generation
    scores: list | None = None
    pad: int | None = None
    unknown: int | None = None
    extra: dict = field(default_factory=dict)

    @property
    def tokenizer(self):
        return Tokenizer.from_str(json.dumps(self.json))

    @property
    def tokens(self):
        tokenizer = self.tokenizer
        return [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]

    @property
    def chat_template(self):
        return self.config.get("chat_template")

    def save(self, folder, template_apart=False):
        config = dict(self.config)
        if template_apart:  # as transformers 5 writes it
            (folder / "chat_template.jinja").write_text(config.pop("chat_template"))
        write_json(folder / "tokenizer.json", self.json)
        write_json(folder / "tokenizer_config.json", config)


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def byte_level(pre, merges, first=(), last=()):
    """A byte-level BPE: special tokens, the 256 bytes, merges trained on the corpus, special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=len(first) + 256 + merges, initial_alphabet=alphabet, special_tokens=list(first), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS.split("\n\n"), trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in last])
    assert tokenizer.get_vocab_size() == len(first) + 256 + merges + len(last)
    return tokenizer


def template(tokenizer, token):
    return processors.TemplateProcessing(single=f"{token} $A", pair=f"{token} $A {token} $B",
                                         special_tokens=[(token, tokenizer.token_to_id(token))])


def added_tokens_decoder(value):
    return {
        str(t["id"]): {k: t[k] for k in ("content", "lstrip", "normalized", "rstrip", "single_word", "special")}
        for t in value["added_tokens"]
    }


def finish(tokenizer, bos, eos, kind, pre, add_bos, stop, config, types=None, **rest):
    value = json.loads(tokenizer.to_str())
    n = tokenizer.get_vocab_size()
    special = {t["id"] for t in value["added_tokens"] if t["special"]}
    id_of = tokenizer.token_to_id
    names = {"bos_token": bos, "eos_token": eos}
    full = {k: v for k, v in names.items() if v is not None} | {"added_tokens_decoder": added_tokens_decoder(value)} | config
    return Tiny(
        json=value, config=full, bos=None if bos is None else id_of(bos), eos=id_of(eos), add_bos=add_bos, kind=kind, pre=pre,
        types=types or [CONTROL if i in special else NORMAL for i in range(n)], stop=[id_of(t) for t in stop], **rest,
    )


def gpt2():
    end = "<|endoftext|>"
    tokenizer = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), 64, last=[end])
    tiny = finish(
        tokenizer, end, end, "gpt2", "gpt-2", False, [end],
        {"add_prefix_space": False, "clean_up_tokenization_spaces": False, "model_max_length": 96, "tokenizer_class": "GPT2Tokenizer",
         "unk_token": end},
    )
    # The hub's file is an old one: its merges are strings, "a b".
    tiny.json["model"]["merges"] = [" ".join(m) for m in tiny.json["model"]["merges"]]
    return tiny


def llama():
    bos, eos, eot = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"
    last = [bos, eos, "<|start_header_id|>", "<|end_header_id|>", eot]
    split = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3_PATTERN), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer = byte_level(split, 91, last=last)
    tokenizer.model.ignore_merges = True
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template(tokenizer, bos)])
    return finish(
        tokenizer, bos, eos, "gpt2", "llama-bpe", True, [eos, eot],
        {"chat_template": LLAMA3_CHAT, "clean_up_tokenization_spaces": True, "model_max_length": 256,
         "tokenizer_class": "PreTrainedTokenizerFast"},
    )


def smol():
    first = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<file_sep>"]
    split = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    ])
    tokenizer = byte_level(split, 60, first=first)
    return finish(
        tokenizer, "<|im_start|>", "<|im_end|>", "gpt2", "smollm", False, ["<|im_end|>", "<|endoftext|>"],
        {"add_prefix_space": False, "chat_template": CHATML, "clean_up_tokenization_spaces": False, "model_max_length": 256,
         "pad_token": "<|im_end|>", "tokenizer_class": "GPT2Tokenizer", "unk_token": "<|endoftext|>"},
        pad=2, unknown=0,
    )


def smallest():
    """The bytes, a few merges and control tokens: for checkpoints that are about their layers."""
    first = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True), 5, first=first)
    return finish(
        tokenizer, "<|im_start|>", "<|im_end|>", "gpt2", "gpt-2", False, ["<|im_end|>", "<|endoftext|>"],
        {"add_prefix_space": False, "chat_template": CHATML, "clean_up_tokenization_spaces": False, "model_max_length": 256,
         "pad_token": "<|endoftext|>", "tokenizer_class": "GPT2Tokenizer", "unk_token": "<|endoftext|>"},
        pad=0, unknown=0,
    )


def gemma():
    control = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
    user_defined = ["\n", "\n\n", "\n\n\n", "▁▁", "▁▁▁", "▁▁▁▁", "<h1>", "</h1>"]
    byte = [f"<0x{b:02X}>" for b in range(256)]

    # SentencePiece's BPE: words begin with "▁" but for the first, digits stand alone, rare characters are bytes.
    # Which characters are rare is said here: the trainer's limit_alphabet breaks ties by chance.
    common = {c for c in CORPUS if c.isascii()} | set("é–“”中日")
    corpus = "".join(c for c in CORPUS if c in common)
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split("\n", "removed"), pre_tokenizers.Split("▁", "merged_with_next"), pre_tokenizers.Digits(individual_digits=True)
    ])
    trained.train_from_iterator([corpus], trainers.BpeTrainer(vocab_size=181, show_progress=False))
    pieces = trained.get_vocab()
    pieces = sorted((p for p in pieces if p not in user_defined), key=pieces.get)
    single = sorted(p for p in pieces if len(p) == 1)
    longer = [p for p in pieces if len(p) > 1]

    # As in Gemma's file the single characters stand last. A score is minus the rank.
    tokens = control + user_defined + byte + longer + single
    vocabulary = {t: i for i, t in enumerate(tokens)}
    first_normal = len(control + user_defined + byte)
    hidden = {t: 0.0 for t in user_defined}
    scores = [hidden.get(t, float(first_normal - i) if i >= first_normal else None) for i, t in enumerate(tokens)]
    merges = []
    for t in user_defined + longer:
        splits = [(t[:k], t[k:]) for k in range(1, len(t)) if t[:k] in vocabulary and t[k:] in vocabulary]
        splits.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        merges += [(scores[vocabulary[t]], pair) for pair in splits]
    merges.sort(key=lambda merge: -merge[0])

    tokenizer = Tokenizer(models.BPE(vocabulary, [pair for _, pair in merges], byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = template(tokenizer, "<bos>")
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in user_defined])
    assert tokenizer.get_vocab_size() == len(tokens)

    types = [CONTROL] * len(control) + [USER_DEFINED] * len(user_defined) + [BYTE] * 256 + [NORMAL] * len(longer + single)
    return finish(
        tokenizer, "<bos>", "<eos>", "llama", "default", True, ["<eos>", "<end_of_turn>"],
        {"add_bos_token": True, "add_eos_token": False, "chat_template": GEMMA_CHAT, "clean_up_tokenization_spaces": False,
         "model_max_length": 1000000000000000019884624838656, "pad_token": "<pad>", "tokenizer_class": "GemmaTokenizer", "unk_token": "<unk>",
         "spaces_between_special_tokens": False, "use_default_system_prompt": False},
        types=types, pad=0, unknown=3,
        # GGUF: added tokens have the score -1000, bytes theirs of zero.
        scores=[-1000.0 if kind in (CONTROL, USER_DEFINED) else s or 0.0 for s, kind in zip(scores, types)],
    )
