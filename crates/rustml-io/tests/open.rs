//! From paths to models: which files are found, and what is said about those
//! that are not there or not models.

use std::fs;
use std::path::Path;

use rustml_io::{write_safetensors, DType, Error, FileFormat, GgufWriter, Store, Value};
use tempfile::{tempdir, TempDir};

/// A directory with these files.
fn directory(files: &[(&str, &[u8])]) -> TempDir {
    let directory = tempdir().unwrap();
    for (name, content) in files {
        fs::write(directory.path().join(name), content).unwrap();
    }
    directory
}

fn gguf(tensor: &str, split: Option<(u16, u16)>) -> Vec<u8> {
    let mut writer = GgufWriter::new();
    writer
        .set("general.architecture", "tiny")
        .tensor(tensor, DType::F32, &[2]);
    if let Some((no, count)) = split {
        writer.set("split.no", no).set("split.count", count);
    }
    writer.to_bytes(&[&[0, 0, 128, 63, 0, 0, 0, 64]]).unwrap()
}

fn safetensors(directory: &Path, file: &str, names: &[&str]) {
    let tensors: Vec<_> = names
        .iter()
        .map(|&n| (n, DType::F16, &[3][..], &[1u8; 6][..]))
        .collect();
    write_safetensors(&directory.join(file), &tensors, &[("format", "pt")]).unwrap();
}

#[track_caller]
fn refused(path: &Path, because: &str) -> Error {
    let error = Store::open(path).expect_err("the model is opened");
    let text = error.to_string();
    assert!(text.contains(because), "{text}");
    assert!(text.contains(&path.display().to_string()), "{text}");
    error
}

#[test]
fn a_store_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Store>();
}

#[test]
fn a_gguf_file_by_its_contents_whatever_its_name() {
    let dir = directory(&[("blob", &gguf("t", None))]);
    let store = Store::open(&dir.path().join("blob")).unwrap();
    assert_eq!(store.format(), FileFormat::Gguf { version: 3 });
    assert_eq!(store.directory(), dir.path());
    assert_eq!(store.path(), dir.path().join("blob"));
    assert_eq!(
        store.metadata().str("general.architecture").unwrap(),
        Some("tiny")
    );
    assert!(store.config().is_none());
    let tensor = store.tensor("t").unwrap();
    assert_eq!(
        (tensor.dtype, tensor.data),
        (DType::F32, &[0, 0, 128, 63, 0, 0, 0, 64][..])
    );
    let text = store.tensor("u").unwrap_err().to_string();
    assert!(text.contains("blob holds no tensor named `u`"), "{text}");
    store.advise_sequential();
    store.will_need(tensor.info);
    store.release(tensor.info);
    assert_eq!(store.tensor("t").unwrap().data, tensor.data);
}

#[test]
fn a_safetensors_file_with_its_config() {
    let dir = directory(&[("config.json", br#"{"model_type":"tiny"}"#)]);
    safetensors(dir.path(), "model.safetensors", &["b", "a"]);
    fs::copy(
        dir.path().join("model.safetensors"),
        dir.path().join("blob"),
    )
    .unwrap();
    for path in ["", "model.safetensors", "blob"] {
        let store = Store::open(&dir.path().join(path)).unwrap();
        assert_eq!(store.format(), FileFormat::Safetensors);
        assert_eq!(store.config().unwrap()["model_type"], "tiny");
        assert_eq!(store.directory(), dir.path());
        assert_eq!(store.metadata().str("format").unwrap(), Some("pt"));
        let names: Vec<_> = store
            .tensors()
            .iter()
            .map(|info| info.name.as_str())
            .collect();
        assert_eq!(names, ["b", "a"]);
        assert_eq!(store.tensor("a").unwrap().data, [1; 6]);
        assert_eq!(store.files().len(), 1);
    }
}

#[test]
fn a_directory_with_one_gguf_model() {
    let dir = directory(&[("x.gguf", &gguf("t", None)), ("README.md", b"hello")]);
    assert!(Store::open(dir.path()).unwrap().find("t").is_some());
    fs::write(dir.path().join("y.gguf"), gguf("t", None)).unwrap();
    refused(dir.path(), "several GGUF files; name one of x.gguf, y.gguf");
}

#[test]
fn the_parts_of_a_split_gguf_model() {
    let name = |i| format!("m-0000{i}-of-00003.gguf");
    let dir = tempdir().unwrap();
    let put = |i: u16, split| fs::write(dir.path().join(name(i)), gguf(&format!("t{i}"), split));
    for i in 1..=3 {
        put(i, Some((i - 1, 3))).unwrap();
    }
    for path in [dir.path().into(), dir.path().join(name(1))] {
        let store = Store::open(&path).unwrap();
        assert_eq!(store.files().len(), 3);
        assert_eq!(store.tensor("t3").unwrap().data.len(), 8);
    }
    refused(
        &dir.path().join(name(2)),
        "one of 3 parts of a model; open the first",
    );
    put(3, Some((1, 3))).unwrap();
    refused_part(&dir, "not part 3 of its model");
    // Of another model, by what it says and by what it holds.
    let with = |i: u16, key: &str, value: Value| {
        let mut writer = GgufWriter::new();
        writer.set("split.no", i - 1).set("split.count", 3u16);
        writer.set(key, value);
        writer.tensor(format!("t{i}"), DType::F32, &[2]);
        let bytes = writer.to_bytes(&[&[0; 8]]).unwrap();
        fs::write(dir.path().join(name(i)), bytes).unwrap();
    };
    with(3, "general.architecture", "other".into());
    refused_part(&dir, "another value of `general.architecture`");
    with(1, "split.tensors.count", 4i32.into());
    put(3, Some((2, 3))).unwrap();
    refused_part(&dir, "a model of 4 tensors");
    with(1, "split.tensors.count", 3i32.into());
    assert_eq!(Store::open(dir.path()).unwrap().tensors().len(), 3);
    fs::remove_file(dir.path().join(name(3))).unwrap();
    refused_part(&dir, "m-00003-of-00003.gguf is missing");

    #[track_caller]
    fn refused_part(dir: &TempDir, because: &str) {
        let text = Store::open(dir.path()).err().unwrap().to_string();
        assert!(text.contains(because), "{text}");
    }
}

/// A model of two shards; `index` is the index's weight map.
fn sharded(index: &str) -> TempDir {
    let index = format!(r#"{{"metadata":{{"total_size":12}},"weight_map":{index}}}"#);
    let dir = directory(&[
        ("config.json", b"{}"),
        ("model.safetensors.index.json", index.as_bytes()),
    ]);
    safetensors(dir.path(), "one.safetensors", &["a"]);
    safetensors(dir.path(), "two.safetensors", &["b"]);
    dir
}

const INDEX: &str = r#"{"a":"one.safetensors","b":"two.safetensors"}"#;

#[test]
fn a_sharded_model() {
    let dir = sharded(INDEX);
    for path in ["", "model.safetensors.index.json"] {
        let store = Store::open(&dir.path().join(path)).unwrap();
        assert_eq!(store.tensors().len(), 2);
        assert!(store.config().is_some());
        assert_eq!(store.tensor("a").unwrap().data.len(), 6);
        assert_eq!(store.tensor("b").unwrap().data.len(), 6);
        assert_eq!(store.files().len(), 2);
    }
}

#[test]
fn shards_that_do_not_fit_their_index() {
    #[track_caller]
    fn wrong(dir: &TempDir, because: &str) {
        let text = Store::open(dir.path())
            .expect_err("the model is opened")
            .to_string();
        assert!(text.contains(because), "{text}");
    }
    let missing = sharded(INDEX);
    fs::remove_file(missing.path().join("two.safetensors")).unwrap();
    wrong(
        &missing,
        "of the 2 files the weights are in, 1 is missing: two.safetensors",
    );

    let twice = sharded(INDEX);
    safetensors(twice.path(), "two.safetensors", &["a", "b"]);
    wrong(&twice, "tensor `a` is both in ");

    wrong(
        &sharded(r#"{"a":"one.safetensors","c":"two.safetensors"}"#),
        "tensor `c` is not in ",
    );
    wrong(
        &sharded(r#"{"a":"../one.safetensors"}"#),
        "`a` is said to be in `\"../one.safetensors\"`",
    );
    wrong(
        &sharded(r#"{"a":"/etc/passwd"}"#),
        "not the name of a file beside the index",
    );
    wrong(
        &sharded(r#"{"a":".."}"#),
        "not the name of a file beside the index",
    );
    wrong(&sharded(r#"{"a":7}"#), "`a` is said to be in `7`");
    wrong(&sharded("{}"), "`weight_map` is empty");
    wrong(&sharded("3"), "there is no `weight_map`");
    wrong(&sharded("{"), "this is not valid JSON");

    let mixed = sharded(INDEX);
    fs::write(mixed.path().join("two.safetensors"), gguf("b", None)).unwrap();
    wrong(&mixed, "this is GGUF, but a shard must be safetensors");

    let pointer = sharded(INDEX);
    fs::write(pointer.path().join("two.safetensors"), LFS_POINTER).unwrap();
    wrong(&pointer, "two.safetensors: this is a Git LFS pointer");
}

const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1\noid sha256:4f\nsize 9\n";

#[test]
fn files_that_are_something_else() {
    let files: [(&str, &[u8], &str); 14] = [
        ("a.gguf", b"", "this file is empty"),
        ("b.safetensors", b"", "this file is empty"),
        (
            "c.gguf",
            LFS_POINTER,
            "this is a Git LFS pointer, not the model; run `git lfs pull`",
        ),
        (
            "d.safetensors",
            b"\n <!DOCTYPE html><html>",
            "this is a web page",
        ),
        ("e.gguf", b"<HTML><body>", "this is a web page"),
        ("f.bin", b"PK\x03\x04rest", "a ZIP archive or a pickle"),
        ("g.pt", b"\x80\x02}q\x00", "a ZIP archive or a pickle"),
        ("h.gguf", b"tjgg\x03\0\0\0", "a GGML file from before GGUF"),
        (
            "i.safetensors",
            br#"{"error":"not found"}"#,
            "this is text, not a model; it begins with",
        ),
        ("j.gguf", b"\x1f\x8b\x08\0", "this file is compressed"),
        (
            "k.safetensors",
            &[0; 5000],
            "this file begins with zeros only",
        ),
        (
            "l.bin",
            b"\x7fELF\x02\x01\x01\0",
            "neither a GGUF nor a safetensors file",
        ),
        (
            "m.gguf",
            b"\x7fELF\x02\x01\x01\0",
            "does not begin with `GGUF`",
        ),
        (
            "n.safetensors",
            b"\xff\xff\xff\xff\xff\xff\xff\xff{",
            "claims to take",
        ),
    ];
    for (name, content, because) in files {
        let dir = directory(&[(name, content)]);
        refused(&dir.path().join(name), because);
    }
}

/// A safetensors file begins with the length of its header, and the bytes of
/// some lengths are those that pickles (640) and gzip files (35 615) begin with.
#[test]
fn safetensors_are_not_mistaken_for_something_else() {
    let dir = tempdir().unwrap();
    for (len, magic) in [(640, b"\x80\x02"), (35_615, b"\x1f\x8b")] {
        let header = br#"{"t":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}"#;
        let mut file = u64::to_le_bytes(len).to_vec();
        file.extend(header);
        file.resize(8 + len as usize, b' ');
        file.extend([1, 2]);
        assert!(file.starts_with(magic));
        let path = dir.path().join("model");
        fs::write(&path, file).unwrap();
        assert_eq!(
            Store::open(&path).unwrap().tensor("t").unwrap().data,
            [1, 2]
        );
    }
}

#[test]
fn truncated_files_say_how_much_is_missing() {
    let whole = gguf("t", None);
    // After the 8 bytes of data come 24 of padding.
    let dir = directory(&[("x.gguf", &whole[..whole.len() - 27])]);
    refused(
        &dir.path().join("x.gguf"),
        "the file ends 3 bytes before the end of tensor `t`",
    );
    let dir = tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    safetensors(dir.path(), "x.safetensors", &["a", "b"]);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 2]).unwrap();
    refused(&path, "the file ends 2 bytes before the end of tensor `b`");
}

#[test]
fn directories_without_a_model() {
    type Files<'a> = &'a [(&'a str, &'a [u8])];
    let cases: [(Files, &str); 6] = [
        (&[], "this directory is empty"),
        (
            &[("config.json", b"{}"), ("notes", b"")],
            "holds no weights",
        ),
        (
            &[("config.json", b"{}"), ("pytorch_model.bin", b"PK")],
            "(pytorch_model.bin); loading",
        ),
        (
            &[("tf_model.h5", b"x")],
            "weights of another framework (tf_model.h5)",
        ),
        (
            &[("adapter.safetensors", b"x")],
            "name one of adapter.safetensors",
        ),
        (&[("model.safetensors", b"x")], "weights but no config.json"),
    ];
    for (files, because) in cases {
        refused(directory(files).path(), because);
    }
    let broken = directory(&[("config.json", b"{")]);
    safetensors(broken.path(), "model.safetensors", &["a"]);
    let text = Store::open(broken.path()).err().unwrap().to_string();
    assert!(
        text.contains("config.json: this is not valid JSON"),
        "{text}"
    );
}

#[test]
fn paths_that_cannot_be_read() {
    let dir = tempdir().unwrap();
    let error = refused(&dir.path().join("absent.gguf"), "cannot open ");
    assert!(
        matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    );
}

#[cfg(unix)]
#[test]
fn a_device_is_not_a_model() {
    refused(
        Path::new("/dev/zero"),
        "neither a regular file nor a directory",
    );
}

#[test]
fn tensors_that_cannot_be_used_say_why() {
    let header = br#"{"mask":{"dtype":"BOOL","shape":[4],"data_offsets":[0,4]},
        "none":{"dtype":"F32","shape":[2,0],"data_offsets":[4,4]}}"#;
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend([1; 4]);
    let store = Store::from_bytes(Path::new("x.safetensors"), file).unwrap();
    assert_eq!(store.tensors().len(), 2);
    let text = store.tensor("mask").unwrap_err().to_string();
    assert!(
        text.contains("tensor `mask` of x.safetensors is stored as BOOL"),
        "{text}"
    );
    let text = store.tensor("none").unwrap_err().to_string();
    assert!(
        text.contains("tensor `none` of x.safetensors holds no values"),
        "{text}"
    );
}

#[test]
fn a_summary_counts_by_type() {
    let mut writer = GgufWriter::new();
    writer
        .tensor("a", DType::Q4_0, &[2, 64])
        .tensor("b", DType::F32, &[3]);
    writer
        .tensor("c", DType::Q4_0, &[32])
        .tensor("d", DType::F16, &[1]);
    let file = writer
        .to_bytes(&[&[0; 72], &[0; 12], &[0; 18], &[0; 2]])
        .unwrap();
    let summary = Store::from_bytes(Path::new("x.gguf"), file)
        .unwrap()
        .summary();
    assert_eq!(
        (summary.tensors, summary.parameters, summary.bytes),
        (4, 164, 104)
    );
    let types: Vec<_> = summary
        .types
        .iter()
        .map(|t| {
            (
                t.type_name.as_str(),
                t.tensors,
                t.parameters,
                t.bytes,
                t.supported,
            )
        })
        .collect();
    assert_eq!(
        types,
        [
            ("Q4_0", 2, 160, 90, true),
            ("F32", 1, 3, 12, true),
            ("F16", 1, 1, 2, true)
        ]
    );
}
