"""The models once more, naively, in numpy and in whatever precision is asked for.

transformers fixes norms, softmax and rope to float32, whatever the weights are. To say how much of a
float32 reference is rounding, something has to compute in float64 throughout; and a second, plainly
written implementation is a check of the first. It reads Hugging Face's tensor names and the fields of
a transformers-5 config.json.
"""

import numpy as np


def rms_norm(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + x.dtype.type(eps)) * weight


def layer_norm(x, weight, bias, eps):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + x.dtype.type(eps)) * weight + bias


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi).astype(x.dtype) * (x + x.dtype.type(0.044715) * x**3)))


def silu(x):
    return x / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def rope_angles(rope, head_dim, n):
    """Angles [position, head_dim / 2], in float64."""
    inverse = rope["rope_theta"] ** -(np.arange(0, head_dim, 2) / head_dim)
    kind = rope.get("rope_type", "default")
    if kind == "linear":
        inverse = inverse / rope["factor"]
    elif kind == "llama3":
        wavelength = 2 * np.pi / inverse
        context, low, high = (rope[k] for k in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor"))
        smooth = np.clip((context / wavelength - low) / (high - low), 0, 1)
        inverse = inverse * ((1 - smooth) / rope["factor"] + smooth)
    else:
        assert kind == "default", kind
    return np.arange(n)[:, None] * inverse


def rotate(x, angles):
    """Rotate [position, head, dim]: the first half of a head is paired with its second half."""
    cos, sin = (f(angles).astype(x.dtype)[:, None, :] for f in (np.cos, np.sin))
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def attend(q, k, v, scale, window=None):
    """q [n, heads, dim], k and v [n, kv heads, dim] -> [n, heads * dim], causal."""
    n, heads, _ = q.shape
    group = heads // k.shape[1]
    k, v = (np.repeat(x, group, axis=1) for x in (k, v))
    scores = np.einsum("qhd,khd->hqk", q, k) * q.dtype.type(scale)
    i, j = np.arange(n)[:, None], np.arange(n)[None, :]
    seen = j <= i
    if window is not None:
        seen &= j > i - window
    weights = softmax(np.where(seen, scores, -np.inf).astype(q.dtype))
    return np.einsum("hqk,khd->qhd", weights, v).reshape(n, -1)


def forward(config, weights, ids, dtype=np.float64):
    """Logits [n, vocabulary]. `weights` maps Hugging Face's names to arrays."""

    def get(name):
        return np.asarray(weights[name]).astype(dtype)

    if config["model_type"] == "gpt2":
        return gpt2(config, get, ids)
    gemma = config["model_type"] == "gemma3_text"
    assert gemma or config["model_type"] in ("llama", "qwen2", "qwen3"), config["model_type"]
    n, eps = len(ids), config["rms_norm_eps"]
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]

    def norm(x, name):
        return rms_norm(x, get(f"{name}.weight") + (1 if gemma else 0), eps)

    def linear(x, name):
        bias = get(f"{name}.bias") if f"{name}.bias" in weights else dtype(0)
        return x @ get(f"{name}.weight").T + bias

    embedding = get("model.embed_tokens.weight")
    x = embedding[ids]
    if gemma:
        x = x * np.sqrt(dtype(config["hidden_size"]))
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        rope, window, scale = config["rope_parameters"], None, head_dim**-0.5
        if gemma:
            kind = config["layer_types"][i]
            rope, scale = rope[kind], config["query_pre_attn_scalar"] ** -0.5
            window = config["sliding_window"] if kind == "sliding_attention" else None
        angles = rope_angles(rope, head_dim, n)

        h = norm(x, f"{layer}.input_layernorm")
        q, k, v = (linear(h, f"{layer}.self_attn.{p}_proj").reshape(n, -1, head_dim) for p in "qkv")
        if f"{layer}.self_attn.q_norm.weight" in weights:
            q, k = norm(q, f"{layer}.self_attn.q_norm"), norm(k, f"{layer}.self_attn.k_norm")
        h = attend(rotate(q, angles), rotate(k, angles), v, scale, window) @ get(f"{layer}.self_attn.o_proj.weight").T
        if gemma:
            h = norm(h, f"{layer}.post_attention_layernorm")
        x = x + h

        h = norm(x, f"{layer}.{'pre_feedforward_layernorm' if gemma else 'post_attention_layernorm'}")
        gate, up = (h @ get(f"{layer}.mlp.{p}_proj.weight").T for p in ("gate", "up"))
        h = ((gelu_tanh if gemma else silu)(gate) * up) @ get(f"{layer}.mlp.down_proj.weight").T
        if gemma:
            h = norm(h, f"{layer}.post_feedforward_layernorm")
        x = x + h
    x = norm(x, "model.norm")
    return x @ (embedding if config["tie_word_embeddings"] else get("lm_head.weight")).T


def gpt2(config, get, ids):
    n, heads, eps = len(ids), config["n_head"], config["layer_norm_epsilon"]

    def norm(x, name):
        return layer_norm(x, get(f"{name}.weight"), get(f"{name}.bias"), eps)

    def linear(x, name):  # Conv1D: [in, out]
        return x @ get(f"{name}.weight") + get(f"{name}.bias")

    embedding = get("transformer.wte.weight")
    x = embedding[ids] + get("transformer.wpe.weight")[:n]
    for i in range(config["n_layer"]):
        layer = f"transformer.h.{i}"
        q, k, v = (p.reshape(n, heads, -1) for p in np.split(linear(norm(x, f"{layer}.ln_1"), f"{layer}.attn.c_attn"), 3, -1))
        x = x + linear(attend(q, k, v, q.shape[-1] ** -0.5), f"{layer}.attn.c_proj")
        x = x + linear(gelu_tanh(linear(norm(x, f"{layer}.ln_2"), f"{layer}.mlp.c_fc")), f"{layer}.mlp.c_proj")
    return norm(x, "transformer.ln_f") @ embedding.T
