//! What the writers write is read back as it was, here and by others.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use rustml_io::{write_safetensors, Array, DType, FileFormat, GgufWriter, Metadata, Store, Value};
use tempfile::tempdir;

/// One value of every type, and one array of every type.
fn every_value() -> Metadata {
    let mut m = Metadata::new();
    m.insert("u8", 1u8);
    m.insert("i8", -1i8);
    m.insert("u16", 60_000u16);
    m.insert("i16", -30_000i16);
    m.insert("u32", 4_000_000_000u32);
    m.insert("i32", -2_000_000_000i32);
    m.insert("u64", u64::MAX);
    m.insert("i64", i64::MIN);
    m.insert("f32", 1.5f32);
    m.insert("f64", -0.1f64);
    m.insert("bool", true);
    m.insert("string", "grüße\0\n");
    m.insert("u8s", vec![1u8, 2]);
    m.insert("i8s", vec![-1i8]);
    m.insert("u16s", vec![1u16, 2, 3]);
    m.insert("i16s", vec![-1i16]);
    m.insert("u32s", vec![7u32]);
    m.insert("i32s", vec![-7i32, 7]);
    m.insert("u64s", vec![u64::MAX, 0]);
    m.insert("i64s", vec![i64::MIN]);
    m.insert("f32s", vec![0.25f32, f32::INFINITY]);
    m.insert("f64s", vec![1e300f64]);
    m.insert("bools", vec![true, false]);
    m.insert(
        "strings",
        vec!["a".to_string(), String::new(), "▁b".to_string()],
    );
    m.insert("none", Vec::<f32>::new());
    m.insert(
        "nested",
        Array::Nested(vec![
            Array::U8(vec![1]),
            Array::String(["x"].iter().collect()),
        ]),
    );
    m
}

#[test]
fn gguf_comes_back_as_it_was() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    fs::write(&path, "what was there before").unwrap();
    let metadata = every_value();
    let mut writer = GgufWriter::new();
    writer.set_all(&metadata).set("general.alignment", 64u32);
    let shapes: Vec<(String, DType, Vec<usize>)> = DType::ALL
        .into_iter()
        .zip(1..)
        .map(|(dtype, rows)| {
            (
                format!("t.{dtype}"),
                dtype,
                vec![rows, 2 * dtype.block_len()],
            )
        })
        .collect();
    for (name, dtype, shape) in &shapes {
        writer.tensor(name, *dtype, shape);
    }
    let data: Vec<Vec<u8>> = shapes
        .iter()
        .map(|(_, dtype, shape)| vec![shape[0] as u8; shape[0] * 2 * dtype.block_bytes()])
        .collect();
    let mut file = writer.clone().create(&path).unwrap();
    for ((name, ..), data) in shapes.iter().zip(&data) {
        // In two pieces.
        let (head, tail) = data.split_at(data.len() / 3);
        file.write(name, head).unwrap();
        file.write(name, tail).unwrap();
    }
    assert_eq!(fs::read(&path).unwrap(), b"what was there before");
    file.finish().unwrap();

    let store = Store::open(&path).unwrap();
    assert_eq!(store.format(), FileFormat::Gguf { version: 3 });
    let mut pairs = store.metadata().iter();
    assert!(metadata.iter().eq(pairs.by_ref().take(metadata.len())));
    assert_eq!(pairs.next(), Some(("general.alignment", &Value::U32(64))));
    assert_eq!(store.tensors().len(), shapes.len());
    for ((name, dtype, shape), data) in shapes.iter().zip(&data) {
        let tensor = store.tensor(name).unwrap();
        assert_eq!(
            (tensor.dtype, &tensor.info.shape, tensor.data),
            (*dtype, shape, &data[..])
        );
        assert_eq!(tensor.info.type_name, dtype.name());
        assert!(tensor.info.range().start.is_multiple_of(64));
    }

    let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    assert_eq!(fs::read(&path).unwrap(), writer.to_bytes(&data).unwrap());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// The fixture was written by the `gguf` package for Python, version 0.19.0,
/// by `fixtures/make_gguf.py`.
#[test]
fn gguf_of_another_writer_is_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/other-writer.gguf");
    let store = Store::open(&path).unwrap();
    let ours = every_value();
    for (key, value) in store
        .metadata()
        .iter()
        .filter(|(key, _)| !key.contains('.'))
    {
        assert_eq!(Some(value), ours.get(key), "{key}");
    }
    // Python writes no arrays of types it does not have.
    for key in [
        "u8", "i64", "f64", "bool", "string", "i32s", "f32s", "bools", "strings",
    ] {
        assert!(store.metadata().get(key).is_some(), "{key}");
    }
    let floats = store.tensor("floats").unwrap();
    assert_eq!(
        (floats.dtype, &floats.info.shape[..]),
        (DType::F32, &[2, 3][..])
    );
    let values: Vec<f32> = floats
        .data
        .as_chunks()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    assert_eq!(values, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    // Scale 1 and codes 0 to 31, negative in the second row.
    let quantised = store.tensor("quantised").unwrap();
    assert_eq!(
        (quantised.dtype, &quantised.info.shape[..]),
        (DType::Q8_0, &[2, 32][..])
    );
    for (block, sign) in quantised.data.chunks(34).zip([1, -1]) {
        assert_eq!(block[..2], [0, 0x3c]);
        assert!(block[2..]
            .iter()
            .zip(0i8..)
            .all(|(&byte, i)| byte as i8 == sign * i));
    }
    assert_eq!(store.find("integers").unwrap().type_name, "I32");
    assert!(store.tensor("integers").is_err());
}

#[test]
fn an_unfinished_gguf_file_leaves_nothing() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    let start = || {
        let mut writer = GgufWriter::new();
        writer
            .tensor("a", DType::F32, &[2])
            .tensor("b", DType::F32, &[1]);
        writer.create(&path).unwrap()
    };
    let mut file = start();
    let text = file.write("b", &[0; 4]).unwrap_err().to_string();
    assert!(
        text.contains("tensor `b` was written when it was the turn of `a`"),
        "{text}"
    );
    let text = file.write("a", &[0; 9]).unwrap_err().to_string();
    assert!(
        text.contains("`a` (F32 [2]) takes 8 bytes, but 9 are given"),
        "{text}"
    );
    file.write("a", &[0; 3]).unwrap();
    let text = file.write("b", &[0; 4]).unwrap_err().to_string();
    assert!(text.contains("with 5 bytes to go"), "{text}");
    let text = file.finish().unwrap_err().to_string();
    assert!(text.contains("tensor `a` lacks 5 bytes of data"), "{text}");

    let mut file = start();
    file.write("a", &[0; 8]).unwrap();
    file.write("b", &[0; 4]).unwrap();
    let text = file.write("c", &[0; 4]).unwrap_err().to_string();
    assert!(
        text.contains("`c` was written after that of all planned tensors"),
        "{text}"
    );
    drop(file);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn safetensors_come_back_as_they_were() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let (half, brain, single) = ([1u8; 6], [2u8; 8], [3u8; 24]);
    let tensors: [(&str, DType, &[usize], &[u8]); 5] = [
        ("half", DType::F16, &[3], &half),
        ("brain \"ü\"", DType::BF16, &[2, 2], &brain),
        ("single", DType::F32, &[1, 2, 3], &single),
        ("scalar", DType::F32, &[], &[4; 4]),
        ("none", DType::F32, &[0, 5], &[]),
    ];
    write_safetensors(&path, &tensors, &[("format", "pt"), ("by", "rustml")]).unwrap();
    let store = Store::open(&path).unwrap();
    assert_eq!(
        store
            .metadata()
            .iter()
            .map(|(key, _)| key)
            .collect::<Vec<_>>(),
        ["format", "by"]
    );
    for (name, dtype, shape, data) in tensors {
        let info = store.find(name).unwrap();
        assert_eq!((info.dtype, &info.shape[..]), (Some(dtype), shape));
        assert!(
            info.range().start.is_multiple_of(dtype.block_bytes()),
            "{name} is aligned"
        );
        if !data.is_empty() {
            assert_eq!(store.tensor(name).unwrap().data, data);
        }
    }
    let bytes = fs::read(&path).unwrap();
    let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(theirs.len(), tensors.len());
    for (name, _, shape, data) in tensors {
        let view = theirs.tensor(name).unwrap();
        assert_eq!((view.shape(), view.data()), (shape, data));
    }
}

#[test]
fn safetensors_that_cannot_be_are_refused() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let refused = |tensors: &[(&str, DType, &[usize], &[u8])], because: &str| {
        let text = write_safetensors(&path, tensors, &[])
            .unwrap_err()
            .to_string();
        assert!(text.contains(because), "{text}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    };
    refused(
        &[("t", DType::Q8_0, &[32], &[0; 34])],
        "`t` is Q8_0, which safetensors does not have",
    );
    refused(
        &[("t", DType::F32, &[2], &[0; 7])],
        "`t` (F32 [2]) cannot have 7 bytes",
    );
    refused(
        &[("t", DType::F32, &[usize::MAX, 2], &[0; 8])],
        "cannot have 8 bytes",
    );
    let one: (&str, DType, &[usize], &[u8]) = ("t", DType::F32, &[1], &[0; 4]);
    refused(&[one, one], "`t` occurs twice or is reserved");
    refused(
        &[("__metadata__", DType::F32, &[1], &[0; 4])],
        "occurs twice or is reserved",
    );
}

#[cfg(unix)]
#[test]
fn written_files_have_the_permissions_of_other_new_files() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempdir().unwrap();
    let (plain, ours) = (dir.path().join("plain"), dir.path().join("ours"));
    fs::write(&plain, "").unwrap();
    write_safetensors(&ours, &[], &[]).unwrap();
    let mode = |path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&ours), mode(&plain));
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        (-1e30f32..1e30).prop_map(Value::from),
        prop::collection::vec(any::<u16>(), 0..50).prop_map(Value::from),
        prop::collection::vec(any::<i32>(), 0..50).prop_map(Value::from),
        prop::collection::vec(any::<String>(), 0..20).prop_map(Value::from),
        prop::collection::vec(any::<bool>(), 0..20).prop_map(Value::from),
    ]
}

proptest! {
    /// Any metadata and shapes survive a trip through bytes.
    #[test]
    fn gguf_of_any_content_comes_back(
        pairs in prop::collection::btree_map("[a-z.]{1,20}", value(), 0..10),
        tensors in prop::collection::btree_map(
            ".{1,20}",
            (prop::sample::select(&DType::ALL[..]), prop::collection::vec(1usize..4, 0..3)),
            0..6,
        ),
        alignment in 0u32..8,
    ) {
        let mut writer = GgufWriter::new();
        writer.set("general.alignment", 1u32 << alignment);
        for (key, value) in &pairs {
            writer.set(key, value.clone());
        }
        let mut data = Vec::new();
        for (i, (name, (dtype, outer))) in tensors.iter().enumerate() {
            let shape: Vec<usize> = outer.iter().copied().chain([dtype.block_len()]).collect();
            writer.tensor(name, *dtype, &shape);
            data.push(vec![i as u8; outer.iter().product::<usize>() * dtype.block_bytes()]);
        }
        let slices: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
        let file = writer.to_bytes(&slices).unwrap();
        let store = Store::from_bytes(Path::new("x"), file).unwrap();
        for (key, value) in &pairs {
            prop_assert_eq!(store.metadata().get(key), Some(value));
        }
        for (name, data) in tensors.keys().zip(&data) {
            prop_assert_eq!(store.tensor(name).unwrap().data, &data[..]);
        }
    }
}
