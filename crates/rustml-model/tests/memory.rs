//! That quantising while loading streams: memory peaks at the packed weights
//! and what is being read, not at the file.
#![cfg(target_os = "linux")]

mod common;

use common::team;
use rustml_io::{DType, GgufWriter, Store};
use rustml_model::{Model, Quantize};
use rustml_simd::Isa;

/// Resident bytes of this process: anonymous, and of mapped files.
fn resident() -> (usize, usize) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap();
        let kib = line.trim().trim_end_matches(" kB");
        kib.parse::<usize>().unwrap() << 10
    };
    (field("RssAnon:"), field("RssFile:"))
}

#[test]
fn quantising_streams() {
    // A Llama of 44 million parameters in single precision.
    let (layers, hidden, inner, vocab) = (8usize, 512usize, 2560usize, 8192usize);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("large.gguf");
    let mut plan = GgufWriter::new();
    plan.set("general.architecture", "llama");
    for (key, value) in [
        ("block_count", layers),
        ("embedding_length", hidden),
        ("feed_forward_length", inner),
        ("attention.head_count", 8),
        ("context_length", 128),
    ] {
        plan.set(format!("llama.{key}"), value as u64);
    }
    plan.set("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
    let mut tensors = vec![
        ("token_embd.weight".to_owned(), vec![vocab, hidden]),
        ("output_norm.weight".to_owned(), vec![hidden]),
    ];
    for layer in 0..layers {
        for (name, shape) in [
            ("attn_norm", vec![hidden]),
            ("attn_q", vec![hidden, hidden]),
            ("attn_k", vec![hidden, hidden]),
            ("attn_v", vec![hidden, hidden]),
            ("attn_output", vec![hidden, hidden]),
            ("ffn_norm", vec![hidden]),
            ("ffn_gate", vec![inner, hidden]),
            ("ffn_up", vec![inner, hidden]),
            ("ffn_down", vec![hidden, inner]),
        ] {
            tensors.push((format!("blk.{layer}.{name}.weight"), shape));
        }
    }
    for (name, shape) in &tensors {
        plan.tensor(name, DType::F32, shape);
    }
    let mut file = plan.create(&path).unwrap();
    let row: Vec<u8> = (0..hidden * inner)
        .flat_map(|i| ((i % 997) as f32 / 997.0 - 0.5).to_le_bytes())
        .collect();
    for (name, shape) in &tensors {
        let mut left = 4 * shape.iter().product::<usize>();
        while left > 0 {
            let piece = left.min(row.len());
            file.write(name, &row[..piece]).unwrap();
            left -= piece;
        }
    }
    file.finish().unwrap();
    drop(row);

    let store = Store::open(&path).unwrap();
    let team = team(Isa::best(), 2);
    let (anonymous, files) = resident();
    let (mut most_anonymous, mut most_files, mut size) = (0, 0, 0);
    let mut watch = |_, total| {
        let (a, f) = resident();
        most_anonymous = most_anonymous.max(a.saturating_sub(anonymous));
        most_files = most_files.max(f.saturating_sub(files));
        size = total;
    };
    let model = Model::load(&store, Quantize::To(DType::Q8_0), team, &mut watch).unwrap();
    let packed = model.report().bytes;
    let mib = |b: usize| b >> 20;
    println!(
        "{} MiB in the file, {} packed; at most {} anonymous and {} of the file",
        mib(size),
        mib(packed),
        mib(most_anonymous),
        mib(most_files)
    );
    // Q8_0 takes 34 bytes for 32 values.
    assert!(packed.abs_diff(size / 128 * 34) < 1 << 20);
    // Some for the threads' rows and for tables.
    assert!(most_anonymous < packed + (4 << 20));
    // Between tensors, the file's pages have been given back.
    assert!(most_files < 4 * vocab * hidden);
}
