"""A GGUF file as a transformers-5 config and Hugging Face's tensors, every weight dequantised."""

import gguf
import numpy as np

# GGUF's names of the parts of a layer, and Hugging Face's.
LLAMA = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}
GEMMA = LLAMA | {
    "post_attention_norm": "post_attention_layernorm", "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
}


def unpermute(weight, heads):
    """Undo the order of rows in which llama.cpp stores Llama's queries and keys (pairs beside each other)."""
    rows = weight.shape[0]
    return weight.reshape(heads, rows // heads // 2, 2, -1).swapaxes(1, 2).reshape(weight.shape)


def load(path):
    reader = gguf.GGUFReader(path)
    arch = reader.fields["general.architecture"].contents()

    def get(key, default=None):
        field = reader.fields.get(f"{arch}.{key}")
        return field.contents() if field else default

    tensors = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    heads, kv_heads, layers = (get(k) for k in ("attention.head_count", "attention.head_count_kv", "block_count"))
    config = {
        "hidden_size": get("embedding_length"),
        "num_hidden_layers": layers,
        "head_dim": get("attention.key_length", get("embedding_length") // heads),
        "rms_norm_eps": get("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": "output.weight" not in tensors,
    }
    rope = {"rope_type": "default", "rope_theta": get("rope.freq_base")}
    assert "rope_freqs.weight" not in tensors and get("rope.scaling.factor") is None, "rope scaling: not needed so far"
    if arch == "llama":
        names = LLAMA
        config |= {"model_type": "llama", "rope_parameters": rope}
    elif arch == "gemma3":
        names = GEMMA
        config |= {
            "model_type": "gemma3_text",
            "query_pre_attn_scalar": config["head_dim"],
            "sliding_window": get("attention.sliding_window"),
            "layer_types": ["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(layers)],
            "rope_parameters": {
                "full_attention": rope,
                "sliding_attention": {"rope_type": "default", "rope_theta": get("rope.freq_base_swa", 10000.0)},
            },
        }
    else:
        raise SystemExit(f"{path}: no naive model for {arch}")

    weights = {}
    for name, data in tensors.items():
        if arch == "llama" and name.endswith(("attn_q.weight", "attn_k.weight")):
            data = unpermute(data, heads if name.endswith("attn_q.weight") else kv_heads)
        if arch == "gemma3" and name.endswith("norm.weight"):
            data = data.astype(np.float64) - 1.0  # Hugging Face holds w - 1
        if name == "token_embd.weight":
            name = "model.embed_tokens.weight"
        elif name == "output_norm.weight":
            name = "model.norm.weight"
        elif name == "output.weight":
            name = "lm_head.weight"
        else:
            _, layer, part, _ = name.split(".")
            name = f"model.layers.{layer}.{names[part]}.weight"
        weights[name] = data
    return config, weights
