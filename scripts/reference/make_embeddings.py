#!/usr/bin/env python3
"""Write what sentence-transformers makes of some texts: testdata/real/all-MiniLM-L6-v2.{json,safetensors}.

    scripts/fetch-models minilm
    python scripts/reference/make_embeddings.py      needs sentence-transformers

The texts are odd ones, and a small retrieval set: passages, and questions with the passage that answers each.
Vectors are kept in half precision, which moves a cosine by less than 1e-6.
"""

import json
from pathlib import Path

import numpy as np
import sentence_transformers
import torch
from safetensors.numpy import save_file

ROOT = Path(__file__).parents[2]
OUT = ROOT / "testdata/real"
ODD = {
    "empty": "", "space": " ", "one letter": "a", "one sign": "?", "digits": "0123456789", "emoji": "👩‍👩‍👧‍👦 🚀🔥",
    "chinese": "黄河是中国第二长河。", "japanese": "富士山は日本一高い山です。", "korean": "서울은 한국의 수도이다.",
    "thai": "กรุงเทพเป็นเมืองหลวง", "arabic": "النيل نهر طويل", "hebrew": "הירדן הוא נהר", "mixed": "The river נהר 河 flows → sea",
    "accents": "Crème brûlée à la façade naïve", "apart": "Cre\u0300me", "capitals": "SHOUTING IS LOUD", "unknown": "\u16a0\u16b1\u16a2",
    "control": "a\u0000b\u0007c\u200bd", "lines": "one\ntwo\r\nthree\ttabs", "no spaces": "x" * 300, "a word of 120": "ab" * 60,
    "special": "[CLS] hello [SEP] [MASK] [PAD]", "code": "fn main() { println!(\"{}\", 1 << 7); }", "url": "https://example.org/a?b=c#d",
    "repeated": "word " * 90, "10000 words": "the river runs to the sea and never fills it " * 1000, "german": "Donaudampfschifffahrtsgesellschaft",
    "russian": "Волга впадает в Каспийское море.", "hindi": "गंगा एक नदी है", "punctuation": "...!!!???---",
}
PAIRS = [
    ("Which river flows through Egypt?", "The Nile runs north through Egypt and ends in the Mediterranean Sea."),
    ("Who painted the Mona Lisa?", "Leonardo da Vinci worked on the portrait of Lisa del Giocondo for years."),
    ("How do plants make sugar?", "In photosynthesis, leaves turn light, water and carbon dioxide into glucose."),
    ("What is the tallest mountain?", "Mount Everest rises 8,849 metres above the level of the sea."),
    ("When did the Berlin Wall fall?", "On 9 November 1989 the border between East and West Berlin was opened."),
    ("How do I boil an egg?", "Put it into boiling water; after seven minutes the yolk is still soft."),
    ("What does a compiler do?", "It translates a program's source text into instructions of a machine."),
    ("Why is the sky blue?", "Air scatters short wavelengths of sunlight more than long ones."),
    ("What is inflation?", "Prices of goods and services rise over time, and money buys less."),
    ("How is bread leavened?", "Yeast eats sugar in the dough and gives off gas, which makes it rise."),
    ("Who wrote Hamlet?", "Shakespeare's tragedy tells of a prince of Denmark who avenges his father."),
    ("How many bones has a human?", "The skeleton of an adult consists of 206 of them."),
]


def main():
    torch.set_num_threads(1)
    model = sentence_transformers.SentenceTransformer(str(ROOT / "models/all-MiniLM-L6-v2"), device="cpu")
    questions, passages = zip(*PAIRS)
    texts = [*ODD.values(), *questions, *passages]
    vectors = model.encode(texts, batch_size=1, convert_to_numpy=True)
    ranking = vectors[len(ODD):len(ODD) + len(PAIRS)] @ vectors[len(ODD) + len(PAIRS):].T
    best = [[int(i) for i in np.argsort(-row)[:3]] for row in ranking]
    save_file({"vectors": vectors.astype(np.float16)}, OUT / "all-MiniLM-L6-v2.safetensors")
    (OUT / "all-MiniLM-L6-v2.safetensors").chmod(0o644)
    # Long texts repeat something, and are kept as that.
    short = {text: [text] for text in texts}
    for part, times in (("x", 300), ("ab", 60), ("word ", 90), ("the river runs to the sea and never fills it ", 1000)):
        short[part * times] = [part, times]
    source = f"sentence-transformers {sentence_transformers.__version__}, torch {torch.__version__.split('+')[0]}, float32, one text at a time"
    (OUT / "all-MiniLM-L6-v2.json").write_text(json.dumps({
        "source": source, "odd": len(ODD), "questions": len(PAIRS), "best": best, "texts": [short[text] for text in texts],
    }, indent=1, ensure_ascii=True) + "\n")
    margin = np.sort(ranking, axis=1)
    print(len(texts), "texts; right first:", sum(b[0] == i for i, b in enumerate(best)), "least margin of the first three:",
          float(min((row[-1] - row[-2]) for row in margin)), float(min((row[-2] - row[-3]) for row in margin)), float(min((row[-3] - row[-4]) for row in margin)))


if __name__ == "__main__":
    main()
