//! Products of float weights.

use super::{finish, Fetch, Product, Rows, Then, Work};
use crate::acts::{Acts, FEW_ROWS};
use crate::panel::LINE;
use rustml_simd::{prefetch_near, Kernel, Simd};
use std::marker::PhantomData;
use std::ops::Range;

/// Panels of float weights at a time: enough sums to hide the latency of the
/// multiply-add, as far as there are registers; of those there are more where
/// pairs need not be taken apart.
const fn float_panels_at_once<S: Simd, F: Float>(rows: usize) -> usize {
    match rows {
        _ if S::PLAIN => 1,
        1 | 2 => 4,
        4 => 2,
        6 if F::INPUTS == 2 && S::DOTS_BF16 => 4,
        _ if S::LANES == 16 => 2,
        _ => 1,
    }
}

/// How a float format's values lie, and what they are multiplied with.
pub(super) trait Float {
    /// Inputs of a step, which lie together.
    const INPUTS: usize;
    /// Their bytes in one row of weights.
    const BYTES: usize;
    /// Weights of a step, of all rows of a panel.
    type Weights<S: Simd>: Copy;
    /// Where the activations lie that it reads: 4 bytes a step and row.
    fn acts(acts: &Acts) -> *const u8;
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> Self::Weights<S>;
    /// Adds the products with one row's activations, in all lanes.
    fn dot<S: Simd>(s: S, acc: S::F, w: Self::Weights<S>, x: S::I) -> S::F;
}
pub(super) struct F32;
pub(super) struct F16;
pub(super) struct BF16;
impl Float for F32 {
    const INPUTS: usize = 1;
    const BYTES: usize = 4;
    type Weights<S: Simd> = S::F;
    fn acts(acts: &Acts) -> *const u8 {
        acts.floats.as_ptr().cast()
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F {
        s.load(p.cast())
    }
    #[inline(always)]
    fn dot<S: Simd>(s: S, acc: S::F, w: S::F, x: S::I) -> S::F {
        s.fma(w, s.bits_to_f32(x), acc)
    }
}
impl Float for F16 {
    const INPUTS: usize = 1;
    const BYTES: usize = 2;
    type Weights<S: Simd> = S::F;
    fn acts(acts: &Acts) -> *const u8 {
        F32::acts(acts)
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F {
        s.load_f16(p.cast())
    }
    #[inline(always)]
    fn dot<S: Simd>(s: S, acc: S::F, w: S::F, x: S::I) -> S::F {
        F32::dot(s, acc, w, x)
    }
}
impl Float for BF16 {
    const INPUTS: usize = 2;
    const BYTES: usize = 4;
    type Weights<S: Simd> = S::I;
    fn acts(acts: &Acts) -> *const u8 {
        acts.pairs.as_ptr().cast()
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::I {
        s.load_i(p)
    }
    #[inline(always)]
    fn dot<S: Simd>(s: S, acc: S::F, w: S::I, x: S::I) -> S::F {
        s.dot_bf16(acc, w, x)
    }
}

tiles!(Float, float_tile, float_panels_at_once);

pub(super) unsafe fn float_panels<S: Simd, F: Float>(
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
    impl<F: Float> Kernel for Run<'_, F> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let work = Work::new(self.0, self.1, self.3);
            let panels = self.2;
            if self.1.rows() <= FEW_ROWS {
                few_rows::<S, F>(s, &work, panels)
            } else {
                many_rows::<S, F, F>(s, &work, &work, panels)
            }
        }
    }
    S::assume().vectorize(Run::<F>(p, acts, panels, then, PhantomData))
}

/// How far ahead of their use float weights are fetched, in bytes: each panel is
/// one long stream.
const FLOATS_AHEAD: usize = 4096;

/// `N` rows of activations times `P` panels.
#[inline(always)]
unsafe fn float_tile<S: Simd, F: Float, const N: usize, const P: usize, const FEW: bool>(
    s: S,
    work: &Work,
    panel: usize,
    rows: Rows,
    _fetch: Fetch,
) {
    let of = rows.of::<S, N>();
    let (p, acts) = (work.product, work.acts);
    let stride = work.stride;
    let steps = acts.cols().div_ceil(F::INPUTS);
    let w = work.panel(panel);
    let x = F::acts(acts).add(4 * (rows.tile * steps + rows.lane::<S>()));
    let mut acc = [[s.splat(0.0); N]; P];
    let bytes = const { F::BYTES * S::LANES };
    for k in 0..steps {
        if FEW && N <= 2 && (k * bytes).is_multiple_of(LINE) {
            for i in 0..P {
                prefetch_near(w.wrapping_add(i * stride + k * bytes + FLOATS_AHEAD));
            }
        }
        let mut weights = [F::load(s, w.add(k * bytes)); P];
        for i in 1..P {
            weights[i] = F::load(s, w.add(i * stride + k * bytes));
        }
        for n in 0..N {
            let x = s.splat_load(x.add(4 * (k * of + n)));
            for i in 0..P {
                acc[i][n] = F::dot(s, acc[i][n], weights[i], x);
            }
        }
    }
    for (i, acc) in acc.into_iter().enumerate() {
        finish(s, p, panel + i, rows.first::<S>(), acc);
    }
}
