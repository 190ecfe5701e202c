//! Telling what a file or directory is when it is not a model.

use crate::error::{show, show_bare, Problem};

/// What `bytes` are, if they are something commonly found in a model's place.
pub(crate) fn impostor(bytes: &[u8]) -> Option<Problem> {
    let starts = |with: &[u8]| bytes.starts_with(with);
    let text = if bytes.is_empty() {
        "this file is empty; its download probably failed: download it again"
    } else if starts(b"version https://git-lfs") {
        "this is a Git LFS pointer, not the model; run `git lfs pull`"
    } else if is_html(bytes) {
        "this is a web page, not the model; its download probably needed a log-in or another \
         address: download it again"
    } else if starts(b"lmgg") || starts(b"fmgg") || starts(b"tjgg") || starts(b"algg") {
        "this is a GGML file from before GGUF, which is not read; get a GGUF file of this model"
    } else if starts(b"PK\x03\x04") || starts(b"\x80\x02") {
        "this is a ZIP archive or a pickle, as PyTorch saves checkpoints; loading one can run \
         any code, so it is not read: convert it to safetensors"
    } else if starts(b"\x1f\x8b") || starts(b"\xfd7zXZ") || starts(b"\x28\xb5\x2f\xfd") {
        "this file is compressed; unpack it first"
    } else if bytes.iter().take(4096).all(|&byte| byte == 0) {
        "this file begins with zeros only; its download probably failed: download it again"
    } else {
        return None;
    };
    Some(Problem::NotAModel(text.into()))
}

/// What to say about a file of text, such as a server's error message. The
/// first bytes of models are no text: lengths and versions contain zeros.
pub(crate) fn text(bytes: &[u8]) -> Option<Problem> {
    let head = &bytes[..bytes.len().min(64)];
    let is_text = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~');
    head.iter().all(is_text).then(|| {
        let head = String::from_utf8_lossy(head);
        Problem::NotAModel(format!(
            "this is text, not a model; it begins with {}",
            show(&head)
        ))
    })
}

fn is_html(bytes: &[u8]) -> bool {
    let head = bytes.trim_ascii_start();
    let starts = |with: &[u8]| {
        head.get(..with.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(with))
    };
    starts(b"<!doctype html") || starts(b"<html") || starts(b"<?xml")
}

/// What to say about a file that is no kind of model.
pub(crate) fn neither() -> Problem {
    Problem::NotAModel(
        "this is neither a GGUF nor a safetensors file, judging by its first bytes".into(),
    )
}

/// What to say about a directory with these names in it and no model.
pub(crate) fn directory(names: &[String]) -> Problem {
    let ending = |ends: &[&str]| -> Vec<&str> {
        let has = |name: &&str| ends.iter().any(|end| name.ends_with(end));
        names.iter().map(String::as_str).filter(has).collect()
    };
    let ggufs = ending(&[".gguf", ".GGUF"]);
    let safetensors = ending(&[".safetensors"]);
    let pickled = ending(&[".bin", ".pt", ".pth", ".ckpt"]);
    let others = ending(&[".h5", ".msgpack", ".onnx", ".tflite", ".npz"]);
    Problem::NotAModel(if ggufs.len() > 1 {
        format!(
            "this directory holds several GGUF files; name one of {}",
            some_of(&ggufs)
        )
    } else if !safetensors.is_empty() {
        format!(
            "this directory holds neither model.safetensors nor model.safetensors.index.json; \
             to open a single file, name one of {}",
            some_of(&safetensors)
        )
    } else if !pickled.is_empty() {
        format!(
            "this directory holds only pickled weights ({}); loading those can run any code, so \
             they are not read: convert them to safetensors",
            some_of(&pickled)
        )
    } else if !others.is_empty() {
        format!(
            "this directory holds weights of another framework ({}), which are not read: \
             get the model as safetensors or GGUF",
            some_of(&others)
        )
    } else if names.is_empty() {
        "this directory is empty".into()
    } else {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        format!(
            "this directory holds no weights (model.safetensors, its shards, or one .gguf file), \
             only {}",
            some_of(&names)
        )
    })
}

/// The names, or the first of them.
pub(crate) fn some_of(names: &[&str]) -> String {
    const SHOWN: usize = 8;
    let mut text: Vec<String> = names
        .iter()
        .take(SHOWN)
        .map(|name| show_bare(name).to_string())
        .collect();
    if names.len() > SHOWN {
        text.push(format!("and {} more", names.len() - SHOWN));
    }
    text.join(", ")
}
