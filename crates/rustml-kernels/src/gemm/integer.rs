//! Products of integer weights.

use super::{finish, Fetch, Product, Rows, Then, Work};
use crate::acts::{Acts, Correction, FEW_ROWS};
use crate::panel::codes::{Codes, BLOCK};
use crate::panel::scales::Scales;
use crate::panel::wide::{Unpacked, Wide};
use crate::panel::{correction, places, scale_bytes, Format, LINE};
use rustml_simd::{prefetch_near, Kernel, Simd};
use std::marker::PhantomData;
use std::ops::Range;

/// Panels of integer weights at a time: they share each broadcast of activations
/// where there are registers for their sums. Few rows wait for memory, which is read
/// fastest as one stream; but 4 rows of 5 bits, which take the most unpacking, do not.
const fn integer_panels_at_once<S: Simd, L: Layout>(rows: usize) -> usize {
    match (S::LANES, rows) {
        (16, 4) if L::Codes::MAX == 31 => 2,
        (16, 5..) => 2,
        _ => 1,
    }
}

/// How the integer weights lie that a tile reads.
trait Layout {
    type Format: Format;
    type Codes: Codes;
    type Scales: Scales;
}

/// As a matrix keeps them.
struct Packed<F>(PhantomData<F>);
impl<F: Format> Layout for Packed<F> {
    type Format = F;
    type Codes = F::Codes;
    type Scales = F::Scales;
}

/// Unpacked for many rows.
struct AsBytes<F>(PhantomData<F>);
impl<F: Format> Layout for AsBytes<F> {
    type Format = F;
    type Codes = Wide<F::Codes>;
    type Scales = Wide<F::Scales>;
}

/// Bytes of unpacked panels at a time: what leaves room for activations and
/// results in a second cache of 1 MB.
const AT_ONCE: usize = 320 << 10;

tiles!(Layout, integer_tile, integer_panels_at_once);

pub(super) unsafe fn integer_panels<S: Simd, F: Format>(
    p: &Product,
    acts: &Acts,
    panels: Range<usize>,
    then: Then,
) {
    struct Run<'a, F>(
        &'a Product<'a>,
        &'a Acts,
        Range<usize>,
        Then,
        PhantomData<F>,
    );
    impl<F: Format> Kernel for Run<'_, F> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Run(product, acts, panels, then, _) = self;
            let packed = Work::new(product, acts, then);
            if acts.rows() <= FEW_ROWS {
                few_rows::<S, Packed<F>>(s, &packed, panels);
            } else if const { S::PLAIN || F::Scales::BLOCK == BLOCK && !S::BY_PAIRS } {
                many_rows::<S, Packed<F>, Packed<F>>(s, &packed, &packed, panels);
            } else {
                let mut work = Work::new(product, acts, then);
                let mut unpacked = Unpacked::new::<S, F>(product.weights, AT_ONCE, 2);
                work.stride = unpacked.stride;
                for from in panels.clone().step_by(unpacked.room) {
                    let panels = from..panels.end.min(from + unpacked.room);
                    // SAFETY: made for them.
                    work.data = unsafe { unpacked.fill::<S, F>(s, panels.clone()) };
                    many_rows::<S, AsBytes<F>, Packed<F>>(s, &work, &packed, panels);
                }
            }
        }
    }
    S::assume().vectorize(Run::<F>(p, acts, panels, then, PhantomData))
}

/// `N` rows of activations times `P` panels.
#[inline(always)]
unsafe fn integer_tile<S: Simd, L: Layout, const N: usize, const P: usize, const FEW: bool>(
    s: S,
    work: &Work,
    panel: usize,
    rows: Rows,
    fetch: Fetch,
) {
    let (of, lane) = (rows.of::<S, N>(), rows.lane::<S>());
    let (p, acts, stride) = (work.product, work.acts, work.stride);
    let blocks = acts.cols() / BLOCK;
    let subs = const { BLOCK / L::Scales::SUB };
    let a = acts.codes.as_ptr().add(rows.tile * acts.cols());
    let a = a.add(lane * BLOCK).cast::<u8>();
    let a_scales = acts.scales.as_ptr().add(rows.tile * blocks + lane);
    let correction = const { correction::<L::Format>(S::I8_BIAS) };
    let a_sums = match correction {
        Some(c) => {
            let sums = acts.sums[c.index()].as_ptr();
            sums.add(rows.tile * blocks * subs + lane)
        }
        None => std::ptr::null(),
    };
    let first = work.panel(panel);
    let code_bytes = const { L::Codes::ROW_BYTES * S::LANES };
    let mut ahead = [0; P];
    if FEW {
        let one_stream = P == 1 && N <= 4 && fetch.every == 1;
        let bytes = one_stream.then(|| work.stream_ahead(N));
        for i in 0..P {
            ahead[i] = work.ahead(panel + i, bytes);
        }
    }
    let mut acc = [[s.splat(0.0); N]; P];
    let mut fetched = fetch.first;
    for b in 0..blocks {
        let a = a.add(b * of * BLOCK);
        let (scales_at, codes_at) = places::<L::Codes, L::Scales>(S::LANES, b);
        let mut codes = [first; P];
        let mut scales = [first; P];
        for i in 0..P {
            codes[i] = first.add(i * stride + codes_at);
            scales[i] = first.add(i * stride + scales_at);
        }
        if FEW && (N <= 2 || b == fetched) {
            fetched += fetch.every;
            // Of a segment's scales a line with each of its blocks.
            let (block, scale_bytes) = (b % L::Scales::SEGMENT, scale_bytes::<L::Scales>(S::LANES));
            let segment = codes_at - block * code_bytes - scale_bytes;
            for i in 0..P {
                for line in (0..code_bytes).step_by(LINE) {
                    // What comes next may lie before this.
                    prefetch_near(codes[i].wrapping_add(ahead[i]).wrapping_add(line));
                }
                if block * LINE < scale_bytes {
                    let scales = first.wrapping_add(i * stride + segment + block * LINE);
                    prefetch_near(scales.wrapping_add(ahead[i]));
                }
            }
        }
        for sub in 0..subs {
            let a_sums = a_sums.add((b * subs + sub) * of).cast::<u8>();
            let start = match correction {
                Some(Correction::Integer { .. }) => Some(a_sums),
                _ => None,
            };
            // All groups, or those of this half of the block.
            let halves = match (subs, sub) {
                (1, _) => (true, true),
                (_, sub) => (sub == 0, sub == 1),
            };
            let dots = if const { S::BY_PAIRS && groups_at_once::<L::Codes>() > 1 } {
                dots_by_pairs::<S, L::Codes, N, P>(s, &codes, a, halves, start)
            } else {
                dots::<S, L::Codes, N, P>(s, &codes, a, halves, start)
            };
            let sub_at = b * BLOCK % L::Scales::BLOCK / L::Scales::SUB + sub;
            for i in 0..P {
                let scale = L::Scales::scale(s, scales[i], sub_at);
                for n in 0..N {
                    let scale = s.mul(scale, s.splat(*a_scales.add(b * of + n)));
                    acc[i][n] = s.fma(scale, s.to_f32(dots[i][n]), acc[i][n]);
                }
                if L::Scales::OFFSET {
                    let offset = L::Scales::offset(s, scales[i], sub_at);
                    for n in 0..N {
                        let sum = s.bits_to_f32(s.splat_load(a_sums.add(4 * n)));
                        acc[i][n] = s.fma(offset, sum, acc[i][n]);
                    }
                }
            }
        }
    }
    for (i, acc) in acc.into_iter().enumerate() {
        finish(s, p, panel + i, rows.first::<S>(), acc);
    }
}

/// Where sums of a row's products begin: at the sum that corrects them, if there
/// are such.
#[inline(always)]
unsafe fn start<S: Simd>(s: S, corrections: Option<*const u8>, n: usize) -> S::I {
    match corrections {
        Some(p) => s.splat_load(p.add(4 * n)),
        None => s.splat_i32(0),
    }
}

/// Sums of the products of a block's groups, or of those of a half.
#[inline(always)]
unsafe fn dots<S: Simd, C: Codes, const N: usize, const P: usize>(
    s: S,
    codes: &[*const u8; P],
    a: *const u8,
    halves: (bool, bool),
    corrections: Option<*const u8>,
) -> [[S::I; N]; P] {
    let mut dots = [[s.splat_i32(0); N]; P];
    for n in 0..N {
        let start = start(s, corrections, n);
        for dots in &mut dots {
            dots[n] = start;
        }
    }
    step::<S, C, Dots, N, P, 0>(s, codes, a, halves, &mut dots);
    step::<S, C, Dots, N, P, 1>(s, codes, a, halves, &mut dots);
    step::<S, C, Dots, N, P, 2>(s, codes, a, halves, &mut dots);
    step::<S, C, Dots, N, P, 3>(s, codes, a, halves, &mut dots);
    dots
}

/// Groups whose products [`Simd::add_pairs`] sums up.
const fn groups_at_once<C: Codes>() -> usize {
    match C::SIGNED {
        true => 1,
        false => 127 / C::MAX,
    }
}

/// The same by way of [`Simd::Pairs`], for small codes.
#[inline(always)]
unsafe fn dots_by_pairs<S: Simd, C: Codes, const N: usize, const P: usize>(
    s: S,
    codes: &[*const u8; P],
    a: *const u8,
    halves: (bool, bool),
    corrections: Option<*const u8>,
) -> [[S::I; N]; P] {
    let mut dots = [[s.splat_i32(0); N]; P];
    let mut pairs = [[s.no_pairs(); N]; P];
    let steps = groups_at_once::<C>() / (usize::from(halves.0) + usize::from(halves.1));
    step::<S, C, Pairs, N, P, 0>(s, codes, a, halves, &mut pairs);
    sum_pairs(s, 0, steps, corrections, &mut dots, &mut pairs);
    step::<S, C, Pairs, N, P, 1>(s, codes, a, halves, &mut pairs);
    sum_pairs(s, 1, steps, corrections, &mut dots, &mut pairs);
    step::<S, C, Pairs, N, P, 2>(s, codes, a, halves, &mut pairs);
    sum_pairs(s, 2, steps, corrections, &mut dots, &mut pairs);
    step::<S, C, Pairs, N, P, 3>(s, codes, a, halves, &mut pairs);
    sum_pairs(s, 3, steps, corrections, &mut dots, &mut pairs);
    dots
}

/// After step `j`: adds up the pairs, if there is no room for those of another step
/// or none to come.
#[inline(always)]
unsafe fn sum_pairs<S: Simd, const N: usize, const P: usize>(
    s: S,
    j: usize,
    steps: usize,
    corrections: Option<*const u8>,
    dots: &mut [[S::I; N]; P],
    pairs: &mut [[S::Pairs; N]; P],
) {
    if !(j + 1).is_multiple_of(steps) && j != 3 {
        return;
    }
    for n in 0..N {
        for i in 0..P {
            let before = match j < steps {
                true => start(s, corrections, n),
                false => dots[i][n],
            };
            dots[i][n] = s.sum_pairs(before, pairs[i][n]);
            pairs[i][n] = s.no_pairs();
        }
    }
}

/// How products are summed up.
trait Sums<C> {
    type Of<S: Simd>: Copy;
    fn add<S: Simd>(s: S, sums: Self::Of<S>, codes: S::I, a: S::I) -> Self::Of<S>;
}

/// With one dot product for each group.
struct Dots;
impl<C: Codes> Sums<C> for Dots {
    type Of<S: Simd> = S::I;
    #[inline(always)]
    fn add<S: Simd>(s: S, sums: S::I, codes: S::I, a: S::I) -> S::I {
        match C::SIGNED {
            true => s.dot_i8(sums, codes, a),
            false => s.dot_u7(sums, codes, a),
        }
    }
}

/// By way of [`Simd::Pairs`].
struct Pairs;
impl<C: Codes> Sums<C> for Pairs {
    type Of<S: Simd> = S::Pairs;
    #[inline(always)]
    fn add<S: Simd>(s: S, sums: S::Pairs, codes: S::I, a: S::I) -> S::Pairs {
        s.add_pairs(sums, codes, a)
    }
}

/// Adds the products of groups `J` and `J + 4`, or of one of them.
#[inline(always)]
unsafe fn step<S: Simd, C: Codes, T: Sums<C>, const N: usize, const P: usize, const J: usize>(
    s: S,
    codes: &[*const u8; P],
    a: *const u8,
    halves: (bool, bool),
    sums: &mut [[T::Of<S>; N]; P],
) {
    let zero = s.splat_i32(0);
    let mut groups = [(zero, zero); P];
    for i in 0..P {
        groups[i] = C::pair::<S, J>(s, codes[i]);
    }
    for n in 0..N {
        if halves.0 {
            let x = s.splat_load(a.add(n * BLOCK + 4 * J));
            for i in 0..P {
                sums[i][n] = T::add(s, sums[i][n], groups[i].0, x);
            }
        }
        if halves.1 {
            let x = s.splat_load(a.add(n * BLOCK + 4 * J + BLOCK / 2));
            for i in 0..P {
                sums[i][n] = T::add(s, sums[i][n], groups[i].1, x);
            }
        }
    }
}
