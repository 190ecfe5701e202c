//! Every type of weights, on every instruction set, through a whole model.

mod common;

use common::naive::{random, Naive};
use common::{same_bits, team, Copy, Runner, Tensor};
use rustml_io::{DType, FileFormat, Metadata, Store};
use rustml_model::arch::Arch;
use rustml_model::{KvType, Quantize};
use rustml_simd::Isa;
use serde_json::Value;

const VOCAB: usize = 90;
const HIDDEN: usize = 256;

/// A Llama whose widths are multiples of 256, so that every type can hold it;
/// its weights have the scale that keeps rows of variance 1 at that.
fn model() -> Copy {
    let (q, kv, inner) = (192, 96, 512);
    let uniform = |inputs: usize| (3.0 / inputs as f32).sqrt();
    let mut tensors = vec![
        random("token_embd.weight", &[VOCAB, HIDDEN], 1.0),
        random("output.weight", &[VOCAB, HIDDEN], 2.0 * uniform(HIDDEN)),
        Tensor::new("output_norm.weight", &[HIDDEN], &[1.0; HIDDEN]),
    ];
    for layer in 0..2 {
        for (name, rows, cols) in [
            ("attn_q", q, HIDDEN),
            ("attn_k", kv, HIDDEN),
            ("attn_v", kv, HIDDEN),
            ("ffn_gate", inner, HIDDEN),
            ("ffn_up", inner, HIDDEN),
            ("ffn_down", HIDDEN, inner),
        ] {
            let name = format!("blk.{layer}.{name}.weight");
            tensors.push(random(&name, &[rows, cols], uniform(cols)));
        }
        // 192 wide: too narrow for blocks of 256, as in real files.
        let name = format!("blk.{layer}.attn_output.weight");
        tensors.push(random(&name, &[HIDDEN, q], uniform(q)));
        for name in ["attn_norm", "ffn_norm"] {
            let name = format!("blk.{layer}.{name}.weight");
            tensors.push(Tensor::new(&name, &[HIDDEN], &[1.0; HIDDEN]));
        }
    }
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "llama");
    for (key, value) in [
        ("block_count", 2),
        ("embedding_length", HIDDEN),
        ("feed_forward_length", inner),
        ("attention.head_count", 6),
        ("attention.head_count_kv", 3),
        ("attention.key_length", 32),
        ("context_length", 128),
    ] {
        metadata.insert(format!("llama.{key}"), value as u64);
    }
    metadata.insert("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
    Copy {
        tensors,
        metadata,
        config: Value::Null,
        format: FileFormat::Gguf { version: 3 },
    }
}

fn rms(a: &[f32], b: &[f32]) -> f64 {
    let squares: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    (squares / a.len() as f64).sqrt()
}

#[test]
fn every_type_on_every_instruction_set() {
    let ids: Vec<u32> = (0..75).map(|i| i * 37 % VOCAB as u32).collect();
    let f32s = model();
    let spread = {
        let mut runner = open(&f32s, Isa::best());
        let logits = runner.logits(&ids, 75);
        rms(&logits, &vec![0.0; logits.len()])
    };
    for dtype in DType::ALL {
        let mut copy = model();
        for t in copy.tensors.iter_mut().filter(|t| t.shape.len() == 2) {
            let fits = t.shape[1].is_multiple_of(dtype.block_len());
            *t = t.to(if fits { dtype } else { DType::Q5_1 });
        }
        // What the file says, exactly.
        let mut decoded = model();
        for (d, t) in decoded.tensors.iter_mut().zip(&copy.tensors) {
            *d = t.to_f32();
        }
        let written = decoded.write();
        let store = Store::open(&written.path()).unwrap();
        let spec = Arch::of(&store).unwrap().spec(&store).unwrap();
        let naive = Naive {
            arch: Arch::of(&store).unwrap(),
            spec: &spec,
            copy: &decoded,
            prefix: "",
        };
        let exact = naive.logits(&ids);
        for isa in Isa::available() {
            let mut runner = open(&copy, isa);
            let what = format!("{dtype} on {}", isa.name());
            let logits = runner.logits(&ids, 75);
            same_bits(&logits, &runner.logits(&ids, 16), &what);
            if isa == Isa::best() {
                same_bits(&logits, &runner.logits(&ids, 1), &what);
            }
            let error = rms(&logits, &exact) / spread;
            // Single precision: some rounding of 2^-24 in each of a few
            // hundred additions. Integers: activations of eight bits, off by
            // up to half of 1/127 of the largest of 32, which is 0.005 of
            // their standard deviation, in each of nine products in a row;
            // these add as squares do. Half or twice that is luck. bfloat16: off
            // by up to 2^-8 of the power of two below, evenly, which is 0.0016
            // of the standard deviation.
            let expected = match dtype {
                DType::F32 | DType::F16 => 0.0..1e-5,
                DType::BF16 => 0.5 * 0.005..2.0 * 0.005,
                _ => 0.5 * 0.015..2.0 * 0.015,
            };
            assert!(
                expected.contains(&error),
                "{what}: {error:.1e} of the spread"
            );
        }
    }
}

fn open(copy: &Copy, isa: Isa) -> Runner {
    let written = copy.write();
    Runner::with_team(&written.path(), Quantize::None, KvType::F32, team(isa, 2))
}
