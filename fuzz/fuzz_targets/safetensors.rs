//! Any bytes as a safetensors file: no panic, everything in bounds, and
//! nothing is accepted that the reference reader refuses, except types it does
//! not know.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use rustml_io::{safetensors::parse, Store};
use safetensors::SafeTensors;

fuzz_target!(|file: &[u8]| {
    let Ok(header) = parse(file) else {
        return;
    };
    let mut end = None;
    for info in &header.tensors {
        assert!(info.range().end <= file.len());
        assert!(end.is_none_or(|end| end == info.range().start));
        end = Some(info.range().end);
    }
    match SafeTensors::deserialize(file) {
        Ok(reference) => {
            assert_eq!(reference.len(), header.tensors.len());
            for info in &header.tensors {
                let view = reference.tensor(&info.name).unwrap();
                assert_eq!(
                    (view.shape(), view.data()),
                    (&info.shape[..], &file[info.range()])
                );
            }
        }
        Err(error) => assert!(error.to_string().contains("unknown variant"), "{error}"),
    }
    let store = Store::from_bytes(Path::new("x.safetensors"), file.to_vec()).unwrap();
    for info in store.tensors() {
        if let Ok(tensor) = store.tensor(&info.name) {
            assert_eq!(tensor.data, &file[info.range()]);
        }
    }
});
