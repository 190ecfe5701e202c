#!/usr/bin/env python3
"""Check testdata/tiny/*/model.gguf with llama.cpp: logits, greedy continuation, tokenizer, chat template.

    python scripts/reference/check_gguf.py [--write] [name ...]

Reports the numbers and fails if llama.cpp and the reference disagree. llama.cpp looks GELU up in a
table of half precision, which shows in the models that use it; of a build without that table
(GGML_GELU_FP16 undefined in ggml-cpu/vec.h; LLAMA_CPP_LIB_PATH says where it is) the strict tolerance
is asked with --exact-gelu.

Texts that llama.cpp and
Hugging Face's `tokenizers` cut differently are listed in tokenizer_disputed.json; they are rewritten
with --write, otherwise they must be those.
"""

import argparse
import json
from pathlib import Path

import llama_cpp
import numpy as np
from llama_cpp import Llama
from safetensors.numpy import load_file

TINY = Path(__file__).resolve().parent.parent.parent / "testdata" / "tiny"
TOLERANCE = 1e-3
GELU_TABLE = {"gpt2": 2e-2, "gemma3": 4e-2}


def check(name, write, tolerance):
    folder = TINY / name
    llm = Llama(
        str(folder / "model.gguf"), n_ctx=256 if name != "gpt2" else 96, n_threads=2, logits_all=True, flash_attn=False,
        type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32, verbose=False,
    )
    ref = load_file(folder / "reference.safetensors")
    tokens, greedy = ref["tokens"].tolist(), ref["greedy"].tolist()
    info = json.loads((folder / "reference.json").read_text())

    assert llm.tokenize(info["prompt"].encode(), add_bos=llm.metadata["tokenizer.ggml.add_bos_token"] == "true", special=False) == tokens
    llm.reset()
    llm.eval(tokens)
    batch = np.abs(llm.scores[: len(tokens)] - ref["logits"])
    steps = []
    for i, token in enumerate(greedy):
        row = llm.scores[llm.n_tokens - 1]
        assert int(row.argmax()) == token, (name, i)
        steps.append(np.abs(row - ref["greedy_logits"][i]).max())
        llm.eval([token])
    print(f"{name}: logits differ by {batch.max():.2e} at most over {len(tokens)} positions, {max(steps):.2e} over "
          f"{len(greedy)} greedy steps (reference's own error {ref['f32_f64_error'][0]:.2e})")
    assert batch.max() < tolerance and max(steps) < tolerance

    cases = json.loads((folder / "tokenizer_cases.json").read_text())["cases"]
    disputed = []
    for case in cases:
        ids = llm.tokenize(case["text"].encode(), add_bos=False, special=case["special"])
        if ids != case["ids"]:
            disputed.append({"text": case["text"], "special": case["special"], "tokenizers": case["ids"], "llama_cpp": ids})
    print(f"  tokenizer: {len(cases) - len(disputed)} of {len(cases)} cases agree; disputed: "
          f"{[(d['text'][:40], d['special']) for d in disputed]}")
    path = folder / "tokenizer_disputed.json"
    if write:
        if disputed:
            path.write_text("[\n" + ",\n".join(" " + json.dumps(d) for d in disputed) + "\n]\n")
        else:
            path.unlink(missing_ok=True)
    assert disputed == (json.loads(path.read_text()) if path.exists() else []), "run with --write, and look at the difference"

    chats = folder / "chat_cases.json"
    if chats.exists():
        config = json.loads((folder / "tokenizer_config.json").read_text())
        assert llm.metadata["tokenizer.chat_template"] == config["chat_template"]
        chats = json.loads(chats.read_text())
        for chat in chats:
            assert llm.tokenize(chat["text"].encode(), add_bos=False, special=True) == chat["ids"], chat
        print(f"  {len(chats)} conversations: same ids")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("name", nargs="*")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--exact-gelu", action="store_true")
    args = parser.parse_args()
    print("llama-cpp-python", llama_cpp.__version__)
    for name in args.name or sorted(p.parent.name for p in TINY.glob("*/model.gguf")):
        check(name, args.write, TOLERANCE if args.exact_gelu else GELU_TABLE.get(name, TOLERANCE))
