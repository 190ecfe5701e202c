//! From real numbers to codes: what the formats' quantisers share.
//!
//! The search is the same everywhere: for a handful of trial steps around "the peak gets the last
//! code", round the values to codes, solve for the scale (and offset) that fit those codes best in
//! the least-squares sense, and keep the best fit. Sums run in [`LANES`] separate partial sums,
//! which is what lets the compiler use vector instructions.

use super::iq4_nl::LEVELS;
use super::{Factors, MAX_LEN, MAX_SUBS};
use half::f16;

/// Partial sums of a reduction; every sub-block is a multiple of it.
const LANES: usize = 8;

/// No block expresses anything as large (the farthest reach is Q6_K's 65504 * 128 * 32 = 2.7e8),
/// and sums of squares of such values are still far from overflow.
const LARGEST: f32 = 1e9;

/// Peaks below this would need a scale far below the smallest half: the values are zero.
const NOTHING: f32 = 1e-15;

/// A block's values with NaN replaced by zero and infinities by something finite.
#[inline]
pub(super) fn clean<const N: usize>(values: &[f32]) -> [f32; N] {
    let values: &[f32; N] = values.try_into().expect("one block of values");
    values.map(|v| {
        let v = if v.is_nan() { 0.0 } else { v };
        let v = if v < LARGEST { v } else { LARGEST };
        if v > -LARGEST {
            v
        } else {
            -LARGEST
        }
    })
}

/// The greatest of all lanes by `greater`.
#[inline]
fn fold(mut lanes: [f32; LANES], greater: impl Fn(f32, f32) -> bool) -> f32 {
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for i in 0..width {
            if greater(lanes[i + width], lanes[i]) {
                lanes[i] = lanes[i + width];
            }
        }
    }
    lanes[0]
}

/// Smallest and largest value.
#[inline]
pub(super) fn range(x: &[f32]) -> (f32, f32) {
    let (first, rest) = x.split_first_chunk::<LANES>().expect("a sub-block");
    let (mut low, mut high) = (*first, *first);
    for x in rest.chunks_exact(LANES) {
        for i in 0..LANES {
            low[i] = if x[i] < low[i] { x[i] } else { low[i] };
            high[i] = if x[i] > high[i] { x[i] } else { high[i] };
        }
    }
    (fold(low, |a, b| a < b), fold(high, |a, b| a > b))
}

/// The value farthest from zero; of two equally far, the first.
#[inline]
pub(super) fn peak(x: &[f32]) -> f32 {
    let (low, high) = range(x);
    if high > -low {
        high
    } else if high < -low {
        low
    } else {
        let first = x.iter().find(|v| v.abs() == high && high > 0.0);
        first.copied().unwrap_or(0.0)
    }
}

/// The nearest number that a half can hold without becoming infinite, not yet rounded to one.
#[inline]
pub(super) fn within_half(x: f32) -> f32 {
    x.clamp(-65504.0, 65504.0)
}

/// The smallest half that is at least `x >= 0`, or the largest one. Rounding up keeps all scales of
/// a super-block within their range, and small ones from becoming zero.
fn half_at_least(x: f32) -> f16 {
    let half = f16::from_f32(within_half(x));
    if half.to_f32() < x && half < f16::MAX {
        f16::from_bits(half.to_bits() + 1)
    } else {
        half
    }
}

/// `1 / x`, or zero where that is infinite.
#[inline]
pub(super) fn inverse(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE {
        0.0
    } else {
        1.0 / x
    }
}

/// 1.5 * 2^23, whose unit in the last place is 1: a sum with it is rounded to an integer,
/// which is the sum's low bits.
const SHIFT: f32 = 12_582_912.0;

/// Rounds `|x| < 2^22` to the nearest integer, halves to even, without a call to libm.
#[inline]
fn nearest(x: f32) -> f32 {
    (x + SHIFT) - SHIFT
}

/// The nearest integer's low byte, for `|x| < 2^22`. Compilers turn many at once into vector
/// instructions, as they do not with a conversion by `as`, which saturates.
#[inline]
fn low_byte(x: f32) -> u8 {
    (x + SHIFT).to_bits() as u8
}

/// Rounds to the nearest integer in `-127..=127`, halves away from zero as C's `roundf` does.
#[inline]
pub(super) fn round_away(x: f32) -> i8 {
    let size = if x.abs() < 127.0 { x.abs() } else { 127.0 };
    let even = nearest(size);
    let size = if size - even >= 0.5 { even + 1.0 } else { even };
    low_byte(size.copysign(x)) as i8
}

/// The whole number below `x`, within `0..=top`.
#[inline]
pub(super) fn round_down(x: f32, top: u8) -> u8 {
    let top = f32::from(top);
    let x = if x > 0.0 { x } else { 0.0 };
    let x = if x < top { x } else { top };
    let near = nearest(x);
    low_byte(if near > x { near - 1.0 } else { near })
}

/// The whole number of `step`s in `x`, within a range, as an `i8`.
#[inline]
fn steps(x: f32, step: f32, low: f32, high: f32) -> i8 {
    low_byte((x * inverse(step)).clamp(low, high)) as i8
}

/// Sums of `f(i)` over a sub-block, several at once.
#[inline]
fn sums<const N: usize>(len: usize, f: impl Fn(usize) -> [f32; N]) -> [f32; N] {
    let mut lanes = [[0.0; LANES]; N];
    for base in (0..len).step_by(LANES) {
        for i in 0..LANES {
            for (lanes, term) in lanes.iter_mut().zip(f(base + i)) {
                lanes[i] += term;
            }
        }
    }
    lanes.map(|lanes| lanes.into_iter().sum())
}

/// The scale that fits `x = scale * round(x * trial)` best among the trials.
#[inline]
fn best_scale(x: &[f32], trials: impl Iterator<Item = f32>, round: impl Fn(f32) -> f32) -> f32 {
    let (mut scale, mut gain) = (0.0, 0.0);
    for trial in trials {
        let [xc, cc] = sums(x.len(), |i| {
            let code = round(x[i] * trial);
            [x[i] * code, code * code]
        });
        // With the scale xc / cc the squared error is sum(x^2) - xc^2 / cc.
        if cc > 0.0 && xc * xc > gain * cc {
            (scale, gain) = (xc / cc, xc * xc / cc);
        }
    }
    scale
}

/// The scale for codes `-N..N`, negative if the peak is positive: the lowest code reaches farthest.
pub(super) fn even_scale<const N: i8>(x: &[f32]) -> f32 {
    let (n, peak) = (f32::from(N), peak(x));
    if peak.abs() < NOTHING {
        return 0.0;
    }
    let trials = (-9i8..=9)
        .step_by(3)
        .map(|step| -(n + 0.1 * f32::from(step)) / peak);
    best_scale(x, trials, |v| nearest(v).clamp(-n, n - 1.0))
}

/// The codes `-N..N` of `x` at a scale, stored with `N` added.
pub(super) fn even_codes<const N: i8>(x: &[f32], scale: f32, q: &mut [u8]) {
    let n = f32::from(N);
    for (q, &v) in q.iter_mut().zip(x) {
        *q = (steps(v, scale, -n, n - 1.0) + N) as u8;
    }
}

/// Half way between the levels of the IQ4 table.
const MIDDLES: [f32; 15] = {
    let mut middles = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        middles[i] = (LEVELS[i] as f32 + LEVELS[i + 1] as f32) / 2.0;
        i += 1;
    }
    middles
};

/// The level of the IQ4 table nearest to `t`.
#[inline]
fn level(t: f32) -> f32 {
    let mut level = f32::from(LEVELS[0]);
    for (pair, middle) in LEVELS.windows(2).zip(MIDDLES) {
        let gap = f32::from(pair[1]) - f32::from(pair[0]);
        level += if t > middle { gap } else { 0.0 };
    }
    level
}

/// The scale for codes of the IQ4 table; the peak may take either end of it.
pub(super) fn level_scale(x: &[f32]) -> f32 {
    let peak = peak(x);
    if peak.abs() < NOTHING {
        return 0.0;
    }
    let ends = [LEVELS[0], LEVELS[15]].map(f32::from);
    let trials = ends.into_iter().flat_map(|end| {
        (-6i8..=6)
            .step_by(3)
            .map(move |step| (end + f32::from(step)) / peak)
    });
    best_scale(x, trials, level)
}

/// The indices into the IQ4 table for `x` at a scale.
pub(super) fn level_codes(x: &[f32], scale: f32, q: &mut [u8]) {
    let inverse = inverse(scale);
    for (q, &v) in q.iter_mut().zip(x) {
        *q = MIDDLES
            .iter()
            .map(|&middle| u8::from(v * inverse > middle))
            .sum();
    }
}

/// A super-block without offsets: `value = d * sc * code`, `sc` in `-reach..reach`.
pub(super) fn super_block(
    x: &[f32; MAX_LEN],
    sub: usize,
    reach: i16,
    scale_of: impl Fn(&[f32]) -> f32,
    codes_at: impl Fn(&[f32], f32, &mut [u8]),
) -> (Factors, [u8; MAX_LEN]) {
    let mut scales = [0.0; MAX_SUBS];
    for (scale, x) in scales.iter_mut().zip(x.chunks_exact(sub)) {
        *scale = scale_of(x);
    }
    // As with the codes, the lowest integer reaches farthest and gets the largest scale.
    let (reach, peak) = (f32::from(reach), peak(&scales));
    let d = half_at_least(peak.abs() / reach);
    let d = if peak > 0.0 { -d } else { d };

    let step = d.to_f32();
    let mut q = [0; MAX_LEN];
    let mut sc = [0; MAX_SUBS];
    let subs = x.chunks_exact(sub).zip(q.chunks_exact_mut(sub));
    for (s, (x, q)) in subs.enumerate() {
        sc[s] = steps(scales[s], step, -reach, reach - 1.0);
        codes_at(x, step * f32::from(sc[s]), q);
    }
    let m = [0; MAX_SUBS];
    let factors = Factors {
        d,
        dmin: f16::ZERO,
        exponent: 0,
        sc,
        m,
    };
    (factors, q)
}

/// Scale and (non-negative) minimum for `x = scale * code - min` with codes `0..=top`.
fn scale_and_min(x: &[f32], top: f32) -> (f32, f32) {
    let (low, high) = range(x);
    let low = low.min(0.0);
    if high - low < NOTHING {
        return (0.0, -low);
    }
    // Fitted to y = x - low, because a large offset would drown the digits that matter.
    let y = |i: usize| x[i] - low;
    let count = x.len() as f32;
    let [sum, yy, xx] = sums(x.len(), |i| [y(i), y(i) * y(i), x[i] * x[i]]);
    let (mut best, mut least) = ((0.0, 0.0), f32::INFINITY);
    for step in (-10i8..=5).step_by(3) {
        let trial = (top + 0.1 * f32::from(step)) / (high - low);
        let [c, cc, yc] = sums(x.len(), |i| {
            let code = nearest(y(i) * trial).clamp(0.0, top);
            [code, code * code, y(i) * code]
        });
        // Zero if all codes are the same, and exact: its terms are integers below 2^24.
        let determinant = count * cc - c * c;
        let mut scale = (count * yc - sum * c) / determinant;
        let lift = (cc * sum - c * yc) / determinant;
        let mut min = -(low + lift);
        let mut error = yy - scale * yc - lift * sum;
        if determinant == 0.0 || min < 0.0 {
            let xc = yc + low * c;
            (scale, min) = (xc / cc, 0.0);
            error = xx - scale * xc;
        }
        if error < least {
            (best, least) = ((scale, min), error);
        }
    }
    best
}

/// A super-block with offsets: `value = d * sc * code - dmin * m`, codes `0..=top`, `sc` and `m`
/// `0..=reach`.
pub(super) fn super_block_offset(
    x: &[f32; MAX_LEN],
    sub: usize,
    top: i8,
    reach: i8,
) -> (Factors, [u8; MAX_LEN]) {
    let (top, reach) = (f32::from(top), f32::from(reach));
    let (mut scales, mut mins) = ([0.0; MAX_SUBS], [0.0; MAX_SUBS]);
    for (s, x) in x.chunks_exact(sub).enumerate() {
        (scales[s], mins[s]) = scale_and_min(x, top);
    }
    let d = half_at_least(range(&scales).1 / reach);
    let dmin = half_at_least(range(&mins).1 / reach);

    let mut q = [0; MAX_LEN];
    let (mut sc, mut m) = ([0; MAX_SUBS], [0; MAX_SUBS]);
    let subs = x.chunks_exact(sub).zip(q.chunks_exact_mut(sub));
    for (s, (x, q)) in subs.enumerate() {
        sc[s] = steps(scales[s], d.to_f32(), 0.0, reach);
        m[s] = steps(mins[s], dmin.to_f32(), 0.0, reach) as u8;
        let (scale, min) = (
            d.to_f32() * f32::from(sc[s]),
            dmin.to_f32() * f32::from(m[s]),
        );
        for (q, v) in q.iter_mut().zip(x) {
            *q = steps(v + min, scale, 0.0, top) as u8;
        }
    }
    let factors = Factors {
        d,
        dmin,
        exponent: 0,
        sc,
        m,
    };
    (factors, q)
}
