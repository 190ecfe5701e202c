use super::*;
use half::bf16;
use rustml_simd::{with_isa, Isa, Kernel, Simd};

/// All rows at once, or each for itself.
#[derive(Clone, Copy, Debug)]
enum By {
    All,
    Row,
}

struct Put<'a>(&'a mut Acts, &'a [f32], By);

impl Kernel for Put<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (rows, cols) = (self.0.rows(), self.0.cols());
        let writer = self.0.writer();
        let step = match self.2 {
            By::All => rows.max(1),
            By::Row => 1,
        };
        for first in (0..rows).step_by(step) {
            let rows = first..first + step;
            let x = &self.1[rows.start * cols..rows.end * cols];
            // SAFETY: one thread.
            unsafe { writer.put(s, rows, 0..cols, x) };
        }
    }
}

/// Values of many sizes, with blocks of zeros among them.
fn values(n: usize) -> Vec<f32> {
    let mut state = 0x1357_9bdfu32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let size =
        |i: usize| 10f32.powi((i / 32 % 9) as i32 - 4) * f32::from(u8::from(i / 32 % 5 != 3));
    (0..n).map(|i| next() * size(i)).collect()
}

fn all_forms() -> Forms {
    let corrected = CORRECTIONS.iter().map(|&c| Forms::corrected(c));
    corrected.fold(Forms::FLOATS.union(Forms::PAIRS), Forms::union)
}

/// Buffers full of what must be overwritten.
fn stale(capacity: usize, max_cols: usize, forms: Forms) -> Acts {
    let mut acts = Acts::new(capacity, max_cols, forms);
    acts.floats.fill(f32::NAN);
    acts.pairs.fill(0x7fc1_ffc1);
    acts.codes.fill(-128);
    acts.scales.fill(f32::NAN);
    for s in &mut acts.sums {
        s.fill(0x7fc0_0bad);
    }
    acts
}

/// Scale and codes of a block by the definition.
fn naive(x: &[f32]) -> (f32, Vec<i8>) {
    let scale = x.iter().fold(0f32, |m, v| m.max(v.abs())) / 127.0;
    let inverse = 1.0 / scale.max(f32::MIN_POSITIVE);
    let code = |v: &f32| (v * inverse).round_ties_even() as i8;
    (scale, x.iter().map(code).collect())
}

#[test]
fn tiles_cover_rows_once_and_in_order() {
    for rows in 0..100 {
        let mut next = 0;
        for (row0, n) in tiles(rows) {
            assert_eq!(row0, next);
            assert!(tile_sizes(rows).contains(&n));
            for row in row0..row0 + n {
                assert_eq!(tile_of(rows, row), (row0, n), "row {row} of {rows}");
            }
            next += n;
        }
        assert_eq!(next, rows);
    }
}

#[test]
fn every_form_of_every_row_lies_where_products_read_it() {
    for isa in Isa::available() {
        for rows in (0..=20).chain([32, 33, 38, 47]) {
            for cols in [32, 64, 160, 512, 1088] {
                let x = values(rows * cols);
                for by in [By::All, By::Row] {
                    let forms = all_forms();
                    let mut acts = stale(rows + 2, cols + 32, forms);
                    acts.begin(rows, cols, forms);
                    with_isa(isa, Put(&mut acts, &x, by));
                    let what = format!("{isa:?} {rows} rows of {cols} by {by:?} {forms:?}");
                    check(&acts, &x, &what);
                }
            }
        }
    }
}

fn check(acts: &Acts, x: &[f32], what: &str) {
    let (rows, cols, blocks) = (acts.rows(), acts.cols(), acts.cols() / BLOCK);
    for (row0, n) in tiles(rows) {
        for lane in 0..n {
            let x = &x[(row0 + lane) * cols..][..cols];
            for (i, x) in x.iter().enumerate() {
                assert_eq!(acts.floats[row0 * cols + i * n + lane], *x, "{what}");
            }
            check_pairs(acts, (row0, n), lane, x, what);
        }
    }
    for (row, x) in x.chunks(cols).enumerate() {
        let (row0, n) = tile_of(rows, row);
        let lane = row - row0;
        for (b, x) in x.chunks(BLOCK).enumerate() {
            let (scale, codes) = naive(x);
            let at = row0 * cols + (b * n + lane) * BLOCK;
            assert_eq!(acts.codes[at..][..BLOCK], codes, "{what}");
            assert_eq!(acts.scales[row0 * blocks + b * n + lane], scale, "{what}");
            for (c, correction) in CORRECTIONS.iter().enumerate() {
                let (Correction::Integer { sub, .. } | Correction::Float { sub }) = *correction;
                for (part, codes) in codes.chunks(sub).enumerate() {
                    let subs = BLOCK / sub;
                    let at = row0 * blocks * subs + (b * subs + part) * n + lane;
                    let sum: i32 = codes.iter().map(|&c| i32::from(c)).sum();
                    let expected = match correction {
                        Correction::Integer { zero, .. } => (-zero * sum) as u32,
                        Correction::Float { .. } => (scale * sum as f32).to_bits(),
                    };
                    assert_eq!(acts.sums[c][at], expected, "{what} {correction:?}");
                }
            }
        }
    }
}

fn check_pairs(acts: &Acts, (row0, n): (usize, usize), lane: usize, x: &[f32], what: &str) {
    let pairs = x.len().div_ceil(2);
    let bits = |x: Option<&f32>| bf16::from_f32(*x.unwrap_or(&0.0)).to_bits();
    for p in 0..pairs {
        let got = acts.pairs[row0 * pairs + p * n + lane];
        let expected = [bits(x.get(2 * p)), bits(x.get(2 * p + 1))];
        assert_eq!(
            [got as u16, (got >> 16) as u16],
            expected,
            "{what} pair {p}"
        );
    }
}

#[test]
fn pairs_of_any_number_of_values_end_in_zeros() {
    for isa in Isa::available() {
        for rows in [1, 2, 3, 8, 15, 33, 47] {
            for cols in [1, 2, 3, 31, 32, 33, 63, 101] {
                let x = values(rows * cols);
                let mut acts = stale(rows, cols, Forms::PAIRS);
                acts.begin(rows, cols, Forms::PAIRS);
                with_isa(isa, Put(&mut acts, &x, By::All));
                let what = format!("{isa:?} {rows} rows of {cols}");
                for (row0, n) in tiles(rows) {
                    for lane in 0..n {
                        let x = &x[(row0 + lane) * cols..][..cols];
                        check_pairs(&acts, (row0, n), lane, x, &what);
                    }
                }
            }
        }
    }
}

/// Ties, what is too large or too small, what is no number, and random bits.
#[test]
fn bfloat16_is_rounded_to_nearest_even() {
    let mut bits = vec![0, 0x7f7f_ffff, 0x7f80_0000, 0x7f80_0001, 0x7fff_ffff, 1];
    for high in [0u32, 1, 0x3f80, 0x3f81, 0x7f7f, 0x7f80] {
        bits.extend([0x7fff, 0x8000, 0x8001, 0xffff].map(|low| high << 16 | low));
    }
    let mut state = 0x2545_f491u32;
    bits.extend((0..1000).map(|_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    }));
    let x: Vec<f32> = bits
        .iter()
        .flat_map(|&b| [b, b ^ 1 << 31])
        .map(f32::from_bits)
        .collect();
    for isa in Isa::available() {
        let mut acts = stale(1, x.len(), Forms::PAIRS);
        acts.begin(1, x.len(), Forms::PAIRS);
        with_isa(isa, Put(&mut acts, &x, By::All));
        check_pairs(&acts, (0, 1), 0, &x, isa.name());
    }
}

/// Half a step: the code is the nearest, and the peak has the last one.
#[test]
fn codes_are_within_half_a_step() {
    let x = values(32 * 90);
    for isa in Isa::available() {
        let mut acts = stale(1, x.len(), Forms::CODES);
        acts.begin(1, x.len(), Forms::CODES);
        with_isa(isa, Put(&mut acts, &x, By::All));
        for ((x, codes), scale) in x
            .chunks(32)
            .zip(acts.codes.chunks(32))
            .zip(acts.scales.iter())
        {
            for (x, &code) in x.iter().zip(codes) {
                let error = (f64::from(*x) - f64::from(code) * f64::from(*scale)).abs();
                // Rounding of scale, inverse and product: three of a value of up to 127 steps.
                let step = f64::from(*scale) * (0.5 + 127.0 * 3.0 * f64::from(f32::EPSILON) / 2.0);
                assert!(error <= step, "{isa:?} {x} became {code} of {scale}");
                assert!(code > -128, "{isa:?}");
            }
            let peak = codes.iter().map(|c| c.unsigned_abs()).max();
            assert!(peak == Some(127) || *scale == 0.0, "{isa:?}");
        }
    }
}

#[test]
fn tiny_and_huge_values_make_no_nan() {
    for size in [f32::MIN_POSITIVE, 1e-44, 1e-36, f32::MAX] {
        let x: Vec<f32> = (0..32)
            .map(|i| size * [1.0, -1.0, 0.25, 0.0][i % 4])
            .collect();
        for isa in Isa::available() {
            let mut acts = stale(1, 32, Forms::CODES);
            acts.begin(1, 32, Forms::CODES);
            with_isa(isa, Put(&mut acts, &x, By::All));
            let (scale, codes) = naive(&x);
            assert_eq!(
                (acts.scales[0], &acts.codes[..]),
                (scale, &codes[..]),
                "{isa:?} {size}"
            );
            assert!(scale.is_finite());
        }
    }
}

#[test]
fn what_is_not_finite_makes_its_block_nan_and_no_other() {
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in 0..32 {
            let mut x = values(96);
            x[32 + at] = odd;
            for isa in Isa::available() {
                let mut acts = stale(1, 96, all_forms());
                acts.begin(1, 96, all_forms());
                with_isa(isa, Put(&mut acts, &x, By::All));
                let nan = [0, 1, 2].map(|b| acts.scales[b].is_nan());
                assert_eq!(nan, [false, true, false], "{isa:?} {odd} at {at}");
                let float = Correction::Float { sub: 32 }.index();
                assert!(f32::from_bits(acts.sums[float][1]).is_nan(), "{isa:?}");
            }
        }
    }
}

#[test]
fn rows_are_prepared_together_once_and_in_order() {
    for forms in [Forms::CODES, Forms::TILES] {
        for rows in 0..100 {
            let mut next = 0;
            for (first, n) in forms.together(rows) {
                assert!(first == next && (1..=MOST_ROWS).contains(&n));
                next += n;
            }
            assert_eq!(next, rows);
        }
    }
}

#[test]
fn forms_contain_what_they_are_made_of() {
    assert!(!Forms::PAIRS.contains(Forms::CODES) && !Forms::CODES.contains(Forms::PAIRS));
    for (i, &c) in CORRECTIONS.iter().enumerate() {
        assert_eq!(c.index(), i);
        let forms = Forms::corrected(c);
        assert!(forms.contains(Forms::CODES) && !forms.contains(Forms::FLOATS));
        assert!(!forms.contains(Forms::PAIRS));
        assert!(!Forms::CODES.contains(forms) && all_forms().contains(forms));
        for &other in &CORRECTIONS {
            assert_eq!(forms.contains(Forms::corrected(other)), other == c);
        }
    }
}

#[test]
#[should_panic(expected = "codes")]
fn codes_need_whole_blocks() {
    Acts::new(1, 64, Forms::CODES).begin(1, 33, Forms::CODES);
}

#[test]
#[should_panic(expected = "sums")]
fn a_form_without_a_buffer_is_refused() {
    Acts::new(1, 64, Forms::CODES).begin(1, 32, Forms::corrected(CORRECTIONS[0]));
}

#[test]
#[should_panic(expected = "a number of values that exists")]
fn rows_that_cannot_be_counted_are_refused() {
    Acts::new(1, 64, Forms::CODES).begin(usize::MAX, 64, Forms::CODES);
}
