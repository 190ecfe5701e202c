#!/usr/bin/env python3
"""Write tiny random checkpoints of many architectures, each with its float32 reference and its GGUF twin.

    python scripts/reference/make_families.py --llama DIR [--out DIR] [name ...]

The shapes are in families.py. A checkpoint is made by transformers, and its GGUF by llama.cpp's own
converter (DIR is a checkout of llama.cpp). Nothing is written unless every tensor, and every setting that
families.py gives, moves the logits. README.md beside this file describes the files.
"""

import argparse
import copy
import json
import logging
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # faster on matrices this small
warnings.filterwarnings("ignore")

import numpy as np
import tiny_tokenizers
import torch
import transformers
from families import FAMILIES
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tiny_tokenizers import write_json

torch.set_num_threads(1)
PROMPT, GREEDY = 40, 16
MARGIN = 0.05  # between the best and the second logit, at every greedy step
DISTINCT = 5


OUT = ("o_proj", "down_proj", "dense", "c_proj", "fc2", "out_proj", "output_linear")


# --- weights -------------------------------------------------------------------------------------

def randomise(model, family, seed):
    """Every parameter random: about what it was made with where that is one value, else by its fan-in."""
    rng = np.random.default_rng(seed)
    done = {}
    tensors = list(model.named_parameters()) + [(n, b) for n, b in model.named_buffers() if n in model.state_dict()]
    with torch.no_grad():
        for name, p in tensors:
            if id(p) in done:
                continue
            done[id(p)] = name
            normal = torch.from_numpy(rng.standard_normal(tuple(p.shape)).astype(np.float32))
            for pattern, make in family.weights.items():
                if pattern in name:
                    p.copy_(make(normal, p))
                    break
            else:
                leaf = name.rsplit(".", 1)[-1]
                flat = p.flatten()
                if p.dim() <= 1 or bool((flat == flat[0]).all()) and leaf not in ("gate_up_proj", "down_proj") and p.dim() < 2:
                    base = flat[0] if bool((flat == flat[0]).all()) else p
                    p.copy_(base + 0.3 * normal)
                elif "embed" in name or ".wte" in name or ".wpe" in name:
                    p.copy_(normal * (family.embedding or (0.5 if family.tied else 1.0)))
                elif "bias" in leaf:
                    p.copy_(normal * 0.3)
                else:
                    fan_in = p.shape[-2] if family.transposed and leaf in family.transposed else p.shape[-1]
                    gain = 1.8 if any(k in name for k in ("q_proj", "k_proj", "qkv", "query_key_value", "Wqkv", "c_attn")) else 1.3
                    if any(k in name for k in ("router", "mlp.gate.", "gate.weight", "gate.wg")) and p.shape[0] <= 16:
                        gain = 2.0
                    if family.tied and any(k in name for k in OUT):
                        gain *= 3.0  # else every token would be followed by itself
                    p.copy_(normal * gain * fan_in**-0.5)


def head(model):
    out = model.get_output_embeddings()
    return out.weight if out is not None else None


def calibrate(model, family, ids):
    """Scale the head so that logits spread by about 3."""
    weight = head(model)
    if weight is None or family.tied:
        return
    for _ in range(6):
        std = float(logits(model, ids).std())
        if 2.0 < std < 4.0:
            return
        with torch.no_grad():
            weight.mul_(min(max(3.0 / std, 0.1), 10.0))


def round_to_half(model):
    """Weights that half precision holds exactly, so that files are small."""
    with torch.no_grad():
        for name, p in list(model.named_parameters()) + [(n, b) for n, b in model.named_buffers() if n in model.state_dict()]:
            # Of norms also what is one more, which some converters write.
            p.copy_((p * 256).round() / 256 if p.dim() == 1 and "norm" in name else p.half().to(p.dtype))


def logits(model, ids):
    """The logits of every position, of one prefill; hidden states where there is no head."""
    for module in model.modules():  # a rotation that grew with the text stays so: begin anew
        if hasattr(module, "original_inv_freq") and hasattr(module, "original_max_seq_len"):
            module.inv_freq.copy_(module.original_inv_freq)
            module.max_seq_len_cached = module.original_max_seq_len
    with torch.no_grad():
        out = model(input_ids=torch.tensor([ids]), **({"use_cache": False} if head(model) is not None else {}))
        return (out.logits if hasattr(out, "logits") else out.last_hidden_state)[0].float().numpy()


def build(config, family):
    config = copy.deepcopy(config)
    config._attn_implementation = family.attention
    config._experts_implementation = "eager"
    model = family.auto.from_config(config, dtype=torch.float32, attn_implementation=family.attention)
    return model.eval()


def with_weights(config, family, state):
    model = build(config, family)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and not [m for m in missing if m in state], (missing, unexpected)
    return model


# --- the reference -------------------------------------------------------------------------------

def find_prompt(model, family, vocab, seed):
    """A random text whose greedy continuation has no near ties."""
    for attempt in range(120):
        rng = np.random.default_rng([seed, attempt])
        prompt = [int(i) for i in rng.integers(family.first_id, vocab, family.prompt)]
        if head(model) is None:
            return prompt, []
        ids = list(prompt)
        for _ in range(GREEDY):
            row = logits(model, ids)[-1]
            best = np.argsort(-row)[:2]
            if row[best[0]] - row[best[1]] < MARGIN:
                break
            ids.append(int(best[0]))
        else:
            greedy = ids[len(prompt):]
            if len(set(greedy)) >= DISTINCT:
                return prompt, greedy
    raise AssertionError("no text without near ties in 120")


def write_reference(folder, model, family, prompt, greedy):
    everything = prompt + greedy[:-1]
    single = logits(model, everything)
    n = len(prompt)
    alone = logits(model, prompt)
    if not family.length_matters:
        assert np.abs(alone - single[:n]).max() < 1e-4, "a later token moves an earlier row"
    try:
        double = copy.deepcopy(model).double()
        error = float(np.abs(logits(double, everything) - single).max())
    except Exception as e:
        print(f"    no float64: {str(e)[:100]}")
        error = 2e-5
    error = max(error, 5e-6)
    assert error < 3e-4, error
    # What the greedy choice was made of: where the length of the text matters, each row has a text of its own.
    rows = [logits(model, prompt + greedy[:i])[-1] for i in range(len(greedy))]
    tensors = {
        "tokens": np.array(prompt, dtype=np.int64),
        ("logits" if greedy else "hidden"): alone.astype(np.float32),
        "f32_f64_error": np.array([error], dtype=np.float32),
    }
    margin = None
    if greedy:
        tensors |= {"greedy": np.array(greedy, dtype=np.int64), "greedy_logits": np.stack(rows).astype(np.float32)}
        ordered = np.sort(np.stack(rows), axis=-1)
        margin = round(float((ordered[:, -1] - ordered[:, -2]).min()), 4)
    save_file(tensors, folder / "reference.safetensors")
    (folder / "reference.safetensors").chmod(0o644)
    write_json(folder / "reference.json", {
        "tokens": prompt, "greedy": greedy, "greedy_margin": margin, "logits_std": round(float(alone.std()), 4),
        "f32_f64_error": float(f"{error:.3g}"), "one_prefill": family.length_matters,
        "source": f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}, float32",
    })
    return error


# --- everything matters --------------------------------------------------------------------------

def changed(value):
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1, value * 2]
    if isinstance(value, float):
        return [value * 1.7 + 0.01, value * 0.6]
    if isinstance(value, list) and value and all(isinstance(v, float) for v in value):
        return [[v * 1.5 for v in value]]
    if isinstance(value, list) and len(set(map(str, value))) > 1:
        return [value[::-1]]
    return []


def variants(settings, prefix=""):
    for key, value in settings.items():
        if isinstance(value, dict):
            for name, inner in variants(value, f"{prefix}{key}."):
                yield name, {key: value | inner}
        else:
            for other in changed(value):
                yield prefix + key, {key: other}


def check_matters(config, family, model, ids, error):
    base = logits(model, ids)
    least = {}
    seen = set()
    with torch.no_grad():
        for name, p in list(model.named_parameters()) + [(n, b) for n, b in model.named_buffers() if n in model.state_dict()]:
            if id(p) in seen:
                continue
            seen.add(id(p))
            parts = [(name, p)] if p.dim() < 3 or p.shape[1] == 1 else [(f"{name}[{i}]", p[i]) for i in range(p.shape[0])]
            for part, view in parts:
                kept = view.clone()
                noise = torch.from_numpy(np.random.default_rng(1).standard_normal(tuple(view.shape)).astype(np.float32))
                view.add_(0.1 * noise)
                least[part] = float(np.abs(logits(model, ids) - base).max())
                view.copy_(kept)
    inert = [n for n, v in least.items() if not v > 100 * error and not any(p in n for p in family.inert_tensors)]
    state = model.state_dict()
    moved, structural = {}, []
    for name, change in variants(family.settings):
        if moved.get(name, 0) > 100 * error:
            continue
        try:
            other = family.config(**(family.settings | change))
            altered = build(other, family)
            shapes = {k: v.shape for k, v in altered.state_dict().items()}
            if shapes != {k: v.shape for k, v in state.items()}:
                structural.append(name)
                continue
            altered.load_state_dict(state)
            moved[name] = max(moved.get(name, 0), float(np.abs(logits(altered, ids) - base).max()))
        except Exception:
            structural.append(name)
    dead = [n for n, v in moved.items() if not v > 100 * error and not any(n == p or n.startswith(p + ".") for p in family.inert)]
    weakest = min(least, key=least.get)
    print(f"    {len(least)} tensors, least {weakest} {least[weakest]:.2g}; settings that move: "
          f"{ {k: float(f'{v:.2g}') for k, v in moved.items()} }; structural: {sorted(set(structural) - set(moved))}")
    return inert, dead


# --- files ---------------------------------------------------------------------------------------

def older(config, family):
    """config.json as transformers 4 wrote it."""
    old = dict(config)
    old["torch_dtype"] = old.pop("dtype", "float32")
    old["transformers_version"] = "4.51.0"
    rope = old.pop("rope_parameters", None)
    if rope is None or any(isinstance(v, dict) for v in rope.values()):
        return None
    rope = dict(rope)
    old["rope_theta"] = rope.pop("rope_theta", None)
    if "partial_rotary_factor" in rope:
        old["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    kind = rope.get("rope_type", "default")
    old["rope_scaling"] = None if kind == "default" else rope
    old |= family.raw
    return {k: v for k, v in old.items() if v is not None or k not in family.raw}


def convert(folder, llama, family):
    """The GGUF by llama.cpp's converter. Its tokenizer is a tiny one of ours, and it reads the raw config."""
    sys.path.insert(0, str(llama))
    sys.path.insert(1, str(llama / "gguf-py"))
    for name in [m for m in sys.modules if m == "gguf" or m.startswith("gguf.")]:
        if "venv" in (getattr(sys.modules[name], "__file__", "") or "venv"):
            del sys.modules[name]
    import gguf
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class, logger

    logger.setLevel(logging.ERROR)
    logging.getLogger("gguf").setLevel(logging.ERROR)
    raw = json.loads((folder / "config.json").read_text()) | family.raw
    raw = {k: v for k, v in raw.items() if v is not None or k not in family.raw}
    ModelBase.load_hparams = staticmethod(lambda *a, **k: copy.deepcopy(raw))
    architecture = get_model_architecture(raw, ModelType.TEXT)
    kind = get_model_class(architecture)
    bytes_vocab = {} if family.own_vocab else {"set_vocab": lambda self: self._set_vocab_gpt2()}
    for inner in vars(kind).values():  # a converter that hands on to another
        if isinstance(inner, type) and issubclass(inner, ModelBase):
            for name, method in (bytes_vocab | {"get_vocab_base_pre": lambda self, tokenizer: "gpt-2"}).items():
                setattr(inner, name, method)
    made = type(kind.__name__, (kind,), {
        "model_arch": kind.model_arch,
        "get_vocab_base_pre": lambda self, tokenizer: "gpt-2",
        **bytes_vocab, **family.converter,
    })
    with torch.inference_mode(), tempfile.TemporaryDirectory() as work:
        for file in folder.iterdir():
            if file.name in ("config.json", "generation_config.json") or file.name.startswith(("model", "tokenizer")) and file.suffix != ".gguf":
                shutil.copy(file, work)
        write_json(Path(work) / "config.json", raw)  # some read it themselves
        out = folder / "model.gguf"
        made(Path(work), gguf.LlamaFileType.MOSTLY_F16, out, model_name=f"tiny {folder.name}").write()
    reader = gguf.GGUFReader(out)
    lines = [f"{t.name:<48} {[int(d) for d in t.shape[::-1]]} {t.tensor_type.name}" for t in reader.tensors]
    fields = []
    for key, field in reader.fields.items():
        if key.startswith(("tokenizer.", "GGUF.")):
            continue
        value = field.contents()
        fields.append(f"{key} = {value if not isinstance(value, list) or len(value) < 40 else str(value[:8]) + '...'}")
    return fields, lines


def make(name, out, llama):
    family = FAMILIES[name]
    tiny = tiny_tokenizers.smallest()
    folder = out / name
    work = out / f".{name}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    family.settings.setdefault("vocab_size", len(tiny.types))
    vocab = family.settings["vocab_size"]
    config = family.config(**family.settings)
    for seed in range(family.seed, family.seed + 8):
        model = build(config, family)
        randomise(model, family, seed)
        if hasattr(model, "tie_weights"):
            model.tie_weights()
        rng = np.random.default_rng(7)
        calibrate(model, family, [int(i) for i in rng.integers(0, vocab, family.prompt)])
        round_to_half(model)
        try:
            prompt, greedy = find_prompt(model, family, vocab, seed)
        except AssertionError:
            if seed == family.seed + 7:
                raise
            continue
        error = write_reference(work, model, family, prompt, greedy)
        inert, dead = check_matters(config, family, model, prompt + greedy[:-1], error)
        if not inert:
            break
    assert not inert, f"tensors that move nothing: {inert}"
    assert not dead, f"settings that move nothing: {dead}"

    half = copy.deepcopy(model).half()
    for name, p in half.named_parameters():
        if name.endswith("A_log"):  # as real ones are, since converters compute its exponential in its own type
            p.data = p.data.float()
    half.config.dtype = torch.float16
    half.save_pretrained(work)
    (work / "model.safetensors").chmod(0o644)
    (work / "generation_config.json").unlink(missing_ok=True)
    saved = json.loads((work / "config.json").read_text())
    (work / "config.json").write_text(json.dumps(saved, indent=2) + "\n")
    again = family.auto.from_pretrained(work, dtype=torch.float32, attn_implementation=family.attention).eval()
    off = float(np.abs(logits(again, prompt) - logits(model, prompt)).max())
    assert off <= error, f"the saved checkpoint is another model, by {off:.2g}"
    with safe_open(work / "model.safetensors", "pt") as f:
        stored = {k: list(f.get_slice(k).get_shape()) for k in f.keys()}
    if set(stored) != set(model.state_dict()) and any("experts" in k for k in stored):
        (work / "fused").mkdir()
        half.save_pretrained(work / "fused", save_original_format=False)
        (work / "fused" / "generation_config.json").unlink(missing_ok=True)
        with safe_open(work / "fused" / "model.safetensors", "pt") as f:
            fused = {k: list(f.get_slice(k).get_shape()) for k in f.keys()}
        if set(fused) == set(stored):
            shutil.rmtree(work / "fused")
    tiny.save(work)
    notes = []
    if (old := older(saved, family)) is not None:
        with tempfile.TemporaryDirectory() as other:
            shutil.copy(work / "model.safetensors", other)
            write_json(Path(other) / "config.json", old)
            try:
                same = family.auto.from_pretrained(other, dtype=torch.float32, attn_implementation=family.attention).eval()
                if np.abs(logits(same, prompt) - logits(again, prompt)).max() == 0:
                    write_json(work / "config.v4.json", old)
                else:
                    notes.append("config.v4.json left out: transformers reads another model from it")
            except Exception as e:
                notes.append(f"config.v4.json left out: {str(e)[:80]}")
    try:
        fields, lines = convert(work, llama, family)
        if family.gguf_note:
            notes.append("GGUF: " + family.gguf_note)
    except (Exception, SystemExit) as e:
        (work / "model.gguf").unlink(missing_ok=True)
        if "-v" in sys.argv:
            traceback.print_exc()
        fields, lines = [], []
        notes.append(f"no GGUF: {type(e).__name__} {str(e)[:160]}")
    with open(work / "tensors.txt", "w") as f:
        f.write("# safetensors (rows, columns)\n")
        f.writelines(f"{k:<64} {v}\n" for k, v in stored.items())
        if (work / "fused").exists():
            f.write("\n# fused/model.safetensors, where it differs\n")
            f.writelines(f"{k:<64} {v}\n" for k, v in fused.items() if k not in stored)
        f.write("\n# GGUF tensors (rows, columns)\n" + "\n".join(lines) + "\n\n# GGUF keys\n" + "\n".join(fields) + "\n")
    write_json(work / "about.json", {
        "architectures": saved.get("architectures"), "model_type": saved.get("model_type"), "about": family.about, "notes": notes,
        "gguf": next((f.split(" = ")[1] for f in fields if f.startswith("general.architecture")), None),
    })
    shutil.rmtree(folder, ignore_errors=True)
    work.rename(folder)
    print(f"    |f32 - f64| {error:.2g}; {notes}")


def index(out):
    rows = []
    for name in FAMILIES:
        if (file := out / name / "about.json").exists():
            a = json.loads(file.read_text())
            size = sum(f.stat().st_size for f in (out / name).glob("model.*")) // 1024
            old = "yes" if (out / name / "config.v4.json").exists() else "no"
            fused = "yes" if (out / name / "fused").exists() else ""
            rows.append(f"| `{name}` | {', '.join(a['architectures'] or [])} / `{a['model_type']}` | {a['gguf'] or '**none**'} | {old} | {fused} | "
                        f"{size} | {a['about']}{' ' if a['notes'] else ''}{'; '.join(a['notes'])} |")
        else:
            rows.append(f"| `{name}` | not made | | | | | |")
    (out / "INDEX.md").write_text(INDEX + "\n".join(rows) + "\n")


INDEX = """# Tiny random checkpoints, one folder each

Made by `scripts/reference/make_families.py`. In each folder:

- `config.json` (transformers 5) and, where transformers reads the same model from it, `config.v4.json` (spelled as 4.x did);
- `model.safetensors` (F16, names as on the hub), `fused/` (the same with experts as transformers 5 holds them, where that differs);
- `model.gguf` by llama.cpp's own converter (F16), tokenizer `tokenizer.json` + `tokenizer_config.json` (bytes and a few merges);
- `reference.safetensors` + `reference.json`, laid out as in `testdata/tiny` (`tokens`, `logits`, `greedy`, `greedy_logits`,
  `f32_f64_error`), so `Reference::of` of rustml-model's tests reads them; encoders have `hidden` in place of `logits`;
- `tensors.txt`: names and shapes of both formats, and the GGUF keys.

The tolerance is ten times `f32_f64_error`. `one_prefill` in reference.json: rotations depend on the text's length, so each
row of `greedy_logits` comes from one prefill of the whole text, and `logits` from one prefill of the prompt.

| name | architectures / model_type | GGUF | v4 | fused | KiB | what is special |
| --- | --- | --- | --- | --- | --- | --- |
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("name", nargs="*")
    parser.add_argument("--out", type=Path, default=Path("/tmp/families"))
    parser.add_argument("--llama", type=Path, required=True)
    parser.add_argument("-v", action="store_true")
    args = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    failed = []
    for name in args.name or FAMILIES:
        print(name, flush=True)
        try:
            make(name, args.out, args.llama)
        except Exception as e:
            if args.v:
                traceback.print_exc()
            print(f"    FAILED: {type(e).__name__} {str(e)[:600]}", flush=True)
            failed.append(name)
        index(args.out)
    print("failed:", failed)
