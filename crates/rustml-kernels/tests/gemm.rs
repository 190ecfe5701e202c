//! Matrix products of every format on every instruction set against sums in
//! double precision over decoded weights.

mod common;

use common::{bits, quantised, Rng};
use half::{bf16, f16};
use rustml_io::DType;
use rustml_kernels::formats::*;
use rustml_kernels::{Acts, Forms, Matrix, Product, Then};
use rustml_simd::{with_isa, Isa, Kernel, Simd};

struct Put<'a>(&'a mut Acts, &'a [f32]);
impl Kernel for Put<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (rows, cols) = (0..self.0.rows(), 0..self.0.cols());
        // SAFETY: one thread.
        unsafe { self.0.writer().put(s, rows, cols, self.1) };
    }
}

/// The weights packed, once for each way there is to compute with them on `isa`.
fn pack(dtype: DType, outputs: usize, cols: usize, data: &[u8], isa: Isa) -> Vec<Matrix> {
    let packed = || Matrix::pack(dtype, outputs, cols, data, isa).unwrap();
    let mut all = vec![packed()];
    if dtype == DType::BF16 && isa.dots_bf16() {
        all.push(packed().without_extras());
    }
    // What is around tile registers, on CPUs that have none.
    all.extend(packed().with_plain_tiles());
    all
}

/// The forms of activations that products with `m` can read: of other rows, and of those of
/// prompts if these differ.
fn ways(m: &Matrix) -> Vec<Forms> {
    let mut ways = vec![m.forms(), m.prefill_forms()];
    ways.dedup();
    ways
}

/// The product of all rows, into rows `stride` values apart that hold `initial`.
fn multiply(
    m: &Matrix,
    forms: Forms,
    isa: Isa,
    x: &[f32],
    bias: Option<&[f32]>,
    initial: f32,
) -> Vec<f32> {
    let (rows, stride) = (x.len() / m.cols(), m.rows() + PADDING);
    let mut acts = Acts::new(rows, m.cols(), forms);
    acts.begin(rows, m.cols(), forms);
    with_isa(isa, Put(&mut acts, x));
    let mut out = vec![initial; rows * stride];
    let p = Product {
        weights: m,
        bias,
        accumulate: !initial.is_nan(),
        out: out.as_mut_ptr(),
        out_stride: stride,
    };
    // SAFETY: `out` holds `rows` rows, and this thread alone writes.
    unsafe { p.run(&acts, 0..m.panels(), Then::end(&(0..m.panels()))) };
    out
}

/// Values between rows of results.
const PADDING: usize = 3;

/// What products with weights in `dtype` see of activations in these forms.
fn seen(dtype: DType, forms: Forms, x: &[f32]) -> Vec<f32> {
    match dtype {
        _ if forms == Forms::TILES || dtype == DType::BF16 => {
            x.iter().map(|x| bf16::from_f32(*x).to_f32()).collect()
        }
        _ if dtype.is_float() => x.to_vec(),
        _ => quantised(x),
    }
}

/// The nearest bfloat16, away from zero if two are as near.
fn rounded(w: f32) -> f32 {
    f32::from_bits(w.to_bits().wrapping_add(0x8000) & 0xffff_0000)
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
    let bias = rng.floats(outputs);
    for m in pack(dtype, outputs, cols, data, isa) {
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
        let tests = [(None, f32::NAN), (Some(&bias[..]), 2.5)];
        let tests = tests
            .into_iter()
            .flat_map(|t| ways(&m).into_iter().map(move |f| (t, f)));
        for ((bias, initial), forms) in tests {
            let out = multiply(&m, forms, isa, &x, bias, initial);
            let (seen, tiles) = (seen(dtype, forms, &x), forms == Forms::TILES);
            for (r, out) in out.chunks(outputs + PADDING).enumerate() {
                let (out, padding) = out.split_at(outputs);
                let unwritten = |v: &f32| v.is_nan() || *v == 2.5;
                assert!(padding.iter().all(unwritten), "wrote beyond the row");
                for (o, got) in out.iter().enumerate() {
                    let (mut y, mut size, mut largest) = (0f64, 0f64, 0f64);
                    for i in 0..cols {
                        let w = weights[o * cols + i];
                        let w = if tiles { rounded(w) } else { w };
                        let t = f64::from(w) * f64::from(seen[r * cols + i]);
                        largest = largest.max(t.abs());
                        y += t;
                        size += t.abs();
                    }
                    y += bias.map_or(0.0, |b| f64::from(b[o]));
                    y += if initial.is_nan() { 0.0 } else { 2.5 };
                    // One rounding per term at most, each of a partial sum; offsets
                    // and scales add terms of the size of the sums of magnitudes. Sums
                    // of codes are exact for all values of a scale, 16 at least.
                    let exact = match tiles || dtype.is_float() {
                        true => 1,
                        false => 16,
                    };
                    let roundings = (cols / exact) as f64 + 8.0;
                    let tolerance = (size * 4.0 + 4.0) * roundings * f64::from(f32::EPSILON);
                    // A weight with an offset was rounded once more before: one of them may be
                    // its neighbour in bfloat16.
                    let neighbour = largest / if tiles { 128.0 } else { f64::INFINITY };
                    let tolerance = tolerance + neighbour;
                    assert!(
                        (f64::from(*got) - y).abs() <= tolerance,
                        "{dtype} {isa:?} {outputs}x{cols} rows {rows}, [{r}, {o}]: {got} != {y} (within {tolerance})"
                    );
                }
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
        exponent: 0,
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
        check_ends::<MXFP4>(isa);
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
    unsafe { p.run(&acts, 0..1, Then::end(&(0..1))) };
}

/// Every number of rows, at widths where pairs and vectors end well and badly.
#[test]
fn bfloat16_at_every_number_of_rows() {
    for isa in Isa::available() {
        for rows in 1..=47 {
            let outputs = [1, 4, 15, 16, 17, 37, 64, 70][rows % 8];
            check(DType::BF16, isa, outputs, [31, 64, 101][rows % 3], rows);
        }
    }
}

/// Infinities, NaN, numbers that are nearly too large and too small, in
/// weights and activations: all ways to compute say the same.
#[test]
fn bfloat16_at_the_ends_of_its_range() {
    let (outputs, cols, rows) = (19, 32, 35);
    let odd = [
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        1e-40, // subnormal, as are the next two
        -1e-40,
        f32::from_bits(1),
        f32::MIN_POSITIVE,
        1e18,
        -0.0,
        3.39e38, // largest in bfloat16
    ];
    let mut rng = Rng(0xb0b);
    let mut numbers = |n: usize| {
        let mut all = rng.floats(n);
        for x in &mut all {
            // So few that most sums have one or none.
            let at = rng.bits() as usize;
            if at.is_multiple_of(29) {
                *x = odd[at / 29 % odd.len()];
            }
        }
        all
    };
    let (weights, x) = (numbers(outputs * cols), numbers(rows * cols));
    let mut data = vec![0; 2 * weights.len()];
    encode_row(DType::BF16, &weights, &mut data);
    let [w, x_seen] = [&weights, &x].map(|x| seen(DType::BF16, Forms::PAIRS, x));
    let mut kinds = [0; 3];
    for isa in Isa::available() {
        for m in pack(DType::BF16, outputs, cols, &data, isa) {
            let all = ways(&m).into_iter().flat_map(|forms| {
                let out = multiply(&m, forms, isa, &x, None, f32::NAN);
                let rows = out.chunks(outputs + PADDING).enumerate();
                rows.map(|(r, out)| (r, out.to_vec())).collect::<Vec<_>>()
            });
            for (r, out) in all {
                for (o, got) in out[..outputs].iter().enumerate() {
                    let terms = (0..cols).map(|i| {
                        let (w, x) = (w[o * cols + i], x_seen[r * cols + i]);
                        f64::from(w) * f64::from(x)
                    });
                    let y: f64 = terms.clone().sum();
                    let size: f64 = terms.map(f64::abs).sum();
                    let what = format!("{isa:?} [{r}, {o}]: {got} instead of {y}");
                    if y.is_nan() {
                        kinds[0] += 1;
                        assert!(got.is_nan(), "{what}");
                    } else if y.is_infinite() || size > f64::from(f32::MAX) {
                        // Sums that leave the range on their way may come back
                        // in double precision; here they need not.
                        kinds[1] += 1;
                        assert!(!y.is_infinite() || f64::from(*got) == y, "{what}");
                    } else {
                        kinds[2] += 1;
                        // Subnormal terms may be taken for zero.
                        let flushed = cols as f64 * f64::from(f32::MIN_POSITIVE);
                        let tolerance = size * cols as f64 * f64::from(f32::EPSILON) + flushed;
                        assert!((f64::from(*got) - y).abs() <= tolerance, "{what}");
                    }
                }
            }
        }
    }
    assert!(kinds.iter().all(|&n| n > 20), "{kinds:?}");
}

/// Between instruction sets, and between their ways to compute, there are
/// but roundings.
#[test]
fn bfloat16_agrees_wherever_it_is_computed() {
    let (outputs, cols, rows) = (37, 576, 35);
    let mut rng = Rng(0xa11);
    let weights = rng.floats(outputs * cols);
    let mut data = vec![0; 2 * weights.len()];
    encode_row(DType::BF16, &weights, &mut data);
    let x = rng.floats(rows * cols);
    let mut all = Vec::new();
    for isa in Isa::available() {
        for m in pack(DType::BF16, outputs, cols, &data, isa) {
            for forms in ways(&m) {
                all.push((isa, multiply(&m, forms, isa, &x, None, f32::NAN)));
            }
        }
    }
    let (_, first) = &all[0];
    for (isa, out) in &all[1..] {
        for (a, b) in first.iter().zip(out).filter(|(a, _)| !a.is_nan()) {
            // Terms of a third in the mean square sum up to some square root of
            // their number, and as many roundings of such sums add likewise.
            let tolerance = 4.0 * cols as f32 / 3.0 * f32::EPSILON;
            assert!((a - b).abs() <= tolerance, "{isa:?}: {b} instead of {a}");
        }
        assert!(out.iter().filter(|y| y.is_nan()).count() == rows * PADDING);
    }
}

/// The same bits whatever is computed together.
#[test]
fn a_row_does_not_depend_on_its_neighbours() {
    for isa in Isa::available() {
        for dtype in DType::ALL {
            let cols = dtype.block_len().max(32) * 2;
            same_together(dtype, isa, cols, [2, 7, 31, 32, 33]);
        }
        same_together(DType::BF16, isa, 33, 1..=47);
    }
}

/// Computes 47 rows together, each alone, and so many of the first.
fn same_together(dtype: DType, isa: Isa, cols: usize, counts: impl IntoIterator<Item = usize>) {
    let outputs = 20;
    let mut rng = Rng(7);
    let row_bytes = dtype.row_bytes(cols).unwrap();
    let mut data = vec![0; outputs * row_bytes];
    for bytes in data.chunks_mut(row_bytes) {
        encode_row(dtype, &rng.floats(cols), bytes);
    }
    let x = rng.floats(47 * cols);
    let counts: Vec<usize> = counts.into_iter().collect();
    let all = pack(dtype, outputs, cols, &data, isa);
    for (m, forms) in all
        .iter()
        .flat_map(|m| ways(m).into_iter().map(move |f| (m, f)))
    {
        let run = |x: &[f32]| bits(&multiply(m, forms, isa, x, None, f32::NAN));
        let together = run(&x);
        let stride = outputs + PADDING;
        for r in 0..47 {
            let alone = run(&x[r * cols..][..cols]);
            assert_eq!(
                alone,
                together[r * stride..][..stride],
                "{dtype} {isa:?} row {r}"
            );
        }
        for &rows in &counts {
            let few = run(&x[..rows * cols]);
            assert_eq!(
                few,
                together[..rows * stride],
                "{dtype} {isa:?} {rows} rows"
            );
        }
    }
}
