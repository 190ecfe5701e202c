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
        let mut c = 0;
        while c < self.channels {
            let n = S::LANES.min(self.channels - c);
            // SAFETY: whoever makes one vouches for all pointers; of a block's last
            // channels no more than there are is read and written.
            unsafe {
                let load = |p: *const f32| match n == S::LANES {
                    true => s.load(p),
                    false => {
                        let mut padded = [0f32; STATE_COLUMNS];
                        std::ptr::copy_nonoverlapping(p, padded.as_mut_ptr(), n);
                        s.load(padded.as_ptr())
                    }
                };
                let bias = match self.bias.is_empty() {
                    true => s.splat(0.0),
                    false => load(self.bias.as_ptr().add(c)),
                };
                for row in 0..self.rows {
                    let mut sum = bias;
                    for tap in 0..self.taps {
                        let w = load(self.weights.add(tap * self.weight_stride + c));
                        sum = s.fma(w, load(self.input(row, tap, c)), sum);
                    }
                    if self.silu {
                        sum = s.mul(sum, sigmoid(s, sum));
                    }
                    let mut values = [0f32; STATE_COLUMNS];
                    s.store(values.as_mut_ptr(), sum);
                    let out = self.out.add(row * self.stride + c);
                    std::ptr::copy_nonoverlapping(values.as_ptr(), out, n);
                }
                // Each comes from a later place.
                for i in 0..self.taps - 1 {
                    let from = self.input(self.rows, i, c);
                    let to = self.state.add(i * self.state_stride + c);
                    std::ptr::copy(from, to, n);
                }
            }
            c += S::LANES;
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

/// Sums side by side: they hide how long an addition takes.
const SUMS: usize = 4;

#[inline(always)]
fn sum<S: Simd>(s: S, v: [S::F; SUMS]) -> S::F {
    s.add(s.add(v[0], v[1]), s.add(v[2], v[3]))
}

impl Kernel for Scan<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for row in 0..self.rows {
            let (decay, rate) = (self.decay[row * self.heads], self.rate[row * self.heads]);
            let (decay, rate) = (s.splat(decay), s.splat(rate));
            let mut c = 0;
            while c < self.columns {
                let n = S::LANES.min(self.columns - c);
                // SAFETY: whoever makes one vouches for all pointers; a matrix has whole
                // blocks of columns, and of values no more than there are is touched.
                unsafe {
                    let (key, query) = (
                        self.key.add(row * self.stride),
                        self.query.add(row * self.stride),
                    );
                    let state = self.state.add(c);
                    let mut values = [0f32; STATE_COLUMNS];
                    let value = self.value.add(row * self.stride + c);
                    std::ptr::copy_nonoverlapping(value, values.as_mut_ptr(), n);
                    let value = s.load(values.as_ptr());
                    let whole = self.key_dim / SUMS * SUMS;
                    let added = match self.rule {
                        Rule::Add => s.mul(rate, value),
                        Rule::Delta => {
                            let mut sums = [s.splat(0.0); SUMS];
                            for i in (0..whole).step_by(SUMS) {
                                for (j, sum) in sums.iter_mut().enumerate() {
                                    let has = s.load(state.add((i + j) * STATE_COLUMNS));
                                    *sum = s.fma(has, s.splat(*key.add(i + j)), *sum);
                                }
                            }
                            for i in whole..self.key_dim {
                                let has = s.load(state.add(i * STATE_COLUMNS));
                                sums[0] = s.fma(has, s.splat(*key.add(i)), sums[0]);
                            }
                            let has = s.mul(decay, sum(s, sums));
                            s.mul(rate, s.sub(value, has))
                        }
                    };
                    let mut sums = [s.splat(0.0); SUMS];
                    let step = |i: usize, sum: S::F| {
                        let at = state.add(i * STATE_COLUMNS);
                        let kept = s.mul(s.load(at), decay);
                        let new = s.fma(s.splat(*key.add(i)), added, kept);
                        s.store(at, new);
                        s.fma(new, s.splat(*query.add(i)), sum)
                    };
                    for i in (0..whole).step_by(SUMS) {
                        for (j, sum) in sums.iter_mut().enumerate() {
                            *sum = step(i + j, *sum);
                        }
                    }
                    for i in whole..self.key_dim {
                        sums[0] = step(i, sums[0]);
                    }
                    let out = s.fma(s.splat(self.skip), value, sum(s, sums));
                    s.store(values.as_mut_ptr(), out);
                    let to = self.out.add(row * self.out_stride + c);
                    std::ptr::copy_nonoverlapping(values.as_ptr(), to, n);
                }
                c += S::LANES;
            }
        }
    }
}
