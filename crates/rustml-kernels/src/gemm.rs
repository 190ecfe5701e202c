//! Matrix products on packed weights: one loop for one row and for many.
//!
//! Every output is reduced in the order of its inputs, block by block, by one
//! accumulator; so its bits depend neither on the number of rows computed
//! together nor on the number of threads.

use crate::acts::{tiles, Acts, Correction};
use crate::formats::with_format;
use crate::panel::codes::{Codes, BLOCK, GROUPS};
use crate::panel::scales::Scales;
use crate::panel::{correction, Format, Matrix};
use rustml_io::DType;
use rustml_simd::{with_isa, Isa, Kernel, Simd};
use std::marker::PhantomData;
use std::ops::Range;

/// One matrix product `out[row][..] = weights * acts[row] (+ bias) (+ out)`.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    /// The weights, `[outputs, inputs]`.
    pub weights: &'a Matrix,
    /// Added to every row of the result.
    pub bias: Option<&'a [f32]>,
    /// Whether the result is added to what `out` holds.
    pub accumulate: bool,
    /// First output of the first row; rows are `out_stride` values apart.
    pub out: *mut f32,
    /// Values from one row of `out` to the next.
    pub out_stride: usize,
}

// SAFETY: shares only what `run` is told to write, panel by panel.
unsafe impl Sync for Product<'_> {}
// SAFETY: as above.
unsafe impl Send for Product<'_> {}

/// Computes a range of panels of a product, for all rows of the activations.
pub(crate) type PanelFn = unsafe fn(&Product, &Acts, Range<usize>);

impl Product<'_> {
    /// Computes the outputs of `panels`.
    ///
    /// # Safety
    /// `out` is writable (readable too if it accumulates) for
    /// `acts.rows()` rows, and nobody else uses the outputs of these panels.
    ///
    /// # Panics
    /// If the activations lack the forms or the width that the weights need.
    pub unsafe fn run(&self, acts: &Acts, panels: Range<usize>) {
        let w = self.weights;
        assert_eq!(acts.cols(), w.cols());
        assert!(acts.forms().contains(w.forms()));
        assert!(panels.end <= w.panels());
        if let Some(bias) = self.bias {
            assert_eq!(bias.len(), w.rows());
        }
        (w.panel_fn())(self, acts, panels)
    }
}

/// The compiled loop for weights of `dtype` on `isa`.
pub(crate) fn panel_fn(dtype: DType, isa: Isa) -> PanelFn {
    fn of<S: Simd>(dtype: DType) -> PanelFn {
        with_format!(dtype, F => integer_panels::<S, F>, float => match dtype {
            DType::F16 => float_panels::<S, F16>,
            DType::BF16 => float_panels::<S, BF16>,
            _ => float_panels::<S, F32>,
        })
    }
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Sse41 => of::<rustml_simd::Sse41>(dtype),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => of::<rustml_simd::Avx2>(dtype),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2Vnni => of::<rustml_simd::Avx2Vnni>(dtype),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => of::<rustml_simd::Avx512>(dtype),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => of::<rustml_simd::Neon>(dtype),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDot => of::<rustml_simd::NeonDot>(dtype),
        _ => of::<rustml_simd::Scalar>(dtype),
    }
}

/// Runs `$tile::<S, F, N>` for every tile of the activations.
macro_rules! for_tiles {
    ($s:expr, $p:expr, $acts:expr, $panels:expr, $tile:ident, $f:ty) => {
        for (row0, n) in tiles($acts.rows()) {
            for panel in $panels.clone() {
                match n {
                    16 => $tile::<S, $f, 16>($s, $p, $acts, panel, row0),
                    8 => $tile::<S, $f, 8>($s, $p, $acts, panel, row0),
                    4 => $tile::<S, $f, 4>($s, $p, $acts, panel, row0),
                    2 => $tile::<S, $f, 2>($s, $p, $acts, panel, row0),
                    _ => $tile::<S, $f, 1>($s, $p, $acts, panel, row0),
                }
            }
        }
    };
}

unsafe fn integer_panels<S: Simd, F: Format>(p: &Product, acts: &Acts, panels: Range<usize>) {
    struct Run<'a, F>(&'a Product<'a>, &'a Acts, Range<usize>, PhantomData<F>);
    impl<F: Format> Kernel for Run<'_, F> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            // SAFETY: by the contract of `Product::run`.
            unsafe { for_tiles!(s, self.0, self.1, self.2, integer_tile, F) }
        }
    }
    S::assume().vectorize(Run::<F>(p, acts, panels, PhantomData))
}

#[inline(always)]
unsafe fn integer_tile<S: Simd, F: Format, const N: usize>(
    s: S,
    p: &Product,
    acts: &Acts,
    panel: usize,
    row0: usize,
) {
    let shape = p.weights.shape();
    let scales = p.weights.data().as_ptr().add(panel * shape.stride);
    let codes = scales.add(shape.scale_bytes);
    let blocks = acts.cols() / BLOCK;
    let subs = BLOCK / F::Scales::SUB;
    let a = acts.codes.as_ptr().add(row0 * acts.cols()).cast::<u8>();
    let a_scales = acts.scales.as_ptr().add(row0 * blocks);
    let correction = const { correction::<F>(S::I8_BIAS) };
    let a_sums = match correction {
        Some(c) => acts.sums[c.index()].as_ptr().add(row0 * blocks * subs),
        None => std::ptr::null(),
    };
    let mut acc = [s.splat(0.0); N];
    for b in 0..blocks {
        let groups = F::Codes::unpack(s, codes.add(b * F::Codes::ROW_BYTES * S::LANES));
        let scale_block =
            scales.add(b * BLOCK / F::Scales::BLOCK * F::Scales::ROW_BYTES * S::LANES);
        for sub in 0..subs {
            let sub_at = b * BLOCK % F::Scales::BLOCK / F::Scales::SUB + sub;
            let scale = F::Scales::scale(s, scale_block, sub_at);
            for n in 0..N {
                let sum_at = ((b * subs + sub) * N + n) * 4;
                let mut dot = match correction {
                    Some(Correction::Integer { .. }) => {
                        s.splat_load(a_sums.cast::<u8>().add(sum_at))
                    }
                    _ => s.splat_i32(0),
                };
                for g in sub * GROUPS / subs..(sub + 1) * GROUPS / subs {
                    let x = s.splat_load(a.add((b * N + n) * BLOCK + 4 * g));
                    dot = if F::Codes::SIGNED {
                        s.dot_i8(dot, groups[g], x)
                    } else {
                        s.dot_u7(dot, groups[g], x)
                    };
                }
                let scale = s.mul(scale, s.splat(*a_scales.add(b * N + n)));
                acc[n] = s.fma(scale, s.to_f32(dot), acc[n]);
            }
            if F::Scales::OFFSET {
                let offset = F::Scales::offset(s, scale_block, sub_at);
                for n in 0..N {
                    let sum_at = ((b * subs + sub) * N + n) * 4;
                    let sum = s.bits_to_f32(s.splat_load(a_sums.cast::<u8>().add(sum_at)));
                    acc[n] = s.fma(offset, sum, acc[n]);
                }
            }
        }
    }
    finish(s, p, panel, row0, acc);
}

/// How a float format's values are read.
trait Float {
    const BYTES: usize;
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F;
}
struct F32;
struct F16;
struct BF16;
impl Float for F32 {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F {
        s.load(p.cast())
    }
}
impl Float for F16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F {
        s.load_f16(p.cast())
    }
}
impl Float for BF16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F {
        s.load_bf16(p.cast())
    }
}

unsafe fn float_panels<S: Simd, F: Float>(p: &Product, acts: &Acts, panels: Range<usize>) {
    struct Run<'a, F>(&'a Product<'a>, &'a Acts, Range<usize>, PhantomData<F>);
    impl<F: Float> Kernel for Run<'_, F> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            // SAFETY: by the contract of `Product::run`.
            unsafe { for_tiles!(s, self.0, self.1, self.2, float_tile, F) }
        }
    }
    S::assume().vectorize(Run::<F>(p, acts, panels, PhantomData))
}

#[inline(always)]
unsafe fn float_tile<S: Simd, F: Float, const N: usize>(
    s: S,
    p: &Product,
    acts: &Acts,
    panel: usize,
    row0: usize,
) {
    let w = p.weights.data().as_ptr();
    let w = w.add(panel * p.weights.shape().stride);
    let x = acts.floats.as_ptr().add(row0 * acts.cols());
    let mut acc = [s.splat(0.0); N];
    for i in 0..acts.cols() {
        let w = F::load(s, w.add(i * F::BYTES * S::LANES));
        for n in 0..N {
            acc[n] = s.fma(w, s.splat(*x.add(i * N + n)), acc[n]);
        }
    }
    finish(s, p, panel, row0, acc);
}

/// Adds bias and former value, and stores the rows of the panel that exist.
#[inline(always)]
unsafe fn finish<S: Simd, const N: usize>(
    s: S,
    p: &Product,
    panel: usize,
    row0: usize,
    acc: [S::F; N],
) {
    let first = panel * S::LANES;
    let valid = (p.weights.rows() - first).min(S::LANES);
    for (n, acc) in acc.into_iter().enumerate() {
        let out = p.out.add((row0 + n) * p.out_stride + first);
        if valid == S::LANES {
            let mut y = acc;
            if let Some(bias) = p.bias {
                y = s.add(y, s.load(bias.as_ptr().add(first)));
            }
            if p.accumulate {
                y = s.add(y, s.load(out));
            }
            s.store(out, y);
        } else {
            let mut y = [0f32; 16];
            s.store(y.as_mut_ptr(), acc);
            for (i, y) in y[..valid].iter().enumerate() {
                let bias = p.bias.map_or(0.0, |b| b[first + i]);
                let former = if p.accumulate { *out.add(i) } else { 0.0 };
                *out.add(i) = *y + bias + former;
            }
        }
    }
}

/// Decodes row `row` of integer weights; see [`Matrix::decode_row`].
pub(crate) fn decode_row(m: &Matrix, row: usize, out: &mut [f32]) {
    struct Row<'a, F>(&'a Matrix, usize, &'a mut [f32], PhantomData<F>);
    impl<F: Format> Kernel for Row<'_, F> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Row(m, row, out, _) = self;
            let lane = row % S::LANES;
            let shape = m.shape();
            let panel = &m.data()[row / S::LANES * shape.stride..][..shape.stride];
            let (scales, codes) = panel.split_at(shape.scale_bytes);
            let zero = if F::Codes::SIGNED {
                S::I8_BIAS
            } else {
                i32::from(F::ZERO)
            };
            let subs = BLOCK / F::Scales::SUB;
            for (b, out) in out.chunks_exact_mut(BLOCK).enumerate() {
                // SAFETY: the blocks lie within the panel, by its shape; the
                // arrays hold the widest vector.
                unsafe {
                    let code_bytes = F::Codes::ROW_BYTES * S::LANES;
                    let groups = F::Codes::unpack(s, codes[b * code_bytes..].as_ptr());
                    let scale_bytes = F::Scales::ROW_BYTES * S::LANES;
                    let block = scales[b * BLOCK / F::Scales::BLOCK * scale_bytes..].as_ptr();
                    let (mut bytes, mut scale, mut offset) = ([0u8; 64], [0f32; 16], [0f32; 16]);
                    for (g, group) in groups.into_iter().enumerate() {
                        let sub = b * BLOCK % F::Scales::BLOCK / F::Scales::SUB + g * subs / GROUPS;
                        s.store_i(bytes.as_mut_ptr(), group);
                        s.store(scale.as_mut_ptr(), F::Scales::scale(s, block, sub));
                        s.store(offset.as_mut_ptr(), F::Scales::offset(s, block, sub));
                        for i in 0..4 {
                            let byte = bytes[4 * lane + i];
                            let code = if F::Codes::SIGNED && S::I8_BIAS == 0 {
                                i32::from(byte as i8)
                            } else {
                                i32::from(byte) - zero
                            };
                            out[4 * g + i] = scale[lane] * code as f32 + offset[lane];
                        }
                    }
                }
            }
        }
    }
    with_format!(
        m.dtype(),
        F => with_isa(m.isa(), Row::<F>(m, row, out, PhantomData)),
        float => unreachable!("float rows are read directly")
    )
}
