//! One row of packed integer weights as numbers: embeddings are looked up so.

use super::codes::{Codes, BLOCK, GROUPS};
use super::scales::Scales;
use super::{places, Format, Matrix};
use crate::formats::with_format;
use rustml_simd::{with_isa, Kernel, Simd};
use std::marker::PhantomData;

/// Decodes row `row` of integer weights; see [`Matrix::decode_row`].
pub(super) fn decode_row(m: &Matrix, row: usize, out: &mut [f32]) {
    struct Row<'a, F>(&'a Matrix, usize, &'a mut [f32], PhantomData<F>);
    impl<F: Format> Kernel for Row<'_, F> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Row(m, row, out, _) = self;
            let lane = row % S::LANES;
            let stride = m.panel_bytes();
            let panel = &m.data()[row / S::LANES * stride..][..stride];
            let zero = if F::Codes::SIGNED {
                S::I8_BIAS
            } else {
                i32::from(F::ZERO)
            };
            let subs = BLOCK / F::Scales::SUB;
            for (b, out) in out.chunks_exact_mut(BLOCK).enumerate() {
                let (scales, codes) = places::<F::Codes, F::Scales>(S::LANES, b);
                // SAFETY: the blocks lie within the panel, whose size says so; the
                // arrays hold the widest vector.
                unsafe {
                    let groups = F::Codes::unpack(s, panel[codes..].as_ptr());
                    let block = panel[scales..].as_ptr();
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
