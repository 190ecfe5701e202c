//! Layers that carry a state from position to position: a short convolution over the
//! last inputs of each channel, and a matrix for each head that decays and is added to.
//!
//! Rows are computed one after the other, each as if it came alone. So the bits do not
//! depend on how a text was cut into steps, and decode and prefill are one loop. A
//! block of [`STATE_COLUMNS`] columns of a head's matrix stays in the first cache while
//! all rows of a sequence pass by.

use rustml_simd::{sigmoid, Kernel, Simd};

/// Columns of a head's matrix that lie and are computed together: a cache line.
pub const STATE_COLUMNS: usize = 16;

/// What is added to a head's matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// `rate * value` (Dao and Gu, "Transformers are SSMs").
    Add,
    /// `rate * (value - what the matrix has for the key)` (Yang et al., "Gated Delta
    /// Networks").
    Delta,
}

/// Rows of a block of channels, and the last inputs of these.
pub(crate) struct Convolve<'a> {
    /// `[rows]`, a row every `stride` values: this block's channels of it.
    pub x: *const f32,
    pub out: *mut f32,
    pub stride: usize,
    pub rows: usize,
    /// `[taps - 1]` earlier inputs, oldest first, every `state_stride` values.
    pub state: *mut f32,
    pub state_stride: usize,
    /// `[taps]`, every `weight_stride` values: the oldest input's first.
    pub weights: *const f32,
    pub weight_stride: usize,
    pub taps: usize,
    /// One for each channel, or nothing.
    pub bias: &'a [f32],
    pub silu: bool,
    /// Channels of the block.
    pub channels: usize,
}

impl Convolve<'_> {
    /// Where the input is that lies `tap` after the oldest one of row `row`.
    #[inline(always)]
    unsafe fn input(&self, row: usize, tap: usize, c: usize) -> *const f32 {
        match (row + tap).checked_sub(self.taps - 1) {
            Some(row) => self.x.add(row * self.stride + c),
            None => self.state.add((row + tap) * self.state_stride + c),
        }
    }
}

impl Kernel for Convolve<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for row in 0..self.rows {
            let mut c = 0;
            while c < self.channels {
                let n = S::LANES.min(self.channels - c);
                // SAFETY: whoever makes one vouches for all pointers; of a block's last
                // channels no more than there are is read and written.
                unsafe {
                    let mut sum = match self.bias.is_empty() {
                        true => s.splat(0.0),
                        false => load(s, self.bias.as_ptr().add(c), n),
                    };
                    for tap in 0..self.taps {
                        let w = load(s, self.weights.add(tap * self.weight_stride + c), n);
                        sum = s.fma(w, load(s, self.input(row, tap, c), n), sum);
                    }
                    if self.silu {
                        sum = s.mul(sum, sigmoid(s, sum));
                    }
                    store(s, self.out.add(row * self.stride + c), sum, n);
                }
                c += S::LANES;
            }
        }
        for i in 0..self.taps - 1 {
            // SAFETY: as above. Each comes from a later place.
            unsafe {
                let from = self.input(self.rows, i, 0);
                std::ptr::copy(from, self.state.add(i * self.state_stride), self.channels);
            }
        }
    }
}

/// Rows of one block of a head's columns.
pub(crate) struct Scan<'a> {
    /// `[key_dim][STATE_COLUMNS]`
    pub state: *mut f32,
    /// `key_dim` values of each row, every `stride` values.
    pub key: *const f32,
    pub query: *const f32,
    /// `columns` values of each row, likewise.
    pub value: *const f32,
    pub stride: usize,
    pub key_dim: usize,
    pub columns: usize,
    /// One for each row, every `heads` values.
    pub decay: &'a [f32],
    pub rate: &'a [f32],
    pub heads: usize,
    pub rule: Rule,
    /// Factor of the value that is added to the result.
    pub skip: f32,
    /// `columns` values of each row, every `out_stride`.
    pub out: *mut f32,
    pub out_stride: usize,
    pub rows: usize,
}

/// Reads the first `n` lanes, and zeros.
#[inline(always)]
unsafe fn load<S: Simd>(s: S, p: *const f32, n: usize) -> S::F {
    if n == S::LANES {
        return s.load(p);
    }
    let mut padded = [0f32; STATE_COLUMNS];
    std::ptr::copy_nonoverlapping(p, padded.as_mut_ptr(), n);
    s.load(padded.as_ptr())
}

/// Writes the first `n` lanes.
#[inline(always)]
unsafe fn store<S: Simd>(s: S, p: *mut f32, v: S::F, n: usize) {
    if n == S::LANES {
        return s.store(p, v);
    }
    let mut padded = [0f32; STATE_COLUMNS];
    s.store(padded.as_mut_ptr(), v);
    std::ptr::copy_nonoverlapping(padded.as_ptr(), p, n);
}

/// Sums side by side: they hide how long an addition takes.
const SUMS: usize = 4;

#[inline(always)]
fn sum<S: Simd>(s: S, v: [S::F; SUMS]) -> S::F {
    s.add(s.add(v[0], v[1]), s.add(v[2], v[3]))
}

/// What a row of the matrix's columns at `at` has for the key, added up.
#[inline(always)]
unsafe fn read<S: Simd>(s: S, state: *const f32, key: *const f32, i: usize, sum: S::F) -> S::F {
    let has = s.load(state.add(i * STATE_COLUMNS));
    s.fma(has, s.splat(*key.add(i)), sum)
}

/// Lets it decay, adds to it, and adds up what it then has for the query.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn update<S: Simd>(
    s: S,
    state: *mut f32,
    (key, query): (*const f32, *const f32),
    i: usize,
    decay: S::F,
    added: S::F,
    sum: S::F,
) -> S::F {
    let at = state.add(i * STATE_COLUMNS);
    let kept = s.mul(s.load(at), decay);
    let new = s.fma(s.splat(*key.add(i)), added, kept);
    s.store(at, new);
    s.fma(new, s.splat(*query.add(i)), sum)
}

impl Kernel for Scan<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let whole = self.key_dim / SUMS * SUMS;
        for row in 0..self.rows {
            let (decay, rate) = (self.decay[row * self.heads], self.rate[row * self.heads]);
            let (decay, rate) = (s.splat(decay), s.splat(rate));
            let mut c = 0;
            while c < self.columns {
                let n = S::LANES.min(self.columns - c);
                // SAFETY: whoever makes one vouches for all pointers; a matrix has whole
                // blocks of columns, and of values no more than there are is touched.
                unsafe {
                    let at = row * self.stride;
                    let (key, query) = (self.key.add(at), self.query.add(at));
                    let state = self.state.add(c);
                    let value = load(s, self.value.add(at + c), n);
                    let mut added = s.mul(rate, value);
                    if self.rule == Rule::Delta {
                        let mut sums = [s.splat(0.0); SUMS];
                        let mut i = 0;
                        while i < whole {
                            for j in 0..SUMS {
                                sums[j] = read(s, state, key, i + j, sums[j]);
                            }
                            i += SUMS;
                        }
                        while i < self.key_dim {
                            sums[0] = read(s, state, key, i, sums[0]);
                            i += 1;
                        }
                        let has = s.mul(decay, sum(s, sums));
                        added = s.mul(rate, s.sub(value, has));
                    }
                    let mut sums = [s.splat(0.0); SUMS];
                    let mut i = 0;
                    while i < whole {
                        for j in 0..SUMS {
                            sums[j] = update(s, state, (key, query), i + j, decay, added, sums[j]);
                        }
                        i += SUMS;
                    }
                    while i < self.key_dim {
                        sums[0] = update(s, state, (key, query), i, decay, added, sums[0]);
                        i += 1;
                    }
                    let out = s.fma(s.splat(self.skip), value, sum(s, sums));
                    store(s, self.out.add(row * self.out_stride + c), out, n);
                }
                c += S::LANES;
            }
        }
    }
}
