//! Where values stop being finite numbers.

mod common;

use common::{Copy, Runner};
use rustml_model::{KvType, Quantize};

/// What is said of a copy of a tiny model in which `value` stands somewhere in a tensor.
fn why(model: &str, tensor: &str, value: f32, all: bool) -> String {
    let mut copy = Copy::of(model);
    let changed = copy.get(tensor);
    let mut bytes = value.to_le_bytes().repeat(changed.data.len() / 4);
    let one = changed.data.len() / 2 / 4 * 4;
    if !all {
        let kept = std::mem::take(&mut changed.data);
        bytes = [&kept[..one], &value.to_le_bytes()[..], &kept[one + 4..]].concat();
    }
    changed.data = bytes;
    let written = copy.write();
    let mut runner = Runner::open(&written.path(), Quantize::None, KvType::F32, 1);
    let ids = [1, 2, 3, 4, 5];
    let logits = runner.logits(&ids, usize::MAX);
    assert!(logits.iter().any(|x| !x.is_finite()), "{tensor}");
    runner.model.why_not_finite(&ids)
}

#[test]
fn the_first_damaged_tensor_is_named() {
    for (model, tensor) in [
        ("llama", "model.layers.1.mlp.down_proj.weight"),
        ("llama/model.gguf", "blk.1.attn_q.weight"),
        ("gpt2", "transformer.h.0.attn.c_attn.weight"),
        ("llama", "model.norm.weight"),
    ] {
        for value in [f32::NAN, f32::INFINITY] {
            let says = why(model, tensor, value, false);
            let expected =
                format!("the tensor `{tensor}` holds a value that is not a finite number");
            assert!(says.contains(&expected), "{says}");
        }
    }
}

#[test]
fn the_first_layer_that_overflows_is_named() {
    let says = why("llama", "model.layers.1.mlp.up_proj.weight", 1e38, true);
    let expected = "in layer 1, values are not finite numbers any more after the feed-forward";
    assert!(says.contains(expected), "{says}");
}
