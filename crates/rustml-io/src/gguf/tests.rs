//! Every refusal of the parser, on files put together by hand, and files that
//! must be accepted.

use super::types::value;
use super::{parse, GgufWriter};
use crate::value::{Array, Value};
use crate::{DType, Problem};

/// A file as a list of bytes that need not be valid.
#[derive(Clone, Default)]
struct Raw(Vec<u8>);

impl Raw {
    fn u32(mut self, v: u32) -> Raw {
        self.0.extend(v.to_le_bytes());
        self
    }

    fn u64(mut self, v: u64) -> Raw {
        self.0.extend(v.to_le_bytes());
        self
    }

    fn bytes(mut self, v: &[u8]) -> Raw {
        self.0.extend(v);
        self
    }

    fn str(self, v: impl AsRef<[u8]>) -> Raw {
        self.u64(v.as_ref().len() as u64).bytes(v.as_ref())
    }

    fn header(version: u32, tensors: u64, pairs: u64) -> Raw {
        Raw::default()
            .bytes(b"GGUF")
            .u32(version)
            .u64(tensors)
            .u64(pairs)
    }

    /// A tensor info; `dims` innermost first, as in the file.
    fn info(self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Raw {
        let named = self.str(name).u32(dims.len() as u32);
        dims.iter()
            .fold(named, |raw, &dim| raw.u64(dim))
            .u32(kind)
            .u64(offset)
    }

    /// Pads to 32 and appends `len` bytes of data.
    fn data(mut self, len: usize) -> Vec<u8> {
        self.0.resize(self.0.len().next_multiple_of(32) + len, 7);
        self.0
    }
}

#[track_caller]
fn refused(bytes: &[u8], because: &str) {
    let problem = parse(bytes).expect_err("the file is accepted").to_string();
    assert!(problem.contains(because), "{problem}");
}

#[test]
fn magic_version_and_byte_order() {
    refused(b"", "the magic number needs 4 bytes, but 0 remain");
    refused(b"GGU", "needs 4 bytes, but 3 remain");
    refused(b"PKxx....", "does not begin with `GGUF`");
    refused(b"GGUF\x03\0", "the version needs 4 bytes, but 2 remain");
    refused(&Raw::header(0, 0, 0).0, "GGUF version 0");
    refused(&Raw::header(1, 0, 0).0, "GGUF version 1");
    refused(
        &Raw::header(4, 0, 0).0,
        "version 4, but only versions 2 and 3",
    );
    refused(&Raw::header(3u32.swap_bytes(), 0, 0).0, "big-endian");
    refused(b"FUGG\0\0\0\x03", "big-endian");
    for version in [2, 3] {
        let header = parse(&Raw::header(version, 0, 0).0).unwrap();
        assert_eq!((header.version, header.alignment), (version, 32));
        assert!(header.metadata.is_empty() && header.tensors.is_empty());
    }
}

#[test]
fn counts_are_checked_against_what_remains() {
    refused(
        &Raw::header(3, 1, 0).0,
        "the list of tensors needs 25 bytes, but 8 remain",
    );
    refused(
        &Raw::header(3, 0, 1).0,
        "the list of metadata needs 14 bytes, but 0 remain",
    );
    refused(
        &Raw::header(3, u64::MAX, 0).0,
        "18446744073709551615 times 25",
    );
    refused(
        &Raw::header(3, 0, u64::MAX / 14).0,
        "the list of metadata needs",
    );
}

#[test]
fn keys() {
    let pair = |key: &[u8]| {
        Raw::header(3, 0, 1)
            .str(key)
            .u32(value::U8)
            .bytes(&[1; 16])
            .0
    };
    assert_eq!(
        parse(&pair(b"k")).unwrap().metadata.get("k"),
        Some(&Value::U8(1))
    );
    refused(&pair(b""), "metadata key 0 is empty");
    refused(&pair(b"\xff"), "metadata key 0 is not valid UTF-8");
    let twice = Raw::header(3, 0, 2)
        .str("k")
        .u32(0)
        .bytes(&[1])
        .str("k")
        .u32(0)
        .bytes(&[2]);
    refused(&twice.0, "metadata key `k` occurs twice");
    let long = Raw::header(3, 0, 1).u64(1 << 60).bytes(&[b'k'; 64]);
    refused(
        &long.0,
        "metadata key 0 needs 1152921504606846976 bytes, but 64 remain",
    );
}

#[test]
fn values() {
    let pair = |kind: u32| Raw::header(3, 0, 1).str("a key").u32(kind);
    let list = |kind: u32, count: u64| pair(value::ARRAY).u32(kind).u64(count);
    refused(
        &pair(13).bytes(&[0; 8]).0,
        "`a key` is of the unknown type 13",
    );
    refused(&list(99, 0).0, "`a key` is of the unknown type 99");
    refused(
        &pair(value::U64).bytes(&[0; 7]).0,
        "the value of `a key` needs 8 bytes, but 7",
    );
    refused(
        &pair(value::STRING).u64(9).bytes(b"12345678").0,
        "needs 9 bytes, but 8",
    );
    refused(
        &pair(value::STRING).u64(u64::MAX).0,
        "needs 18446744073709551615 bytes, but 0",
    );
    refused(
        &pair(value::BOOL).bytes(&[2; 4]).0,
        "`a key` holds 2 where 0 or 1 must be",
    );
    refused(&list(value::BOOL, 2).bytes(&[1, 3]).0, "`a key` holds 3");
    refused(
        &list(value::F32, 3).bytes(&[0; 11]).0,
        "`a key` needs 12 bytes, but 11",
    );
    refused(
        &list(value::F64, 1 << 61).bytes(&[0; 64]).0,
        "needs 2305843009213693952 bytes",
    );
    refused(
        &list(value::U64, u64::MAX).0,
        "needs 18446744073709551615 bytes, but 0 remain",
    );
    refused(
        &list(value::STRING, 2).u64(0).0,
        "the array `a key` needs 16 bytes, but 8",
    );
    refused(
        &list(value::STRING, 1 << 62).u64(0).0,
        "4611686018427387904 times 8",
    );
    refused(
        &list(value::ARRAY, 2).u64(0).0,
        "the array `a key` needs 24 bytes, but 8",
    );

    let deep = |levels| {
        let nested = (1..levels).fold(pair(value::ARRAY), |raw, _| raw.u32(value::ARRAY).u64(1));
        parse(&nested.u32(value::U8).u64(1).bytes(&[5]).0)
    };
    let header = deep(4).unwrap();
    assert_eq!(
        header.metadata.get("a key").unwrap().to_string(),
        "[[[[5]]]]"
    );
    let problem = deep(5).unwrap_err().to_string();
    assert!(
        problem.contains("`a key` nests arrays more than 4 deep"),
        "{problem}"
    );
}

#[test]
fn control_characters_in_names_do_not_reach_the_terminal() {
    let file = Raw::header(3, 0, 1).str("a\x1b[2J").u32(13).bytes(&[0; 8]);
    refused(&file.0, "`a\\u{1b}[2J` is of the unknown type");
}

#[test]
fn invalid_utf8_in_strings_is_replaced_and_counted() {
    let file = Raw::header(3, 0, 2);
    let file = file.str("ok").u32(value::STRING).str("ü");
    let file = file
        .str("tokens")
        .u32(value::ARRAY)
        .u32(value::STRING)
        .u64(3);
    let file = file.str("a").str(b"\xe2\x96").str(b"x\xffy\xff");
    let metadata = parse(&file.0).unwrap().metadata;
    let tokens = metadata.strings("tokens").unwrap().unwrap();
    assert_eq!(
        tokens.iter().collect::<Vec<_>>(),
        ["a", "\u{fffd}", "x\u{fffd}y\u{fffd}"]
    );
    assert_eq!(
        (metadata.replaced("tokens"), metadata.replaced("ok")),
        (2, 0)
    );
}

#[test]
fn alignment() {
    let with = |alignment: u32, offset: u64| {
        let file = Raw::header(3, 2, 1)
            .str("general.alignment")
            .u32(value::U32)
            .u32(alignment);
        file.info("a", &[1], 0, 0)
            .info("b", &[1], 0, offset)
            .data(256)
    };
    let header = parse(&with(8, 8)).unwrap();
    assert_eq!(header.alignment, 8);
    assert!(header
        .tensors
        .iter()
        .all(|info| info.offset.is_multiple_of(8)));
    refused(
        &with(0, 0),
        "`general.alignment` is 0, but must be a power of two",
    );
    refused(
        &with(24, 0),
        "`general.alignment` is 24, but must be a power of two",
    );
    refused(&with(1 << 31, 0), "the file ends");
    refused(
        &with(16, 8),
        "tensor `b` begins at 8, which is no multiple of the alignment 16",
    );
    let text = Raw::header(3, 0, 1)
        .str("general.alignment")
        .u32(value::STRING)
        .str("32");
    refused(&text.0, "`general.alignment` is string, but");
}

#[test]
fn tensor_infos() {
    let one = |info: Raw| info.data(64);
    let head = || Raw::header(3, 1, 0);
    refused(&one(head().info("", &[1], 0, 0)), "tensor 0 has no name");
    refused(
        &one(head().str(b"\xff").u32(0).u32(0).u64(0)),
        "name of tensor 0 is not valid UTF-8",
    );
    refused(
        &one(head().info("t", &[1; 5], 0, 0)),
        "tensor `t` has 5 dimensions",
    );
    refused(
        &one(head().info("t", &[1 << 32, 1 << 32], 0, 0)),
        "tensor `t` is larger than any",
    );
    refused(
        &one(head().info("t", &[1 << 62], 0, 0)),
        "tensor `t` is larger than any memory",
    );
    refused(
        &one(head().info("t", &[33], 2, 0)),
        "`t` has rows of 33 values, but Q4_0 stores",
    );
    refused(
        &one(head().info("t", &[], 8, 0)),
        "`t` has rows of 1 values, but Q8_0 stores blocks",
    );
    refused(
        &one(head().info("t", &[32], 16, 0)),
        "IQ2_XXS stores blocks of 256",
    );
    refused(
        &one(head().info("t", &[1], 0, u64::MAX - 31)),
        "tensor `t` is larger than any memory",
    );
    refused(&one(head().str("t").u32(9)), "tensor `t` has 9 dimensions");
    refused(
        &head().str("a name").u32(2).u64(1).0,
        "description of tensor `a name` needs",
    );

    let twice = Raw::header(3, 2, 0)
        .info("t", &[1], 0, 0)
        .info("t", &[1], 0, 32);
    refused(&twice.data(64), "tensor `t` occurs twice");

    let scalar = one(head().info("t", &[], 0, 0));
    let scalar = &parse(&scalar).unwrap().tensors[0];
    assert_eq!(
        (&scalar.shape[..], scalar.bytes, scalar.len()),
        (&[][..], 4, 1)
    );

    let empty = one(head().info("t", &[4, 0], 0, 0));
    assert!(parse(&empty).unwrap().tensors[0].is_empty());
}

#[test]
fn tensors_are_inside_the_file_and_apart() {
    let two = |at: u64| {
        Raw::header(3, 2, 0)
            .info("a", &[16, 2], 0, 0)
            .info("b", &[8], 0, at)
    };
    let header = parse(&two(128).data(160)).unwrap();
    let (a, b) = (&header.tensors[0], &header.tensors[1]);
    assert_eq!((&a.shape[..], a.bytes), (&[2, 16][..], 128));
    assert_eq!(b.offset - a.offset, 128);
    refused(
        &two(128).data(151),
        "ends 9 bytes before the end of tensor `b`",
    );
    refused(
        &two(96).data(160),
        "the data of tensors `a` and `b` overlaps",
    );
    refused(&two(0).data(160), "overlaps");
    refused(
        &two(1 << 40).data(160),
        "ends 1099511627648 bytes before the end of tensor `b`",
    );
    match parse(&two(128).data(0)) {
        Err(Problem::Truncated {
            missing: 160,
            tensor,
        }) if tensor == "b" => {}
        other => panic!("{other:?}"),
    }
    // An empty tensor shares its place with whatever is there.
    let empty = Raw::header(3, 2, 0)
        .info("a", &[16], 0, 0)
        .info("b", &[0], 0, 32)
        .data(64);
    assert_eq!(parse(&empty).unwrap().tensors.len(), 2);
}

#[test]
fn types_that_are_not_computed_are_listed() {
    let file = Raw::header(3, 4, 0);
    let file = file
        .info("iq", &[256, 2], 16, 0)
        .info("new", &[100], 77, 160);
    let file = file
        .info("ids", &[4], 26, 288)
        .info("last", &[3], 5, 320)
        .data(352);
    let tensors = parse(&file).unwrap().tensors;
    let seen: Vec<_> = tensors
        .iter()
        .map(|t| (t.type_name.as_str(), t.dtype, t.bytes))
        .collect();
    let expected = [
        ("IQ2_XXS", None, 132),
        ("type 77", None, 128),
        ("I32", None, 16),
        ("type 5", None, 32),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn every_prefix_of_a_file_is_refused() {
    let mut writer = GgufWriter::new();
    writer
        .set("general.architecture", "tiny")
        .set("tokens", vec!["a".to_string(), "b".into()]);
    writer
        .set("nested", Array::Nested(vec![Array::I16(vec![1, 2])]))
        .set("x", 1.5f32);
    writer.tensor("t", DType::F16, &[3, 16]);
    let file = writer.to_bytes(&[&[1; 96]]).unwrap();
    parse(&file).unwrap();
    for len in 0..file.len() {
        assert!(
            parse(&file[..len]).is_err(),
            "{len} of {} bytes are accepted",
            file.len()
        );
    }
}

#[test]
fn a_plan_that_is_no_valid_file_is_refused() {
    #[track_caller]
    fn misused(writer: &GgufWriter, data: &[&[u8]], because: &str) {
        let problem = writer.to_bytes(data).unwrap_err();
        assert!(matches!(problem, Problem::Misuse(_)), "{problem:?}");
        assert!(problem.to_string().contains(because), "{problem}");
    }
    let plan = |name: &str, dtype, shape: &[usize]| {
        let mut writer = GgufWriter::new();
        writer
            .tensor("first", DType::F32, &[1])
            .tensor(name, dtype, shape);
        writer
    };
    let data = [0; 4];
    let data = &data[..];
    misused(
        &plan("first", DType::F32, &[1]),
        &[data, data],
        "`first` is empty or occurs twice",
    );
    misused(
        &plan("", DType::F32, &[1]),
        &[data, data],
        "is empty or occurs twice",
    );
    misused(
        &plan("t", DType::F32, &[1; 5]),
        &[data, data],
        "at most 4 dimensions",
    );
    misused(&plan("t", DType::F32, &[3, 0]), &[data, data], "none 0");
    misused(
        &plan("t", DType::Q4_K, &[2, 32]),
        &[data, data],
        "a multiple of 256",
    );
    misused(
        &plan("t", DType::F32, &[usize::MAX, 8]),
        &[data, data],
        "cannot be stored as F32",
    );
    misused(
        &plan("t", DType::F32, &[2]),
        &[data, data],
        "`t` (F32 [2]) takes 8 bytes, but 4",
    );
    misused(
        &plan("t", DType::F32, &[1]),
        &[data],
        "2 tensors were planned, but data for 1",
    );
    misused(
        GgufWriter::new().set("general.alignment", 12u32),
        &[],
        "12 is no power of two",
    );
    misused(
        GgufWriter::new().set("", 12u32),
        &[],
        "a metadata key is empty",
    );
}
