//! The scalar definition of every number format, one file per format.
//!
//! A tensor's row is a sequence of *blocks*. For the float types a block is one number
//! ([`mod@float`]); for the others it is a struct of bytes ([`BlockFormat`]) whose layout is GGML's
//! (`ggml-common.h`; the decoders of `ggml-quants.c` give the layouts their meaning). Whatever the
//! bits look like, every integer format says the same thing:
//!
//! ```text
//! value[i] = (d * sc[s]) * code[i] - (dmin * m[s])        s = i / SUB
//!            \_ scale _/             \_ -offset _/
//! ```
//!
//! (and in types whose scales are powers of two, times one of those),
//! with two half-precision numbers `d`, `dmin` per block, small integers `sc`, `m` per sub-block of
//! [`BlockFormat::SUB`] values, and an 8-bit `code` per value, which is the stored number `q` less a
//! constant ([`BlockFormat::ZERO`]) or an entry of a table. So a format only says how its bits
//! are laid out - [`factors`](BlockFormat::factors), [`unpack`](BlockFormat::unpack) and their
//! inverse [`pack`](BlockFormat::pack) - and how real numbers become codes
//! ([`quantize`](BlockFormat::quantize)). Decoding follows from the formula; it rounds exactly as
//! GGML's decoders do, so the values are bit-identical.
//!
//! These definitions are what the vector kernels are packed from and tested against. They never
//! write a matrix product and use no intrinsics.
//!
//! # Values no block can hold
//!
//! Encoding never panics and never writes a scale that decodes to infinity or NaN: NaN is encoded
//! as zero, and what exceeds the reach of a half-precision scale (infinities too) becomes the
//! largest value of its sign that the block can express. The float types are plain IEEE conversions
//! instead. *Decoding* takes bytes as they are: a block whose scale is infinite or NaN decodes to
//! such values.
//!
//! ```
//! use rustml_io::DType;
//! use rustml_kernels::formats::{decode_row, encode_row, BlockFormat, Q4_0};
//!
//! let row: Vec<f32> = (0..64).map(|i| (i as f32 - 32.0) / 32.0).collect();
//! let mut bytes = vec![0; DType::Q4_0.row_bytes(64).unwrap()];
//! encode_row(DType::Q4_0, &row, &mut bytes);
//!
//! let mut back = vec![0.0; 64];
//! decode_row(DType::Q4_0, &bytes, &mut back);
//! assert!(row.iter().zip(&back).all(|(a, b)| (a - b).abs() < 0.126));
//!
//! // The integer form: -1.0, the peak of the first block, has the code -8 and the scale 1/8.
//! let block = &bytes[..Q4_0::BYTES];
//! let mut codes = [0; Q4_0::LEN];
//! Q4_0::codes(block, &mut codes);
//! assert_eq!((codes[0], Q4_0::view(block).factors().scale(0)), (-8, 0.125));
//! ```
#![deny(unsafe_code)]

use half::f16;
use rustml_io::DType;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

mod fit;
pub mod float;
mod iq4_nl;
mod iq4_xs;
mod mxfp4;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod row;

pub use iq4_nl::{IQ4_NL, LEVELS};
pub use iq4_xs::IQ4_XS;
pub use mxfp4::MXFP4;
pub use q2_k::Q2_K;
pub use q3_k::Q3_K;
pub use q4_0::Q4_0;
pub use q4_1::Q4_1;
pub use q4_k::Q4_K;
pub use q5_0::Q5_0;
pub use q5_1::Q5_1;
pub use q5_k::Q5_K;
pub use q6_k::Q6_K;
pub use q8_0::Q8_0;
pub use row::{convert_row, decode_row, encode_row};

/// Sub-blocks of the largest block: the length of the arrays in [`Factors`].
pub const MAX_SUBS: usize = 16;

/// Values in the largest block.
pub const MAX_LEN: usize = 256;

/// The raw pieces that scale the codes of one block, as stored: nothing is rounded.
///
/// `value = (2^exponent * d * sc[s]) * code - (dmin * m[s])`. Entries past the format's last
/// sub-block are zero.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Factors {
    /// Scale of the scales.
    pub d: f16,
    /// Scale of the offsets; zero in formats without offset.
    pub dmin: f16,
    /// Power of two by which the scale is multiplied; zero in most formats.
    pub exponent: i16,
    /// Integer scale per sub-block; 1 in formats whose only scale is `d`.
    pub sc: [i8; MAX_SUBS],
    /// Integer offset per sub-block, to be subtracted; 1 in Q4_1 and Q5_1, whose stored minimum is
    /// `-dmin`.
    pub m: [u8; MAX_SUBS],
}

impl Factors {
    /// The factors of a block with one sub-block: `value = d * code - dmin`.
    fn single(d: f16, dmin: Option<f16>) -> Self {
        let mut factors = Self {
            d,
            dmin: dmin.unwrap_or(f16::ZERO),
            exponent: 0,
            sc: [0; MAX_SUBS],
            m: [0; MAX_SUBS],
        };
        factors.sc[0] = 1;
        factors.m[0] = dmin.is_some() as u8;
        factors
    }

    /// The factors of a block whose only scale is a power of two.
    fn power(exponent: i16) -> Self {
        Self {
            exponent,
            ..Self::single(f16::ONE, None)
        }
    }

    /// `2^exponent * d * sc[s]`, the step between codes of sub-block `s`.
    pub fn scale(&self, s: usize) -> f32 {
        self.d.to_f32() * f32::from(self.sc[s]) * power_of_two(self.exponent)
    }

    /// `-(dmin * m[s])`, the value of code 0 in sub-block `s`.
    pub fn offset(&self, s: usize) -> f32 {
        -(self.dmin.to_f32() * f32::from(self.m[s]))
    }
}

/// `2^n`: subnormal, zero or infinite where single precision has no other.
fn power_of_two(n: i16) -> f32 {
    match n {
        128.. => f32::INFINITY,
        -126..128 => f32::from_bits(((n + 127) as u32) << 23),
        -149..-126 => f32::from_bits(1 << (n + 149)),
        _ => 0.0,
    }
}

/// A quantised format: the struct is one block as it lies in the file.
///
/// Blocks are made of bytes, so they may start at any address and a mapped row can be viewed as
/// blocks in place ([`view_row`](Self::view_row)). All slices passed in must have exactly the
/// lengths named.
pub trait BlockFormat:
    FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned + Copy + 'static
{
    /// The format's name in model files.
    const DTYPE: DType;

    /// Values in a block.
    const LEN: usize = Self::DTYPE.block_len();

    /// Bytes of a block.
    const BYTES: usize = Self::DTYPE.block_bytes();

    /// Values that share one scale and offset: 16 or 32.
    const SUB: usize;

    /// Sub-blocks in a block.
    const SUBS: usize = Self::LEN / Self::SUB;

    /// Whether sub-blocks have an offset (and unsigned codes); otherwise `dmin` and `m` are zero
    /// and codes are signed.
    const OFFSET: bool;

    /// What is added to a code before it is stored, so that signed codes become unsigned bits;
    /// in types whose codes are a table's, before it is multiplied.
    const ZERO: u8 = 0;

    /// The scales and offsets of this block.
    fn factors(&self) -> Factors;

    /// The codes of this block as stored, in the order of its values, into `q[LEN]`.
    fn unpack(&self, q: &mut [u8]);

    /// The block with these factors and stored codes `q[LEN]`: the inverse of
    /// [`factors`](Self::factors) and [`unpack`](Self::unpack). What the format has no bits for is
    /// cut off.
    fn pack(factors: &Factors, q: &[u8]) -> Self;

    /// The code that is stored as `q`: `q - ZERO`, or in types with a table what it says.
    #[inline]
    fn code(q: u8) -> i8 {
        q.wrapping_sub(Self::ZERO) as i8
    }

    /// The block that represents `values[LEN]`. Where GGML's reference quantiser is simple (Q4_0,
    /// Q4_1, Q5_0, Q5_1, Q8_0) this is the same bit for bit; the others search for the scales with
    /// the least squared error.
    fn quantize(values: &[f32]) -> Self;

    /// One block, seen in its bytes.
    fn view(block: &[u8]) -> &Self {
        Self::ref_from_bytes(block)
            .unwrap_or_else(|_| panic!("{} bytes are no block of {}", block.len(), Self::DTYPE))
    }

    /// A row of blocks, seen in its bytes.
    fn view_row(row: &[u8]) -> &[Self] {
        <[Self]>::ref_from_bytes(row)
            .unwrap_or_else(|_| panic!("{} bytes are no row of {}", row.len(), Self::DTYPE))
    }

    /// Real values of one block: `block[BYTES]` to `out[LEN]`.
    fn decode(block: &[u8], out: &mut [f32]) {
        assert_eq!(out.len(), Self::LEN);
        let block = Self::view(block);
        let mut q = [0; MAX_LEN];
        let q = &mut q[..Self::LEN];
        block.unpack(q);
        let factors = block.factors();
        let subs = out
            .chunks_exact_mut(Self::SUB)
            .zip(q.chunks_exact(Self::SUB));
        for (s, (out, q)) in subs.enumerate() {
            let (scale, offset) = (factors.scale(s), factors.offset(s));
            for (value, &q) in out.iter_mut().zip(q) {
                *value = scale * f32::from(Self::code(q)) + offset;
            }
        }
    }

    /// [`quantize`](Self::quantize) into bytes: `values[LEN]` to `block[BYTES]`.
    fn encode(values: &[f32], block: &mut [u8]) {
        assert_eq!(block.len(), Self::BYTES);
        block.copy_from_slice(Self::quantize(values).as_bytes());
    }

    /// The [codes](Self::code) of one block: `block[BYTES]` to `out[LEN]`. Signed ones have the
    /// integer offset applied (Q4_0: -8..=7; Q6_K: -32..=31; IQ4: the table's value), those of
    /// formats with an [offset](Self::OFFSET) are unsigned (Q4_1: 0..=15).
    fn codes(block: &[u8], out: &mut [i8]) {
        assert_eq!(out.len(), Self::LEN);
        let mut q = [0; MAX_LEN];
        let q = &mut q[..Self::LEN];
        Self::view(block).unpack(q);
        for (code, &q) in out.iter_mut().zip(&*q) {
            *code = Self::code(q);
        }
    }

    /// Scale and offset per sub-block: `block[BYTES]` to `scale[SUBS]` and `offset[SUBS]`.
    fn scales(block: &[u8], scale: &mut [f32], offset: &mut [f32]) {
        assert_eq!((scale.len(), offset.len()), (Self::SUBS, Self::SUBS));
        let factors = Self::view(block).factors();
        for s in 0..Self::SUBS {
            scale[s] = factors.scale(s);
            offset[s] = factors.offset(s);
        }
    }
}

/// Evaluates `$body` with `$F` standing for the [`BlockFormat`] that `$dtype` names, or `$float`
/// if it is a float type.
macro_rules! with_format {
    ($dtype:expr, $F:ident => $body:expr, float => $float:expr $(,)?) => {
        $crate::formats::with_format!(@ $dtype, $F, $body, $float,
            Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4)
    };
    (@ $dtype:expr, $F:ident, $body:expr, $float:expr, $($name:ident)*) => {
        match $dtype {
            $(rustml_io::DType::$name => {
                type $F = $crate::formats::$name;
                $body
            })*
            rustml_io::DType::F32 | rustml_io::DType::F16 | rustml_io::DType::BF16 => $float,
        }
    };
}
pub(crate) use with_format;

/// Defines a block's struct with the derives that let it be seen in bytes, and checks its size.
macro_rules! block {
    ($(#[$doc:meta])* pub struct $name:ident { $($(#[$field_doc:meta])* pub $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[allow(non_camel_case_types)]
        #[derive(
            Clone, Copy, PartialEq, Eq, Debug,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout, zerocopy::Immutable,
            zerocopy::Unaligned,
        )]
        #[repr(C)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }
        const _: () = assert!(
            size_of::<$name>() == rustml_io::DType::$name.block_bytes() && align_of::<$name>() == 1
        );
    };
}
use block;
