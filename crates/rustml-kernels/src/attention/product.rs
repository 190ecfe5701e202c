//! The one matrix product of attention, of few rows with cached keys or values.

use super::{KV_BLOCK, KV_GROUP};
use crate::panel::LINE;
use rustml_simd::{prefetch_near, Simd};
use std::ops::Range;

/// How cached values are read.
pub trait Stored {
    type T;
    /// Whether what is read is codes, to be multiplied by their group's scale.
    const SCALED: bool = false;
    unsafe fn load<S: Simd>(s: S, p: *const Self::T) -> S::F;
}
pub struct F32;
pub struct F16;
pub struct Q8;
impl Stored for F32 {
    type T = f32;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const f32) -> S::F {
        s.load(p)
    }
}
impl Stored for F16 {
    type T = u16;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u16) -> S::F {
        s.load_f16(p)
    }
}
impl Stored for Q8 {
    type T = u8;
    const SCALED: bool = true;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F {
        s.to_f32(s.load_i8(p))
    }
}

/// `scaled[g][n][k] = weights[n][k] * scales[g][k]`, for a block's positions `k`.
///
/// # Safety
/// `weights` and `scales` are readable there, `scaled` is writable.
#[inline(always)]
pub unsafe fn weigh<S: Simd, const N: usize>(
    s: S,
    weights: *const f32,
    scales: *const u16,
    groups: usize,
    scaled: *mut f32,
) {
    for g in 0..groups {
        for k in (0..KV_BLOCK).step_by(S::LANES) {
            let scale = s.load_f16(scales.add(g * KV_BLOCK + k));
            for n in 0..N {
                let weight = s.load(weights.add(n * KV_BLOCK + k));
                let to = scaled.add((g * N + n) * KV_BLOCK + k);
                s.store(to, s.mul(weight, scale));
            }
        }
    }
}

/// Where a product goes.
#[derive(Clone, Copy)]
pub enum To<'a> {
    /// In place of what is there.
    New,
    /// Added to what is there, both multiplied by a factor for each row: first that of
    /// what is there.
    Added(&'a [f32], &'a [f32]),
    /// Multiplied by a half-precision scale for each column; added to what is
    /// there, if so told.
    Scaled(*const u16, bool),
}

impl To<'_> {
    /// From a row and column on.
    #[inline(always)]
    unsafe fn from(self, row: usize, column: usize) -> Self {
        match self {
            To::New => To::New,
            To::Added(kept, added) => To::Added(&kept[row..], &added[row..]),
            To::Scaled(scales, add) => To::Scaled(scales.add(column), add),
        }
    }
}

/// Lines of memory to be fetched while something else is computed: into the second
/// cache, since to the first fewer can be on their way.
pub struct Fetch {
    at: *const u8,
    /// Bytes from one to the next.
    step: usize,
    lines: usize,
    /// How many at a time.
    each: usize,
}

impl Fetch {
    /// `bytes` from `at` on.
    pub fn all(at: *const u8, bytes: usize) -> Fetch {
        Fetch::lines(at, LINE, bytes.div_ceil(LINE))
    }

    /// So many lines, each `step` bytes after the one before.
    pub fn lines(at: *const u8, step: usize, lines: usize) -> Fetch {
        Fetch {
            at,
            step,
            lines,
            each: 1,
        }
    }

    /// Has them all fetched in so many steps.
    fn within(&mut self, steps: usize) {
        self.each = self.lines.div_ceil(steps.max(1));
    }

    #[inline(always)]
    fn step(&mut self) {
        let now = self.each.min(self.lines);
        for _ in 0..now {
            prefetch_near(self.at);
            self.at = self.at.wrapping_add(self.step);
        }
        self.lines -= now;
    }
}

/// `sum over k of a[n][k] * b[k][c]` for all `cols`, whole vectors of them, put
/// into `out[n][c]` as `to` says. `out` comes with the values from row to row,
/// as does `a`, and with those from one [`KV_GROUP`] of columns' rows to the
/// next's. `read` is `b`, the values from row to row, and what is fetched
/// meanwhile if the rows of `a` are so few that they wait for memory.
///
/// # Safety
/// `a`, `b` and the scales are readable there, `out` is writable.
#[inline(always)]
pub unsafe fn product<S: Simd, T: Stored, const N: usize>(
    s: S,
    a: (*mut f32, usize, usize),
    k: Range<usize>,
    (b, stride, fetch): (*mut u8, usize, &mut Fetch),
    cols: Range<usize>,
    out: (*mut f32, usize),
    to: To,
) {
    let (rows, vectors) = const { tile(S::LANES, N) };
    let b = b.cast::<T::T>().cast_const();
    // So many rows do not wait for memory; of a constant the compiler leaves nothing.
    let mut nothing = Fetch::all(std::ptr::null(), 0);
    let fetch = if N < 8 { fetch } else { &mut nothing };
    fetch.within(k.len() * (cols.len() / S::LANES).div_ceil(vectors));
    for row in (0..N).step_by(rows) {
        let mut c = cols.start;
        while c < cols.end {
            let a = (a.0.add(row * a.1 + c / KV_GROUP * a.2), a.1, a.2);
            let read = (b.add(c), stride, &mut *fetch);
            let (out, to) = ((out.0.add(row * out.1 + c), out.1), to.from(row, c));
            let left = (cols.end - c) / S::LANES;
            c += S::LANES
                * match (rows < N, vectors) {
                    (true, _) if left >= 2 => columns::<S, T, 4, 2>(s, a, &k, read, out, to),
                    (true, _) => columns::<S, T, 4, 1>(s, a, &k, read, out, to),
                    (_, 4) if left >= 4 => columns::<S, T, N, 4>(s, a, &k, read, out, to),
                    _ if left >= 2 => columns::<S, T, N, 2>(s, a, &k, read, out, to),
                    _ => columns::<S, T, N, 1>(s, a, &k, read, out, to),
                };
        }
    }
}

/// How many of `n` rows are computed together, with how many vectors of columns: enough
/// sums to hide the latency of the multiply-add, as far as there are registers, and as
/// few reads for each as can be.
const fn tile(lanes: usize, n: usize) -> (usize, usize) {
    match n {
        1..=3 => (n, 4),
        4 if lanes == 16 => (4, 4),
        8 if lanes == 16 => (8, 2),
        _ => (4, 2),
    }
}

/// `V` vectors of columns of [`product`], where `b` and `out` begin; returns `V`.
#[inline(always)]
unsafe fn columns<S: Simd, T: Stored, const N: usize, const V: usize>(
    s: S,
    a: (*mut f32, usize, usize),
    k: &Range<usize>,
    (b, stride, fetch): (*const T::T, usize, &mut Fetch),
    out: (*mut f32, usize),
    to: To,
) -> usize {
    let mut acc = [[s.splat(0.0); V]; N];
    for k in k.clone() {
        let row = b.add(k * stride);
        fetch.step();
        let mut x = [s.splat(0.0); V];
        for v in 0..V {
            x[v] = T::load(s, row.add(v * S::LANES));
        }
        for n in 0..N {
            for v in 0..V {
                // The same one for all vectors of a group, read once.
                let group = v * S::LANES / KV_GROUP;
                let a = s.splat(*a.0.add(group * a.2 + n * a.1 + k));
                acc[n][v] = s.fma(x[v], a, acc[n][v]);
            }
        }
    }
    if let To::Added(kept, added) = to {
        for n in 0..N {
            for v in 0..V {
                let before = s.load(out.0.add(n * out.1 + v * S::LANES));
                let before = s.mul(before, s.splat(kept[n]));
                acc[n][v] = s.fma(acc[n][v], s.splat(added[n]), before);
            }
        }
    }
    if let To::Scaled(scales, add) = to {
        for v in 0..V {
            let scale = s.load_f16(scales.add(v * S::LANES));
            for n in 0..N {
                let before = match add {
                    true => s.load(out.0.add(n * out.1 + v * S::LANES)),
                    false => s.splat(0.0),
                };
                acc[n][v] = s.fma(acc[n][v], scale, before);
            }
        }
    }
    for n in 0..N {
        for v in 0..V {
            s.store(out.0.add(n * out.1 + v * S::LANES), acc[n][v]);
        }
    }
    V
}
