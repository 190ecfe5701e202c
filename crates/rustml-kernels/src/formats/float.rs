//! F32, F16 and BF16: one IEEE 754 (or truncated IEEE 754) number a value, little endian.
//!
//! | type | bytes | sign, exponent, fraction bits |
//! |------|-------|-------------------------------|
//! | F32  | 4     | 1, 8, 23                      |
//! | F16  | 2     | 1, 5, 10                      |
//! | BF16 | 2     | 1, 8, 7                       |
//!
//! Narrowing rounds to nearest, ties to even. It is the plain IEEE conversion: what exceeds F16's
//! largest finite value, 65504, becomes infinite, and NaN stays NaN.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Values converted at a time where the conversion needs aligned memory between.
const STEP: usize = 64;

/// `out[n]` from `4 n` bytes of F32.
pub fn decode_f32(bytes: &[u8], out: &mut [f32]) {
    let (words, rest) = bytes.as_chunks::<4>();
    assert!(words.len() == out.len() && rest.is_empty());
    for (value, word) in out.iter_mut().zip(words) {
        *value = f32::from_le_bytes(*word);
    }
}

/// `out[n]` from `2 n` bytes of F16.
pub fn decode_f16(bytes: &[u8], out: &mut [f32]) {
    let (words, rest) = bytes.as_chunks::<2>();
    assert!(words.len() == out.len() && rest.is_empty());
    let mut halves = [f16::ZERO; STEP];
    for (out, words) in out.chunks_mut(STEP).zip(words.chunks(STEP)) {
        let halves = &mut halves[..words.len()];
        for (half, word) in halves.iter_mut().zip(words) {
            *half = f16::from_le_bytes(*word);
        }
        halves.convert_to_f32_slice(out);
    }
}

/// `out[n]` from `2 n` bytes of BF16.
pub fn decode_bf16(bytes: &[u8], out: &mut [f32]) {
    let (words, rest) = bytes.as_chunks::<2>();
    assert!(words.len() == out.len() && rest.is_empty());
    for (value, word) in out.iter_mut().zip(words) {
        *value = f32::from_bits(u32::from(u16::from_le_bytes(*word)) << 16);
    }
}

/// `4 n` bytes of F32 from `values[n]`.
pub fn encode_f32(values: &[f32], out: &mut [u8]) {
    let (words, rest) = out.as_chunks_mut::<4>();
    assert!(words.len() == values.len() && rest.is_empty());
    for (word, value) in words.iter_mut().zip(values) {
        *word = value.to_le_bytes();
    }
}

/// `2 n` bytes of F16 from `values[n]`.
pub fn encode_f16(values: &[f32], out: &mut [u8]) {
    let (words, rest) = out.as_chunks_mut::<2>();
    assert!(words.len() == values.len() && rest.is_empty());
    let mut halves = [f16::ZERO; STEP];
    for (words, values) in words.chunks_mut(STEP).zip(values.chunks(STEP)) {
        let halves = &mut halves[..values.len()];
        halves.convert_from_f32_slice(values);
        for (word, half) in words.iter_mut().zip(halves) {
            *word = half.to_le_bytes();
        }
    }
}

/// `2 n` bytes of BF16 from `values[n]`.
pub fn encode_bf16(values: &[f32], out: &mut [u8]) {
    let (words, rest) = out.as_chunks_mut::<2>();
    assert!(words.len() == values.len() && rest.is_empty());
    for (word, value) in words.iter_mut().zip(values) {
        *word = bf16::from_f32(*value).to_le_bytes();
    }
}
