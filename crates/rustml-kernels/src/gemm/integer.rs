//! Products of integer weights.

use super::{finish, Fetch, Product, Then, Work};
use crate::acts::{Acts, Correction, FEW_ROWS};
use crate::panel::codes::{Codes, BLOCK};
use crate::panel::scales::Scales;
use crate::panel::wide::{Unpacked, Wide};
use crate::panel::{correction, Format, LINE};
use rustml_simd::{prefetch_near, Kernel, Simd};
use std::marker::PhantomData;
use std::ops::Range;

/// Panels of integer weights at a time: they share each broadcast of activations
/// where there are registers for their sums, and of one or two rows, which wait for
/// memory, more is under way.
const fn integer_panels_at_once<S: Simd, L: Layout>(rows: usize) -> usize {
    match (S::LANES, rows) {
        (16, 1 | 2) => 4,
        (16, _) => 2,
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
            // SAFETY: by the contract of `Product::run`.
            unsafe {
                let mut work = Work::new(product, acts, then);
                if acts.rows() <= FEW_ROWS {
                    few_rows!(
                        s,
                        &work,
                        panels,
                        integer_tile,
                        Packed<F>,
                        integer_panels_at_once
                    );
                } else if const { F::Scales::BLOCK == BLOCK } {
                    many_rows!(
                        s,
                        &work,
                        panels,
                        integer_tile,
                        Packed<F>,
                        integer_panels_at_once
                    );
                } else {
                    let mut unpacked = Unpacked::new::<S, F>(product.weights);
                    work.shape = unpacked.shape;
                    for from in panels.clone().step_by(unpacked.room) {
                        let panels = from..panels.end.min(from + unpacked.room);
                        work.data = unpacked.fill::<S, F>(s, panels.clone());
                        many_rows!(
                            s,
                            &work,
                            panels,
                            integer_tile,
                            AsBytes<F>,
                            integer_panels_at_once
                        );
                    }
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
    row0: usize,
    fetch: Fetch,
) {
    let (p, acts, shape) = (work.product, work.acts, work.shape);
    let blocks = acts.cols() / BLOCK;
    let subs = const { BLOCK / L::Scales::SUB };
    let a = acts.codes.as_ptr().add(row0 * acts.cols()).cast::<u8>();
    let a_scales = acts.scales.as_ptr().add(row0 * blocks);
    let correction = const { correction::<L::Format>(S::I8_BIAS) };
    let a_sums = match correction {
        Some(c) => acts.sums[c.index()].as_ptr().add(row0 * blocks * subs),
        None => std::ptr::null(),
    };
    let first = work.panel(panel);
    let code_bytes = const { L::Codes::ROW_BYTES * S::LANES };
    let mut ahead = [0; P];
    if FEW {
        for i in 0..P {
            ahead[i] = work.ahead(panel + i);
        }
    }
    let mut acc = [[s.splat(0.0); N]; P];
    let mut fetched = fetch.first;
    let stride = shape.stride;
    let first_codes = first.add(shape.scale_bytes);
    for b in 0..blocks {
        let a = a.add(b * N * BLOCK);
        let mut codes = [first; P];
        let mut scales = [first; P];
        let scales_at = b * BLOCK / L::Scales::BLOCK * L::Scales::ROW_BYTES * S::LANES;
        for i in 0..P {
            codes[i] = first_codes.add(i * stride + b * code_bytes);
            scales[i] = first.add(i * stride + scales_at);
        }
        if FEW && (N <= 2 || b == fetched) {
            fetched += fetch.every;
            for i in 0..P {
                for line in (0..code_bytes).step_by(LINE) {
                    prefetch_near(codes[i].wrapping_add(ahead[i] + line));
                }
                prefetch_near(scales[i].wrapping_add(ahead[i]));
            }
        }
        for sub in 0..subs {
            let a_sums = a_sums.add((b * subs + sub) * N).cast::<u8>();
            let mut dots = [[s.splat_i32(0); N]; P];
            if let Some(Correction::Integer { .. }) = correction {
                for n in 0..N {
                    let start = s.splat_load(a_sums.add(4 * n));
                    for dots in &mut dots {
                        dots[n] = start;
                    }
                }
            }
            // All groups, or those of this half of the block.
            let halves = match (subs, sub) {
                (1, _) => (true, true),
                (_, sub) => (sub == 0, sub == 1),
            };
            step::<S, L::Codes, N, P, 0>(s, &codes, a, halves, &mut dots);
            step::<S, L::Codes, N, P, 1>(s, &codes, a, halves, &mut dots);
            step::<S, L::Codes, N, P, 2>(s, &codes, a, halves, &mut dots);
            step::<S, L::Codes, N, P, 3>(s, &codes, a, halves, &mut dots);
            let sub_at = b * BLOCK % L::Scales::BLOCK / L::Scales::SUB + sub;
            for i in 0..P {
                let scale = L::Scales::scale(s, scales[i], sub_at);
                for n in 0..N {
                    let scale = s.mul(scale, s.splat(*a_scales.add(b * N + n)));
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
        finish(s, p, panel + i, row0, acc);
    }
}

/// Adds the products of groups `J` and `J + 4`, or of one of them.
#[inline(always)]
unsafe fn step<S: Simd, C: Codes, const N: usize, const P: usize, const J: usize>(
    s: S,
    codes: &[*const u8; P],
    a: *const u8,
    halves: (bool, bool),
    dots: &mut [[S::I; N]; P],
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
                dots[i][n] = dot::<S, C>(s, dots[i][n], groups[i].0, x);
            }
        }
        if halves.1 {
            let x = s.splat_load(a.add(n * BLOCK + 4 * J + BLOCK / 2));
            for i in 0..P {
                dots[i][n] = dot::<S, C>(s, dots[i][n], groups[i].1, x);
            }
        }
    }
}

#[inline(always)]
fn dot<S: Simd, C: Codes>(s: S, acc: S::I, codes: S::I, a: S::I) -> S::I {
    if C::SIGNED {
        s.dot_i8(acc, codes, a)
    } else {
        s.dot_u7(acc, codes, a)
    }
}
