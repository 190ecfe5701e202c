#!/usr/bin/env python3
"""Write tiny random classifiers and rerankers, each with the scores that transformers gives.

    python scripts/reference/make_classifiers.py [--llama DIR] [--out DIR] [name ...]

`reference.json` holds texts as tokens, the types of these, and the scores of the labels in single precision.
With --llama, a checkout of llama.cpp, its converter makes the GGUF twins of those that it knows.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import make_families
import numpy as np
import tiny_tokenizers
import torch
import transformers as t
from families import ENCODER, Family, rope, without

# The converter writes neither epsilon nor bases: these are the usual ones.
MODERN = without(ENCODER, "layer_norm_eps") | dict(
    norm_eps=1e-5, num_hidden_layers=2, local_attention=12, layer_types=["full_attention", "sliding_attention"],
    rope_parameters={"full_attention": rope(160000), "sliding_attention": rope(10000)}, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    cls_token_id=1, sep_token_id=2)
ALL = {
    "bert": (t.BertConfig, ENCODER | dict(type_vocab_size=2, pad_token_id=0, num_labels=1), "types of tokens, a pooler, one label"),
    "bert-labels": (t.BertConfig, ENCODER | dict(type_vocab_size=2, pad_token_id=0, id2label={0: "bad", 1: "fair", 2: "good"},
                                                 label2id={"bad": 0, "fair": 1, "good": 2}), "three labels with names"),
    "roberta": (t.RobertaConfig, ENCODER | dict(type_vocab_size=1, pad_token_id=1, num_labels=1), "a head of two layers"),
    "xlm-roberta": (t.XLMRobertaConfig, ENCODER | dict(type_vocab_size=1, pad_token_id=1), "two labels, which have no names"),
    "distilbert": (t.DistilBertConfig, dict(dim=32, hidden_dim=48, n_layers=2, n_heads=4, max_position_embeddings=128, pad_token_id=0,
                                            num_labels=4, problem_type="multi_label_classification"), "four labels, each for itself"),
    "modernbert-cls": (t.ModernBertConfig, MODERN | dict(num_labels=1, classifier_pooling="cls", classifier_bias=True), "the first state"),
    "modernbert-mean": (t.ModernBertConfig, MODERN | dict(num_labels=1, classifier_pooling="mean", norm_bias=True), "the mean of the states"),
}
GGUF = ("roberta", "modernbert-mean")


def scores(model, ids, types):
    kinds = {"token_type_ids": torch.tensor([types])} if any(types) else {}
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), **kinds).logits[0].double().numpy()


def make(name, out, llama):
    kind, settings, about = ALL[name]
    tiny = tiny_tokenizers.smallest()
    vocab = len(tiny.types)
    config = kind(**settings, vocab_size=vocab)
    family = Family(kind, settings, about, auto=t.AutoModelForSequenceClassification)
    model = make_families.build(config, family)
    make_families.randomise(model, family, 5)
    with torch.no_grad():
        for name_, p in model.named_parameters():
            if "classifier" in name_ and p.dim() == 2 and p.shape[0] < 32:
                p.mul_(3)
    make_families.round_to_half(model)
    rng = np.random.default_rng(3)
    texts = []
    for length, second in ((1, 1), (9, 4), (40, 17), (25, 25)):
        ids = [int(i) for i in rng.integers(3, vocab, length)]
        types = [0] * second + [1] * (length - second) if settings.get("type_vocab_size") == 2 else [0] * length
        texts.append({"tokens": ids, "types": types, "scores": [round(float(s), 7) for s in scores(model, ids, types)]})
    spread = np.std([text["scores"][0] for text in texts])
    assert spread > 0.1, f"{name}: the scores differ by {spread} alone"
    if any(any(text["types"]) for text in texts):
        plain = scores(model, texts[2]["tokens"], [0] * 40)
        assert np.abs(plain - texts[2]["scores"]).max() > 0.05, "types move nothing"
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    half = model.half()
    half.config.dtype = torch.float16
    half.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    tiny.save(folder)
    source = f"transformers {t.__version__}, torch {torch.__version__.split('+')[0]}, float32"
    (folder / "reference.json").write_text(json.dumps({"about": about, "source": source, "texts": texts}, indent=1) + "\n")
    if llama and name in GGUF:
        fields, _ = make_families.convert(folder, llama, family)
        print("\n".join(f for f in fields if "pooling" in f or "label" in f))
    print(name, [text["scores"] for text in texts])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--llama", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "testdata/classifiers")
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    for name in args.names or ALL:
        make(name, args.out, args.llama)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
