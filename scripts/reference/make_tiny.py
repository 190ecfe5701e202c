#!/usr/bin/env python3
"""Write testdata/tiny/: tiny random checkpoints, each with its float32 reference.

    python scripts/reference/make_tiny.py [name ...]

Every checkpoint is small, but of its family's full shape; every parameter and every field of the
configuration that matters is made to matter, which is checked here: perturb one, and the logits move.
README.md beside this file describes the files. Deterministic: the same packages write the same bytes.
"""

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # faster on matrices this small

import naive
import numpy as np
import tiny_gguf
import tiny_tokenizers
import torch
import transformers
from safetensors.numpy import save_file
from tiny_tokenizers import CONTROL, write_json
from tokenizer_fixtures import CHATS
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GPT2Config, LlamaConfig, Qwen2Config, Qwen3Config

ROOT = Path(__file__).resolve().parent.parent.parent
OUT = ROOT / "testdata" / "tiny"

PROMPT = "The quick fox isn't lazy: 3.14 – café 😀.\n\nIn the end"
GREEDY = 24
MARGIN = 0.15  # between the best and the second logit, at every greedy step
DISTINCT = 10


def silent(tiny):
    """Tokens that shall not be chosen: control tokens, and bytes that alone are no readable text."""
    quiet = []
    byte = {c: b for b, c in enumerate(gpt2_characters())}
    for i, (token, kind) in enumerate(zip(tiny.tokens, tiny.types)):
        if tiny.kind == "gpt2":
            raw = bytes(byte[c] for c in token) if kind != CONTROL else b"\xff"
        else:
            raw = b"\xff" if kind in (CONTROL, tiny_tokenizers.BYTE) else token.encode()
        if any(b >= 0x80 or (b < 0x20 and b != 0x0A) for b in raw):
            quiet.append(i)
    return quiet


def gpt2_characters():
    """GPT-2's character for each byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = iter(range(256, 512))
    return [chr(b) if b in shown else chr(next(hidden)) for b in range(256)]


# --- the models ----------------------------------------------------------------------------------

def gpt2():
    tiny = tiny_tokenizers.gpt2()
    config = GPT2Config(
        vocab_size=len(tiny.types), n_positions=96, n_embd=64, n_layer=2, n_head=4, layer_norm_epsilon=1e-3,
        bos_token_id=tiny.bos, eos_token_id=tiny.eos, architectures=["GPT2LMHeadModel"],
    )
    v4 = {
        "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "bos_token_id": tiny.bos,
        "embd_pdrop": 0.1, "eos_token_id": tiny.eos, "initializer_range": 0.02, "layer_norm_epsilon": 1e-3, "model_type": "gpt2",
        "n_ctx": 96, "n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 96, "resid_pdrop": 0.1, "summary_activation": None,
        "summary_first_dropout": 0.1, "summary_proj_to_labels": True, "summary_type": "cls_index", "summary_use_proj": True,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}, "vocab_size": len(tiny.types),
    }
    knobs = {"layer_norm_epsilon": 1e-5, "n_head": 2}
    return tiny, config, v4, {"_from_model_config": True, "bos_token_id": tiny.bos, "eos_token_id": tiny.eos}, knobs


def llama():
    tiny = tiny_tokenizers.llama()
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    config = LlamaConfig(
        vocab_size=len(tiny.types), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=256, rms_norm_eps=1e-3, tie_word_embeddings=False,
        rope_parameters=rope | {"rope_theta": 5000.0}, bos_token_id=tiny.bos, eos_token_id=tiny.eos, architectures=["LlamaForCausalLM"],
    )
    v4 = {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": tiny.bos,
        "eos_token_id": tiny.eos, "head_dim": 32, "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02,
        "intermediate_size": 96, "max_position_embeddings": 256, "mlp_bias": False, "model_type": "llama", "num_attention_heads": 4,
        "num_hidden_layers": 2, "num_key_value_heads": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-3, "rope_scaling": rope,
        "rope_theta": 5000.0, "tie_word_embeddings": False, "torch_dtype": "float32", "transformers_version": "4.45.0",
        "use_cache": True, "vocab_size": len(tiny.types),
    }
    full = config.rope_parameters
    knobs = {"rms_norm_eps": 1e-5} | {
        f"rope_parameters.{k}": {"rope_parameters": full | {k: v}}
        for k, v in {"factor": 4.0, "low_freq_factor": 2.0, "high_freq_factor": 3.0, "original_max_position_embeddings": 32,
                     "rope_theta": 10000.0, "rope_type": "default"}.items()
    }
    generation = {"bos_token_id": tiny.bos, "do_sample": True, "eos_token_id": tiny.stop, "temperature": 0.6, "top_p": 0.9}
    return tiny, config, v4, generation, knobs


def llama_tied():
    tiny = tiny_tokenizers.smol()
    config = LlamaConfig(
        vocab_size=len(tiny.types), hidden_size=96, intermediate_size=128, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        bos_token_id=tiny.bos, eos_token_id=tiny.eos, pad_token_id=tiny.pad, architectures=["LlamaForCausalLM"],
    )
    v4 = {  # no head_dim, as on the hub: hidden_size / num_attention_heads
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": tiny.bos,
        "eos_token_id": tiny.eos, "hidden_act": "silu", "hidden_size": 96, "initializer_range": 0.02, "intermediate_size": 128,
        "is_llama_config": True, "max_position_embeddings": 256, "mlp_bias": False, "model_type": "llama", "num_attention_heads": 3,
        "num_hidden_layers": 2, "num_key_value_heads": 1, "pad_token_id": tiny.pad, "pretraining_tp": 1, "rms_norm_eps": 1e-5,
        "rope_interleaved": False, "rope_scaling": None, "rope_theta": 100000, "tie_word_embeddings": True, "torch_dtype": "float32",
        "transformers_version": "4.42.3", "use_cache": True, "vocab_size": len(tiny.types),
    }
    knobs = {"rope_parameters.rope_theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}}
    generation = {"_from_model_config": True, "bos_token_id": tiny.bos, "eos_token_id": tiny.eos, "pad_token_id": tiny.pad}
    return tiny, config, v4, generation, knobs


def gemma3():
    tiny = tiny_tokenizers.gemma()
    full = {"rope_type": "linear", "factor": 8.0, "rope_theta": 50000.0}
    local = {"rope_type": "default", "rope_theta": 1000.0}
    config = Gemma3TextConfig(
        vocab_size=len(tiny.types), hidden_size=32, intermediate_size=96, num_hidden_layers=7, num_attention_heads=4,
        num_key_value_heads=1, head_dim=24, max_position_embeddings=512, rms_norm_eps=1e-3, query_pre_attn_scalar=40, sliding_window=8,
        rope_parameters={"full_attention": full, "sliding_attention": local},
        bos_token_id=tiny.bos, eos_token_id=tiny.eos, pad_token_id=tiny.pad, architectures=["Gemma3ForCausalLM"],
    )
    v4 = {  # no layer_types and no tie_word_embeddings, as on the hub: by the pattern, and true
        "architectures": ["Gemma3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "attn_logit_softcapping": None,
        "bos_token_id": tiny.bos, "cache_implementation": "hybrid", "eos_token_id": tiny.stop, "final_logit_softcapping": None,
        "head_dim": 24, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 32, "initializer_range": 0.02, "intermediate_size": 96,
        "max_position_embeddings": 512, "model_type": "gemma3_text", "num_attention_heads": 4, "num_hidden_layers": 7,
        "num_key_value_heads": 1, "pad_token_id": tiny.pad, "query_pre_attn_scalar": 40, "rms_norm_eps": 1e-3,
        "rope_local_base_freq": 1000, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "rope_theta": 50000, "sliding_window": 8,
        "sliding_window_pattern": 6, "torch_dtype": "float32", "transformers_version": "4.50.0.dev0", "use_cache": True,
        "vocab_size": len(tiny.types),
    }
    ropes = {"full_attention": full, "sliding_attention": local}
    knobs = {
        "rms_norm_eps": 1e-5, "query_pre_attn_scalar": 24, "sliding_window": 7,
        "layer_types": {"layer_types": ["sliding_attention"] * 7},
        "global theta": {"rope_parameters": ropes | {"full_attention": full | {"rope_theta": 1e6}}},
        "global factor": {"rope_parameters": ropes | {"full_attention": full | {"rope_type": "default"}}},
        "local theta": {"rope_parameters": ropes | {"sliding_attention": local | {"rope_theta": 1e4}}},
        "local factor": {"rope_parameters": ropes | {"sliding_attention": local | {"rope_type": "linear", "factor": 8.0}}},
    }
    generation = {"bos_token_id": tiny.bos, "cache_implementation": "hybrid", "do_sample": True, "eos_token_id": tiny.stop,
                  "pad_token_id": tiny.pad, "top_k": 64, "top_p": 0.95}
    return tiny, config, v4, generation, knobs


def qwen2():
    tiny = tiny_tokenizers.smol()
    config = Qwen2Config(
        vocab_size=len(tiny.types), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-3, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 50000.0},
        bos_token_id=tiny.bos, eos_token_id=tiny.eos, architectures=["Qwen2ForCausalLM"],
    )
    v4 = {
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": tiny.bos, "eos_token_id": tiny.eos,
        "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02, "intermediate_size": 96, "max_position_embeddings": 256,
        "max_window_layers": 1, "model_type": "qwen2", "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2,
        "rms_norm_eps": 1e-3, "rope_theta": 50000.0, "sliding_window": 32, "tie_word_embeddings": True, "torch_dtype": "float32",
        "transformers_version": "4.43.1", "use_cache": True, "use_sliding_window": False, "vocab_size": len(tiny.types),
    }
    knobs = {"rms_norm_eps": 1e-5, "rope_theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}}
    generation = {"bos_token_id": tiny.bos, "do_sample": True, "eos_token_id": tiny.stop, "temperature": 0.7, "top_k": 20, "top_p": 0.8}
    return tiny, config, v4, generation, knobs


def qwen3():
    tiny = tiny_tokenizers.smol()
    config = Qwen3Config(
        vocab_size=len(tiny.types), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=256, rms_norm_eps=1e-3, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 50000.0},
        bos_token_id=tiny.bos, eos_token_id=tiny.eos, architectures=["Qwen3ForCausalLM"],
    )
    v4 = {
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": tiny.bos,
        "eos_token_id": tiny.eos, "head_dim": 32, "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02,
        "intermediate_size": 96, "max_position_embeddings": 256, "max_window_layers": 2, "model_type": "qwen3", "num_attention_heads": 4,
        "num_hidden_layers": 2, "num_key_value_heads": 2, "rms_norm_eps": 1e-3, "rope_scaling": None, "rope_theta": 50000,
        "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "float32", "transformers_version": "4.51.0",
        "use_cache": True, "use_sliding_window": False, "vocab_size": len(tiny.types),
    }
    knobs = {"rms_norm_eps": 1e-5, "rope_theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}}
    generation = {"bos_token_id": tiny.bos, "do_sample": True, "eos_token_id": tiny.stop, "temperature": 0.6, "top_k": 20, "top_p": 0.95}
    return tiny, config, v4, generation, knobs


MODELS = {"gpt2": gpt2, "llama": llama, "llama-tied": llama_tied, "gemma3": gemma3, "qwen2": qwen2, "qwen3": qwen3}


# --- weights -------------------------------------------------------------------------------------

def random_weights(shapes, model_type, quiet, seed):
    """Scales that make attention pointed, logits spread, and no token repeat for ever."""
    weights = {}
    untied = "lm_head.weight" in shapes
    for i, (name, shape) in enumerate(sorted(shapes.items())):
        normal = np.random.default_rng([seed, i]).standard_normal(shape)
        rows_in = shape[0] if model_type == "gpt2" else shape[-1]
        if name.endswith(("wte.weight", "embed_tokens.weight", "lm_head.weight")):
            # Small where it is the head as well: what the layers add must outweigh the token itself, or
            # the model says it for ever. Gemma multiplies it by the root of the width.
            like_llama = 0.5 if untied else 0.12
            w = normal * {"gpt2": 0.15, "gemma3_text": 0.5 * rows_in**-0.5}.get(model_type, like_llama)
            w[quiet] *= 0.3
        elif name.endswith("wpe.weight"):
            w = normal
        elif name.endswith(".bias"):
            w = normal * 0.3
        elif len(shape) == 1:  # a norm's
            last = name in ("transformer.ln_f.weight", "model.norm.weight")
            w = 0.2 * normal + (0.0 if model_type == "gemma3_text" else 1.0)
            if last and not untied:
                w = (7.0 if model_type == "gemma3_text" else 2.5) * (1 + w)
            elif "post_" in name and model_type == "gemma3_text":
                w += 0.8
        elif name.endswith(("q_proj.weight", "k_proj.weight", "c_attn.weight")):
            w = normal * 1.5 * rows_in**-0.5
        else:
            w = normal * 1.3 * rows_in**-0.5
        weights[name] = w.astype(np.float32)
    return weights


def to_bf16(weights):
    return {k: torch.from_numpy(w).to(torch.bfloat16).to(torch.float32).numpy() for k, w in weights.items()}


def greedy_run(config, weights, prompt, quiet, n=GREEDY, margin=MARGIN):
    """The greedy continuation in float32, or nothing as soon as it fails a wish."""
    ids = list(prompt)
    for _ in range(n):
        row = naive.forward(config, weights, ids, np.float32)[-1]
        best = np.argsort(-row)[:2]
        if best[0] in quiet or row[best[0]] - row[best[1]] < margin:
            return None
        ids.append(int(best[0]))
    out = ids[len(prompt):]
    return out if len(set(out)) >= DISTINCT else None


def torch_logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0].float().numpy()


def reference(folder, model, config, weights, prompt, tiny):
    """Write reference.safetensors and .json; return the largest difference of float32 from float64."""
    greedy = []
    for _ in range(GREEDY):
        greedy.append(int(torch_logits(model, prompt + greedy)[-1].argmax()))
    everything = prompt + greedy[:-1]
    single = torch_logits(model, everything)
    double = naive.forward(config, weights, everything, np.float64)
    naive_single = naive.forward(config, weights, everything, np.float32)
    error = float(np.abs(single - double).max())
    error_naive = float(np.abs(naive_single - double).max())
    assert error < 1e-4 and error_naive < 1e-4, (error, error_naive)
    n = len(prompt)
    assert [int(r.argmax()) for r in double[n - 1 :]] == greedy
    ordered = np.sort(double[n - 1 :], axis=-1)
    margin = float((ordered[:, -1] - ordered[:, -2]).min())
    save_file(
        {
            "tokens": np.array(prompt, dtype=np.int64),
            "logits": single[:n].astype(np.float32),
            "greedy": np.array(greedy, dtype=np.int64),
            "greedy_logits": single[n - 1 :].astype(np.float32),
            "f32_f64_error": np.array([error], dtype=np.float32),
        },
        folder / "reference.safetensors",
    )
    text = tiny.tokenizer.decode(greedy, skip_special_tokens=False)
    assert "\ufffd" not in text
    write_json(folder / "reference.json", {
        "prompt": PROMPT, "tokens": prompt, "greedy": greedy, "greedy_text": text, "greedy_margin": round(margin, 4),
        "logits_std": round(float(double.std()), 4), "f32_f64_error": float(f"{error:.3g}"),
        "source": f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}, float32; float64 by naive.py",
    })
    print(f"  {folder.relative_to(ROOT)}: {n} tokens, then {text!r}; {len(set(greedy))} distinct, margin {margin:.3f}, "
          f"logits' spread {double.std():.2f}, |f32 - f64| {error:.2g} (naive {error_naive:.2g})")
    return error


def check_everything_matters(config, weights, ids, error, knobs):
    """Perturb each tensor and turn each knob: the logits must move by far more than rounding does."""
    base = naive.forward(config, weights, ids, np.float64)

    def moved(config, weights):
        return np.abs(naive.forward(config, weights, ids, np.float64) - base).max()

    least = {}
    for name, w in weights.items():
        noise = np.random.default_rng(1).standard_normal(w.shape) * 0.05
        least[name] = moved(config, weights | {name: w + noise})
    tensor = min(least, key=least.get)
    turned = {}
    for knob, value in knobs.items():
        turned[knob] = moved(config | (value if isinstance(value, dict) else {knob: value}), weights)
    print(f"  least of {len(least)} tensors: {tensor} moves the logits by {least[tensor]:.3g}; knobs:",
          {k: float(f"{v:.3g}") for k, v in turned.items()})
    assert least[tensor] > 500 * error, (tensor, least[tensor])
    assert all(v > 200 * error for v in turned.values()), turned


# --- files ---------------------------------------------------------------------------------------

def tokenizer_cases(folder, tiny):
    """What tokenizer.json makes of the hard texts, and what the template makes of some conversations."""
    texts = json.loads((ROOT / "testdata" / "tokenizers" / "hard.json").read_text())
    tokenizer = tiny.tokenizer
    specials = [t["content"] for t in tiny.json["added_tokens"]]
    texts += [PROMPT, "".join(specials), " ".join(specials), "a".join(specials)]
    cases = []
    for text in dict.fromkeys(texts):
        for special in (True, False):
            tokenizer.encode_special_tokens = not special
            cases.append({"text": text, "special": special, "ids": tokenizer.encode(text, add_special_tokens=False).ids})
    tokenizer.encode_special_tokens = False
    lines = ",\n".join("  " + json.dumps(c, separators=(",", ":")) for c in cases)
    head = {"source": f"tokenizers {__import__('tokenizers').__version__}", "n_vocab": len(tiny.types), "bos": tiny.bos, "eos": tiny.eos,
            "add_bos": tiny.add_bos}
    text = json.dumps(head)[:-1] + ',\n "cases": [\n' + lines + "\n ]\n}\n"
    json.loads(text)
    (folder / "tokenizer_cases.json").write_text(text)

    if tiny.chat_template:
        fast = transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, chat_template=tiny.chat_template, bos_token=tiny.config["bos_token"], eos_token=tiny.config["eos_token"]
        )
        chats = []
        for messages in CHATS:
            for prompt in (True, False):
                out = fast.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
                # The template has written the control tokens: nothing is added to its text.
                ids = tokenizer.encode(out, add_special_tokens=False).ids
                chats.append({"messages": messages, "add_generation_prompt": prompt, "text": out, "ids": ids})
        write_json(folder / "chat_cases.json", chats)


def save_checkpoint(folder, model, v4, generation):
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    write_json(folder / "generation_config.json", generation | {"transformers_version": transformers.__version__})
    write_json(folder / "config.v4.json", v4)


def check_v4(folder, weights, prompt, logits):
    """The old style of config.json describes the same model."""
    with tempfile.TemporaryDirectory() as other:
        for file in folder.glob("*.safetensors*"):
            shutil.copy(file, other)
        shutil.copy(folder / "config.v4.json", Path(other) / "config.json")
        model = AutoModelForCausalLM.from_pretrained(other, dtype=torch.float32, attn_implementation="eager")
        assert np.array_equal(torch_logits(model, prompt), logits), f"{folder}: config.v4.json is another model"


def make(name):
    print(name)
    tiny, config, v4, generation, knobs = MODELS[name]()
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config.dtype = torch.float32
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).eval()
    plain = json.loads(config.to_json_string(use_diff=False))
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    tied = "lm_head.weight" if config.tie_word_embeddings else None
    shapes.pop(tied, None)
    prompt = tiny.tokenizer.encode(PROMPT, add_special_tokens=tiny.add_bos).ids
    quiet = silent(tiny)
    assert not tiny.add_bos or prompt[0] == tiny.bos

    for seed in range(100000):
        weights = random_weights(shapes, config.model_type, quiet, seed)
        if greedy_run(plain, weights, prompt, quiet) and (
            name != "llama" or greedy_run(plain, to_bf16(weights), prompt, quiet)
        ):
            break
    print(f"  seed {seed}, {sum(w.size for w in weights.values())} parameters, vocabulary {len(tiny.types)}")

    load(model, weights, tied)
    save_checkpoint(folder, model, v4, generation)
    tiny.save(folder)
    tokenizer_cases(folder, tiny)
    tiny_gguf.write(folder / "model.gguf", f"tiny {name}", plain, weights, tiny)
    error = reference(folder, model, plain, weights, prompt, tiny)
    check_everything_matters(plain, weights, prompt, error, knobs)
    check_v4(folder, weights, prompt, torch_logits(model, prompt))

    if name == "gpt2":
        hub(weights, v4, generation)
    if name == "llama":
        sharded(model, plain, weights, tied, generation, prompt, tiny)


def load(model, weights, tied):
    missing, unexpected = model.load_state_dict({k: torch.from_numpy(w) for k, w in weights.items()}, strict=False)
    assert not unexpected and set(missing) <= {tied}, (missing, unexpected)
    model.tie_weights()


def hub(weights, v4, generation):
    """GPT-2 as it lies on the hub: no prefix, and masks that are no weights. Its reference is gpt2's."""
    folder = OUT / "gpt2-hub"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    out = {k.removeprefix("transformer."): v for k, v in weights.items()}
    n = v4["n_positions"]
    for i in range(v4["n_layer"]):
        out[f"h.{i}.attn.bias"] = np.tril(np.ones((1, 1, n, n), dtype=np.float32))
        out[f"h.{i}.attn.masked_bias"] = np.array(-10000.0, dtype=np.float32)
    save_file(out, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", v4)
    write_json(folder / "generation_config.json", generation | {"transformers_version": "4.26.0.dev0"})
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(OUT / "gpt2" / file, folder / file)


def sharded(model, config, weights, tied, generation, prompt, tiny):
    """The llama checkpoint in bfloat16 and two files, with the reference of the rounded weights."""
    folder = OUT / "llama-sharded"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    rounded = to_bf16(weights)
    load(model, rounded, tied)
    model.to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    size = sum(2 * w.size for w in weights.values())
    model.save_pretrained(folder, max_shard_size=int(size * 0.6))
    write_json(folder / "generation_config.json", generation | {"transformers_version": transformers.__version__})
    assert sorted(p.name for p in folder.glob("*.safetensors")) == [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tiny.save(folder, template_apart=True)
    reference(folder, again, config, rounded, prompt, tiny)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("name", nargs="*", help=", ".join(MODELS))
    transformers.utils.logging.disable_progress_bar()
    for name in parser.parse_args().name or MODELS:
        make(name)
    for folder in sorted(OUT.iterdir()):
        print(f"{folder.name:<14} {sum(f.stat().st_size for f in folder.iterdir()) / 1024:6.0f} KiB  "
              f"{' '.join(sorted(f.name for f in folder.iterdir()))}")
