#!/usr/bin/env python3
"""Write testdata/real/<file stem>.json: what llama.cpp computes with the real model files, and what is exact.

    python scripts/reference/llama_cpp_tokens.py [file.gguf ...]

Needs `scripts/fetch-models` and the packages of requirements.txt. README.md beside this file
describes the format. In llama.cpp keys and values are kept in float32 and flash attention is off, but
its matrix products quantise the activations, so its logits are off by some tenths. What the file says
without that shortcut is computed beside it: weights dequantised, everything in float64 (naive.py).
"""

import argparse
import hashlib
import json
from pathlib import Path

import dequantised
import llama_cpp
import naive
import numpy as np
from llama_cpp import Llama

ROOT = Path(__file__).resolve().parent.parent.parent
MODELS = ROOT / "models"
OUT = ROOT / "testdata" / "real"

PROMPT = "The capital of France is"
GREEDY = 16
TOP = 10

PARAGRAPH = (
    "The sea had been calm for three days when the lighthouse keeper noticed the first ships. They came from the "
    "north, seven of them, with dark sails and no flags, and they did not answer his signals. He wrote the time in "
    "his book, 6:45 in the morning, lit the second lamp, and climbed down the 212 steps to the village to warn the "
    "others. \"How many?\" asked the baker, who was the only one awake. \"Seven,\" he said, \"and more behind them.\" "
    "By noon the whole village stood on the beach, waiting."
)


def load(path, n_ctx=256):
    return Llama(
        str(path), n_ctx=n_ctx, n_batch=n_ctx, n_ubatch=n_ctx, n_threads=2, n_threads_batch=2, seed=0,
        logits_all=True, flash_attn=False, type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32,
        verbose=False,
    )


def prompt_ids(llm, text):
    vocab = llama_cpp.llama_model_get_vocab(llm.model)
    add_bos = bool(llama_cpp.llama_vocab_get_add_bos(vocab))
    return llm.tokenize(text.encode(), add_bos=add_bos, special=False), add_bos


def logits(llm):
    return np.array(llm.scores[: llm.n_tokens], dtype=np.float32)


def top(row):
    """The largest logits of a row, and the row's shape in two numbers: spread and log of summed exponentials."""
    best = np.argsort(-row, kind="stable")[:TOP]
    wide = row.astype(np.float64)
    return {
        "ids": best.tolist(),
        "logits": [round(float(row[i]), 5) for i in best],
        "mean": round(float(wide.mean()), 5),
        "std": round(float(wide.std()), 5),
        "logsumexp": round(float(np.log(np.exp(wide - wide.max()).sum()) + wide.max()), 5),
    }


def logprobs(rows, ids):
    """Of each token of `ids` but the first, given those before it."""
    return [round(float(rows[i][t] - top(rows[i])["logsumexp"]), 5) for i, t in enumerate(ids[1:])]


def perplexity(rows, ids):
    return round(float(np.exp(-np.mean(logprobs(rows, ids)))), 4)


def difference(rows):
    return {"max": float(f"{np.abs(rows).max():.3g}"), "rms": float(f"{np.sqrt((rows.astype(np.float64) ** 2).mean()):.3g}")}


def measure(path):
    llm = load(path)
    prompt, add_bos = prompt_ids(llm, PROMPT)
    llm.reset()
    llm.eval(prompt)
    greedy, steps = [], []
    for _ in range(GREEDY):
        row = logits(llm)[-1]
        steps.append(top(row))
        greedy.append(steps[-1]["ids"][0])
        llm.eval([greedy[-1]])
    text = llm.detokenize(greedy, prev_tokens=prompt, special=True).decode()

    forced, _ = prompt_ids(llm, PARAGRAPH)
    llm.reset()
    llm.eval(forced)
    batch = logits(llm)
    # The same tokens one at a time: how much llama.cpp differs from itself says what its logits are worth.
    llm.reset()
    for token in forced:
        llm.eval([token])
    single = logits(llm)

    config, weights = dequantised.load(path)
    exact = naive.forward(config, weights, forced)
    rounding = naive.forward(config, weights, forced, np.float32) - exact
    exact_steps = naive.forward(config, weights, prompt + greedy[:-1])[len(prompt) - 1 :]
    own = list(prompt)
    for _ in range(GREEDY):
        own.append(int(naive.forward(config, weights, own)[-1].argmax()))

    result = {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "llama_cpp_python": llama_cpp.__version__,
        "settings": "n_threads 2, KV F32, flash attention off",
        "add_bos": add_bos,
        "greedy": {"prompt": PROMPT, "prompt_ids": prompt, "ids": greedy, "text": text, "steps": steps,
                   "exact_ids": own[len(prompt):], "exact_steps": [top(row) for row in exact_steps]},
        "forced": {
            "text": PARAGRAPH,
            "ids": forced,
            "positions": [top(row) for row in batch],
            "next_logprob": logprobs(batch, forced),
            "perplexity": perplexity(batch, forced),
            "exact_positions": [top(row) for row in exact],
            "exact_next_logprob": logprobs(exact, forced),
            "exact_perplexity": perplexity(exact, forced),
            "error": {
                "exact_f32_f64": difference(rounding),
                "llama_cpp_batch": difference(batch - exact),
                "llama_cpp_single": difference(single - exact),
                "llama_cpp_batch_single": difference(batch - single),
            },
        },
    }
    print(f"{path.name}: {PROMPT!r} -> {text!r}")
    same = next((i for i, (a, b) in enumerate(zip(greedy, own[len(prompt):])) if a != b), GREEDY)
    print(f"  the exact continuation is the same for {same} tokens of {GREEDY}; its margins along llama.cpp's:",
          [round(s["logits"][0] - s["logits"][1], 3) for s in result["greedy"]["exact_steps"]])
    print(f"  paragraph of {len(forced)} tokens: perplexity {result['forced']['perplexity']}, "
          f"exactly {result['forced']['exact_perplexity']}; errors {result['forced']['error']}; same best token at "
          f"{int((batch.argmax(-1) == exact.argmax(-1)).sum())} of {len(forced)} positions")
    return result


def dump(result):
    """JSON with one step or position a line."""
    text = json.dumps(result, indent=1, ensure_ascii=True)
    for group in ("greedy", "forced"):
        for key, value in result[group].items():
            if isinstance(value, list):
                if value and isinstance(value[0], dict):
                    line = "[\n   " + ",\n   ".join(json.dumps(v) for v in value) + "\n  ]"
                else:
                    line = json.dumps(value)
                text = text.replace(f'"{key}": ' + json.dumps(value, indent=1).replace("\n", "\n  "), f'"{key}": {line}')
    assert json.loads(text) == result
    return text + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("file", nargs="*", type=Path)
    files = parser.parse_args().file or [
        MODELS / "SmolLM2-135M-Instruct.Q4_1.gguf",
        MODELS / "gemma-3-270m-Q4_K_M.gguf",
    ]
    OUT.mkdir(parents=True, exist_ok=True)
    for file in files:
        text = dump(measure(file))
        out = OUT / f"{file.stem}.json"
        out.write_text(text)
        print(f"  {out.relative_to(ROOT)}: {len(text)} bytes")
