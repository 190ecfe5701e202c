//! Any bytes as a GGUF file: no panic, no memory beyond a multiple of the
//! file's size, everything in bounds; and what is read is written and read
//! again without loss.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use rustml_io::{gguf, GgufWriter, Store};

fuzz_target!(|file: &[u8]| {
    let Ok(header) = gguf::parse(file) else {
        return;
    };
    let store = Store::from_bytes(Path::new("x.gguf"), file.to_vec()).unwrap();
    let mut end = 0;
    let mut infos: Vec<_> = store
        .tensors()
        .iter()
        .filter(|info| info.bytes > 0)
        .collect();
    infos.sort_by_key(|info| info.range().start);
    for info in infos {
        assert!(
            info.range().start >= end && info.range().end <= file.len(),
            "{info:?}"
        );
        end = info.range().end;
    }
    assert!(store.summary().bytes <= file.len() as u64);

    let mut writer = GgufWriter::new();
    let mut data = Vec::new();
    writer.set_all(&header.metadata);
    for info in store.tensors() {
        if let Ok(tensor) = store.tensor(&info.name) {
            writer.tensor(&info.name, tensor.dtype, &info.shape);
            data.push(tensor.data);
        }
    }
    // An alignment of gigabytes is valid, but not written.
    let Ok(written) = writer.to_bytes(&data) else {
        assert!(header.alignment > 1 << 20);
        return;
    };
    let again = Store::from_bytes(Path::new("y.gguf"), written.clone()).unwrap();
    let mut rewriter = GgufWriter::new();
    rewriter.set_all(again.metadata());
    for info in again.tensors() {
        let tensor = again.tensor(&info.name).unwrap();
        assert_eq!(tensor.data, store.tensor(&info.name).unwrap().data);
        rewriter.tensor(&info.name, tensor.dtype, &info.shape);
    }
    // Bytes are compared, since a NaN is no equal of itself.
    assert_eq!(rewriter.to_bytes(&data).unwrap(), written);
});
