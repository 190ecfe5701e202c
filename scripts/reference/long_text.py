#!/usr/bin/env python3
"""Write testdata/real/<file stem>.long.json: exact probabilities of a text long enough for small differences.

    python scripts/reference/long_text.py

Like the `exact_next_logprob` of llama_cpp_tokens.py, for the text of testdata/real/long.txt: the mean over
its tokens has a standard error of a tenth of a percent where activations are in 8 bits.
"""

import json

import dequantised
import llama_cpp
import naive
import numpy as np
from llama_cpp import Llama
from llama_cpp_tokens import MODELS, OUT

TOKENS = 1000
FILES = ["SmolLM2-135M-Instruct.Q4_1.gguf", "gemma-3-270m-Q4_K_M.gguf"]


def ids_of(path, text):
    llm = Llama(str(path), vocab_only=True, verbose=False)
    vocab = llama_cpp.llama_model_get_vocab(llm.model)
    return llm.tokenize(text.encode(), add_bos=bool(llama_cpp.llama_vocab_get_add_bos(vocab)), special=False)


def logprob(row, token):
    return round(float(row[token] - row.max() - np.log(np.exp(row - row.max()).sum())), 5)


if __name__ == "__main__":
    text = (OUT / "long.txt").read_text()
    for name in FILES:
        ids = ids_of(MODELS / name, text)[:TOKENS]
        rows = naive.forward(*dequantised.load(MODELS / name), ids)
        exact = [logprob(row, token) for row, token in zip(rows, ids[1:])]
        print(f"{name}: {len(ids)} tokens, mean {np.mean(exact):.5f}")
        out = OUT / f"{(MODELS / name).stem}.long.json"
        out.write_text(json.dumps({"ids": ids, "exact_next_logprob": exact}) + "\n")
