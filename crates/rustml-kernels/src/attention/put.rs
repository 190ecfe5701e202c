//! Storing the key and the value of one position.

use super::{KvShape, KvType, KV_BLOCK, KV_GROUP, MAX_HEAD_DIM};
use half::f16;
use rustml_simd::Simd;
use std::mem::MaybeUninit;

/// Stores one head's key `k` as a column, and its value `v` as a row, in the
/// type that the shape says.
///
/// # Safety
/// `to` are a head's parts of a block, of keys and of values.
#[inline(always)]
pub unsafe fn head<S: Simd>(
    s: S,
    sh: KvShape,
    to: (*mut u8, *mut u8),
    slot: usize,
    k: &[f32],
    v: &[f32],
) {
    match sh.kv_type {
        KvType::F32 => codes(to, sh, slot, k, v),
        KvType::F16 => {
            let mut halves = [[MaybeUninit::uninit(); MAX_HEAD_DIM]; 2];
            let [kh, vh] = &mut halves;
            codes(to, sh, slot, to_f16(s, k, kh), to_f16(s, v, vh));
        }
        KvType::Q8_0 => {
            let (k, v) = (Quantised::new(s, k), Quantised::new(s, v));
            let (kc, vc) = (&k.codes[..sh.head_dim], &v.codes[..sh.head_dim]);
            codes(to, sh, slot, kc, vc);
            for (to, from) in [(to.0, &k.scales), (to.1, &v.scales)] {
                let scales = to.add(sh.scales_at()).cast::<u16>();
                for (g, scale) in from[..sh.groups()].iter().enumerate() {
                    *scales.add(g * KV_BLOCK + slot) = *scale;
                }
            }
        }
    }
}

/// Stores what stands for one head's key and value.
///
/// # Safety
/// As for [`head`].
#[inline(always)]
unsafe fn codes<T: Copy>(to: (*mut u8, *mut u8), sh: KvShape, slot: usize, k: &[T], v: &[T]) {
    let (keys, values) = (to.0.cast::<T>(), to.1.cast::<T>());
    for (d, k) in k.iter().enumerate() {
        *keys.add(d * KV_BLOCK + slot) = *k;
    }
    let row = values.add(slot * sh.padded_dim());
    std::ptr::copy_nonoverlapping(v.as_ptr(), row, v.len());
}

/// The values in half precision, written to `out`.
#[inline(always)]
fn to_f16<'a, S: Simd>(
    s: S,
    x: &[f32],
    out: &'a mut [MaybeUninit<u16>; MAX_HEAD_DIM],
) -> &'a [u16] {
    let out = &mut out[..x.len()];
    let whole = x.len() / S::LANES * S::LANES;
    for i in (0..whole).step_by(S::LANES) {
        // SAFETY: whole vectors of both.
        unsafe { s.store_f16(out.as_mut_ptr().add(i).cast(), s.load(x.as_ptr().add(i))) };
    }
    for i in whole..x.len() {
        out[i].write(f16::from_f32(x[i]).to_bits());
    }
    // SAFETY: every value was written above.
    unsafe { std::slice::from_raw_parts(out.as_ptr().cast(), x.len()) }
}

/// A head's row in bytes; what lies beyond it means nothing.
struct Quantised {
    codes: [i8; MAX_HEAD_DIM],
    /// In half precision, of every group.
    scales: [u16; MAX_HEAD_DIM / KV_GROUP],
}

impl Quantised {
    #[inline(always)]
    fn new<S: Simd>(s: S, x: &[f32]) -> Quantised {
        let mut to = Quantised {
            codes: [0; MAX_HEAD_DIM],
            scales: [0; MAX_HEAD_DIM / KV_GROUP],
        };
        for (g, x) in x.chunks(KV_GROUP).enumerate() {
            let mut group = [0f32; KV_GROUP];
            group[..x.len()].copy_from_slice(x);
            let at = |i| group[i..][..S::LANES].as_ptr();
            let (mut largest, mut zero) = (s.splat(0.0), s.splat(0.0));
            for i in (0..KV_GROUP).step_by(S::LANES) {
                // SAFETY: a whole vector.
                let x = unsafe { s.load(at(i)) };
                largest = s.max(largest, s.abs(x));
                // The maximum may miss a NaN; this is one if any value is, or is infinite.
                zero = s.fma(x, s.splat(0.0), zero);
            }
            let scale = scale(s.reduce_max(largest) + s.reduce_add(zero));
            to.scales[g] = scale.to_bits();
            let scale = scale.to_f32();
            let inverse = s.splat(if scale > 0.0 { 1.0 / scale } else { 0.0 });
            for i in (0..KV_GROUP).step_by(S::LANES) {
                let codes = &mut to.codes[g * KV_GROUP + i..][..S::LANES];
                // SAFETY: a whole vector of each.
                unsafe {
                    let x = s.mul(s.load(at(i)), inverse);
                    s.store_i8(codes.as_mut_ptr(), s.round_i32(x));
                }
            }
        }
        to
    }
}

/// The least half-precision scale by which `largest` is no more than 127: were
/// it any smaller, the largest value would be cut off.
fn scale(largest: f32) -> f16 {
    let exact = largest / 127.0;
    let near = f16::from_f32(exact);
    match near.to_f32() < exact {
        true => f16::from_bits(near.to_bits() + 1),
        false => near,
    }
}
