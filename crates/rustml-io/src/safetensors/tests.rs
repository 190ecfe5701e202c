//! Every refusal of the parser, and files that must be accepted.

use super::parse;
use crate::{DType, Problem};

fn file(header: &str, data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + data, 7);
    file
}

/// A header entry.
fn entry(name: &str, dtype: &str, shape: &str, begin: u64, end: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":[{shape}],"data_offsets":[{begin},{end}]}}"#)
}

fn object(entries: &[String]) -> String {
    format!("{{{}}}", entries.join(","))
}

#[track_caller]
fn refused(bytes: &[u8], because: &str) {
    let problem = parse(bytes).expect_err("the file is accepted").to_string();
    assert!(problem.contains(because), "{problem}");
}

#[test]
fn lengths() {
    refused(b"", "the length of the header needs 8 bytes, but 0 remain");
    refused(
        &100u64.to_le_bytes(),
        "the header needs 100 bytes, but 0 remain",
    );
    refused(
        &u64::MAX.to_le_bytes(),
        "claims to take 18446744073709551615 bytes",
    );
    refused(&file("", 0), "the header is not what it must be");
    let one = || object(&[entry("t", "F32", "2,3", 0, 24)]);
    refused(
        &file(&one(), 21),
        "ends 3 bytes before the end of tensor `t`",
    );
    refused(
        &file(&one(), 25),
        "the last 1 bytes of the file belong to no tensor",
    );
    match parse(&file(&one(), 0)) {
        Err(Problem::Truncated {
            missing: 24,
            tensor,
        }) if tensor == "t" => {}
        other => panic!("{other:?}"),
    }
    assert!(parse(&file("{}", 0)).unwrap().tensors.is_empty());
}

#[test]
fn headers_that_are_no_headers() {
    for header in [
        "[]",
        "null",
        "{",
        "{}{}",
        " {}",
        r#"{"t":1}"#,
        r#"{"t":{"dtype":"F32","shape":[1]}}"#,
        r#"{"t":{"dtype":"F32","shape":[1],"data_offsets":[0]}}"#,
        r#"{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}}"#,
        r#"{"t":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
        r#"{"t":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}"#,
        r#"{"t":{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,4]}}"#,
        r#"{"t":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
        r#"{"t":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}}"#,
        r#"{"__metadata__":{"a":1}}"#,
        r#"{"__metadata__":{},"__metadata__":{}}"#,
        &"[".repeat(100_000),
    ] {
        refused(&file(header, 4), "the header is not what it must be");
    }
    let mut invalid = file(r#"{"t":"x"}"#, 0);
    invalid[10] = 0xff;
    refused(&invalid, "the header is not what it must be");
    refused(
        &file(r#"{"__metadata__":{"a":"1","a":"2"}}"#, 0),
        "`a` of `__metadata__` occurs twice",
    );
}

#[test]
fn tensors() {
    let one = |entry: String| file(&object(&[entry]), 16);
    refused(
        &one(entry("t", "F32", "2", 8, 0)),
        "tensor `t` ends at 0, before it begins at 8",
    );
    refused(
        &one(entry("t", "F32", "3", 0, 16)),
        "takes 12 bytes, but its offsets span 16",
    );
    refused(
        &one(entry("t", "F4", "3", 0, 1)),
        "takes 2 bytes, but its offsets span 1",
    );
    refused(
        &one(entry("t", "F32", "4294967296,4294967296", 0, 16)),
        "larger than any memory",
    );
    refused(
        &one(entry("t", "F32", "4611686018427387904", 0, 16)),
        "larger than any memory",
    );
    let far = u64::MAX - 3;
    refused(
        &one(entry("t", "F32", "1", far, far + 3)),
        "takes 4 bytes, but its offsets span 3",
    );
    refused(
        &one(entry("t", "NEW", "1", 0, u64::MAX)),
        "larger than any memory",
    );

    let two = |b: String| file(&object(&[entry("a", "F16", "4", 0, 8), b]), 16);
    assert_eq!(
        parse(&two(entry("b", "F16", "4", 8, 16)))
            .unwrap()
            .tensors
            .len(),
        2
    );
    refused(
        &two(entry("b", "F16", "5", 6, 16)),
        "tensor `b` overlaps that of the one before",
    );
    refused(
        &two(entry("b", "F16", "3", 10, 16)),
        "2 bytes before the data of tensor `b`",
    );
    refused(
        &two(entry("a", "F16", "4", 8, 16)),
        "tensor `a` occurs twice",
    );
    refused(&two(entry("\\u001b[2J", "F16", "3", 8, 14)), "last 2 bytes");
}

#[test]
fn types_that_are_not_computed_are_listed() {
    let header = object(&[
        entry("later", "BF16", "1", 45, 47),
        entry("mask", "BOOL", "1,1,4,4", 0, 16),
        entry("ids", "I64", "2", 16, 32),
        entry("quant", "F8_E4M3", "4", 32, 36),
        entry("strange", "X7", "1000", 36, 45),
        entry("empty", "F32", "0,4", 45, 45),
        r#""__metadata__":{"format":"pt"}"#.into(),
    ]);
    let header = parse(&file(&header, 47)).unwrap();
    let seen: Vec<_> = header
        .tensors
        .iter()
        .map(|t| (t.name.as_str(), t.type_name.as_str(), t.bytes))
        .collect();
    let expected = [
        ("mask", "BOOL", 16),
        ("ids", "I64", 16),
        ("quant", "F8_E4M3", 4),
        ("strange", "X7", 9),
        ("empty", "F32", 0),
        ("later", "BF16", 2),
    ];
    assert_eq!(seen, expected);
    assert_eq!(header.tensors[5].dtype, Some(DType::BF16));
    assert_eq!(header.metadata.str("format").unwrap(), Some("pt"));
}
