//! What published configurations mean, the fields in them that matter as they
//! are on the hub. What they leave out, the model's class decides.

mod common;

use common::Copy;
use rustml_io::Store;
use rustml_model::arch::Arch;
use rustml_model::spec::*;
use serde_json::{json, Value};

fn spec(config: Value) -> Spec {
    let mut copy = Copy::of("llama");
    copy.config = config;
    let store = Store::open(&copy.write().path()).unwrap();
    let spec = Arch::of(&store).unwrap().spec(&store);
    spec.unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn gemma_3_4b_leaves_out_most() {
    let spec = spec(json!({
        "architectures": ["Gemma3ForConditionalGeneration"],
        "mm_tokens_per_image": 256,
        "model_type": "gemma3",
        "text_config": {
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "model_type": "gemma3_text",
            "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024
        },
        "vision_config": {"hidden_size": 1152, "num_hidden_layers": 27}
    }));
    assert_eq!(
        (spec.vocab, spec.hidden, spec.context),
        (262_208, 2560, 131_072)
    );
    assert!(spec.head.unwrap().tied && spec.head.unwrap().soft_cap.is_none());
    let rope = |base, scaling| Rope {
        dims: 256,
        base,
        scaling,
    };
    let global = rope(1e6, RopeScaling::Linear { factor: 8.0 });
    let local = rope(1e4, RopeScaling::None);
    assert_eq!(spec.ropes, [global, local]);
    assert_eq!(spec.layers.len(), 34);
    for (i, layer) in spec.layers.iter().enumerate() {
        let a = layer.attention().unwrap();
        assert_eq!(
            (a.heads, a.kv_heads, a.head_dim, a.scale),
            (8, 4, 256, 1.0 / 16.0)
        );
        let global = i % 6 == 5;
        assert_eq!(a.window, (!global).then_some(1024));
        assert_eq!(a.rope, Some(if global { 0 } else { 1 }));
        assert_eq!(layer.blocks[0].norm.norm().unwrap().eps, 1e-6);
        let f = layer.feed_forward().unwrap();
        assert!(f.activation == Activation::GeluTanh && f.gated);
        let sandwich = |b: &Block| matches!(b.norm, NormPlacement::Sandwich(_));
        assert!(layer.blocks.iter().all(sandwich));
    }
}

#[test]
fn gemma_3_27b_scales_queries_by_another_width() {
    let text = json!({
        "head_dim": 128, "hidden_size": 5376, "intermediate_size": 21504,
        "num_attention_heads": 32, "num_hidden_layers": 62, "num_key_value_heads": 16,
        "query_pre_attn_scalar": 168, "sliding_window": 1024,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}
    });
    let config = json!({"architectures": ["Gemma3ForConditionalGeneration"], "text_config": text});
    assert_eq!(
        spec(config).layers[61].attention().unwrap().scale,
        1.0 / 168f32.sqrt()
    );
}

#[test]
fn llama_3_2_1b() {
    let spec = spec(json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "head_dim": 64,
        "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 8192,
        "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama",
        "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8,
        "pretraining_tp": 1, "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3"
        },
        "rope_theta": 500000.0, "tie_word_embeddings": true, "vocab_size": 128256
    }));
    let scaling = RopeScaling::Llama3 {
        factor: 32.0,
        low: 1.0,
        high: 4.0,
        original: 8192.0,
    };
    let rope = Rope {
        dims: 64,
        base: 500_000.0,
        scaling,
    };
    assert_eq!(spec.ropes, [rope]);
    assert!(spec.head.unwrap().tied);
    assert_eq!(spec.parameters(), 1_235_814_400);
}

/// Of Llama 1, and of many models made from it: no head_dim, no rope settings,
/// no number of key-value heads.
#[test]
fn llama_as_it_was_first() {
    let spec = spec(json!({
        "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "hidden_size": 4096,
        "intermediate_size": 11008, "max_position_embeddings": 2048, "num_attention_heads": 32,
        "num_hidden_layers": 32, "rms_norm_eps": 1e-06, "vocab_size": 32000
    }));
    let rope = Rope {
        dims: 128,
        base: 10_000.0,
        scaling: RopeScaling::None,
    };
    assert_eq!(spec.ropes, [rope]);
    let a = *spec.layers[0].attention().unwrap();
    assert_eq!((a.heads, a.kv_heads, a.head_dim), (32, 32, 128));
    assert_eq!(
        (a.qkv_bias, a.out_bias, spec.head.unwrap().tied),
        (false, false, false)
    );
}

#[test]
fn gpt2_as_it_was_first() {
    let spec = spec(json!({
        "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"],
        "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768,
        "n_head": 12, "n_layer": 12, "n_positions": 1024, "vocab_size": 50257
    }));
    assert_eq!((spec.vocab, spec.hidden, spec.context), (50257, 768, 1024));
    assert!(spec.head.unwrap().tied && spec.embedding.learned_positions && spec.ropes.is_empty());
    let layer = &spec.layers[11];
    assert_eq!(
        (
            layer.feed_forward().unwrap().inner,
            layer.attention().unwrap().head_dim
        ),
        (3072, 64)
    );
    assert_eq!(layer.blocks[0].norm.norm().unwrap().eps, 1e-5);
    assert_eq!(spec.parameters(), 124_439_808);
}
