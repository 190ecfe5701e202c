//! Tensors that are missing, too many, or of another shape or type.

use super::{load, refused, MODELS};
use crate::common::{Copy, Tensor};
use rustml_io::DType;

#[test]
fn every_missing_tensor_is_named() {
    for path in MODELS
        .map(|m| [m.to_owned(), format!("{m}/model.gguf")])
        .concat()
    {
        let mut copy = Copy::of(&path);
        for i in 0..copy.tensors.len() {
            let without = copy.tensors.remove(i);
            match without.name.as_str() {
                // Without these the file is of another model, but a whole one.
                "output.weight" | "rope_freqs.weight" => {}
                "token_embd.weight" => drop(refused(&copy, "no tensor named `token_embd.weight`")),
                name => drop(refused(&copy, &format!("the tensor {name} is missing"))),
            }
            copy.tensors.insert(i, without);
        }
    }
}

#[test]
fn every_tensor_of_another_shape_is_named() {
    for path in MODELS
        .map(|m| [m.to_owned(), format!("{m}/model.gguf")])
        .concat()
    {
        let mut copy = Copy::of(&path);
        for i in 0..copy.tensors.len() {
            let t = &mut copy.tensors[i];
            let (name, before) = (t.name.clone(), t.clone());
            // Twice the rows.
            t.shape[0] *= 2;
            t.data = t.data.repeat(2);
            match name.as_str() {
                // There, the embedding says how large the vocabulary is.
                "token_embd.weight" if path == "llama/model.gguf" => {
                    refused(
                        &copy,
                        "`output.weight` has the shape [352, 64] .. [704, 64]",
                    );
                }
                "token_embd.weight" => {}
                "rope_freqs.weight" => {
                    refused(&copy, "32 rope factors (rope_freqs.weight) .. 16 pairs");
                }
                name => {
                    refused(
                        &copy,
                        &format!("`{name}` has the shape .. by the configuration"),
                    );
                }
            }
            copy.tensors[i] = before;
        }
    }
}

#[test]
fn tensors_left_over_are_named() {
    for model in MODELS {
        let mut copy = Copy::of(model);
        let extra = |name| Tensor::new(name, &[2], &[1.0, 2.0]);
        copy.tensors.push(extra("model.extra.weight"));
        refused(
            &copy,
            "nothing in this architecture uses the tensor `model.extra.weight`:",
        );
        copy.tensors.push(extra("another"));
        refused(&copy, "(and 1 more)");
    }
    let mut copy = Copy::of("llama/model.gguf");
    let extra = |name| Tensor::new(name, &[1], &[0.0]);
    copy.tensors.push(extra("blk.2.attn_q.weight"));
    refused(&copy, "`blk.2.attn_q.weight`");
    // Names cannot drive the terminal.
    copy.remove("blk.2.attn_q.weight");
    copy.tensors.push(extra("a\x1b[2J\u{9b}b"));
    refused(&copy, "`a\\u{1b}[2J\\u{9b}b`");
}

#[test]
fn files_of_other_tensors_altogether() {
    let mut copy = Copy::of("llama");
    copy.config = Copy::of("gpt2").config;
    refused(
        &copy,
        "transformer.wte.weight is missing, among 21 whose names begin with `lm_head.weight`",
    );
    copy.tensors.clear();
    refused(&copy, "holds no tensors");
}

#[test]
fn types_that_are_not_computed_with() {
    let mut copy = Copy::of("llama");
    let t = copy.get("model.layers.1.mlp.up_proj.weight");
    t.dtype = DType::F16;
    t.data.truncate(t.data.len() / 2);
    let written = copy.write();
    let file = written.directory().join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(5).position(|w| w == b"\"F16\"").unwrap();
    bytes[at..at + 5].copy_from_slice(b"\"I16\"");
    std::fs::write(&file, bytes).unwrap();
    let message = load(&written.path()).err().unwrap();
    for part in [
        "`model.layers.1.mlp.up_proj.weight`",
        "I16",
        "cannot compute with",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn tensors_without_values() {
    let mut copy = Copy::of("llama");
    let t = copy.get("model.layers.1.mlp.up_proj.weight");
    (t.shape, t.data) = (vec![0, 64], Vec::new());
    refused(
        &copy,
        "`model.layers.1.mlp.up_proj.weight` .. holds no values",
    );
}

#[test]
fn shapes_of_other_ranks() {
    let mut copy = Copy::of("llama");
    copy.get("model.embed_tokens.weight").shape = vec![352 * 64];
    refused(
        &copy,
        "`model.embed_tokens.weight` has the shape [22528] .. [352, 64]",
    );
    copy.get("model.embed_tokens.weight").shape = vec![352, 64];
    copy.get("model.norm.weight").shape = vec![1, 64];
    refused(&copy, "`model.norm.weight` has the shape [1, 64] .. [64]");
    copy.get("model.norm.weight").shape = vec![64];
    copy.get("lm_head.weight").shape = vec![64, 352];
    refused(
        &copy,
        "`lm_head.weight` has the shape [64, 352] .. [352, 64]",
    );
    let mut copy = Copy::of("llama/model.gguf");
    copy.get("token_embd.weight").shape = vec![352 * 64];
    refused(&copy, "`token_embd.weight` has the shape [22528]");
}

#[test]
fn heads_of_their_own_and_shared_ones() {
    let mut copy = Copy::of("llama");
    copy.remove("lm_head.weight");
    refused(&copy, "the tensor lm_head.weight is missing");
    for tied in ["llama-tied", "gpt2", "gemma3"] {
        let mut copy = Copy::of(tied);
        copy.set("tie_word_embeddings", false);
        refused(&copy, "the tensor lm_head.weight is missing");
    }
}
