//! Whether the embedding serves as the head, by what is really stored.

use super::Loader;
use crate::arch::{Arch, Role};
use rustml_io::{FileFormat, Store, Tensor};

/// Whether the file holds a head of other values than the embedding's.
///
/// Some checkpoints call the two tied, and hold both after one of them was
/// trained or converted by itself. transformers then uses both as they are.
/// Where they are equal, only one of them needs to be loaded.
pub fn is_stored_apart(store: &Store, arch: &Arch) -> bool {
    let find = |role, prefixes: &[&str]| -> Option<Tensor> {
        let names = arch.names(role, store.format()).map(|n| n.name);
        let mut names = names.flat_map(|n| prefixes.iter().map(move |p| format!("{p}{n}.weight")));
        names.find_map(|name| store.tensor(&name).ok())
    };
    let (embeddings, heads) = match store.format() {
        FileFormat::Gguf { .. } => (&[""][..], &[""][..]),
        FileFormat::Safetensors => (arch.hf_prefixes, Loader::HEAD_PREFIXES),
    };
    match (find(Role::Embedding, embeddings), find(Role::Head, heads)) {
        (Some(a), Some(b)) => (a.dtype, &a.info.shape, a.data) != (b.dtype, &b.info.shape, b.data),
        _ => false,
    }
}
