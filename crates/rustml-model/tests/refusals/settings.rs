//! Settings that are missing, of another type, or make no sense.

use super::{load, refused, MODELS};
use crate::common::{Copy, Tensor};
use rustml_io::Value as Meta;
use serde_json::{json, Value};

/// Asserts that a setting of config.json is refused.
#[track_caller]
fn setting(model: &str, key: &str, value: Value, expected: &str) {
    let mut copy = Copy::of(model);
    copy.set(key, value);
    let message = refused(&copy, expected);
    let says_where = ["config.json", " tensor ", "the architecture "];
    assert!(says_where.iter().any(|w| message.contains(w)), "{message}");
}

/// Asserts that a pair of GGUF metadata is refused.
#[track_caller]
fn metadata(model: &str, key: &str, value: Meta, expected: &str) {
    let mut copy = Copy::of(&format!("{model}/model.gguf"));
    copy.metadata.insert(key, value);
    refused(&copy, &format!("model.gguf .. {expected}"));
}

const HUGE: u64 = 1_000_000_000;

#[test]
#[rustfmt::skip]
fn architectures() {
    let key = "architectures";
    setting("llama", key, json!(["MambaForCausalLM", "x\x1b"]),
        "the architecture `MambaForCausalLM, x\\u{1b}` is not supported; `rustml inspect --architectures` lists those that are");
    setting("llama", key, json!([]), "the architecture `` is not supported");
    setting("llama", key, json!("LlamaForCausalLM"), "architectures is `\"LlamaForCausalLM\"`, but must be a list of strings");
    setting("llama", key, Value::Null, "architectures is missing");
    let key = "general.architecture";
    metadata("llama", key, Meta::from("mamba"), "the architecture `mamba` is not supported");
    metadata("llama", key, Meta::from(7u32), "`general.architecture` is u32 7 .. a string");
    let mut copy = Copy::of("llama/model.gguf");
    copy.unset_metadata(key);
    refused(&copy, "the metadata key `general.architecture` is missing");
}

#[test]
fn weights_without_a_configuration() {
    let mut copy = Copy::of("llama");
    copy.config = Value::Null;
    let written = copy.write();
    // Opened as a directory, and as a file.
    for path in [
        written.path(),
        written.directory().join("model.safetensors"),
    ] {
        let message = load(&path).err().unwrap();
        assert!(message.contains("no config.json"), "{message}");
    }
    copy.config = json!(["not", "an", "object"]);
    refused(&copy, "config.json: architectures is missing");
}

#[rustfmt::skip]
const NEEDED: [(&str, &[&str], &[&str]); 3] = [
    ("gpt2",
        &["vocab_size", "n_embd", "n_positions", "n_layer", "n_head"],
        &["context_length", "embedding_length", "block_count", "feed_forward_length",
            "attention.head_count", "attention.layer_norm_epsilon"]),
    ("llama",
        &["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
            "num_attention_heads", "max_position_embeddings"],
        &["context_length", "embedding_length", "block_count", "feed_forward_length",
            "attention.head_count", "attention.layer_norm_rms_epsilon"]),
    ("gemma3",
        &["hidden_size", "intermediate_size", "num_hidden_layers"],
        &["context_length", "embedding_length", "block_count", "feed_forward_length",
            "attention.head_count", "attention.layer_norm_rms_epsilon", "attention.key_length"]),
];

#[test]
fn what_is_needed_and_missing_is_named() {
    for (model, keys, pairs) in NEEDED {
        for key in keys {
            let mut copy = Copy::of(model);
            copy.unset(key);
            refused(&copy, &format!("config.json: {key} is missing"));
        }
        for key in pairs {
            let mut copy = Copy::of(&format!("{model}/model.gguf"));
            copy.unset_metadata(&format!("{model}.{key}"));
            refused(
                &copy,
                &format!("the metadata key `{model}.{key}` is missing"),
            );
        }
    }
}

#[test]
#[rustfmt::skip]
fn settings_of_another_type() {
    let optional = [
        ("gpt2", &["n_inner"][..]),
        ("llama", &["num_key_value_heads", "head_dim"]),
        ("gemma3", &["vocab_size", "num_attention_heads", "num_key_value_heads", "head_dim",
            "max_position_embeddings", "sliding_window"]),
    ];
    let numbers = NEEDED.map(|(m, keys, _)| (m, keys)).into_iter().chain(optional);
    for (model, keys) in numbers {
        for key in keys {
            for wrong in [json!("64"), json!(-1), json!(1.5), json!([64]), json!(true), json!(1e30)] {
                let expected = format!("{key} is `{wrong}`, but must be a whole number");
                setting(model, key, wrong, &expected);
            }
        }
    }
    setting("gpt2", "layer_norm_epsilon", json!("1e-5"), "layer_norm_epsilon is `\"1e-5\"`, but must be a number");
    setting("llama", "rms_norm_eps", json!([]), "rms_norm_eps is `[]`, but must be a number");
    setting("llama", "tie_word_embeddings", json!("no"), "tie_word_embeddings is `\"no\"`, but must be true or false");
    setting("llama", "attention_bias", json!(1), "attention_bias is `1`, but must be true or false");
    setting("llama", "hidden_act", json!(1), "hidden_act is `1`, but must be a string");
    setting("llama", "rope_parameters", json!("llama3"), "rope_parameters is `\"llama3\"`, but must be an object");
    setting("gemma3", "layer_types", json!([1]), "layer_types is `[1]`, but must be a list of strings");
    setting("gemma3", "text_config", json!([1]), "text_config is `[1]`, but must be an object");
    setting("gpt2", "n_layer", json!(vec![1; 10_000]), "n_layer is `[1,1,1,1 .. 1...`, but must be");
    for (key, wrong) in [
        ("block_count", Meta::from("2")),
        ("embedding_length", Meta::from(-1i32)),
        ("attention.head_count", Meta::from(2.0f32)),
        ("attention.head_count_kv", Meta::from(vec![2.0f32, 2.0])),
        ("attention.layer_norm_rms_epsilon", Meta::from("x")),
        ("rope.freq_base", Meta::from(true)),
        ("rope.scaling.type", Meta::from(1u8)),
    ] {
        metadata("llama", &format!("llama.{key}"), wrong, &format!("`llama.{key}` is "));
    }
}

#[test]
#[rustfmt::skip]
fn sizes_that_make_no_sense() {
    for (model, key, value, expected) in [
        ("gpt2", "n_layer", HUGE, "the number of layers is 1000000000, more than the 4096"),
        ("llama", "num_hidden_layers", HUGE, "the number of layers is 1000000000, more than the 4096"),
        ("gemma3", "num_hidden_layers", HUGE, "the number of layers is 1000000000, more than the 4096"),
        ("llama", "num_hidden_layers", 0, "the number of layers is 0"),
        ("llama", "num_hidden_layers", 1, "uses the tensor `model.layers.1.input_layernorm.weight` (and 8 more)"),
        ("llama", "num_hidden_layers", 3, "model.layers.2."),
        ("gpt2", "n_head", 0, "cannot be divided among 0 attention heads"),
        ("gpt2", "n_head", 7, "the hidden size 64 cannot be divided among 7"),
        ("gpt2", "n_embd", 0, "the hidden size is 0"),
        ("gpt2", "n_embd", u64::MAX, "18446744073709551615"),
        ("gpt2", "vocab_size", 0, "the vocabulary size is 0"),
        ("gpt2", "vocab_size", u64::MAX, "the vocabulary size is 18446744073709551615, more"),
        ("gpt2", "vocab_size", 1 << 22, "`transformer.wte.weight` has the shape [321, 64] .. [4194304, 64]"),
        ("gpt2", "n_positions", 0, "the context length is 0"),
        ("gpt2", "n_positions", 97, "`transformer.wpe.weight` has the shape [96, 64] .. [97, 64]"),
        ("gpt2", "n_inner", 0, "the feed-forward size is 0"),
        ("llama", "num_attention_heads", 0, "the number of attention heads is 0"),
        ("llama", "num_attention_heads", HUGE, "attention heads is 1000000000, more"),
        ("llama", "num_key_value_heads", 0, "the number of key-value heads is 0"),
        ("llama", "num_key_value_heads", 3, "4 attention heads cannot be shared among 3"),
        ("llama", "head_dim", 0, "the number of rotated values is 0"),
        ("llama", "head_dim", 31, "31 values of a head are rotated, an odd number"),
        ("llama", "head_dim", 3000, "the head size is 3000, more than the 512"),
        ("llama", "head_dim", HUGE, "is 1000000000, more than"),
        ("llama", "head_dim", 16, "self_attn.q_proj.weight` has the shape [128, 64] .. [64, 64]"),
        ("llama", "max_position_embeddings", u64::MAX, "the context length is 18446744073709551615, more"),
        ("llama", "hidden_size", 1 << 17, "has the shape [352, 64] .. [352, 131072]"),
        ("llama", "intermediate_size", 1 << 20, "has the shape .. [1048576, 64]"),
        ("gemma3", "sliding_window", 0, "the sliding window is 0"),
    ] {
        setting(model, key, json!(value), expected);
    }
    // Without a head size, it is a share of the width.
    let mut copy = Copy::of("llama-tied");
    copy.unset("head_dim").set("num_attention_heads", 5);
    refused(&copy, "the hidden size 96 cannot be divided among 5");
}

#[test]
#[rustfmt::skip]
fn settings_that_make_no_sense() {
    let mut types = vec!["full_attention"; 7];
    types[3] = "chunked\x1b";
    for (model, key, value, expected) in [
        ("gpt2", "layer_norm_epsilon", json!(-1.0), "the epsilon of the norms is -1, but"),
        ("gpt2", "layer_norm_epsilon", json!(1e300), "the epsilon of the norms is inf"),
        ("gpt2", "scale_attn_by_inverse_layer_idx", json!(true), "scale_attn_by_inverse_layer_idx is not supported"),
        ("gpt2", "activation_function", json!("tanh\x1b"), "activation_function is `tanh\\u{1b}` .. gelu_new"),
        ("llama", "rms_norm_eps", json!(-1e-6), "the epsilon of the norms is -0.000001"),
        ("llama", "hidden_act", json!("gelu7"), "hidden_act is `gelu7`, which is not supported"),
        ("llama", "attention_bias", json!(true), "self_attn.q_proj.bias is missing"),
        ("llama", "mlp_bias", json!(true), "mlp.gate_proj.bias is missing"),
        ("gemma3", "layer_types", json!(["full_attention"]), "layer_types names 1 layers, but num_hidden_layers is 7"),
        ("gemma3", "layer_types", json!(types), "layer_types names `chunked\\u{1b}`"),
        ("gemma3", "query_pre_attn_scalar", json!(-3), "query_pre_attn_scalar is -3"),
        ("gemma3", "query_pre_attn_scalar", json!(0), "query_pre_attn_scalar is 0"),
        ("gemma3", "query_pre_attn_scalar", json!(1e300), "the attention scale is 0"),
        ("gemma3", "attn_logit_softcapping", json!(50), "attn_logit_softcapping is set"),
        ("gemma3", "final_logit_softcapping", json!(-30.0), "the logit soft cap is -30"),
        ("gemma3", "use_bidirectional_attention", json!(true), "use_bidirectional_attention"),
        ("gemma3", "attention_bias", json!(true), "self_attn.q_proj.bias is missing"),
        ("gemma3", "rope_parameters", json!({"rope_theta": 1e6}), "rope_parameters has no full_attention"),
        ("llama", "partial_rotary_factor", json!(1.5), "partial_rotary_factor is 1.5"),
        ("llama", "quantization_config", json!({"quant_method": "hqq"}), "quant_method `hqq` is not read; read are fp8"),
        ("llama", "quantization_config", json!({"bits": 4, "mode": "nvfp4"}), "mode is `nvfp4`"),
        ("llama", "quantization_config", json!({"quant_method": "gptq", "bits": 5}), "bits is 5"),
        ("llama", "quantization_config", json!({"quant_method": "awq", "version": "gemv"}), "version `gemv`"),
        ("llama", "quantization_config", json!({"quant_method": "fp8", "weight_block_size": [0, 1]}), "weight_block_size is [0, 1]"),
    ] {
        setting(model, key, value, expected);
    }
    for (key, value, expected) in [
        ("rope_theta", json!(0), "the rope base is 0"),
        ("rope_theta", json!(-1), "the rope base is -1"),
        ("rope_theta", json!("x"), "rope_theta is `\"x\"`"),
        ("rope_type", json!("ntk"), "rope scaling of type `ntk` is not supported"),
        ("rope_type", json!(3), "rope_type is `3`"),
        ("factor", json!(0), "the rope scaling factor is 0"),
        ("factor", Value::Null, "factor is missing"),
        ("low_freq_factor", json!(-1), "low_freq_factor is -1"),
        ("high_freq_factor", json!(1.0), "high_freq_factor minus low_freq_factor is 0"),
        ("original_max_position_embeddings", json!(0), "original_max_position_embeddings is 0"),
        ("partial_rotary_factor", json!(0), "partial_rotary_factor is 0, but must be above"),
    ] {
        setting("llama", &format!("rope_parameters.{key}"), value, expected);
    }
}

#[test]
#[rustfmt::skip]
fn metadata_that_make_no_sense() {
    for model in MODELS {
        for (key, value, expected) in [
            ("block_count", HUGE, "the number of layers is 1000000000, more"),
            ("block_count", 0, "the number of layers is 0"),
            ("block_count", 100, "is missing"),
            ("block_count", 1, "nothing in this architecture uses the tensor"),
            ("embedding_length", 0, "0"),
            ("embedding_length", u64::MAX, "18446744073709551615"),
            ("attention.head_count", 0, "attention heads"),
            ("feed_forward_length", 0, "the feed-forward size is 0"),
            ("context_length", 0, "the context length is 0"),
        ] {
            metadata(model, &format!("{model}.{key}"), Meta::from(value), expected);
        }
    }
    for (model, key, value, expected) in [
        ("llama", "expert_count", Meta::from(8u32), "`llama.expert_used_count` is missing"),
        ("llama", "attention.key_length", Meta::from(3000u32), "the head size is 3000, more than the 512"),
        ("gemma3", "attention.sliding_window_pattern", Meta::from(vec![true; 3]), "names 3 layers, but there are 7"),
        ("gemma3", "attention.sliding_window_pattern", Meta::from("six"), "`gemma3.attention.sliding_window_pattern` is string"),
        ("gemma3", "attention.scale", Meta::from(-1.0f32), "the attention scale is -1"),
        ("gemma3", "attn_logit_softcapping", Meta::from(0u32), "the attention soft cap is 0"),
        ("llama", "rope.scaling.type", Meta::from("ntk"), "rope scaling of type `ntk` is not supported"),
        ("llama", "rope.scaling.factor", Meta::from(-2.0f32), "a rope factor is -"),
        ("llama", "rope.freq_base", Meta::from(f32::NAN), "the rope base is NaN"),
        ("llama", "rope.dimension_count", Meta::from(0u32), "the number of rotated values is 0"),
        ("llama", "rope.dimension_count", Meta::from(7u32), "7 values of a head are rotated, an odd number"),
        ("llama", "rope.dimension_count", Meta::from(16u32), "there are 16 rope factors (rope_freqs.weight), but 8 pairs"),
        ("llama-tied", "rope.dimension_count", Meta::from(34u32), "34 values of a head are rotated, but a head has 32"),
        ("llama-tied", "rope.scaling.type", Meta::from("linear"), "`llama.rope.scaling.factor` is missing"),
    ] {
        let arch = model.split('-').next().unwrap();
        metadata(model, &format!("{arch}.{key}"), value, expected);
    }
    let mut copy = Copy::of("llama/model.gguf");
    let name = "rope_freqs.weight";
    *copy.get(name) = Tensor::new(name, &[1000], &[1.0; 1000]);
    refused(&copy, "the tensor rope_freqs.weight holds 1000 values, but 256 at most");
    *copy.get(name) = Tensor::new(name, &[16], &[0.0; 16]);
    refused(&copy, "a rope factor is 0");
}
