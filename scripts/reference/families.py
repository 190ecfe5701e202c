"""The shapes of make_families.py: one tiny checkpoint of each architecture, with every kind of layer it has.

A setting that is given here is checked to move the logits. `inert` names those that cannot, with their reason.
"""

from dataclasses import dataclass, field

import torch
import transformers as t


@dataclass
class Family:
    config: type
    settings: dict
    about: str
    auto: type = t.AutoModelForCausalLM
    inert: tuple = ()  # settings that move nothing
    inert_tensors: tuple = ()  # parts of tensors' names, likewise
    weights: dict = field(default_factory=dict)  # part of a tensor's name -> (normal, parameter) -> values
    transposed: tuple = ()  # last parts of names of parameters held as [in, out]
    embedding: float = 0.0  # spread of the embeddings; 0 is what suits
    prompt: int = 40
    seed: int = 1
    first_id: int = 3
    attention: str = "eager"
    length_matters: bool = False  # rotations depend on the length of the text
    own_vocab: bool = False  # the converter's own set_vocab reads the tokenizer
    gguf_note: str = ""
    raw: dict = field(default_factory=dict)  # what the hub's config.json has beside or in place of transformers 5's; None: not
    converter: dict = field(default_factory=dict)  # methods of the converter to replace

    @property
    def tied(self):
        return self.settings.get("tie_word_embeddings", False)


# What most have. A context that is longer than the text moves nothing.
CONTEXT = ("max_position_embeddings", "vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "initializer_range",
           "rope_parameters.type")
SMALL = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
             rms_norm_eps=3e-3, bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=False)
WIDE = SMALL | dict(head_dim=16)


def without(settings, *keys):
    return {k: v for k, v in settings.items() if k not in keys}


def rope(theta, kind="default", **rest):
    return {"rope_type": kind, "rope_theta": float(theta)} | rest


def positive(base, spread=0.3):
    return lambda normal, p: base * torch.exp(spread * normal)


def scaled(factor):
    return lambda normal, p: factor * normal


EXPERTS = {"correction_bias": scaled(0.05), "gate.expert_bias": scaled(0.05), "gate_up_proj": lambda n, p: n * 1.5 * p.shape[-1] ** -0.5, "experts.down_proj": lambda n, p: n * 1.5 * p.shape[-1] ** -0.5}

FAMILIES = {}


def add(name, config, settings, about, **rest):
    rest["inert"] = CONTEXT + tuple(rest.get("inert", ()))
    FAMILIES[name] = Family(config, settings, about, **rest)


# --- rotations -----------------------------------------------------------------------------------

add("llama-yarn", t.LlamaConfig,
    WIDE | dict(attention_bias=True, mlp_bias=True, rope_parameters=rope(
        5000, "yarn", factor=6.0, original_max_position_embeddings=32, beta_fast=1.5, beta_slow=0.4)),
    "YaRN past its original context of 32; all biases")
add("llama-yarn-mscale", t.LlamaConfig,
    WIDE | dict(rope_parameters=rope(
        5000, "yarn", factor=6.0, original_max_position_embeddings=32, beta_fast=1.5, beta_slow=0.4, mscale=0.8, mscale_all_dim=0.3, truncate=False)),
    "YaRN with mscale, mscale_all_dim and truncate false", gguf_note="no key says truncate and mscale")
add("llama-yarn-attention", t.LlamaConfig,
    WIDE | dict(rope_parameters=rope(3000, "yarn", factor=4.0, original_max_position_embeddings=24, attention_factor=1.3)),
    "YaRN with an explicit attention_factor, betas by default")
add("llama-dynamic", t.LlamaConfig,
    WIDE | dict(max_position_embeddings=24, rope_parameters=rope(5000, "dynamic", factor=3.0)),
    "dynamic NTK, text longer than the context of 24", inert=("max_position_embeddings",), length_matters=True,
    gguf_note="no key says this scaling")
add("llama-linear", t.LlamaConfig, WIDE | dict(rope_parameters=rope(5000, "linear", factor=2.5)), "linear scaling")
add("llama-longrope", t.LlamaConfig,
    WIDE | dict(rope_parameters=rope(
        5000, "longrope", factor=8.0, original_max_position_embeddings=32,
        short_factor=[1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0, 2.4], long_factor=[1.0, 1.4, 2.0, 3.0, 4.0, 6.0, 8.0, 9.0])),
    "LongRoPE, prompt longer than the original context of 32",
    gguf_note="the converter writes no factors for this architecture", length_matters=True, inert=("rope_parameters.short_factor",))
add("llama-longrope-crossing", t.LlamaConfig,
    WIDE | dict(rope_parameters=rope(
        5000, "longrope", factor=8.0, attention_factor=1.25, original_max_position_embeddings=48,
        short_factor=[1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0, 2.4], long_factor=[1.0, 1.4, 2.0, 3.0, 4.0, 6.0, 8.0, 9.0])),
    "LongRoPE with an explicit attention_factor; the text crosses the original context of 48 while decoding", length_matters=True,
    gguf_note="the converter writes no factors for this architecture",
    inert=("rope_parameters.short_factor", "rope_parameters.factor"))
add("qwen2-yarn", t.Qwen2Config,
    SMALL | dict(hidden_size=64, rope_parameters=rope(500, "yarn", factor=4.0, original_max_position_embeddings=24)),
    "Qwen2 with YaRN as its model cards advise")

# --- plain ---------------------------------------------------------------------------------------

add("mistral", t.MistralConfig, WIDE | dict(sliding_window=7, rope_parameters=rope(3000)), "window of 7; head_dim is not width / heads",
    gguf_note="no key says the window: llama.cpp computes another model past 7 tokens")
add("phi3", t.Phi3Config,
    SMALL | dict(hidden_size=64, num_attention_heads=4, original_max_position_embeddings=32, max_position_embeddings=128, sliding_window=200,
                 rope_parameters=rope(
                     4000, "longrope", partial_rotary_factor=0.75, original_max_position_embeddings=32, short_factor=[1.0, 1.1, 1.3, 1.5, 1.8, 2.2],
                     long_factor=[1.0, 1.5, 2.5, 4.0, 5.0, 6.5])),
    "fused qkv and gate_up, LongRoPE past its original context, partial rotary 0.75", length_matters=True,
    inert=("sliding_window", "rope_parameters.short_factor", "original_max_position_embeddings",
                                 "rope_parameters.original_max_position_embeddings"))
add("phi3-plain", t.Phi3Config,
    SMALL | dict(sliding_window=9, rope_parameters=rope(4000)), "Phi-3 mini 4k: no scaling, window of 9")
add("gemma", t.GemmaConfig,
    without(WIDE, "tie_word_embeddings") | dict(tie_word_embeddings=True, head_dim=24, num_key_value_heads=1, rope_parameters=rope(10000)),
    "norms 1 + w, embeddings times the root of the width, one kv head")
add("gemma2", t.Gemma2Config,
    without(WIDE, "tie_word_embeddings") | dict(
        tie_word_embeddings=True, num_hidden_layers=4, query_pre_attn_scalar=20, sliding_window=7, final_logit_softcapping=20.0,
        attn_logit_softcapping=4.0, rope_parameters=rope(10000)),
    "window of 7 on every other layer, both soft caps, query_pre_attn_scalar 20",
    gguf_note="no key says query_pre_attn_scalar: llama.cpp scales by the head size", embedding=0.15)
add("qwen3_moe", t.Qwen3MoeConfig,
    WIDE | dict(num_hidden_layers=3, moe_intermediate_size=24, num_experts=6, num_experts_per_tok=3, norm_topk_prob=True, mlp_only_layers=[1],
                rope_parameters=rope(3000)),
    "experts 6, top 3, renormalised; layer 1 dense", weights=EXPERTS, inert=("mlp_only_layers",))
add("mixtral", t.MixtralConfig,
    WIDE | dict(num_local_experts=4, num_experts_per_tok=2, rope_parameters=rope(3000)), "4 experts, top 2", weights=EXPERTS)
add("qwen2_moe", t.Qwen2MoeConfig,
    SMALL | dict(num_hidden_layers=3, moe_intermediate_size=24, shared_expert_intermediate_size=40, num_experts=6, num_experts_per_tok=3,
                 norm_topk_prob=False, decoder_sparse_step=1, mlp_only_layers=[0], rope_parameters=rope(3000)),
    "gated shared expert, weights not renormalised, layer 0 dense", weights=EXPERTS)
add("olmoe", t.OlmoeConfig,
    SMALL | dict(intermediate_size=24, num_experts=6, num_experts_per_tok=3, rms_norm_eps=1e-5, norm_topk_prob=False, rope_parameters=rope(3000)),
    "norms of queries and keys over the whole width", weights=EXPERTS, inert=("rms_norm_eps",))
add("olmoe-clip", t.OlmoeConfig,
    SMALL | dict(intermediate_size=24, num_experts=6, num_experts_per_tok=3, norm_topk_prob=True, clip_qkv=1.1, rope_parameters=rope(3000)),
    "clip_qkv, renormalised", weights=EXPERTS, gguf_note="no key says clip_qkv and norm_topk_prob; eps is 1e-5 whatever the key")
add("gpt_oss", t.GptOssConfig,
    without(WIDE, "intermediate_size") | dict(
        intermediate_size=24, num_local_experts=6, num_experts_per_tok=3, sliding_window=7, swiglu_limit=1.2, swiglu_alpha=1.4,
        layer_types=["sliding_attention", "full_attention"], attention_bias=True,
        rope_parameters=rope(3000, "yarn", factor=6.0, beta_fast=1.5, beta_slow=0.4, truncate=False, original_max_position_embeddings=32)),
    "sinks, window of 7 on every other layer, clamped SwiGLU, all biases, YaRN without truncation",
    gguf_note="no key says swiglu_limit and swiglu_alpha",
    weights={"sinks": scaled(1.0), "gate_up_proj_bias": scaled(0.3), "down_proj_bias": scaled(0.3), "gate_up_proj": lambda n, p: n * 1.5 * p.shape[-2] ** -0.5,
             "down_proj": lambda n, p: n * 1.5 * p.shape[-2] ** -0.5})
GRANITE = dict(embedding_multiplier=5.5, logits_scaling=3.0, residual_multiplier=0.7, attention_multiplier=0.21, rope_parameters=rope(3000))
add("granite", t.GraniteConfig, SMALL | GRANITE | dict(attention_bias=True, mlp_bias=True), "four multipliers, all biases", embedding=0.2)
add("granitemoe", t.GraniteMoeConfig, SMALL | GRANITE | dict(intermediate_size=24, num_local_experts=6, num_experts_per_tok=3),
    "four multipliers; top 3 of the logits, then softmax", embedding=0.2)
add("smollm3", t.SmolLM3Config,
    SMALL | dict(num_hidden_layers=4, no_rope_layers=[1, 1, 1, 0], attention_bias=True, mlp_bias=True, rope_parameters=rope(3000)),
    "no rotation on layer 3", inert=("no_rope_layers",), inert_tensors=("layers.3.self_attn.k_proj.bias",))
add("smollm3-listed", t.SmolLM3Config,
    SMALL | dict(num_hidden_layers=4, no_rope_layers=[1, 0, 1, 0], rope_parameters=rope(3000)),
    "no rotation on layers 1 and 3", inert=("no_rope_layers",), gguf_note="no key says which layers are not rotated")
add("olmo2", t.Olmo2Config, SMALL | dict(rope_parameters=rope(3000)), "norms after each part, norms of queries and keys over the whole width")
add("olmo3", t.Olmo3Config,
    SMALL | dict(hidden_size=64, num_hidden_layers=4, sliding_window=7, layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
                 rope_parameters={"sliding_attention": rope(3000), "full_attention": rope(3000, "yarn", factor=6.0, original_max_position_embeddings=32, beta_fast=1.5, beta_slow=0.4)}),
    "window of 7 on three of four; YaRN on the full layer only", inert=("layer_types",))
add("glm4", t.Glm4Config,
    WIDE | dict(attention_bias=True, rope_parameters=rope(3000, partial_rotary_factor=0.5)),
    "sandwich norms, adjacent pairs of half a head rotated, fused gate_up, qkv biases")
add("hunyuan_v1_dense", t.HunYuanDenseV1Config, WIDE | dict(rope_parameters=rope(3000)), "norms of queries and keys after the rotation",)
add("ernie4_5", t.Ernie4_5Config, WIDE | dict(use_bias=True, rope_parameters=rope(3000)), "adjacent pairs, all biases")
add("ernie4_5_moe", t.Ernie4_5_MoeConfig,
    SMALL | dict(num_hidden_layers=3, moe_intermediate_size=24, moe_k=2, moe_num_experts=6, moe_num_shared_experts=2, moe_layer_start_index=1,
                 moe_norm_min=0.2, rope_parameters=rope(3000)),
    "first layer dense, shared experts, correction bias, adjacent pairs", weights=EXPERTS, inert=("moe_norm_min",))
add("exaone4", t.Exaone4Config,
    SMALL | dict(num_hidden_layers=4, sliding_window=7, layer_types=["sliding_attention"] * 3 + ["full_attention"], rope_parameters=rope(3000)),
    "norms after each part, QK norm, no rotation on the full layer",
    inert=("sliding_window_pattern",))
add("exaone4-small", t.Exaone4Config,
    SMALL | dict(sliding_window=None, layer_types=["full_attention"] * 2, rope_parameters=rope(3000)), "EXAONE 4 1.2B: all layers full and rotated")
add("cohere2", t.Cohere2Config,
    without(SMALL, "rms_norm_eps", "tie_word_embeddings") | dict(
        layer_norm_eps=3e-3, num_hidden_layers=4, tie_word_embeddings=True, logit_scale=0.6, sliding_window=7, attention_bias=False,
        layer_types=["sliding_attention"] * 3 + ["full_attention"], rope_parameters=rope(3000)),
    "parallel block, LayerNorm without bias, adjacent pairs, no rotation on full layers, logit_scale")

# --- more plain ones -----------------------------------------------------------------------------

NORM = without(SMALL, "rms_norm_eps")
add("starcoder2", t.Starcoder2Config,
    without(NORM, "tie_word_embeddings") | dict(
        norm_epsilon=3e-3, tie_word_embeddings=True, use_bias=True, sliding_window=9, rope_parameters=rope(3000)),
    "LayerNorm, all biases, window of 9", gguf_note="no key says the window")
add("stablelm", t.StableLmConfig,
    NORM | dict(hidden_size=64, layer_norm_eps=3e-3, use_qkv_bias=True, qk_layernorm=False, use_parallel_residual=False,
                rope_parameters=rope(10000, partial_rotary_factor=0.25)),
    "LayerNorm, qkv biases, a quarter rotated", inert=("rope_parameters.partial_rotary_factor",))
add("stablelm-12b", t.StableLmConfig,
    NORM | dict(hidden_size=64, layer_norm_eps=3e-3, use_qkv_bias=False, qk_layernorm=True, use_parallel_residual=True,
                rope_parameters=rope(10000, partial_rotary_factor=0.25)),
    "parallel block, norms of each query and key head (the converter drops them: it returns a generator)", inert=("rope_parameters.partial_rotary_factor",))
add("phi", t.PhiConfig,
    NORM | dict(hidden_size=64, layer_norm_eps=3e-3, qk_layernorm=False, hidden_act="gelu_new", num_key_value_heads=4,
                rope_parameters=rope(10000, partial_rotary_factor=0.5)),
    "Phi-2: parallel block with one norm, all biases, half rotated")
FALCON = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=256, layer_norm_epsilon=3e-3, bos_token_id=1,
              eos_token_id=2, tie_word_embeddings=True, activation="gelu", rope_parameters=rope(10000))
STRUCTURE = ("multi_query", "parallel_attn", "new_decoder_architecture", "alibi", "bias", "num_ln_in_parallel_attn")
add("falcon-7b", t.FalconConfig, FALCON | dict(multi_query=True, parallel_attn=True, new_decoder_architecture=False, bias=False, alibi=False),
    "old layout: one kv head, parallel block with one norm", inert=STRUCTURE, raw={"num_kv_heads": None})
add("falcon-40b", t.FalconConfig,
    FALCON | dict(num_kv_heads=2, new_decoder_architecture=True, bias=False, alibi=False), "new layout: groups of qkv, two norms",
    inert=STRUCTURE)
add("falcon-rw", t.FalconConfig,
    without(FALCON, "rope_parameters") | dict(multi_query=False, parallel_attn=False, new_decoder_architecture=False, bias=True, alibi=True),
    # Eager attention would add the biases twice.
    "ALiBi, all biases, qkv interleaved by head, not parallel", inert=STRUCTURE, attention="sdpa")
add("gpt_neox", t.GPTNeoXConfig,
    without(NORM, "num_key_value_heads") | dict(
        hidden_size=64, layer_norm_eps=3e-3, use_parallel_residual=True, attention_bias=True, hidden_act="gelu",
        rope_parameters=rope(10000, partial_rotary_factor=0.25)),
    "parallel block with two norms, qkv interleaved by head, a quarter rotated", raw={"rotary_pct": 0.25, "rotary_emb_base": 10000, "rope_theta": None, "partial_rotary_factor": None})
add("gpt_neox-serial", t.GPTNeoXConfig,
    without(NORM, "num_key_value_heads") | dict(
        hidden_size=64, layer_norm_eps=3e-3, use_parallel_residual=False, attention_bias=True, hidden_act="gelu",
        rope_parameters=rope(10000, partial_rotary_factor=0.5)),
    "not parallel, half rotated", raw={"rotary_pct": 0.5, "rotary_emb_base": 10000, "rope_theta": None, "partial_rotary_factor": None})
add("gpt_bigcode", t.GPTBigCodeConfig,
    dict(n_positions=128, n_embd=64, n_layer=2, n_head=4, n_inner=96, layer_norm_epsilon=3e-3, multi_query=True, bos_token_id=1, eos_token_id=2),
    "one kv head, learned positions, biases", inert=("n_positions", "attn_pdrop", "multi_query"))
add("nemotron", t.NemotronConfig,
    NORM | dict(hidden_size=64, head_dim=16, norm_eps=3e-3, attention_bias=True, mlp_bias=True, rope_parameters=rope(3000, partial_rotary_factor=0.5)),
    "LayerNorm 1 + w, squared relu without gate, half rotated")
add("arcee", t.ArceeConfig, WIDE | dict(attention_bias=True, mlp_bias=True, rope_parameters=rope(3000)), "squared relu without gate, all biases")
add("seed_oss", t.SeedOssConfig,
    WIDE | dict(attention_bias=True, attention_out_bias=True, mlp_bias=True, rope_parameters=rope(3000)), "biases of qkv, output and feed-forward")
add("seed_oss-36b", t.SeedOssConfig,
    WIDE | dict(attention_bias=True, attention_out_bias=False, mlp_bias=False, rope_parameters=rope(3000)), "biases of qkv only, as published")
add("apertus", t.ApertusConfig,
    SMALL | dict(hidden_act="xielu", attention_bias=True, rope_parameters=rope(3000, "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                                      original_max_position_embeddings=64)),
    "xIELU without gate, norms of queries and keys, llama3 scaling", inert_tensors=("act_fn.eps", "act_fn.beta"),
    weights={"act_fn.eps": lambda n, p: p, "act_fn.beta": lambda n, p: p})
add("llama4", t.Llama4TextConfig,
    WIDE | dict(intermediate_size=24, intermediate_size_mlp=40, num_hidden_layers=4, num_experts_per_tok=1, num_local_experts=4, moe_layers=[1, 3],
                use_qk_norm=True, no_rope_layers=[1, 1, 1, 0], attention_chunk_size=16, attn_temperature_tuning=True, floor_scale=8, attn_scale=0.3,
                attention_bias=True, rope_parameters=rope(3000)),
    "chunked attention of 16, the last layer without rotation and with query temperature; routed input scaling, shared expert",
    gguf_note="llama.cpp knows chunks of 8192 only", inert=("moe_layers", "no_rope_layers", "interleave_moe_layer_step"),
    inert_tensors=("layers.3.self_attn.k_proj.bias",))
add("ministral3", t.Ministral3Config,
    WIDE | dict(rope_parameters=rope(3000, "yarn", factor=6.0, original_max_position_embeddings=16, beta_fast=1.2, beta_slow=0.2, mscale=1.0,
                                     mscale_all_dim=0.5, llama_4_scaling_beta=0.4)),
    "YaRN and query temperature by position")
VISION = dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=2)


def qwen3_vl(**settings):
    vision = VISION | dict(out_hidden_size=settings["hidden_size"], num_position_embeddings=16, deepstack_visual_indexes=[0])
    return t.Qwen3VLConfig(text_config=settings, vision_config=vision, tie_word_embeddings=False)


def qwen2_5_vl(**settings):
    vision = VISION | dict(out_hidden_size=settings["hidden_size"], fullatt_block_indexes=[0])
    return t.Qwen2_5_VLConfig(text_config=settings, vision_config=vision, tie_word_embeddings=False)


add("qwen3_vl", qwen3_vl,
    without(WIDE, "tie_word_embeddings") | dict(rope_parameters=rope(3000, mrope_section=[3, 3, 2], mrope_interleaved=True)),
    "the text model is Qwen3; the vision tower is there and not used", auto=t.AutoModelForImageTextToText,
    inert=("rope_parameters.mrope_interleaved", "rope_parameters.mrope_section"), inert_tensors=("visual.",))
add("qwen2_5_vl", qwen2_5_vl,
    without(SMALL, "tie_word_embeddings") | dict(hidden_size=64, rope_parameters=rope(3000, mrope_section=[2, 3, 3])),
    "the text model is Qwen2; the vision tower is there and not used", auto=t.AutoModelForImageTextToText,
    inert=("rope_parameters.mrope_section",), inert_tensors=("visual.",))
add("glm4_moe", t.Glm4MoeConfig,
    WIDE | dict(num_hidden_layers=3, attention_bias=True, moe_intermediate_size=24, num_experts_per_tok=2, n_shared_experts=1, n_routed_experts=6,
                routed_scaling_factor=1.7, n_group=2, topk_group=1, first_k_dense_replace=1, norm_topk_prob=True, use_qk_norm=True,
                rope_parameters=rope(3000, partial_rotary_factor=0.5)),
    "sigmoid router with correction bias and groups, shared expert, first layer dense, half rotated", weights=EXPERTS,
    inert=("num_mtp_layers",))
add("hunyuan_v1_moe", t.HunYuanMoEV1Config,
    WIDE | dict(intermediate_size=24, num_experts=6, moe_topk=2, rope_parameters=rope(3000)),
    "softmax router renormalised, shared expert, norms of queries and keys after the rotation", weights=EXPERTS,
    raw={"moe_intermediate_size": [24, 24], "num_shared_expert": [1, 1], "moe_topk": [2, 2], "architectures": ["HunYuanMoEV1ForCausalLM"]})
add("dots1", t.Dots1Config,
    WIDE | dict(num_hidden_layers=3, moe_intermediate_size=24, n_shared_experts=1, n_routed_experts=6, num_experts_per_tok=2, first_k_dense_replace=1,
                norm_topk_prob=True, routed_scaling_factor=1.7, n_group=1, topk_group=1, attention_bias=True, sliding_window=None,
                layer_types=["full_attention"] * 3, rope_parameters=rope(3000)),
    "sigmoid router with correction bias, shared expert, first layer dense", weights=EXPERTS)
add("phimoe", t.PhimoeConfig,
    WIDE | dict(intermediate_size=24, num_local_experts=4, num_experts_per_tok=2, attention_bias=True, lm_head_bias=True, router_jitter_noise=0.4,
                sliding_window=None, rope_parameters=rope(3000)),
    "sparsemixer router, LayerNorm with bias, all biases", weights=EXPERTS, inert=("num_experts_per_tok",), raw={"architectures": ["PhiMoEForCausalLM"]}, gguf_note="llama.cpp weighs experts otherwise")
add("mellum", t.MellumConfig,
    WIDE | dict(num_hidden_layers=3, moe_intermediate_size=24, num_experts=6, num_experts_per_tok=2, norm_topk_prob=True, sliding_window=7,
                layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                rope_parameters={"sliding_attention": rope(3000), "full_attention": rope(
                    9000, "yarn", factor=6.0, original_max_position_embeddings=24, beta_fast=1.5, beta_slow=0.4)}),
    "experts, window of 7, rotations by layer type", weights=EXPERTS, inert=("layer_types", "intermediate_size"))
add("laguna", t.LagunaConfig,
    WIDE | dict(num_hidden_layers=5, moe_intermediate_size=24, shared_expert_intermediate_size=24, num_experts=4, num_experts_per_tok=2,
                sliding_window=7, layer_types=["full_attention"] + ["sliding_attention"] * 3 + ["full_attention"], gating=True,
                mlp_layer_types=["dense"] + ["sparse"] * 4, num_attention_heads_per_layer=[4, 2, 2, 2, 4], moe_routed_scaling_factor=1.7,
                rope_parameters={"sliding_attention": rope(3000), "full_attention": rope(9000, partial_rotary_factor=0.5)}),
    "heads by layer, output gate, sigmoid router, shared expert, first layer dense", weights=EXPERTS,
    inert=("layer_types", "mlp_layer_types", "num_attention_heads_per_layer", "num_attention_heads"))
add("cohere2_moe", t.Cohere2MoeConfig,
    without(WIDE, "rms_norm_eps", "tie_word_embeddings") | dict(
        layer_norm_eps=3e-3, num_hidden_layers=4, tie_word_embeddings=True, intermediate_size=24, logit_scale=0.6, sliding_window=7, rope_theta=3000.0,
        num_experts=6, num_experts_per_tok=2, num_shared_experts=1, expert_selection_fn="sigmoid", norm_topk_prob=True,
        layer_types=["sliding_attention"] * 3 + ["full_attention"]),
    "parallel block with experts", weights=EXPERTS, inert=("layer_types",))
add("minimax_m2", t.MiniMaxM2Config,
    WIDE | dict(intermediate_size=24, num_local_experts=6, num_experts_per_tok=2, rope_parameters=rope(3000, partial_rotary_factor=0.5)),
    "sigmoid router with correction bias, norms of queries and keys over the whole width, half rotated", weights=EXPERTS,
    raw={"rotary_dim": 8, "partial_rotary_factor": None})

# --- encoders of texts ---------------------------------------------------------------------------

ENCODER = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=128, layer_norm_eps=3e-3)
HEADLESS = ("pooler", "self.key.bias", "k_lin.bias", "attn.k.bias")  # without rotations, all scores of a query move alike


def encoder(name, config, settings, about, **rest):
    rest["inert_tensors"] = HEADLESS + tuple(rest.get("inert_tensors", ()))
    add(name, config, settings, about, auto=t.AutoModel, **rest)


encoder("bert", t.BertConfig, ENCODER | dict(type_vocab_size=2, pad_token_id=0), "both directions, norms of sums, positions and types", inert=("type_vocab_size",))
encoder("roberta", t.RobertaConfig, ENCODER | dict(type_vocab_size=1, pad_token_id=1), "positions from 2 on", inert=("type_vocab_size",))
encoder("xlm-roberta", t.XLMRobertaConfig, ENCODER | dict(type_vocab_size=1, pad_token_id=1, hidden_act="gelu"), "the same by another name",
        inert=("type_vocab_size",))
encoder("distilbert", t.DistilBertConfig, dict(dim=32, hidden_dim=48, n_layers=2, n_heads=4, max_position_embeddings=128, pad_token_id=0),
        "no types of tokens, eps 1e-12")
encoder("mpnet", t.MPNetConfig, ENCODER | dict(relative_attention_num_buckets=32, pad_token_id=1), "summands of distances, positions from 2 on")
encoder("nomic_bert", t.NomicBertConfig, ENCODER | dict(type_vocab_size=2, pad_token_id=0, rope_parameters=rope(3000)),
        "rotations, gates", inert=("type_vocab_size",))
encoder("modernbert", t.ModernBertConfig,
        without(ENCODER, "layer_norm_eps") | dict(
            norm_eps=3e-3, num_hidden_layers=4, local_attention=12, layer_types=["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
            rope_parameters={"full_attention": rope(9000), "sliding_attention": rope(300)}, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            cls_token_id=1, sep_token_id=2),
        "window of 6 to both sides on two of four, no norm before the first attention",
        gguf_note="the converter writes no epsilon and no bases", inert=("layer_types", "cls_token_id", "sep_token_id"))
encoder("modernbert-biased", t.ModernBertConfig,
        without(ENCODER, "layer_norm_eps") | dict(
            norm_eps=3e-3, norm_bias=True, attention_bias=True, mlp_bias=True, num_hidden_layers=3, local_attention=8,
            layer_types=["full_attention", "sliding_attention", "sliding_attention"],
            rope_parameters={"full_attention": rope(9000), "sliding_attention": rope(300)}, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            cls_token_id=1, sep_token_id=2),
        "all biases", gguf_note="the converter writes no epsilon and no bases", inert=("layer_types", "cls_token_id", "sep_token_id"), inert_tensors=("Wqkv.bias",))
encoder("embedding-gemma", t.Gemma3TextConfig,
        without(WIDE, "tie_word_embeddings") | dict(
            num_hidden_layers=3, num_key_value_heads=1, query_pre_attn_scalar=20, sliding_window=12, use_bidirectional_attention=True,
            layer_types=["sliding_attention", "sliding_attention", "full_attention"],
            rope_parameters={"full_attention": rope(9000), "sliding_attention": rope(300)}),
        "Gemma 3 in both directions, window of 6 to both sides", gguf_note="no key says which layers have a window", inert=("layer_types", "use_bidirectional_attention"))

# --- states --------------------------------------------------------------------------------------

add("lfm2", t.Lfm2Config,
    without(SMALL, "rms_norm_eps", "tie_word_embeddings") | dict(
        num_hidden_layers=3, layer_types=["conv", "full_attention", "conv"], conv_L_cache=4, norm_eps=3e-3, intermediate_size=60,
        block_multiple_of=16, block_ffn_dim_multiplier=1.1, tie_word_embeddings=True, rope_parameters=rope(3000)),
    "short convolutions of 4 around one attention; the feed-forward's size is adjusted",
    inert=("layer_types", "intermediate_size"))
add("lfm2-bias", t.Lfm2Config,
    without(SMALL, "rms_norm_eps", "tie_word_embeddings") | dict(
        num_hidden_layers=3, layer_types=["conv", "full_attention", "conv"], conv_L_cache=2, conv_bias=True, norm_eps=3e-3, intermediate_size=60,
        block_multiple_of=16, block_ffn_dim_multiplier=1.1, tie_word_embeddings=True, rope_parameters=rope(3000)),
    "short convolutions of 2 with biases around one attention; the feed-forward's size is adjusted",
    inert=("layer_types", "intermediate_size"), gguf_note="the converter takes no biases")
add("lfm2_moe", t.Lfm2MoeConfig,
    without(SMALL, "rms_norm_eps", "tie_word_embeddings") | dict(
        num_hidden_layers=4, layer_types=["conv", "full_attention", "conv", "full_attention"], norm_eps=3e-3, num_dense_layers=1, num_experts=6,
        num_experts_per_tok=2, moe_intermediate_size=24, routed_scaling_factor=1.0, tie_word_embeddings=True, rope_parameters=rope(3000)),
    "short convolutions of 3, sigmoid router with a bias, layer 0 dense", weights=EXPERTS)
DELTA = dict(linear_conv_kernel_dim=4, linear_key_head_dim=8, linear_value_head_dim=12, linear_num_key_heads=2, linear_num_value_heads=6,
             head_dim=16, layer_types=["linear_attention", "linear_attention", "full_attention", "linear_attention"], num_hidden_layers=4)
WHOLE = {"no_mtp": True}  # no layer guesses a second token
RATES = {"A_log": lambda n, p: torch.log(torch.linspace(0.05, 4.0, p.numel())), "dt_bias": lambda n, p: 0.5 * n - 1.0, "conv1d.weight": scaled(0.5)}
add("qwen3_5", t.Qwen3_5TextConfig,
    SMALL | DELTA | dict(rope_parameters=rope(3000, partial_rotary_factor=0.5, mrope_section=[2, 1, 1])),
    "gated delta nets whose 6 value heads share 2 key heads, gated attention with a partial rotary", weights=RATES,
    inert=("layer_types", "rope_parameters.mrope_section"), converter=WHOLE)
add("qwen3_5_moe", t.Qwen3_5MoeTextConfig,
    SMALL | DELTA | dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=24, shared_expert_intermediate_size=40,
                         rope_parameters=rope(3000, partial_rotary_factor=0.25, mrope_section=[1, 1, 0])),
    "the same with experts and a gated shared one", weights=RATES | EXPERTS,
    inert=("layer_types", "intermediate_size", "rope_parameters.mrope_section"), converter=WHOLE)
add("qwen3_next", t.Qwen3NextConfig,
    SMALL | DELTA | dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=24, shared_expert_intermediate_size=40, norm_topk_prob=True,
                         rope_parameters=rope(3000, partial_rotary_factor=0.5)),
    "query, key, value and gate of each key head in one tensor", weights=RATES | EXPERTS,
    inert=("layer_types", "intermediate_size"), converter=WHOLE)
STEPS = {"A_log": lambda n, p: torch.log(torch.linspace(0.05, 4.0, p.numel())), "dt_bias": lambda n, p: 0.7 * n - 0.5, "conv1d.weight": scaled(0.5)}
add("mamba2", t.Mamba2Config,
    dict(hidden_size=32, num_hidden_layers=2, num_heads=8, head_dim=8, state_size=12, n_groups=2, conv_kernel=4, expand=2, layer_norm_epsilon=3e-3,
         chunk_size=16, time_step_limit=(0.05, 1.5), bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=False),
    "8 heads of 8 in 2 groups, steps between 0.05 and 1.5", weights=STEPS, inert=("chunk_size", "expand"),
    gguf_note="no key limits the steps")
add("mamba2-plain", t.Mamba2Config,
    dict(hidden_size=32, num_hidden_layers=2, num_heads=4, head_dim=16, state_size=20, n_groups=1, conv_kernel=3, expand=2, layer_norm_epsilon=3e-3,
         chunk_size=16, use_bias=True, use_conv_bias=False, bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=True),
    "4 heads of 16 in one group, biases of the products and none of the convolution, tied", weights=STEPS, inert=("chunk_size", "expand"))
HYBRID = dict(mamba_n_heads=8, mamba_n_groups=2, mamba_d_state=12, mamba_d_head=8, mamba_d_conv=4, mamba_expand=2, mamba_chunk_size=16)
add("granitemoehybrid", t.GraniteMoeHybridConfig,
    SMALL | HYBRID | dict(
        num_hidden_layers=3, layer_types=["linear_attention", "full_attention", "linear_attention"], num_local_experts=6, num_experts_per_tok=2,
        shared_intermediate_size=40, intermediate_size=24, embedding_multiplier=1.7, residual_multiplier=0.6, attention_multiplier=0.3,
        logits_scaling=1.3),
    "Mamba-2 around attention without positions, experts beside a shared one, four factors", weights=STEPS | EXPERTS,
    inert=("layer_types", "mamba_chunk_size"), raw=dict(layer_types=["mamba", "attention", "mamba"]))
add("granite-4-dense", t.GraniteMoeHybridConfig,
    SMALL | HYBRID | dict(
        num_hidden_layers=3, layer_types=["linear_attention", "full_attention", "linear_attention"], num_local_experts=0, num_experts_per_tok=0,
        shared_intermediate_size=40, embedding_multiplier=1.7, residual_multiplier=0.6, attention_multiplier=0.3, logits_scaling=1.3),
    "the same without experts", weights=STEPS, inert=("layer_types", "mamba_chunk_size", "intermediate_size", "num_local_experts", "num_experts_per_tok"),
    raw=dict(layer_types=["mamba", "attention", "mamba"]))
NEMOTRON_H = dict(hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=256,
                  layer_norm_epsilon=3e-3, mamba_num_heads=8, mamba_head_dim=8, n_groups=2, ssm_state_size=12, conv_kernel=4, chunk_size=16,
                  time_step_min=0.02, bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=False)
add("nemotron_h", t.NemotronHConfig,
    NEMOTRON_H | dict(time_step_min=1e-6, layers_block_type=["linear_attention", "mlp", "full_attention", "mlp"]),
    "one block a layer: Mamba-2, attention without positions, squared relu", weights=STEPS, inert=("layers_block_type", "chunk_size", "time_step_min"),
    raw=dict(hybrid_override_pattern="M-*-", layers_block_type=None, num_hidden_layers=4))
add("nemotron_h_moe", t.NemotronHConfig,
    NEMOTRON_H | dict(layers_block_type=["linear_attention", "moe", "full_attention", "moe"], n_routed_experts=6, num_experts_per_tok=2,
                      moe_intermediate_size=24, moe_shared_expert_intermediate_size=40, routed_scaling_factor=1.4, n_group=2, topk_group=1),
    "experts without a gate in two groups, beside a shared one", weights=STEPS | EXPERTS | {"experts.up_proj": lambda n, p: n * 1.5 * p.shape[-1] ** -0.5},
    inert=("layers_block_type", "chunk_size", "intermediate_size", "n_routed_experts"),
    gguf_note="no key limits the steps", raw=dict(hybrid_override_pattern="ME*E", layers_block_type=None, num_hidden_layers=4))
add("falcon_h1", t.FalconH1Config,
    SMALL | HYBRID | dict(
        mamba_d_ssm=64, mamba_rms_norm=True, mamba_norm_before_gate=False, projectors_bias=True, embedding_multiplier=1.7, lm_head_multiplier=0.7,
        key_multiplier=0.6, attention_in_multiplier=1.2, attention_out_multiplier=0.8, ssm_in_multiplier=1.3, ssm_out_multiplier=0.9,
        ssm_multipliers=[0.9, 1.1, 0.8, 1.2, 0.7], mlp_multipliers=[0.8, 1.3], rope_parameters=rope(3000)),
    "Mamba-2 beside attention, all factors, norm after the gate", weights=STEPS, inert=("mamba_chunk_size", "mamba_expand"),
    gguf_note="the converter rounds what it multiplied to half precision", raw=dict(head_dim=8))
add("falcon_h1-plain", t.FalconH1Config,
    SMALL | HYBRID | dict(mamba_d_ssm=64, mamba_rms_norm=False, mamba_conv_bias=False, rope_parameters=rope(3000)),
    "the same without factors and norm", weights=STEPS, inert=("mamba_chunk_size", "mamba_expand"),
    raw=dict(head_dim=8))
add("bamba", t.BambaConfig,
    SMALL | HYBRID | dict(num_hidden_layers=3, attn_layer_indices=[1], mamba_proj_bias=True, rope_parameters=rope(3000)),
    "Mamba-2 around attention whose heads are rotated by half", weights=STEPS, inert=("mamba_chunk_size", "attn_layer_indices"),
    gguf_note="llama.cpp computes another model")
add("lfm3", t.Lfm3Config,
    without(SMALL, "rms_norm_eps", "tie_word_embeddings") | dict(
        num_hidden_layers=5, layer_types=["conv", "conv", "full_attention", "conv", "sliding_attention"], norm_eps=3e-3, head_dim=16, sliding_window=7,
        tie_word_embeddings=True, rope_parameters={
            "full_attention": rope(3000, "proportional", partial_rotary_factor=0.5), "sliding_attention": rope(500)}),
    "short convolutions of 7, windows of 7, a gate for each head, norms before and after", inert=("layer_types",))

# --- latent attention ----------------------------------------------------------------------------

MLA = without(SMALL, "num_key_value_heads") | dict(num_hidden_layers=3, num_key_value_heads=4, kv_lora_rank=20, q_lora_rank=24, qk_rope_head_dim=8,
                                                   qk_nope_head_dim=12, v_head_dim=10, moe_intermediate_size=24, num_experts_per_tok=2)
add("deepseek_v2", t.DeepseekV2Config,
    MLA | dict(qk_rope_head_dim=16, num_experts_per_tok=3, n_routed_experts=6, n_shared_experts=2, first_k_dense_replace=1, routed_scaling_factor=1.4, topk_method="group_limited_greedy",
               n_group=3, topk_group=2, rope_parameters=rope(
                   3000, "yarn", factor=6.0, original_max_position_embeddings=32, beta_fast=1.5, beta_slow=0.4, mscale=0.7, mscale_all_dim=0.7)),
    "latent attention, YaRN, groups by their best expert, two shared experts", weights=EXPERTS, inert=("num_key_value_heads", "rope_parameters.mscale"),
    gguf_note="no key says the groups and the limits of YaRN")
add("deepseek_v2-lite", t.DeepseekV2Config,
    MLA | dict(q_lora_rank=None, n_routed_experts=6, n_shared_experts=1, first_k_dense_replace=1, attention_bias=True, rope_parameters=rope(3000)),
    "queries without a latent, greedy choice, biases", weights=EXPERTS, inert=("num_key_value_heads",), gguf_note="llama.cpp has no biases there")
add("deepseek_v3", t.DeepseekV3Config,
    MLA | dict(n_routed_experts=8, n_shared_experts=1, first_k_dense_replace=1, routed_scaling_factor=1.4, n_group=4, topk_group=2,
               norm_topk_prob=True, num_mtp_layers=0, rope_parameters=rope(3000)),
    "sigmoid router with a correction in groups by their best two", weights=EXPERTS, inert=("num_key_value_heads", "num_mtp_layers"),
    gguf_note="no key says the groups")
add("moonlight", t.DeepseekV3Config,
    MLA | dict(q_lora_rank=None, n_routed_experts=6, n_shared_experts=2, first_k_dense_replace=1, routed_scaling_factor=1.4, n_group=1, topk_group=1,
               norm_topk_prob=True, num_mtp_layers=0, rope_parameters=rope(3000)),
    "the same without groups and a latent of the queries", weights=EXPERTS,
    inert=("num_key_value_heads", "num_mtp_layers", "n_group", "topk_group"), raw=dict(scoring_func="sigmoid", topk_method="noaux_tc"))
add("glm4_moe_lite", t.Glm4MoeLiteConfig,
    MLA | dict(n_routed_experts=6, n_shared_experts=1, routed_scaling_factor=1.4, v_head_dim=20, norm_topk_prob=True, n_group=1, topk_group=1,
               rope_parameters=rope(3000)),
    "values as large as keys, layer 0 dense", weights=EXPERTS, inert=("num_key_value_heads", "n_group", "topk_group"))
add("youtu", t.YoutuConfig,
    without(MLA, "moe_intermediate_size", "num_experts_per_tok") | dict(rope_parameters=rope(3000)),
    "latent attention without experts", inert=("num_key_value_heads",))
LATENT = dict(hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=256, rms_norm_eps=3e-3,
              bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=False, kv_lora_rank=24, qk_rope_head_dim=8, qk_nope_head_dim=12,
              v_head_dim=16)
MIXED = dict(moe_intermediate_size=24, n_routed_experts=6, num_experts_per_tok=2, routed_scaling_factor=1.4, first_k_dense_replace=1, num_hidden_layers=3)
add("deepseek_v2-groups", t.DeepseekV2Config,
    LATENT | MIXED | dict(q_lora_rank=20, n_shared_experts=1, topk_method="group_limited_greedy", n_group=3, topk_group=1, v_head_dim=20,
                          attention_bias=True, rope_parameters=rope(3000)),
    "the best experts of the best group; queries made of 20 numbers, biases", weights=EXPERTS,
    inert=("num_key_value_heads", "first_k_dense_replace"))
add("deepseek_v3-yarn", t.DeepseekV3Config,
    LATENT | MIXED | dict(q_lora_rank=20, n_shared_experts=1, n_group=2, topk_group=1, norm_topk_prob=True, rope_interleave=True,
                          max_position_embeddings=16384, qk_rope_head_dim=16, rope_parameters=rope(
                              3000, "yarn", factor=4.0, beta_fast=32.0, beta_slow=1.0, mscale=0.7, mscale_all_dim=0.7, original_max_position_embeddings=4096)),
    "YaRN with a factor of scores, sigmoid router with a correction and groups", weights=EXPERTS,
    inert=("num_key_value_heads", "first_k_dense_replace", "rope_parameters.mscale"), raw=dict(scoring_func="sigmoid"))
add("deepseek_v3-halves", t.DeepseekV3Config,
    LATENT | MIXED | dict(q_lora_rank=None, n_shared_experts=1, n_group=1, topk_group=1, norm_topk_prob=False, rope_interleave=False,
                          rope_parameters=rope(3000)),
    "halves are rotated, weights of experts are not divided by their sum", weights=EXPERTS,
    inert=("num_key_value_heads", "first_k_dense_replace", "topk_group"), gguf_note="the converter takes no halves")
add("minicpm3", t.MiniCPM3Config,
    without(LATENT, "v_head_dim") | dict(
        num_hidden_layers=2, q_lora_rank=20, tie_word_embeddings=True, scale_emb=12.0, scale_depth=1.4, dim_model_base=256, rope_parameters=rope(
            10000, "longrope", short_factor=[1.0, 1.2, 1.5, 2.5], long_factor=[1.1, 1.7, 3.0, 6.0], original_max_position_embeddings=256)),
    "latent attention whose halves are rotated, factors of embeddings, blocks and logits", embedding=0.05,
    inert=("num_key_value_heads", "rope_parameters.long_factor", "rope_parameters.original_max_position_embeddings"))

# --- vectors of tokens for every layer, shared keys and values ------------------------------------

GEMMA4 = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
              global_head_dim=16, sliding_window=7, rms_norm_eps=3e-3, max_position_embeddings=256, final_logit_softcapping=9.0, vocab_size=264,
              bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=True, vocab_size_per_layer_input=264,
              rope_parameters={"full_attention": rope(30000, "proportional", partial_rotary_factor=0.5), "sliding_attention": rope(3000)})
SCALARS = {"layer_scalar": lambda n, p: 0.8 + 0.1 * n, "router.scale": positive(3.0), "per_expert_scale": positive(1.0)}
SPM = dict(set_vocab=lambda self: self._set_vocab_gpt2())
add("gemma4", t.Gemma4TextConfig,
    GEMMA4 | dict(num_hidden_layers=6, layer_types=["sliding_attention", "full_attention"] * 3, num_kv_shared_layers=3, use_double_wide_mlp=True,
                  hidden_size_per_layer_input=12),
    "vectors of tokens for every layer, three layers read the keys of others and have wider feed-forwards", weights=SCALARS,
    inert=("layer_types", "num_kv_shared_layers", "vocab_size_per_layer_input"), embedding=0.5, inert_tensors=("layers.5.layer_scalar",))  # a norm follows
add("gemma4-large", t.Gemma4TextConfig,
    GEMMA4 | dict(layer_types=["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"], attention_k_eq_v=True,
                  num_global_key_value_heads=1, hidden_size_per_layer_input=0),
    "keys are values in layers that see everything, which have fewer of them", weights=SCALARS, embedding=0.5,
    inert=("layer_types", "vocab_size_per_layer_input", "hidden_size_per_layer_input"), inert_tensors=("layers.3.layer_scalar",))
add("gemma4-moe", t.Gemma4TextConfig,
    GEMMA4 | dict(num_hidden_layers=3, layer_types=["sliding_attention", "sliding_attention", "full_attention"], attention_k_eq_v=True,
                  num_global_key_value_heads=1, hidden_size_per_layer_input=0, enable_moe_block=True, num_experts=6, top_k_experts=2,
                  moe_intermediate_size=24, tie_word_embeddings=False),
    "experts beside the feed-forward, each with a factor", weights=SCALARS | EXPERTS,
    inert=("layer_types", "vocab_size_per_layer_input", "hidden_size_per_layer_input"), inert_tensors=("layers.2.layer_scalar",))
ALTUP = {"correct_output_scale": lambda n, p: 1.0 + 0.3 * n, "modality_router": lambda n, p: n * 3.0 * p.shape[-1] ** 0.5,
         "prediction_coefs": scaled(0.3), "correction_coefs": scaled(0.3)}
add("gemma3n", t.Gemma3nTextConfig,
    dict(hidden_size=32, intermediate_size=[48] * 5, num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
         sliding_window=7, rms_norm_eps=3e-3, max_position_embeddings=256, final_logit_softcapping=9.0, vocab_size=264, bos_token_id=1, eos_token_id=2,
         pad_token_id=0, tie_word_embeddings=True, vocab_size_per_layer_input=264, hidden_size_per_layer_input=12, num_kv_shared_layers=2,
         laurel_rank=6, altup_num_inputs=4, altup_correct_scale=True, activation_sparsity_pattern=[0.6, 0.4, 0.0, 0.0, 0.0],
         layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention", "sliding_attention"],
         rope_parameters={"full_attention": rope(30000), "sliding_attention": rope(3000)}),
    "four streams, a narrow product beside attention, sparse first feed-forwards, shared keys", weights=ALTUP, embedding=0.5,
    inert=("layer_types", "num_kv_shared_layers", "vocab_size_per_layer_input", "intermediate_size"))
