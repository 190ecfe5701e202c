//! Valid files of both kinds, damaged in thousands of ways: opening them never
//! panics, and what is opened stays in bounds.

use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;
use rustml_io::{gguf, write_safetensors, Array, DType, GgufWriter, Store};

/// One way of damaging a file. Positions are fractions of the damaged part's
/// length, so that they fit whatever the others did to it.
#[derive(Clone, Debug)]
enum Damage {
    FlipBit(f64, u8),
    Truncate(f64),
    Insert(f64, Vec<u8>),
    Remove(f64, usize),
    Repeat(f64, usize),
    /// Overwrites a field with a number of that many bytes.
    Number(f64, u64, usize),
}

impl Damage {
    /// Damages the first `head` bytes of `file`.
    fn apply(&self, file: &mut Vec<u8>, head: usize) {
        let head = head.min(file.len());
        let at = |fraction: &f64| ((head as f64 * fraction) as usize).min(file.len());
        match self {
            Damage::FlipBit(place, bit) => {
                if let Some(byte) = file.get_mut((head as f64 * place) as usize) {
                    *byte ^= 1 << bit;
                }
            }
            Damage::Truncate(place) => file.truncate((file.len() as f64 * place) as usize),
            Damage::Insert(place, bytes) => {
                let at = at(place);
                file.splice(at..at, bytes.iter().copied());
            }
            Damage::Remove(place, len) => {
                let at = at(place);
                let end = (at + len).min(file.len());
                file.drain(at..end);
            }
            Damage::Repeat(place, len) => {
                let at = at(place);
                let end = (at + len).min(file.len());
                let copy = file[at..end].to_vec();
                file.splice(at..at, copy);
            }
            Damage::Number(place, number, len) => {
                let at = at(place);
                let end = (at + len).min(file.len());
                file[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
            }
        }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    let place = 0.0..1.0f64;
    let number = prop_oneof![
        any::<u64>(),
        0u64..40,
        (0u32..64).prop_map(|bit| 1 << bit),
        (0u32..64).prop_map(|bit| u64::MAX >> bit),
    ];
    let len = prop::sample::select(&[1usize, 4, 8][..]);
    prop_oneof![
        4 => (place.clone(), 0u8..8).prop_map(|(place, bit)| Damage::FlipBit(place, bit)),
        1 => place.clone().prop_map(Damage::Truncate),
        1 => (place.clone(), prop::collection::vec(any::<u8>(), 1..16))
            .prop_map(|(place, bytes)| Damage::Insert(place, bytes)),
        1 => (place.clone(), 1usize..32).prop_map(|(place, len)| Damage::Remove(place, len)),
        1 => (place.clone(), 1usize..64).prop_map(|(place, len)| Damage::Repeat(place, len)),
        4 => (place, number, len)
            .prop_map(|(place, number, len)| Damage::Number(place, number, len)),
    ]
}

/// Whether the file is opened; if so, everything it offers is in bounds.
fn opens(name: &str, file: Vec<u8>) -> bool {
    let len = file.len();
    let Ok(store) = Store::from_bytes(Path::new(name), file) else {
        return false;
    };
    let mut ranges = Vec::new();
    for info in store.tensors() {
        assert!(info.range().end <= len, "{info:?} of {len} bytes");
        assert_eq!(info.range().len(), info.bytes);
        assert!(std::ptr::eq(store.find(&info.name).unwrap(), info));
        if !info.range().is_empty() {
            ranges.push(info.range());
        }
        if let Ok(tensor) = store.tensor(&info.name) {
            let (row, outer) = info.shape.split_last().unwrap_or((&1, &[]));
            let rows: usize = outer.iter().product();
            assert_eq!(
                tensor.data.len(),
                rows * tensor.dtype.row_bytes(*row).unwrap()
            );
            assert!(!tensor.data.is_empty());
        }
        store.release(info);
    }
    ranges.sort_by_key(|range| range.start);
    assert!(
        ranges.windows(2).all(|pair| pair[0].end <= pair[1].start),
        "{ranges:?}"
    );
    assert!(store.summary().bytes <= len as u64);
    for (key, value) in store.metadata().iter() {
        assert_eq!(
            store.metadata().get(key).map(|v| v.to_string()),
            Some(value.to_string())
        );
    }
    true
}

/// A GGUF file, and the length of its header.
static GGUF: LazyLock<(Vec<u8>, usize)> = LazyLock::new(|| {
    let mut writer = GgufWriter::new();
    writer
        .set("general.architecture", "tiny")
        .set("general.alignment", 32u32);
    writer.set("tokens", vec!["a".to_string(), "▁token".into(), "".into()]);
    writer
        .set("scores", vec![0.5f32; 3])
        .set("types", vec![1i32, 2, 3])
        .set("flags", vec![true]);
    writer.set(
        "nested",
        Array::Nested(vec![Array::U8(vec![1, 2]), Array::F64(vec![2.0])]),
    );
    writer.set("big", u64::MAX).set("yes", true);
    writer
        .tensor("embed", DType::Q8_0, &[4, 32])
        .tensor("norm", DType::F32, &[8]);
    writer
        .tensor("blk.0", DType::Q4_K, &[2, 256])
        .tensor("bias", DType::F16, &[2, 2, 3]);
    let data: [&[u8]; 4] = [&[1; 136], &[2; 32], &[3; 288], &[4; 24]];
    let file = writer.to_bytes(&data).unwrap();
    let header = gguf::parse(&file).unwrap();
    let data = header
        .tensors
        .iter()
        .map(|info| info.range().start)
        .min()
        .unwrap();
    (file, data)
});

/// A safetensors file, and the length of its header.
static SAFETENSORS: LazyLock<(Vec<u8>, usize)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let tensors: [(&str, DType, &[usize], &[u8]); 4] = [
        ("embed", DType::F32, &[4, 3], &[1; 48]),
        ("norm", DType::F16, &[7], &[2; 14]),
        ("bias", DType::BF16, &[1, 1, 1], &[3; 2]),
        ("none", DType::BF16, &[2, 0], &[]),
    ];
    write_safetensors(&path, &tensors, &[("format", "pt")]).unwrap();
    let file = std::fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    (file, header)
});

#[test]
fn undamaged_files_open() {
    assert!(opens("x", GGUF.0.clone()));
    assert!(opens("x", SAFETENSORS.0.clone()));
}

/// Every single bit of both headers.
#[test]
fn any_flipped_bit_is_survived() {
    for (file, header) in [&*GGUF, &*SAFETENSORS] {
        let mut opened = 0;
        for bit in 0..header * 8 {
            let mut file = file.clone();
            file[bit / 8] ^= 1 << (bit % 8);
            opened += usize::from(opens("x", file));
        }
        // Flips in names are harmless, flips in lengths are not.
        assert!(
            0 < opened && opened < header * 8,
            "{opened} of {}",
            header * 8
        );
    }
}

/// Every four-byte and eight-byte field at any position, with sizes that are
/// prone to overflow.
#[test]
fn any_huge_number_is_survived() {
    let numbers = [
        0,
        1,
        31,
        1 << 31,
        (1 << 32) - 1,
        1 << 32,
        1 << 60,
        1 << 63,
        u64::MAX - 30,
        u64::MAX,
    ];
    for (file, header) in [&*GGUF, &*SAFETENSORS] {
        for at in 0..*header {
            for number in numbers {
                for len in [4, 8] {
                    let mut file = file.clone();
                    let end = (at + len).min(file.len());
                    file[at..end].copy_from_slice(&u64::to_le_bytes(number)[..end - at]);
                    opens("x", file);
                }
            }
        }
    }
}

/// Every number in a safetensors header, replaced by others.
#[test]
fn any_number_in_json_is_survived() {
    let (file, header) = &*SAFETENSORS;
    let json = std::str::from_utf8(&file[8..*header]).unwrap();
    let mut refused = 0;
    for (at, old) in json.match_indices(|c: char| c.is_ascii_digit()) {
        for new in [
            "-1",
            "0.5",
            "1e3",
            "18446744073709551615",
            "9223372036854775807",
            "4294967296",
        ] {
            let header = format!("{}{new}{}", &json[..at], &json[at + old.len()..]);
            let mut damaged = (header.len() as u64).to_le_bytes().to_vec();
            damaged.extend(header.as_bytes());
            damaged.extend(&file[8 + json.len()..]);
            refused += usize::from(!opens("x", damaged));
        }
    }
    assert!(refused > 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn damaged_gguf_is_survived(damages in prop::collection::vec(damage(), 1..5)) {
        let (mut file, header) = GGUF.clone();
        damages.iter().for_each(|damage| damage.apply(&mut file, header));
        opens("x.gguf", file);
    }

    /// With the length of the header put right in half of the cases, for else
    /// most damage would end there. And what is accepted here must be accepted
    /// by the reference reader.
    #[test]
    fn damaged_safetensors_are_survived(
        damages in prop::collection::vec(damage(), 1..5),
        repair in any::<bool>(),
    ) {
        let (mut file, header) = SAFETENSORS.clone();
        let data = file.split_off(header);
        let mut file = if repair {
            let mut json = file.split_off(8);
            damages.iter().for_each(|damage| damage.apply(&mut json, header));
            [(json.len() as u64).to_le_bytes().to_vec(), json].concat()
        } else {
            damages.iter().for_each(|damage| damage.apply(&mut file, header));
            file
        };
        file.extend(data);
        if opens("x.safetensors", file.clone()) {
            if let Err(error) = safetensors::SafeTensors::deserialize(&file) {
                // Types it does not know are the one thing accepted beyond it.
                prop_assert!(error.to_string().contains("unknown variant"), "{error}");
            }
        }
    }

    #[test]
    fn noise_is_survived(head in any::<bool>(), noise in prop::collection::vec(any::<u8>(), 0..200)) {
        let gguf = [&b"GGUF\x03\0\0\0"[..], &noise].concat();
        opens("x.gguf", if head { gguf } else { noise.clone() });
        let json = [&(noise.len() as u64).to_le_bytes()[..], b"{\"", &noise].concat();
        opens("x.safetensors", if head { json } else { noise });
    }
}
