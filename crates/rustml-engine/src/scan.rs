//! Loops over the logits of a whole vocabulary.
//!
//! A vocabulary has up to a quarter of a million tokens, and each of these
//! runs once for every token that is generated. They are written in lanes, so
//! that the compiler makes vectors of them, and sum in one order whatever the
//! machine, so that the results have the same bits. Logits that are no numbers
//! count as minus infinity.

/// Values that are summed side by side.
const LANES: usize = 16;

/// Values whose exponentials are summed before they go into the total.
pub(crate) const CHUNK: usize = 256;

/// The largest value; minus infinity if there is none.
pub(crate) fn max(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut best = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (best, &x) in best.iter_mut().zip(chunk) {
            *best = larger(*best, x);
        }
    }
    let all = best.iter().chain(rest);
    all.fold(f32::NEG_INFINITY, |a, &b| larger(a, b))
}

/// Where the largest value is, the first if there are several; 0 if there is
/// no number.
pub(crate) fn argmax(x: &[f32]) -> u32 {
    // Enough to be looked at once more.
    const PART: usize = 4096;
    let (mut best, mut from) = (f32::NEG_INFINITY, 0);
    for (i, part) in x.chunks(PART).enumerate() {
        let max = max(part);
        if max > best {
            (best, from) = (max, i * PART);
        }
    }
    let at = x[from..].iter().position(|&x| x == best);
    at.map_or(0, |at| from + at) as u32
}

/// `e^x` for `x <= 0`, within two units in the last place: `2^n` in the
/// exponent's bits times a polynomial of what is left (Cephes' `expf`). 0 below
/// -87, where single precision ends.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts, the first of few bits, so that `n` of them are exact.
    const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    // Adding it leaves the nearest whole number in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let in_range = x >= -87.0;
    let y = if in_range { x } else { 0.0 };
    let rounded = y * LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = y - n * LN2[0] - n * LN2[1];
    let mut p = 1.987_569_1e-4_f32;
    for c in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ] {
        p = p * r + c;
    }
    let p = p * r * r + r + 1.0;
    let power = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    // Computed in any case: a choice between values is a vector's, a branch is
    // not.
    let value = p * power;
    if in_range {
        value
    } else {
        0.0
    }
}

/// How much a logit weighs beside the largest: `e^((x - max) * scale)`.
#[inline(always)]
pub(crate) fn weight(x: f32, max: f32, scale: f32) -> f32 {
    let value = exp((x - max) * scale);
    // The largest may be infinite.
    if x == max {
        1.0
    } else {
        value
    }
}

/// The sum of the weights of each [`CHUNK`] of logits, pushed to `sums`.
pub(crate) fn weights(x: &[f32], max: f32, scale: f32, sums: &mut Vec<f64>) {
    sums.extend(x.chunks(CHUNK).map(|x| {
        let mut sum = [0f32; LANES];
        let (chunks, rest) = x.as_chunks::<LANES>();
        for chunk in chunks {
            for (sum, &x) in sum.iter_mut().zip(chunk) {
                *sum += weight(x, max, scale);
            }
        }
        let rest = rest.iter().map(|&x| weight(x, max, scale));
        sum.into_iter().chain(rest).map(f64::from).sum::<f64>()
    }));
}

/// By descending value, then by token, so that ties have one order.
pub(crate) fn larger(a: &(f32, u32), b: &(f32, u32)) -> std::cmp::Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// The `k` largest values, in no order, in place of what was in `out`.
///
/// Only what exceeds the smallest of those found is looked at closely, which
/// soon is hardly anything.
pub(crate) fn top_k(x: &[f32], k: usize, out: &mut Vec<(f32, u32)>) {
    out.clear();
    if k == 0 {
        return;
    }
    // Twice as many are gathered before the lesser half is thrown out.
    let many = (2 * k).max(64);
    let mut least = f32::NEG_INFINITY;
    for (i, x) in x.chunks(CHUNK).enumerate() {
        if max(x) <= least {
            continue;
        }
        for (j, &value) in x.iter().enumerate() {
            if value > least {
                out.push((value, (i * CHUNK + j) as u32));
                if out.len() >= many {
                    out.select_nth_unstable_by(k - 1, larger);
                    out.truncate(k);
                    least = out[k - 1].0;
                }
            }
        }
    }
    if out.len() > k {
        out.select_nth_unstable_by(k - 1, larger);
        out.truncate(k);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spread over what logits usually are, with ties.
    fn logits(n: usize) -> Vec<f32> {
        let value = |i: usize| ((i * 7919 + i * i * 31) % 4001) as f32 * 0.01 - 25.0;
        (0..n).map(value).collect()
    }

    const SIZES: [usize; 8] = [0, 1, 15, 16, 17, 255, 257, 10_000];

    #[test]
    fn the_largest_is_found() {
        for n in SIZES {
            let x = logits(n);
            let expected = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(max(&x), expected);
            let first = x.iter().position(|&v| v == expected).unwrap_or(0);
            assert_eq!(argmax(&x), first as u32);
        }
        assert_eq!(argmax(&[f32::NAN, 1.0, f32::NAN, 2.0]), 3);
        let mut long = vec![-1.0; 20_000];
        (long[9_000], long[9_001], long[17_000]) = (3.0, 4.0, 4.0);
        assert_eq!(argmax(&long), 9_001);
        let mut none = vec![f32::NAN; 10_000];
        none[7_000] = f32::NEG_INFINITY;
        assert_eq!(argmax(&none), 7_000);
        assert_eq!(argmax(&[f32::NAN; 40]), 0);
        assert_eq!(argmax(&[f32::NEG_INFINITY, -1e30]), 1);
    }

    #[test]
    fn exponentials_are_near() {
        let mut worst = 0f64;
        for i in 0..870_000 {
            let x = -(i as f32) * 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - exact).abs() / exact);
        }
        // Two units in the last place.
        assert!(worst < 2.4e-7, "{worst}");
        assert_eq!((exp(0.0), exp(-1e9), exp(f32::NAN)), (1.0, 0.0, 0.0));
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(weight(f32::INFINITY, f32::INFINITY, 1.0), 1.0);
    }

    #[test]
    fn weights_add_up() {
        for n in SIZES {
            let x = logits(n);
            let mut sums = Vec::new();
            weights(&x, max(&x), 0.5, &mut sums);
            let exact: f64 = x
                .iter()
                .map(|&v| (f64::from(v - max(&x)) * 0.5).exp())
                .sum();
            let sum: f64 = sums.iter().sum();
            assert!((sum - exact).abs() <= 1e-5 * exact, "{n}: {sum} {exact}");
        }
    }

    #[test]
    fn the_top_is_that_of_sorting() {
        for n in SIZES {
            let x = logits(n);
            let mut sorted: Vec<_> = x.iter().copied().zip(0..).collect();
            sorted.sort_by(larger);
            for k in [0, 1, 2, 40, 64, 1000, 20_000] {
                let mut top = vec![(0.0, 0)];
                top_k(&x, k, &mut top);
                top.sort_by(larger);
                assert_eq!(top, sorted[..k.min(n)], "{k} of {n}");
            }
        }
    }
}
