//! Floating-point operations of every instruction set against their
//! definitions on single numbers.

mod common;

use common::{fuses, kernel, pairs, same, Rng, EDGES, WIDEST};
use rustml_simd::Isa;

/// An operation on two numbers (the unary ones ignore the second).
#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    Add,
    Sub,
    Mul,
    Div,
    Max,
    Min,
    Abs,
    Fma,
}

kernel!(
    /// `op(a, b)`, and `a * b + a` for `Fma`, vector by vector.
    fn apply<S>(s, op: Op, a: &'a [f32], b: &'a [f32]) -> Vec<f32> {
        let mut out = vec![f32::NAN; a.len()];
        for i in (0..a.len()).step_by(S::LANES) {
            // SAFETY: the lengths are multiples of the widest vector's.
            unsafe {
                let (x, y) = (s.load(a[i..].as_ptr()), s.load(b[i..].as_ptr()));
                let r = match op {
                    Op::Add => s.add(x, y),
                    Op::Sub => s.sub(x, y),
                    Op::Mul => s.mul(x, y),
                    Op::Div => s.div(x, y),
                    Op::Max => s.max(x, y),
                    Op::Min => s.min(x, y),
                    Op::Abs => s.abs(x),
                    Op::Fma => s.fma(x, y, x),
                };
                s.store(out[i..].as_mut_ptr(), r);
            }
        }
        out
    }
);

fn check(op: Op, matches: impl Fn(Isa, f32, f32, f32) -> bool) {
    let (a, b) = pairs();
    for isa in Isa::available() {
        let got = apply(isa, op, &a, &b);
        for i in 0..a.len() {
            let (a, b, r) = (a[i], b[i], got[i]);
            assert!(
                matches(isa, a, b, r),
                "{isa:?} {op:?}({a:e}, {b:e}) = {r:e}"
            );
        }
    }
}

#[test]
fn arithmetic_is_ieee() {
    check(Op::Add, |_, a, b, r| same(r, a + b));
    check(Op::Sub, |_, a, b, r| same(r, a - b));
    check(Op::Mul, |_, a, b, r| same(r, a * b));
    check(Op::Div, |_, a, b, r| same(r, a / b));
    check(Op::Abs, |_, a, _, r| same(r, a.abs()));
}

#[test]
fn multiply_add_rounds_once_where_the_isa_can() {
    check(Op::Fma, |isa, a, b, r| {
        same(
            r,
            if fuses(isa) {
                a.mul_add(b, a)
            } else {
                a * b + a
            },
        )
    });
}

/// Zeros of either sign are equal; a NaN as second argument is kept.
#[test]
fn max_and_min_keep_a_second_nan() {
    check(Op::Max, |_, a, b, r| match (a.is_nan(), b.is_nan()) {
        (_, true) => r.is_nan(),
        (true, false) => r.is_nan() || r == b,
        _ => r == a.max(b),
    });
    check(Op::Min, |_, a, b, r| match (a.is_nan(), b.is_nan()) {
        (_, true) => r.is_nan(),
        (true, false) => r.is_nan() || r == b,
        _ => r == a.min(b),
    });
}

kernel!(
    fn reduce<S>(s, a: &'a [f32]) -> (usize, f32, f32) {
        // SAFETY: callers give the widest vector's lanes.
        let v = unsafe { s.load(a.as_ptr()) };
        (S::LANES, s.reduce_add(v), s.reduce_max(v))
    }
);

#[test]
fn sums_add_halves_to_halves() {
    let mut rng = Rng(5);
    for round in 0..2000 {
        let mut x = [0f32; WIDEST].map(|_| rng.unit() * 10f32.powi(round % 7));
        if round % 10 == 0 {
            x[round as usize / 10 % WIDEST] = f32::INFINITY;
        }
        for isa in Isa::available() {
            let (lanes, sum, max) = reduce(isa, &x);
            let mut tree = x[..lanes].to_vec();
            while tree.len() > 1 {
                let (low, high) = tree.split_at(tree.len() / 2);
                tree = low.iter().zip(high).map(|(a, b)| a + b).collect();
            }
            assert!(same(sum, tree[0]), "{isa:?}: {sum} instead of {}", tree[0]);
            let largest = x[..lanes].iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(max, largest, "{isa:?}");
        }
    }
}

#[test]
fn every_lane_counts_in_reductions() {
    for isa in Isa::available() {
        for lane in 0..isa.lanes() {
            let mut x = [-3.0; WIDEST];
            x[lane] = 5.0;
            let (lanes, sum, max) = reduce(isa, &x);
            assert_eq!(
                (sum, max),
                (5.0 - 3.0 * (lanes as f32 - 1.0), 5.0),
                "{isa:?}"
            );
            x[lane] = f32::NAN;
            assert!(reduce(isa, &x).1.is_nan(), "{isa:?}");
        }
    }
}

kernel!(
    fn round<S>(s, a: &'a [f32]) -> (Vec<i32>, Vec<f32>) {
        let (mut ints, mut back) = (vec![0; a.len()], vec![0.0; a.len()]);
        for i in (0..a.len()).step_by(S::LANES) {
            // SAFETY: the lengths are multiples of the widest vector's.
            unsafe {
                let r = s.round_i32(s.load(a[i..].as_ptr()));
                s.store_i(ints[i..].as_mut_ptr().cast(), r);
                s.store(back[i..].as_mut_ptr(), s.to_f32(r));
            }
        }
        (ints, back)
    }
);

#[test]
fn rounding_sends_ties_to_even_up_to_the_ends_of_i32() {
    let mut x: Vec<f32> = (-40..40).map(|i| i as f32 / 4.0).collect();
    x.extend([
        0.49999997,
        -0.49999997,
        8388607.5,
        -8388607.5,
        16777217.0,
        1e-40,
    ]);
    x.extend([2147483520.0, -2147483648.0]);
    let mut rng = Rng(9);
    while x.len() < 4096 {
        x.push(rng.unit() * 300.0);
        x.push(rng.unit() * 2147483520.0);
    }
    x.truncate(4096);
    for isa in Isa::available() {
        let (ints, back) = round(isa, &x);
        for i in 0..x.len() {
            let expected = x[i].round_ties_even() as i32;
            assert_eq!(ints[i], expected, "{isa:?} {}", x[i]);
            assert!(same(back[i], expected as f32), "{isa:?} {}", x[i]);
        }
    }
}

kernel!(
    fn convert<S>(s, a: &'a [i32]) -> (Vec<f32>, Vec<f32>) {
        let (mut floats, mut bits) = (vec![0.0; a.len()], vec![0.0; a.len()]);
        for i in (0..a.len()).step_by(S::LANES) {
            // SAFETY: the lengths are multiples of the widest vector's.
            unsafe {
                let v = s.load_i(a[i..].as_ptr().cast());
                s.store(floats[i..].as_mut_ptr(), s.to_f32(v));
                s.store(bits[i..].as_mut_ptr(), s.bits_to_f32(v));
            }
        }
        (floats, bits)
    }
);

#[test]
fn integers_become_the_nearest_floats_or_keep_their_bits() {
    let mut rng = Rng(3);
    let mut x = vec![
        0,
        1,
        -1,
        127,
        -128,
        i32::MAX,
        i32::MIN,
        1 << 24,
        (1 << 24) + 1,
        -16777219,
    ];
    x.resize_with(1024, || rng.bits() as i32);
    for isa in Isa::available() {
        let (floats, bits) = convert(isa, &x);
        for i in 0..x.len() {
            assert!(same(floats[i], x[i] as f32), "{isa:?} {}", x[i]);
            assert!(
                same(bits[i], f32::from_bits(x[i] as u32)),
                "{isa:?} {}",
                x[i]
            );
        }
    }
}

kernel!(
    /// All lanes `x`, written at an offset of `at` floats among NaN, and read again.
    fn splat<S>(s, x: f32, at: usize) -> (Vec<f32>, Vec<f32>) {
        let (mut out, mut again) = (vec![f32::NAN; 3 * WIDEST], vec![f32::NAN; S::LANES]);
        // SAFETY: `at + LANES` is within 3 * WIDEST.
        unsafe {
            s.store(out.as_mut_ptr().add(at), s.splat(x));
            s.store(again.as_mut_ptr(), s.load(out.as_ptr().add(at)));
        }
        (out, again)
    }
);

#[test]
fn memory_needs_no_alignment_and_nothing_else_is_written() {
    for isa in Isa::available() {
        for at in 0..WIDEST {
            for x in EDGES {
                let (out, again) = splat(isa, x, at);
                let end = at + isa.lanes();
                assert!(out[..at].iter().all(|v| v.is_nan()), "{isa:?}");
                assert!(out[end..].iter().all(|v| v.is_nan()), "{isa:?}");
                assert!(out[at..end].iter().all(|&v| same(v, x)), "{isa:?}");
                assert!(again.iter().all(|&v| same(v, x)), "{isa:?}");
            }
        }
    }
}
