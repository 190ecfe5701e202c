"""A checkpoint of Hugging Face's as a GGUF file, by the conventions of llama.cpp's converter."""

import gguf
import numpy as np

from tiny_tokenizers import USER_DEFINED

LAYER = {
    "llama": {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    },
    "gpt2": {
        "ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
        "ln_2": "ffn_norm", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
    },
}
LAYER["gemma3"] = LAYER["llama"] | {
    "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
}
LAYER["qwen2"] = LAYER["llama"]
LAYER["qwen3"] = LAYER["llama"] | {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
OUTSIDE = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "transformer.wte": "token_embd", "transformer.wpe": "position_embd", "transformer.ln_f": "output_norm",
}
ARCH = {"gpt2": "gpt2", "llama": "llama", "gemma3_text": "gemma3", "qwen2": "qwen2", "qwen3": "qwen3"}


def permute(weight, heads):
    """The order of rows that llama.cpp's rope wants: the two halves of a head, interleaved."""
    rows = weight.shape[0]
    return weight.reshape(heads, 2, rows // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def rope_freqs(rope, head_dim):
    """By what the llama3 scaling divides each frequency; branch by branch, as the converter does it."""
    factors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * np.pi * rope["rope_theta"] ** (i / head_dim)
        context, low, high = (rope[k] for k in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor"))
        if wavelength < context / high:
            factors.append(1.0)
        elif wavelength > context / low:
            factors.append(rope["factor"])
        else:
            smooth = (context / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, dtype=np.float32)


def tensors(config, weights):
    arch = ARCH[config["model_type"]]
    if arch == "llama" and config["rope_parameters"]["rope_type"] == "llama3":
        yield "rope_freqs.weight", rope_freqs(config["rope_parameters"], config["head_dim"])
    for name, data in weights.items():
        base, suffix = name.rsplit(".", 1)
        if base in OUTSIDE:
            new = OUTSIDE[base]
        else:
            layer, part = base.removeprefix("model.layers.").removeprefix("transformer.h.").split(".", 1)
            new = f"blk.{layer}.{LAYER[arch][part]}"
        if arch == "gpt2" and suffix == "weight" and ".c_" in base:
            data = data.T  # Conv1D
        if arch == "llama" and base.endswith("q_proj"):
            data = permute(data, config["num_attention_heads"])
        if arch == "llama" and base.endswith("k_proj"):
            data = permute(data, config["num_key_value_heads"])
        if arch == "gemma3" and base.endswith("norm"):
            data = data + np.float32(1)
            if base.endswith("q_norm"):
                # llama.cpp has no key for query_pre_attn_scalar: it divides by the root of the head
                # size (but in the 27B model), so what is missing goes into the queries' norm.
                data = data * np.float32((config["head_dim"] / config["query_pre_attn_scalar"]) ** 0.5)
        yield f"{new}.{suffix}", np.ascontiguousarray(data, dtype=np.float32)


def write(path, name, config, weights, tiny):
    arch = ARCH[config["model_type"]]
    w = gguf.GGUFWriter(path, arch)
    w.add_type(gguf.GGUFType.MODEL)
    w.add_name(name)
    w.add_file_type(gguf.LlamaFileType.ALL_F32)
    w.add_quantization_version(gguf.GGML_QUANT_VERSION)

    if arch == "gpt2":
        w.add_block_count(config["n_layer"])
        w.add_context_length(config["n_positions"])
        w.add_embedding_length(config["n_embd"])
        w.add_feed_forward_length(4 * config["n_embd"])
        w.add_head_count(config["n_head"])
        w.add_layer_norm_eps(config["layer_norm_epsilon"])
    else:
        w.add_block_count(config["num_hidden_layers"])
        w.add_context_length(config["max_position_embeddings"])
        w.add_embedding_length(config["hidden_size"])
        w.add_feed_forward_length(config["intermediate_size"])
        w.add_head_count(config["num_attention_heads"])
        w.add_head_count_kv(config["num_key_value_heads"])
        w.add_layer_norm_rms_eps(config["rms_norm_eps"])
        if arch != "qwen2":
            w.add_key_length(config["head_dim"])
            w.add_value_length(config["head_dim"])
    if arch in ("qwen2", "qwen3"):
        w.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    if arch == "llama":
        w.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
        w.add_vocab_size(config["vocab_size"])
        w.add_rope_dimension_count(config["head_dim"])
    if arch == "gemma3":
        full, local = (config["rope_parameters"][k] for k in ("full_attention", "sliding_attention"))
        w.add_sliding_window(config["sliding_window"])
        w.add_rope_freq_base(full["rope_theta"])
        w.add_rope_freq_base_swa(local["rope_theta"])
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(full["factor"])

    tokens = [t.replace("▁", " ") if kind == USER_DEFINED else t for t, kind in zip(tiny.tokens, tiny.types)]
    w.add_tokenizer_model(tiny.kind)
    w.add_tokenizer_pre(tiny.pre)
    w.add_token_list(tokens)
    if tiny.scores is not None:
        w.add_token_scores(tiny.scores)
    w.add_token_types(tiny.types)
    if tiny.kind == "gpt2":
        merges = tiny.json["model"]["merges"]
        w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    if arch == "gemma3" or (arch == "llama" and "add_prefix_space" in tiny.config):
        w.add_add_space_prefix(False)
    w.add_bos_token_id(tiny.bos)
    w.add_eos_token_id(tiny.eos)
    if tiny.unknown is not None:
        w.add_unk_token_id(tiny.unknown)
    if tiny.pad is not None:
        w.add_pad_token_id(tiny.pad)
    w.add_add_bos_token(tiny.add_bos)
    if tiny.chat_template:
        w.add_chat_template(tiny.chat_template)

    for tensor, data in tensors(config, weights):
        w.add_tensor(tensor, data)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
