//! Matrix products of every format on every instruction set against sums in
//! double precision over decoded weights.

mod common;

use common::{quantised, Rng};
use half::f16;
use rustml_io::DType;
use rustml_kernels::formats::*;
use rustml_kernels::{Acts, Forms, Matrix, Product};
use rustml_simd::{with_isa, Isa, Kernel, Simd};

struct Put<'a>(&'a mut Acts, &'a [f32]);
impl Kernel for Put<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = 0..self.0.rows();
        // SAFETY: one thread.
        unsafe { self.0.writer().put(s, rows, self.1) };
    }
}

/// Compares with the definition on random weights and activations.
fn check(dtype: DType, isa: Isa, outputs: usize, cols: usize, rows: usize) {
    let mut rng = Rng(0x9e37_79b9 + outputs as u64 * 31 + cols as u64);
    let row_bytes = dtype.row_bytes(cols).unwrap();
    let mut data = vec![0; outputs * row_bytes];
    for bytes in data.chunks_mut(row_bytes) {
        encode_row(dtype, &rng.floats(cols), bytes);
    }
    compare(dtype, isa, cols, &data, rng.floats(rows * cols));
}

/// Compares the product of encoded weights and activations `x[rows * cols]`
/// with its definition.
fn compare(dtype: DType, isa: Isa, cols: usize, data: &[u8], x: Vec<f32>) {
    let mut rng = Rng(0x5eed);
    let row_bytes = dtype.row_bytes(cols).unwrap();
    let (outputs, rows) = (data.len() / row_bytes, x.len() / cols);
    let mut weights = vec![0f32; outputs * cols];
    for (bytes, weights) in data.chunks(row_bytes).zip(weights.chunks_mut(cols)) {
        decode_row(dtype, bytes, weights);
    }
    let m = Matrix::pack(dtype, outputs, cols, data, isa).unwrap();
    let mut decoded = vec![f32::NAN; cols];
    for r in 0..outputs {
        m.decode_row(r, &mut decoded);
        for (d, w) in decoded.iter().zip(&weights[r * cols..]) {
            assert!(
                (d - w).abs() <= w.abs() * 1e-6 + 1e-7,
                "{dtype} {isa:?} row {r}: {d} != {w}"
            );
        }
    }
    let mut acts = Acts::new(rows, cols, m.forms());
    acts.begin(rows, cols, m.forms());
    with_isa(isa, Put(&mut acts, &x));
    let seen = if dtype.is_float() { x } else { quantised(&x) };
    let bias: Vec<f32> = (0..outputs).map(|_| rng.float()).collect();
    for (use_bias, accumulate) in [(false, false), (true, true)] {
        let stride = outputs + 3;
        let initial = if accumulate { 2.5 } else { f32::NAN };
        let mut out = vec![initial; rows * stride];
        let p = Product {
            weights: &m,
            bias: use_bias.then_some(&bias[..]),
            accumulate,
            out: out.as_mut_ptr(),
            out_stride: stride,
        };
        // SAFETY: `out` holds `rows` rows, and this thread alone writes.
        unsafe { p.run(&acts, 0..m.panels()) };
        for r in 0..rows {
            for o in 0..outputs {
                let (mut y, mut size) = (0f64, 0f64);
                for i in 0..cols {
                    let t = f64::from(weights[o * cols + i]) * f64::from(seen[r * cols + i]);
                    y += t;
                    size += t.abs();
                }
                y += if use_bias { f64::from(bias[o]) } else { 0.0 };
                y += if accumulate { 2.5 } else { 0.0 };
                // One rounding per term at most, each of a partial sum; offsets
                // and scales add terms of the size of the sums of magnitudes.
                let tolerance = (size * 4.0 + 4.0) * (cols as f64 + 8.0) * f64::from(f32::EPSILON);
                let got = f64::from(out[r * stride + o]);
                assert!(
                    (got - y).abs() <= tolerance,
                    "{dtype} {isa:?} {outputs}x{cols} rows {rows}, [{r}, {o}]: {got} != {y} (within {tolerance})"
                );
            }
            for pad in outputs..stride {
                let v = out[r * stride + pad];
                assert!(v.is_nan() || v == 2.5, "wrote beyond the row");
            }
        }
    }
}

#[test]
fn products_match_on_every_isa() {
    for isa in Isa::available() {
        for dtype in DType::ALL {
            let block = dtype.block_len().max(32);
            for (outputs, blocks, rows) in [
                (1, 1, 1),
                (16, 2, 1),
                (23, 3, 2),
                (40, 2, 5),
                (33, 1, 8),
                (17, 2, 23),
                (5, 1, 47),
            ] {
                check(dtype, isa, outputs, blocks * block, rows);
            }
            check(dtype, isa, 19, 4 * block, 3);
        }
    }
}

/// As many rows as of a prompt, and more panels than are unpacked at a time.
#[test]
fn products_of_prompts_match_on_every_isa() {
    for isa in Isa::available() {
        for dtype in DType::ALL {
            let cols = match dtype.block_len() {
                256 => 20 * 256,
                _ => 96,
            };
            check(dtype, isa, 97, cols, 35);
        }
    }
}

/// Codes and activations at the ends of their ranges, where sums of products
/// in 16 bits, or instructions that saturate, would fail. Row `r` of the weights
/// has all codes at their lowest, all at their highest, in turns, or at random;
/// rows of activations likewise.
fn check_ends<F: BlockFormat>(isa: Isa) {
    let factors = Factors {
        d: f16::ONE,
        dmin: f16::ONE,
        sc: [1; MAX_SUBS],
        m: [1; MAX_SUBS],
    };
    // The ends of what a file may hold: quantising never writes Q8_0's -128.
    let holds = |q: &u8| {
        let mut back = vec![0; F::LEN];
        F::pack(&factors, &vec![*q; F::LEN]).unpack(&mut back);
        back.iter().all(|b| b == q)
    };
    let codes = || (0..=255).filter(holds);
    let lowest = codes().min_by_key(|&q| F::code(q)).unwrap();
    let highest = codes().max_by_key(|&q| F::code(q)).unwrap();

    let mut rng = Rng(0x0e4d);
    let mut is_high = |row: usize, i: usize| match row % 4 {
        0 => false,
        1 => true,
        2 => i % 2 == 1,
        _ => rng.float() > 0.0,
    };
    let cols = 2 * F::LEN.max(32);
    let mut data = Vec::new();
    for row in 0..21 {
        let codes = (0..cols).map(|i| if is_high(row, i) { highest } else { lowest });
        for codes in codes.collect::<Vec<_>>().chunks(F::LEN) {
            data.extend_from_slice(F::pack(&factors, codes).as_bytes());
        }
    }
    let x = (0..15 * cols).map(|i| match is_high(i / cols, i) {
        true => 1.0,
        false => -1.0,
    });
    compare(F::DTYPE, isa, cols, &data, x.collect());
}

#[test]
fn nothing_saturates_at_the_ends_of_the_ranges() {
    for isa in Isa::available() {
        check_ends::<Q4_0>(isa);
        check_ends::<Q4_1>(isa);
        check_ends::<Q5_0>(isa);
        check_ends::<Q5_1>(isa);
        check_ends::<Q8_0>(isa);
        check_ends::<Q2_K>(isa);
        check_ends::<Q3_K>(isa);
        check_ends::<Q4_K>(isa);
        check_ends::<Q5_K>(isa);
        check_ends::<Q6_K>(isa);
        check_ends::<IQ4_NL>(isa);
        check_ends::<IQ4_XS>(isa);
    }
}

/// Whatever the bytes of a file, a packed row decodes as the format says, but
/// for the roundings of scale and offset. Not-a-number scales included.
#[test]
fn any_bytes_are_packed_as_they_are() {
    let mut rng = Rng(0x0bad_cafe);
    for isa in Isa::available() {
        for dtype in DType::ALL {
            let (rows, cols) = (37, 2 * dtype.block_len().max(32));
            let row_bytes = dtype.row_bytes(cols).unwrap();
            let data: Vec<u8> = (0..rows * row_bytes).map(|_| rng.bits() as u8).collect();
            let m = Matrix::pack(dtype, rows, cols, &data, isa).unwrap();
            let (mut got, mut expected) = (vec![f32::NAN; cols], vec![f32::NAN; cols]);
            for (row, bytes) in data.chunks(row_bytes).enumerate() {
                m.decode_row(row, &mut got);
                decode_row(dtype, bytes, &mut expected);
                for (got, expected) in got.iter().zip(&expected) {
                    let same = got == expected || got.is_nan() && expected.is_nan();
                    assert!(
                        same,
                        "{dtype} {isa:?} row {row}: {got} instead of {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn float_widths_need_no_blocks() {
    for isa in Isa::available() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for cols in [1, 4, 7, 23, 100] {
                check(dtype, isa, 9, cols, 3);
            }
        }
    }
}

#[test]
fn no_rows_is_no_work() {
    let m = Matrix::pack(DType::Q8_0, 4, 32, &[0; 4 * 34], Isa::best()).unwrap();
    let mut acts = Acts::new(1, 32, m.forms());
    acts.begin(0, 32, m.forms().union(Forms::CODES));
    let p = Product {
        weights: &m,
        bias: None,
        accumulate: false,
        out: std::ptr::NonNull::dangling().as_ptr(),
        out_stride: 4,
    };
    // SAFETY: no rows, so nothing is written.
    unsafe { p.run(&acts, 0..1) };
}

/// The same bits whatever is computed together.
#[test]
fn a_row_does_not_depend_on_its_neighbours() {
    for isa in Isa::available() {
        for dtype in DType::ALL {
            let cols = dtype.block_len().max(32) * 2;
            let mut rng = Rng(7);
            let row_bytes = dtype.row_bytes(cols).unwrap();
            let mut data = vec![0; 20 * row_bytes];
            for r in 0..20 {
                let values: Vec<f32> = (0..cols).map(|_| rng.float()).collect();
                encode_row(dtype, &values, &mut data[r * row_bytes..][..row_bytes]);
            }
            let m = Matrix::pack(dtype, 20, cols, &data, isa).unwrap();
            let x = rng.floats(47 * cols);
            let run = |x: &[f32]| {
                let rows = x.len() / cols;
                let mut acts = Acts::new(rows, cols, m.forms());
                acts.begin(rows, cols, m.forms());
                with_isa(isa, Put(&mut acts, x));
                let mut out = vec![f32::NAN; rows * 20];
                let p = Product {
                    weights: &m,
                    bias: None,
                    accumulate: false,
                    out: out.as_mut_ptr(),
                    out_stride: 20,
                };
                // SAFETY: as above.
                unsafe { p.run(&acts, 0..m.panels()) };
                out
            };
            let together = run(&x);
            for r in 0..47 {
                let alone = run(&x[r * cols..][..cols]);
                assert_eq!(alone, together[r * 20..][..20], "{dtype} {isa:?} row {r}");
            }
            for rows in [2, 7, 31, 32, 33] {
                let few = run(&x[..rows * cols]);
                assert_eq!(few, together[..rows * 20], "{dtype} {isa:?} {rows} rows");
            }
        }
    }
}
