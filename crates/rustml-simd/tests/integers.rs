//! Integer operations and byte dot products of every instruction set against
//! their definitions.

mod common;

use common::{kernel, Rng, WIDEST};
use rustml_simd::Isa;

/// Bytes of the widest vector.
const BYTES: usize = 4 * WIDEST;

#[derive(Clone, Copy, Debug)]
enum Op {
    Add,
    Max,
    And,
    Or,
}

kernel!(
    fn apply<S>(s, op: Op, a: &'a [i32], b: &'a [i32]) -> Vec<i32> {
        let mut out = vec![0; a.len()];
        for i in (0..a.len()).step_by(S::LANES) {
            // SAFETY: the lengths are multiples of the widest vector's.
            unsafe {
                let x = s.load_i(a[i..].as_ptr().cast());
                let y = s.load_i(b[i..].as_ptr().cast());
                let r = match op {
                    Op::Add => s.add_i32(x, y),
                    Op::Max => s.max_i32(x, y),
                    Op::And => s.and(x, y),
                    Op::Or => s.or(x, y),
                };
                s.store_i(out[i..].as_mut_ptr().cast(), r);
            }
        }
        out
    }
);

fn integers(seed: u64) -> Vec<i32> {
    let mut rng = Rng(seed);
    let mut x = vec![0, 1, -1, i32::MAX, i32::MIN, 255, 128, -129];
    x.resize_with(1024, || rng.bits() as i32);
    x.rotate_left((seed % 7) as usize);
    x
}

#[test]
fn sums_wrap_and_bits_combine() {
    let (a, b) = (integers(1), integers(12));
    for isa in Isa::available() {
        for i in 0..a.len() {
            let (x, y) = (a[i], b[i]);
            assert_eq!(apply(isa, Op::Add, &a, &b)[i], x.wrapping_add(y), "{isa:?}");
            assert_eq!(apply(isa, Op::Max, &a, &b)[i], x.max(y), "{isa:?}");
            assert_eq!(apply(isa, Op::And, &a, &b)[i], x & y, "{isa:?}");
            assert_eq!(apply(isa, Op::Or, &a, &b)[i], x | y, "{isa:?}");
        }
    }
}

kernel!(
    /// The sum and the largest of the lanes of 16 vectors that follow each other.
    fn fold<S>(s, a: &'a [i32]) -> [[i32; 16]; 2] {
        let mut v = [s.splat_i32(0); 16];
        for (i, v) in v.iter_mut().enumerate() {
            // SAFETY: callers give 16 of the widest vectors.
            *v = unsafe { s.load_i(a[i * S::LANES..].as_ptr().cast()) };
        }
        [s.sum_each(&v), s.max_each(&v)]
    }
);

#[test]
fn lanes_of_sixteen_vectors_are_folded_each_for_itself() {
    let a = integers(5);
    for isa in Isa::available() {
        let [sums, largest] = fold(isa, &a[..16 * WIDEST]);
        for (i, v) in a.chunks(isa.lanes()).take(16).enumerate() {
            let sum = v.iter().fold(0, |a: i32, &b| a.wrapping_add(b));
            assert_eq!(sums[i], sum, "{isa:?} vector {i}");
            assert_eq!(Some(&largest[i]), v.iter().max(), "{isa:?} vector {i}");
        }
    }
}

kernel!(
    /// Blocks of 32 values that follow each other, rounded to bytes every 40 bytes.
    fn round_blocks<S>(s, x: &'a [f32], factors: &'a [f32; 16]) -> (Vec<i8>, [[i32; 16]; 2]) {
        let count = x.len() / 32;
        let mut bytes = vec![99; 16 * 40];
        let to = bytes.as_mut_ptr();
        // SAFETY: room for 16 blocks in both.
        let sums = unsafe {
            s.round_blocks(
                factors,
                count,
                #[inline(always)]
                |i| x.as_ptr().add(i * 32),
                #[inline(always)]
                |i| to.add(i * 40),
            )
        };
        (bytes, sums)
    }
);

#[test]
fn blocks_are_rounded_and_their_halves_summed() {
    let mut rng = Rng(3);
    // Up to 150 after the factor: some saturate.
    let x: Vec<f32> = (0..16 * 32).map(|_| rng.unit() * 600.0).collect();
    let factors: [f32; 16] = std::array::from_fn(|i| [0.25, 0.1, 0.0][i % 3]);
    for isa in Isa::available() {
        for count in 0..=16 {
            let (bytes, sums) = round_blocks(isa, &x[..count * 32], &factors);
            for (i, bytes) in bytes.chunks(40).enumerate() {
                let what = format!("{isa:?} block {i} of {count}");
                let (block, rest) = bytes.split_at(if i < count { 32 } else { 0 });
                assert!(rest.iter().all(|&b| b == 99), "{what}");
                for (j, &byte) in block.iter().enumerate() {
                    let exact = (x[i * 32 + j] * factors[i]).round_ties_even();
                    assert_eq!(f32::from(byte), exact.clamp(-128.0, 127.0), "{what}");
                }
                for (half, bytes) in block.chunks(16).enumerate() {
                    let x = &x[i * 32 + half * 16..][..16];
                    if x.iter().all(|x| (x * factors[i]).abs() <= 127.0) {
                        let sum: i32 = bytes.iter().map(|&b| i32::from(b)).sum();
                        assert_eq!(sums[half][i], sum, "{what}");
                    }
                }
            }
        }
    }
}

macro_rules! shifts {
    ($($n:literal)*) => {
        kernel!(
            /// `(n, a << n, a >> n)` for several `n`.
            fn shift<S>(s, a: &'a [i32]) -> Vec<(u32, Vec<i32>, Vec<i32>)> {
                let mut all = Vec::new();
                $({
                    let (mut left, mut right) = (vec![0; a.len()], vec![0; a.len()]);
                    for i in (0..a.len()).step_by(S::LANES) {
                        // SAFETY: the lengths are multiples of the widest vector's.
                        unsafe {
                            let x = s.load_i(a[i..].as_ptr().cast());
                            s.store_i(left[i..].as_mut_ptr().cast(), s.shl::<$n>(x));
                            s.store_i(right[i..].as_mut_ptr().cast(), s.shr::<$n>(x));
                        }
                    }
                    all.push(($n, left, right));
                })*
                all
            }
        );
    };
}
shifts!(0 1 2 3 4 5 6 7 8 15 16 23 24 30 31);

#[test]
fn shifts_bring_zeros_in() {
    let x = integers(3);
    for isa in Isa::available() {
        for (n, left, right) in shift(isa, &x) {
            for i in 0..x.len() {
                let bits = x[i] as u32;
                assert_eq!(left[i] as u32, bits << n, "{isa:?} {bits:#x} << {n}");
                assert_eq!(right[i] as u32, bits >> n, "{isa:?} {bits:#x} >> {n}");
            }
        }
    }
}

kernel!(
    fn saturate<S>(s, a: &'a [i32]) -> Vec<i8> {
        let mut out = vec![99; a.len() + 1];
        for i in (0..a.len()).step_by(S::LANES) {
            // SAFETY: the lengths are multiples of the widest vector's.
            unsafe { s.store_i8(out[i..].as_mut_ptr(), s.load_i(a[i..].as_ptr().cast())) };
        }
        out
    }
);

#[test]
fn stored_bytes_saturate() {
    let mut x: Vec<i32> = (-300..300).collect();
    for edge in [32767, 32768, 65535, 65536, 65536 + 5, i32::MAX] {
        x.extend([edge, -edge, edge - 1, -edge - 1]);
    }
    x.resize(640, 7);
    for isa in Isa::available() {
        let got = saturate(isa, &x);
        for i in 0..x.len() {
            assert_eq!(i32::from(got[i]), x[i].clamp(-128, 127), "{isa:?} {}", x[i]);
        }
        assert_eq!(got[x.len()], 99, "{isa:?} wrote too much");
    }
}

kernel!(
    /// Bytes widened without and with sign, four bytes repeated, and a number repeated.
    fn loads<S>(s, bytes: &'a [u8]) -> [Vec<i32>; 4] {
        let vectors = |v: S::I| {
            let mut out = vec![0; S::LANES];
            // SAFETY: room for one vector.
            unsafe { s.store_i(out.as_mut_ptr().cast(), v) };
            out
        };
        let p = bytes.as_ptr();
        // SAFETY: callers give the bytes of the widest vector.
        unsafe {
            [
                vectors(s.load_u8(p)),
                vectors(s.load_i8(p)),
                vectors(s.splat_load(p)),
                vectors(s.splat_i32(i32::from(bytes[0]) - 77)),
            ]
        }
    }
);

#[test]
fn bytes_widen_and_words_repeat_at_any_address() {
    let all: Vec<u8> = (0..=255u8).chain(0..=255).collect();
    for isa in Isa::available() {
        for at in 0..=255 {
            let bytes = &all[at..at + BYTES];
            let [unsigned, signed, word, number] = loads(isa, bytes);
            for lane in 0..isa.lanes() {
                assert_eq!(unsigned[lane], i32::from(bytes[lane]), "{isa:?}");
                assert_eq!(signed[lane], i32::from(bytes[lane] as i8), "{isa:?}");
                assert_eq!(word[lane].to_le_bytes(), bytes[..4], "{isa:?}");
                assert_eq!(number[lane], i32::from(bytes[0]) - 77, "{isa:?}");
            }
        }
    }
}

kernel!(
    fn copy<S>(s, from: &'a [u8], at: usize) -> Vec<u8> {
        let mut out = vec![0xa5; BYTES + 8];
        // SAFETY: `at < 8`, and callers give the bytes of the widest vector.
        unsafe { s.store_i(out.as_mut_ptr().add(at), s.load_i(from.as_ptr())) };
        out
    }
);

#[test]
fn whole_vectors_move_at_any_address() {
    let all: Vec<u8> = (0..=255).collect();
    for isa in Isa::available() {
        for at in 0..8 {
            let (out, end) = (copy(isa, &all[at..], at), at + 4 * isa.lanes());
            assert_eq!(out[at..end], all[at..end], "{isa:?}");
            assert!(
                out[..at].iter().chain(&out[end..]).all(|&b| b == 0xa5),
                "{isa:?}"
            );
        }
    }
}

kernel!(
    fn lookup<S>(s, table: &'a [u8; 16], index: &'a [u8]) -> Vec<u8> {
        let mut out = vec![0; 4 * S::LANES];
        // SAFETY: callers give the bytes of the widest vector.
        unsafe { s.store_i(out.as_mut_ptr(), s.lookup(table, s.load_i(index.as_ptr()))) };
        out
    }
);

#[test]
fn every_byte_is_looked_up_by_itself() {
    let mut rng = Rng(11);
    for _ in 0..200 {
        let table = [0; 16].map(|_| rng.bits() as u8);
        let index: Vec<u8> = (0..BYTES).map(|_| rng.bits() as u8 & 15).collect();
        for isa in Isa::available() {
            for (i, got) in lookup(isa, &table, &index).into_iter().enumerate() {
                assert_eq!(got, table[usize::from(index[i])], "{isa:?} byte {i}");
            }
        }
    }
}

kernel!(
    fn dot<S>(s, signed: bool, acc: &'a [i32], codes: &'a [u8], a: &'a [i8]) -> Vec<i32> {
        let mut out = vec![0; S::LANES];
        // SAFETY: callers give the bytes of the widest vector.
        unsafe {
            let acc = s.load_i(acc.as_ptr().cast());
            let (codes, a) = (s.load_i(codes.as_ptr()), s.load_i(a.as_ptr().cast()));
            let r = if signed { s.dot_i8(acc, codes, a) } else { s.dot_u7(acc, codes, a) };
            s.store_i(out.as_mut_ptr().cast(), r);
        }
        out
    }
);

/// Checks a dot product of `codes` (stored with the ISA's bias if signed).
fn check_dot(signed: bool, acc: &[i32], codes: &[i32], a: &[i8]) {
    for isa in Isa::available() {
        let bias = if signed { isa.i8_bias() } else { 0 };
        let stored: Vec<u8> = codes.iter().map(|c| (c + bias) as u8).collect();
        for (lane, got) in dot(isa, signed, acc, &stored, a).into_iter().enumerate() {
            let terms = codes[4 * lane..][..4].iter().zip(&a[4 * lane..][..4]);
            let sum: i32 = terms.map(|(c, &a)| (c + bias) * i32::from(a)).sum();
            assert_eq!(got, acc[lane] + sum, "{isa:?} lane {lane} signed {signed}");
        }
    }
}

#[test]
fn dot_products_are_exact_on_random_bytes() {
    let mut rng = Rng(21);
    for _ in 0..2000 {
        let acc: Vec<i32> = (0..WIDEST).map(|_| (rng.bits() as i32) >> 4).collect();
        let a: Vec<i8> = (0..BYTES)
            .map(|_| (rng.bits() % 255) as i8)
            .map(|a| a.max(-127))
            .collect();
        let unsigned: Vec<i32> = (0..BYTES).map(|_| (rng.bits() % 128) as i32).collect();
        check_dot(false, &acc, &unsigned, &a);
        let signed: Vec<i32> = (0..BYTES)
            .map(|_| (rng.bits() % 256) as i32 - 128)
            .collect();
        check_dot(true, &acc, &signed, &a);
    }
}

/// Where 16-bit sums of pairs, or instructions that saturate, would fail.
#[test]
fn dot_products_are_exact_at_the_extremes() {
    let acc: Vec<i32> = (0..WIDEST as i32)
        .map(|i| i * 1_000_003 - 7_000_000)
        .collect();
    for a in [-127, -1, 0, 1, 127] {
        for other in [-127i8, 0, 127] {
            let mix: Vec<i8> = (0..BYTES)
                .map(|i| if i % 3 == 0 { other } else { a })
                .collect();
            for code in [0, 1, 64, 126, 127] {
                check_dot(false, &acc, &[code; BYTES], &mix);
            }
            for code in [-128, -127, -1, 0, 1, 127] {
                check_dot(true, &acc, &[code; BYTES], &mix);
                let ends: Vec<i32> = (0..BYTES)
                    .map(|i| if i % 2 == 0 { code } else { -128 })
                    .collect();
                check_dot(true, &acc, &ends, &mix);
            }
        }
    }
}

kernel!(
    fn dot_by_pairs<S>(s, times: usize, acc: &'a [i32], codes: &'a [u8], a: &'a [i8]) -> Vec<i32> {
        let (mut out, mut sums) = (vec![0; S::LANES], s.no_pairs());
        // SAFETY: callers give the bytes of the widest vector, `times` times.
        unsafe {
            for i in 0..times {
                let (codes, a) = (&codes[i * BYTES..], &a[i * BYTES..]);
                sums = s.add_pairs(sums, s.load_i(codes.as_ptr()), s.load_i(a.as_ptr().cast()));
            }
            let r = s.sum_pairs(s.load_i(acc.as_ptr().cast()), sums);
            s.store_i(out.as_mut_ptr().cast(), r);
        }
        out
    }
);

/// The most that sums of pairs are said to hold, and random bytes.
#[test]
fn dot_products_by_way_of_pairs_are_exact() {
    let mut rng = Rng(31);
    for times in [1, 2, 4, 8, 18, 42] {
        let (bytes, max) = (times * BYTES, 127 / times as u64);
        let acc: Vec<i32> = (0..WIDEST).map(|_| (rng.bits() as i32) >> 4).collect();
        let largest: Vec<u8> = vec![max as u8; bytes];
        let random: Vec<u8> = (0..bytes).map(|_| (rng.bits() % (max + 1)) as u8).collect();
        let any: Vec<i8> = (0..bytes)
            .map(|_| (rng.bits() % 255) as i8)
            .map(|a| a.max(-127))
            .collect();
        for codes in [&largest, &random] {
            for a in [&vec![127; bytes], &vec![-127; bytes], &any] {
                for isa in Isa::available() {
                    let sums = dot_by_pairs(isa, times, &acc, codes, a);
                    for (lane, got) in sums.into_iter().enumerate() {
                        let at = |i: usize| i * BYTES + 4 * lane;
                        let places = (0..times).flat_map(|i| at(i)..at(i) + 4);
                        let sum: i32 = places.map(|p| i32::from(codes[p]) * i32::from(a[p])).sum();
                        assert_eq!(got, acc[lane] + sum, "{isa:?} lane {lane} times {times}");
                    }
                }
            }
        }
    }
}
