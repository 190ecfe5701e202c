"""testdata/quantised: a small model whose layers are quantised as checkpoints of the hub are.

`base.safetensors` and `config.json` are a Llama of one layer. Each other file holds the
tensors of a method in place of some of its weights, and `expected.NAME`: what these weights
are in float32, computed here from the method's definition. Its metadata hold the settings.
"""
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

OUT = Path(__file__).resolve().parents[2] / "testdata" / "quantised"
HIDDEN, VOCAB, HEAD = 64, 32, 32
LAYER = "model.layers.0.self_attn."
MATRICES = {LAYER + "k_proj": (32, 64), LAYER + "v_proj": (32, 64)}
rng = np.random.default_rng(24)
f32 = torch.float32


def noise(*shape, scale=1.0):
    return torch.tensor(rng.standard_normal(shape) * scale, dtype=f32)


def pack_words(codes, bits, dim):
    """Codes as a stream of bits in words of 32, lowest first, along `dim`."""
    codes = np.moveaxis(codes.numpy().astype(np.uint64), dim, -1)
    stream = (codes[..., None] >> np.arange(bits, dtype=np.uint64)) & 1
    stream = stream.reshape(*codes.shape[:-1], -1)
    assert stream.shape[-1] % 32 == 0
    words = stream.reshape(*stream.shape[:-1], -1, 32)
    words = (words << np.arange(32, dtype=np.uint64)).sum(-1).astype(np.uint32)
    return torch.tensor(np.moveaxis(words, -1, dim).copy().view(np.int32))


def fp8(name, shape, block, kind):
    rows, cols = shape
    w = noise(*shape, scale=40.0).to(torch.float8_e4m3fn)
    if block:
        grid = (-(-rows // block[0]), -(-cols // block[1]))
        scale = noise(*grid).abs() * 2e-3 + 1e-3
        full = scale.repeat_interleave(block[0], 0)[:rows].repeat_interleave(block[1], 1)[:, :cols]
    elif kind == "row":
        scale = noise(rows, 1).abs() * 2e-3 + 1e-3
        full = scale
    else:
        scale = torch.tensor(0.00213, dtype=f32)
        full = scale
    suffix = ".weight_scale" if kind == "row" else ".weight_scale_inv"
    return {name + ".weight": w, name + suffix: scale}, w.to(f32) * full


def integers(shape, group, bits):
    """Codes, scales and zero points of groups."""
    rows, cols = shape
    groups = cols // group
    codes = torch.tensor(rng.integers(0, 2**bits, shape))
    scales = (noise(rows, groups).abs() * 0.01 + 0.005).to(torch.float16)
    zeros = torch.tensor(rng.integers(4, 12, (rows, groups)))
    return codes, scales, zeros


def spread(x, group):
    return x.to(f32).repeat_interleave(group, 1)


def gptq(name, shape, group=32, bits=4, symmetric=False, sort=False):
    codes, scales, zeros = integers(shape, group, bits)
    if symmetric:
        zeros[:] = 2 ** (bits - 1)
    index = torch.arange(shape[1]) // group
    if sort:
        index = index[torch.tensor(rng.permutation(shape[1]))]
    values = scales.to(f32)[:, index] * (codes - zeros[:, index]).to(f32)
    return {
        name + ".qweight": pack_words(codes.T, bits, 0),
        name + ".qzeros": pack_words(zeros.T - 1, bits, 1),
        name + ".scales": scales.T.contiguous(),
        name + ".g_idx": index.to(torch.int32),
        # Some packers write one where the model has none.
        name + ".bias": torch.zeros(shape[0], dtype=torch.float16),
    }, values


def awq(name, shape, group=32):
    codes, scales, zeros = integers(shape, group, 4)
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def pack(x):  # [groups or columns, rows]
        x = x.reshape(x.shape[0], -1, 8)[:, :, order].reshape(x.shape[0], -1)
        return pack_words(x, 4, 1)

    return {
        name + ".qweight": pack(codes.T),
        name + ".qzeros": pack(zeros.T),
        name + ".scales": scales.T.contiguous(),
    }, spread(scales, group) * (codes - spread(zeros, group)).to(f32)


def packed(name, shape, group=32, asymmetric=False):
    codes, scales, zeros = integers(shape, group, 4)
    scales = scales.to(torch.bfloat16)
    parts = {
        name + ".weight_packed": pack_words(codes, 4, 1),
        name + ".weight_scale": scales,
        name + ".weight_shape": torch.tensor(shape),
    }
    if asymmetric:
        parts[name + ".weight_zero_point"] = pack_words(zeros, 4, 0)
    else:
        zeros[:] = 8
    return parts, spread(scales, group) * (codes - spread(zeros, group)).to(f32)


def int8(name, shape):
    codes = torch.tensor(rng.integers(-128, 128, shape)).to(torch.int8)
    scales = (noise(shape[0], 1).abs() * 0.001 + 0.0005).to(torch.bfloat16)
    return {name + ".weight": codes, name + ".weight_scale": scales}, scales.to(f32) * codes.to(f32)


def mlx(name, shape, group=64, bits=4):
    codes, scales, _ = integers(shape, group, bits)
    scales = scales.to(torch.bfloat16)
    biases = (noise(*scales.shape) * 0.05).to(torch.bfloat16)
    return {
        name + ".weight": pack_words(codes, bits, 1).view(torch.uint32),
        name + ".scales": scales,
        name + ".biases": biases,
    }, spread(scales, group) * codes.to(f32) + spread(biases, group)


NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
       -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
       0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]


def nf4(name, shape, nested=True, block=64):
    table = torch.tensor(NF4, dtype=f32)
    flat = torch.tensor(rng.integers(0, 16, shape[0] * shape[1]))
    weight = (flat[0::2] << 4 | flat[1::2]).to(torch.uint8)[:, None]
    blocks = len(flat) // block
    state = {"quant_type": "nf4", "blocksize": block, "dtype": "bfloat16", "shape": list(shape)}
    w = name + ".weight"
    parts = {w: weight, w + ".quant_map": table}
    if nested:
        size, offset = 16, 0.09
        codes = torch.tensor(rng.integers(0, 256, blocks)).to(torch.uint8)
        numbers = torch.linspace(-1, 1, 256)
        outer = noise(-(-blocks // size)).abs() * 0.01 + 0.02
        state |= {"nested_blocksize": size, "nested_dtype": "float32", "nested_offset": offset}
        parts |= {w + ".absmax": codes, w + ".nested_quant_map": numbers, w + ".nested_absmax": outer}
        largest = numbers[codes.long()] * outer.repeat_interleave(size)[:blocks] + offset
    else:
        largest = noise(blocks).abs() * 0.1 + 0.05
        parts[w + ".absmax"] = largest
    text = json.dumps(state).encode()
    parts[w + ".quant_state.bitsandbytes__nf4"] = torch.tensor(list(text), dtype=torch.uint8)
    return parts, (table[flat] * largest.repeat_interleave(block)).reshape(shape)


def write(name, make, settings, key="quantization_config", layers=(None, None)):
    tensors = {}
    for (matrix, shape), own in zip(MATRICES.items(), layers):
        parts, values = make(matrix, shape, **(own or {}))
        tensors |= parts
        tensors["expected." + matrix] = values.contiguous()
    save_file(tensors, OUT / f"{name}.safetensors", {"key": key, "settings": json.dumps(settings)})


def mxfp4():
    """Two experts of gpt-oss, with everything that is in their layer."""
    experts, hidden, inner = 2, 32, 32
    numbers = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    bf16 = torch.bfloat16
    config = {
        "architectures": ["GptOssForCausalLM"], "vocab_size": VOCAB, "hidden_size": hidden,
        "intermediate_size": inner, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 16, "num_local_experts": experts,
        "num_experts_per_tok": 2, "max_position_embeddings": 64, "rope_theta": 3000.0,
        "sliding_window": 7, "rms_norm_eps": 1e-5, "attention_bias": False,
    }
    a, m = "model.layers.0.self_attn.", "model.layers.0.mlp."
    tensors = {
        "model.embed_tokens.weight": noise(VOCAB, hidden).to(bf16),
        "lm_head.weight": noise(VOCAB, hidden).to(bf16),
        "model.norm.weight": torch.ones(hidden).to(bf16),
        "model.layers.0.input_layernorm.weight": torch.ones(hidden).to(bf16),
        "model.layers.0.post_attention_layernorm.weight": torch.ones(hidden).to(bf16),
        a + "q_proj.weight": noise(32, hidden, scale=0.2).to(bf16),
        a + "k_proj.weight": noise(16, hidden, scale=0.2).to(bf16),
        a + "v_proj.weight": noise(16, hidden, scale=0.2).to(bf16),
        a + "o_proj.weight": noise(hidden, 32, scale=0.2).to(bf16),
        a + "sinks": noise(2).to(bf16),
        m + "router.weight": noise(experts, hidden).to(bf16),
        m + "router.bias": noise(experts).to(bf16),
    }
    for name, rows, cols in [("gate_up_proj", 2 * inner, hidden), ("down_proj", hidden, inner)]:
        codes = torch.tensor(rng.integers(0, 16, (experts, rows, cols)))
        scales = torch.tensor(rng.integers(121, 125, (experts, rows, cols // 32)))
        blocks = (codes[..., 0::2] | codes[..., 1::2] << 4).to(torch.uint8)
        base = m + "experts." + name
        tensors[base + "_blocks"] = blocks.reshape(experts, rows, cols // 32, 16)
        tensors[base + "_scales"] = scales.to(torch.uint8)
        tensors[base + "_bias"] = noise(experts, rows).to(bf16)
        values = numbers[codes] * (2.0 ** (scales - 127)).repeat_interleave(32, -1)
        # As the checkpoint in float types has it.
        tensors["expected." + base] = values.transpose(1, 2).contiguous()
    settings = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    save_file(tensors, OUT / "mxfp4.safetensors",
              {"config": json.dumps(config), "settings": json.dumps(settings)})


def main():
    OUT.mkdir(exist_ok=True)
    bf16 = torch.bfloat16
    inner = 32
    p = "model.layers.0."
    shapes = {
        "model.embed_tokens": (VOCAB, HIDDEN), "lm_head": (VOCAB, HIDDEN),
        LAYER + "q_proj": (64, HIDDEN), LAYER + "k_proj": (32, HIDDEN),
        LAYER + "v_proj": (32, HIDDEN), LAYER + "o_proj": (HIDDEN, 64),
        p + "mlp.gate_proj": (inner, HIDDEN), p + "mlp.up_proj": (inner, HIDDEN),
        p + "mlp.down_proj": (HIDDEN, inner),
    }
    base = {n + ".weight": noise(*s, scale=0.2).to(bf16) for n, s in shapes.items()}
    for norm in ["model.norm", p + "input_layernorm", p + "post_attention_layernorm"]:
        base[norm + ".weight"] = (1 + noise(HIDDEN, scale=0.1)).to(bf16)
    save_file(base, OUT / "base.safetensors")
    config = {
        "architectures": ["LlamaForCausalLM"], "vocab_size": VOCAB, "hidden_size": HIDDEN,
        "intermediate_size": inner, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": HEAD, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5, "rope_theta": 5000.0, "tie_word_embeddings": False,
    }
    (OUT / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    blocks = {"quant_method": "fp8", "weight_block_size": [24, 48], "activation_scheme": "dynamic"}
    write("fp8", lambda n, s: fp8(n, s, (24, 48), None), blocks)
    tensor = {"quant_method": "fp8", "weight_block_size": None, "activation_scheme": "static"}
    write("fp8-tensor", lambda n, s, **o: fp8(n, s, None, **o), tensor,
          layers=({"kind": "tensor"}, {"kind": "row"}))
    mxfp4()
    g = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    write("gptq", gptq, g, layers=({"symmetric": True}, None))
    write("gptq-sorted", gptq, g | {"desc_act": True}, layers=({"sort": True}, {"sort": True}))
    write("gptq-3", lambda n, s: gptq(n, s, bits=3, symmetric=True),
          {"quant_method": "gptq", "bits": 3, "group_size": 32})
    write("awq", awq, {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"})

    def groups(weights, form):
        return {"quant_method": "compressed-tensors", "format": form,
                "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}

    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
    write("packed", packed, groups(weights, "pack-quantized"), layers=(None, {"asymmetric": True}))
    write("int8", int8, groups({"num_bits": 8, "type": "int", "strategy": "channel"}, "int-quantized"))
    own = {"group_size": 32, "bits": 8}
    write("mlx", mlx, {"group_size": 64, "bits": 4, LAYER + "v_proj": own}, "quantization",
          layers=(None, {"group": 32, "bits": 8}))
    bnb = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    write("nf4", nf4, bnb, layers=(None, {"nested": False}))


main()
