//! Models that no tiny checkpoint is of, made from those by hand, against a
//! naive forward pass in double precision.

mod common;

use common::naive::{prefix, random, Naive};
use common::{distance, same_bits, team, Copy, Reference, Runner, Tensor};
use rustml_io::{DType, Store};
use rustml_model::arch::Arch;
use rustml_model::spec::{Activation, Rope, RopeScaling};
use rustml_model::{KvType, Quantize};
use rustml_simd::Isa;
use serde_json::json;

fn open(copy: &Copy) -> Runner {
    Runner::with_team(
        &copy.write().path(),
        Quantize::None,
        KvType::F32,
        team(Isa::best(), 2),
    )
}

/// Asserts that the model computes what the naive twin does, on a text of
/// several cache blocks; returns the logits.
///
/// The tolerance is the tiny models': these are as large, and as tame.
#[track_caller]
fn check(copy: &Copy, base: &str) -> (Vec<f32>, Runner) {
    let reference = Reference::of(base.split('/').next().unwrap());
    let all = reference.tokens.iter().chain(&reference.greedy);
    let ids: Vec<u32> = all.cycle().copied().take(100).collect();
    let mut runner = open(copy);
    let written = copy.write();
    let store = Store::open(&written.path()).unwrap();
    let naive = Naive {
        arch: Arch::of(&store).unwrap(),
        spec: &runner.model.spec().clone(),
        copy,
        prefix: prefix(store.format()),
    };
    let ours = runner.logits(&ids, 37);
    let off = distance(&ours, &naive.logits(&ids));
    let tolerance = reference.tolerance();
    assert!(off <= tolerance, "{off} off, {tolerance} allowed");
    (ours, runner)
}

/// Asserts that the change moved the logits by far more than rounding does.
#[track_caller]
fn moved(copy: &Copy, base: &str) -> Runner {
    let (logits, runner) = check(copy, base);
    let (before, _) = check(&Copy::of(base), base);
    let moved = distance(&logits, &before);
    assert!(moved > 0.02, "only {moved} is different");
    runner
}

#[test]
fn the_naive_twin_agrees_with_pytorch() {
    for path in [
        "llama",
        "llama-tied",
        "gemma3",
        "llama/model.gguf",
        "gemma3/model.gguf",
    ] {
        let model = path.split('/').next().unwrap();
        let reference = Reference::of(model);
        let copy = Copy::of(path);
        let runner = open(&copy);
        let written = copy.write();
        let store = Store::open(&written.path()).unwrap();
        let naive = Naive {
            arch: Arch::of(&store).unwrap(),
            spec: runner.model.spec(),
            copy: &copy,
            prefix: prefix(store.format()),
        };
        let off = distance(&naive.logits(&reference.tokens), &reference.logits);
        assert!(off <= reference.tolerance(), "{path}: {off} off");
    }
}

fn add_biases(copy: &mut Copy, names: &[(&str, usize)]) {
    for layer in 0..2 {
        for (name, len) in names {
            let name = name.replace("{}", &layer.to_string());
            copy.tensors.push(random(&name, &[*len], 0.5));
        }
    }
}

#[test]
fn llama_with_biases() {
    let mut copy = Copy::of("llama");
    copy.set("attention_bias", true).set("mlp_bias", true);
    let at = |part: &str| format!("model.layers.{{}}.{part}.bias");
    let parts = [
        ("self_attn.q_proj", 128),
        ("self_attn.k_proj", 64),
        ("self_attn.v_proj", 64),
        ("self_attn.o_proj", 64),
        ("mlp.gate_proj", 96),
        ("mlp.up_proj", 96),
        ("mlp.down_proj", 64),
    ];
    for (part, len) in parts {
        add_biases(&mut copy, &[(&at(part), len)]);
    }
    let runner = moved(&copy, "llama");
    let layer = runner.model.spec().layers[1].clone();
    let (a, f) = (layer.attention().unwrap(), layer.feed_forward().unwrap());
    assert!(a.qkv_bias && a.out_bias && f.bias);
}

#[test]
fn llama_with_biases_in_gguf() {
    let mut copy = Copy::of("llama/model.gguf");
    let names = [
        // In the order of the rows of the weights, neighbours together.
        ("blk.{}.attn_q.bias", 128),
        ("blk.{}.attn_k.bias", 64),
        ("blk.{}.attn_v.bias", 64),
        ("blk.{}.attn_output.bias", 64),
        ("blk.{}.ffn_gate.bias", 96),
        ("blk.{}.ffn_up.bias", 96),
        ("blk.{}.ffn_down.bias", 64),
    ];
    add_biases(&mut copy, &names);
    moved(&copy, "llama/model.gguf");
}

#[test]
fn gemma_with_biases() {
    let mut copy = Copy::of("gemma3");
    copy.set("attention_bias", true);
    for layer in 0..7 {
        for (part, len) in [("q", 96), ("k", 24), ("v", 24), ("o", 32)] {
            let name = format!("model.layers.{layer}.self_attn.{part}_proj.bias");
            copy.tensors.push(random(&name, &[len], 0.5));
        }
    }
    moved(&copy, "gemma3");
}

#[test]
fn heads_that_are_rotated_in_part() {
    for dims in [2u32, 8, 16, 30] {
        let mut copy = Copy::of("llama-tied/model.gguf");
        copy.metadata.insert("llama.rope.dimension_count", dims);
        let runner = moved(&copy, "llama-tied/model.gguf");
        assert_eq!(runner.model.spec().ropes[0].dims, dims as usize);
    }
    let mut copy = Copy::of("gemma3/model.gguf");
    copy.metadata.insert("gemma3.rope.dimension_count", 10u32);
    moved(&copy, "gemma3/model.gguf");
}

#[test]
fn scaled_rotations() {
    for scaling in ["rope_scaling", "rope_parameters"] {
        for kind in ["rope_type", "type"] {
            let mut copy = Copy::of("llama-tied");
            copy.unset("rope_parameters");
            copy.set(scaling, json!({ kind: "linear", "factor": 3.5 }));
            copy.set("rope_theta", 700.0);
            let runner = moved(&copy, "llama-tied");
            let expected = Rope {
                dims: 32,
                base: 700.0,
                scaling: RopeScaling::Linear { factor: 3.5 },
            };
            assert_eq!(runner.model.spec().ropes, [expected]);
        }
    }
    let scaling_of = |copy: &Copy, base| {
        let (_, runner) = check(copy, base);
        runner.model.spec().ropes[0].scaling.clone()
    };
    // In GGUF, a factor without a type is linear; the table comes on top.
    let mut copy = Copy::of("llama-tied/model.gguf");
    copy.metadata.insert("llama.rope.scaling.factor", 3.5f32);
    let linear = RopeScaling::Linear { factor: 3.5 };
    assert_eq!(scaling_of(&copy, "llama-tied"), linear);
    copy.metadata.insert("llama.rope.scaling.type", "linear");
    assert_eq!(scaling_of(&copy, "llama-tied"), linear);
    copy.metadata.insert("llama.rope.scaling.type", "none");
    assert_eq!(scaling_of(&copy, "llama-tied"), RopeScaling::None);
    copy.unset_metadata("llama.rope.scaling.type");
    copy.metadata.insert("llama.rope.scaling.factor", 0.0f32);
    assert_eq!(scaling_of(&copy, "llama-tied"), RopeScaling::None);
    let mut copy = Copy::of("llama/model.gguf");
    let factors = copy.get("rope_freqs.weight").values();
    copy.metadata.insert("llama.rope.scaling.factor", 2.0f32);
    let doubled = factors.iter().map(|f| f * 2.0).collect();
    assert_eq!(scaling_of(&copy, "llama"), RopeScaling::Factors(doubled));
}

#[test]
fn capped_scores_and_logits() {
    let mut copy = Copy::of("gemma3");
    copy.set("final_logit_softcapping", 5.0);
    let runner = moved(&copy, "gemma3");
    assert_eq!(runner.model.spec().head.unwrap().soft_cap, Some(5.0));
    let mut copy = Copy::of("gemma3/model.gguf");
    copy.metadata
        .insert("gemma3.attn_logit_softcapping", 2.0f32);
    copy.metadata
        .insert("gemma3.final_logit_softcapping", 5.0f32);
    moved(&copy, "gemma3/model.gguf");
}

#[test]
fn other_activations() {
    for (name, activation) in [
        ("relu", Activation::Relu),
        ("gelu_pytorch_tanh", Activation::GeluTanh),
        ("swish", Activation::Silu),
    ] {
        let mut copy = Copy::of("llama");
        copy.set("hidden_act", name);
        let (_, runner) = check(&copy, "llama");
        let layer = runner.model.spec().layers[0].clone();
        assert_eq!(layer.feed_forward().unwrap().activation, activation);
    }
}

#[test]
fn which_layers_see_everything() {
    let windows = |copy: &Copy| {
        let (_, runner) = check(copy, "gemma3");
        let layers = runner.model.spec().layers.iter();
        let windows = layers.map(|l| l.attention().map(|a| (a.window, a.rope)).unwrap());
        windows
            .map(|(window, rope)| match (window, rope) {
                (Some(8), Some(1)) => 'l',
                (None, Some(0)) => 'g',
                other => panic!("{other:?}"),
            })
            .collect::<String>()
    };
    let mut copy = Copy::of("gemma3");
    assert_eq!(windows(&copy), "lllllgl");
    copy.unset("layer_types");
    assert_eq!(windows(&copy), "lllllgl", "the pattern is 6 unless set");
    copy.set("sliding_window_pattern", 3);
    assert_eq!(windows(&copy), "llgllgl");
    copy.set("sliding_window_pattern", 1);
    assert_eq!(windows(&copy), "ggggggg");
    // The list is meant where both are there.
    let types = ["full_attention", "sliding_attention"].repeat(4);
    copy.set("layer_types", types[..7].to_vec());
    assert_eq!(windows(&copy), "glglglg");

    let mut copy = Copy::of("gemma3/model.gguf");
    let key = "gemma3.attention.sliding_window_pattern";
    copy.metadata.insert(key, 2u32);
    assert_eq!(windows(&copy), "lglglgl");
    let local = [true, true, false, false, true, true, true];
    copy.metadata.insert(key, local.to_vec());
    assert_eq!(windows(&copy), "llgglll");
    copy.metadata
        .insert("gemma3.attention.sliding_window", 0u32);
    assert_eq!(windows(&copy), "ggggggg");
    copy.unset_metadata("gemma3.attention.sliding_window");
    assert_eq!(windows(&copy), "ggggggg");
}

/// Gemma 3 with eyes, as the hub has it and as transformers writes it since.
#[test]
fn gemma_with_eyes() {
    let reference = Reference::of("gemma3");
    let expected = open(&Copy::of("gemma3")).logits(&reference.tokens, 50);
    for (of_text, of_others) in [
        ("language_model.model.", ""),
        ("model.language_model.", "model."),
    ] {
        for file in ["config.json", "config.v4.json"] {
            let mut copy = Copy::of("gemma3");
            let inner = std::fs::read(common::tiny("gemma3").join(file)).unwrap();
            let mut inner: serde_json::Value = serde_json::from_slice(&inner).unwrap();
            inner.as_object_mut().unwrap().shift_remove("architectures");
            copy.config = json!({
                "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
                "text_config": inner, "vision_config": {"hidden_size": 7, "num_hidden_layers": 1},
                "mm_tokens_per_image": 256,
            });
            for t in &mut copy.tensors {
                t.name = t.name.replacen("model.", of_text, 1);
            }
            for name in [
                "vision_tower.vision_model.embeddings.patch_embedding.weight",
                "vision_tower.vision_model.encoder.layers.0.layer_norm1.bias",
                "multi_modal_projector.mm_input_projection_weight",
            ] {
                copy.tensors
                    .push(random(&format!("{of_others}{name}"), &[7, 3], 1.0));
            }
            let logits = open(&copy).logits(&reference.tokens, 50);
            same_bits(&logits, &expected, of_text);

            // A head of its own: twice the embedding, so twice the logits.
            let embedding = format!("{of_text}embed_tokens.weight");
            let embedding: Vec<f32> = copy.get(&embedding).values();
            let doubled: Vec<f32> = embedding.iter().map(|x| 2.0 * x).collect();
            let head = match of_others {
                "" => "language_model.lm_head.weight",
                _ => "lm_head.weight",
            };
            let shape = [embedding.len() / 32, 32];
            copy.tensors.push(Tensor::new(head, &shape, &doubled));
            let twice: Vec<f32> = expected.iter().map(|x| 2.0 * x).collect();
            // What is outside counts; then what is inside; then it is shared.
            // A head that is stored counts whatever they say.
            for (outside, inside, tied) in [
                (None, None, true),
                (None, Some(true), true),
                (None, Some(false), false),
                (Some(false), None, false),
                (Some(false), Some(true), false),
                (Some(true), Some(false), true),
            ] {
                copy.set("tie_word_embeddings", outside);
                copy.set("text_config.tie_word_embeddings", inside);
                let mut runner = open(&copy);
                let logits = runner.logits(&reference.tokens, 50);
                same_bits(&logits, &twice, &format!("{outside:?} {inside:?}"));
                assert_eq!(runner.model.report().untied, tied);
            }
        }
    }
}

/// What transformers makes of a tied pair of which both or the other one is in
/// the file: tied if they are equal or one is missing, else both as they are.
#[test]
fn tied_heads_that_are_stored() {
    let embedding = "model.embed_tokens.weight";
    let reference = Reference::of("llama-tied");
    let logits = |copy: &Copy| {
        let mut runner = open(copy);
        let logits = runner.logits(&reference.tokens, 50);
        let (spec, report) = (runner.model.spec(), runner.model.report());
        assert_eq!(spec.head.unwrap().tied, !report.untied);
        (logits, report.untied, report.parameters)
    };
    let (expected, _, parameters) = logits(&Copy::of("llama-tied"));

    let mut copy = Copy::of("llama-tied");
    let mut head = copy.get(embedding).clone();
    head.name = "lm_head.weight".into();
    copy.tensors.push(head.clone());
    let (equal, untied, once) = logits(&copy);
    same_bits(&equal, &expected, "a copy of the embedding");
    assert_eq!((untied, once), (false, parameters));

    copy.remove(embedding);
    let (alone, untied, once) = logits(&copy);
    same_bits(&alone, &expected, "the head alone");
    assert_eq!((untied, once), (false, parameters));

    let doubled: Vec<f32> = head.values().iter().map(|x| 2.0 * x).collect();
    let mut copy = Copy::of("llama-tied");
    let name = "lm_head.weight";
    copy.tensors.push(Tensor::new(name, &head.shape, &doubled));
    let (twice, untied, both) = logits(&copy);
    let double: Vec<f32> = expected.iter().map(|x| 2.0 * x).collect();
    same_bits(&twice, &double, "another head");
    assert_eq!((untied, both), (true, parameters + doubled.len()));
}

#[test]
fn gpt2_in_other_ways() {
    let reference = Reference::of("gpt2");
    let expected = open(&Copy::of("gpt2")).logits(&reference.tokens, 50);
    // A head of its own.
    let mut copy = Copy::of("gpt2");
    let doubled: Vec<f32> = copy.get("transformer.wte.weight").values();
    let doubled: Vec<f32> = doubled.iter().map(|x| 2.0 * x).collect();
    copy.tensors
        .push(Tensor::new("lm_head.weight", &[321, 64], &doubled));
    copy.set("tie_word_embeddings", false);
    let twice: Vec<f32> = expected.iter().map(|x| 2.0 * x).collect();
    same_bits(
        &open(&copy).logits(&reference.tokens, 50),
        &twice,
        "a head of its own",
    );
    // Scores that are not scaled, of queries that are a quarter: powers of
    // two change no digits.
    let mut copy = Copy::of("gpt2");
    copy.set("scale_attn_weights", false);
    for layer in 0..2 {
        for (part, rows) in [("weight", 64), ("bias", 1)] {
            let t = copy.get(&format!("transformer.h.{layer}.attn.c_attn.{part}"));
            let mut values = t.values();
            for row in values.chunks_exact_mut(3 * 64) {
                row[..64].iter_mut().for_each(|x| *x /= 4.0);
            }
            assert_eq!(values.len(), rows * 3 * 64);
            *t = Tensor::new(&t.name, &t.shape, &values);
        }
    }
    same_bits(
        &open(&copy).logits(&reference.tokens, 50),
        &expected,
        "unscaled scores",
    );
}

/// Stored in blocks, fused or in another order, weights are the same as when
/// they are put into blocks on loading.
#[test]
fn files_of_quantised_weights() {
    for model in ["gpt2", "llama", "llama-tied", "gemma3"] {
        let path = format!("{model}/model.gguf");
        let reference = Reference::of(model);
        for to in [DType::Q8_0, DType::Q4_0] {
            let mut copy = Copy::of(&path);
            let tied = copy.tensors.iter().all(|t| t.name != "output.weight");
            for t in &mut copy.tensors {
                let looked_up =
                    t.name == "position_embd.weight" || (t.name == "token_embd.weight" && !tied);
                if t.shape.len() == 2 && !looked_up {
                    *t = t.to(to);
                }
            }
            let mut stored = open(&copy);
            assert_eq!(stored.model.report().quantised, []);
            let mut loaded = Runner::open(&common::tiny(&path), Quantize::To(to), KvType::F32, 2);
            let expected = loaded.logits(&reference.tokens, 50);
            let what = format!("{model} in {to}");
            same_bits(&stored.logits(&reference.tokens, 50), &expected, &what);
            assert_eq!(stored.model.report().bytes, loaded.model.report().bytes);
        }
    }
}

/// `rope_scaling` beside `rope_parameters` counts alone, as in transformers; an empty one
/// does not.
#[test]
fn of_two_rotations_the_older_key_counts() {
    let mut copy = Copy::of("llama");
    copy.set("rope_scaling", json!({}));
    let both = |copy: &Copy| Runner::open(&copy.write().path(), Quantize::None, KvType::F32, 1);
    let plain = both(&copy).model.spec().ropes[0].clone();
    assert_ne!(plain.base, 10_000.0);
    copy.set(
        "rope_scaling",
        json!({"rope_type": "linear", "factor": 2.0}),
    );
    let rope = both(&copy).model.spec().ropes[0].clone();
    assert_eq!(rope.scaling, RopeScaling::Linear { factor: 2.0 });
    // That of the other key is not read.
    assert_eq!(rope.base, 10_000.0);
}
