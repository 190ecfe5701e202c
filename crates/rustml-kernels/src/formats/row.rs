//! Whole rows, of a type known only at run time.

use super::{float, with_format, BlockFormat, MAX_LEN};
use rustml_io::DType;

/// The values of a row: `bytes`, `dtype.row_bytes(out.len())` of them, to `out`.
///
/// # Panics
///
/// If the lengths do not belong together. Whoever reads a file has checked them.
pub fn decode_row(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    check(dtype, bytes.len(), out.len());
    with_format!(dtype, F => {
        for (block, out) in bytes.chunks_exact(F::BYTES).zip(out.chunks_exact_mut(F::LEN)) {
            F::decode(block, out);
        }
    }, float => match dtype {
        DType::F16 => float::decode_f16(bytes, out),
        DType::BF16 => float::decode_bf16(bytes, out),
        _ => float::decode_f32(bytes, out),
    })
}

/// The bytes of a row: `values` to `out`, which has `dtype.row_bytes(values.len())` bytes.
///
/// # Panics
///
/// If the lengths do not belong together.
pub fn encode_row(dtype: DType, values: &[f32], out: &mut [u8]) {
    check(dtype, out.len(), values.len());
    with_format!(dtype, F => {
        for (values, block) in values.chunks_exact(F::LEN).zip(out.chunks_exact_mut(F::BYTES)) {
            F::encode(values, block);
        }
    }, float => match dtype {
        DType::F16 => float::encode_f16(values, out),
        DType::BF16 => float::encode_bf16(values, out),
        _ => float::encode_f32(values, out),
    })
}

/// A row of `len` values from one type to another, by way of a small buffer that stays in the
/// cache. Between equal types it is a copy.
///
/// # Panics
///
/// If the lengths do not belong together.
pub fn convert_row(from: DType, bytes: &[u8], to: DType, out: &mut [u8], len: usize) {
    check(from, bytes.len(), len);
    check(to, out.len(), len);
    if from == to {
        return out.copy_from_slice(bytes);
    }
    let mut values = [0.0; MAX_LEN];
    // A multiple of every block; a last, shorter piece is one of both types' blocks like the row.
    let piece = |dtype: DType| MAX_LEN / dtype.block_len() * dtype.block_bytes();
    let pieces = bytes.chunks(piece(from)).zip(out.chunks_mut(piece(to)));
    for (n, (bytes, out)) in pieces.enumerate() {
        let values = &mut values[..MAX_LEN.min(len - n * MAX_LEN)];
        decode_row(from, bytes, values);
        encode_row(to, values, out);
    }
}

fn check(dtype: DType, bytes: usize, len: usize) {
    assert_eq!(
        Some(bytes),
        dtype.row_bytes(len),
        "a row of {len} values of {dtype}"
    );
}
