//! Weights packed for the vectors of the instruction set in use.
//!
//! A matrix of `rows` outputs and `cols` inputs is cut into *panels* of
//! [`Isa::lanes`] rows. In a panel the rows lie side by side, inputs in groups
//! of four bytes, so that one dot instruction serves all rows from one
//! broadcast of four activations: no horizontal sums, and one loop serves one
//! token and many. An integer panel is a row of *segments* of a few blocks, each
//! `[scales][codes]`: so whoever takes block after block reads memory from front to
//! end, which the processor's own fetching follows. The last may have fewer codes.
//! A float panel is `[input][row]`, one of bfloat16
//! `[pair of inputs][row][input of pair]`, where an odd number of inputs is followed
//! by zeros. A panel begins on a cache line. Rows beyond the last are zeros.

pub mod codes;
mod decode;
pub mod scales;
pub(crate) mod wide;
mod words;

use crate::acts::{Correction, Forms, FEW_ROWS};
use crate::buffer::AlignedBytes;
use crate::formats::{self, with_format, BlockFormat};
use crate::gemm::{panel_fn, plain_tile_fn, set_panel_fn, tile_fn, PanelFn};
use codes::{Bits2, Bits3, Bits4, Bits5, Bits6, Bits8, Codes, Floats4, Table4, BLOCK};
use rustml_io::DType;
use rustml_simd::Isa;
use scales::{Exponents, PackScales, Plain, Scales, Super, SuperNibbles, SuperOffset, WithOffset};
use words::Words;

/// How a format's blocks become panels: a packing of its codes and one of its
/// scales. `weight = scale * (code - ZERO) + offset`, where a table takes the
/// place of `code - ZERO` in [`Table4`], and of `code` in [`Floats4`].
pub trait Format: Words {
    /// Packing of the codes.
    type Codes: Codes;
    /// Packing of the scales.
    type Scales: PackScales;
}

macro_rules! packed {
    ($($format:ident: $codes:ty, $scales:ty;)*) => {
        $(
            impl Format for formats::$format {
                type Codes = $codes;
                type Scales = $scales;
            }
            const _: () = {
                type F = formats::$format;
                type Sc = $scales;
                assert!(Sc::BLOCK == F::LEN && Sc::SUB == F::SUB && Sc::OFFSET == F::OFFSET);
                // Signed bytes cannot also have a code for zero, nor an offset.
                assert!(!<$codes>::SIGNED || F::ZERO == 0 && !F::OFFSET);
            };
        )*
    };
}

packed! {
    Q4_0: Bits4, Plain;
    Q4_1: Bits4, WithOffset;
    Q5_0: Bits5, Plain;
    Q5_1: Bits5, WithOffset;
    Q8_0: Bits8, Plain;
    Q2_K: Bits2, SuperNibbles;
    Q3_K: Bits3, Super<16>;
    Q4_K: Bits4, SuperOffset;
    Q5_K: Bits5, SuperOffset;
    Q6_K: Bits6, Super<16>;
    IQ4_NL: Table4, Plain;
    IQ4_XS: Table4, Super<32>;
    MXFP4: Floats4, Exponents;
}

/// A packed weight matrix, `[rows, cols]`: `y[row] = sum over cols`.
pub struct Matrix {
    dtype: DType,
    rows: usize,
    cols: usize,
    isa: Isa,
    /// Bytes from one panel to the next.
    stride: usize,
    panel_fn: PanelFn,
    tile_fn: Option<PanelFn>,
    data: AlignedBytes,
}

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;

/// Bytes from the start of a segment to its codes, which begin at a whole vector.
pub(crate) const fn scale_bytes<Sc: Scales>(lanes: usize) -> usize {
    let bytes = Sc::SEGMENT * BLOCK / Sc::BLOCK * Sc::ROW_BYTES * lanes;
    bytes.next_multiple_of(4 * lanes)
}

/// Bytes of a whole segment.
const fn segment_bytes<C: Codes, Sc: Scales>(lanes: usize) -> usize {
    scale_bytes::<Sc>(lanes) + Sc::SEGMENT * C::ROW_BYTES * lanes
}

/// Bytes from one panel of so many blocks to the next, if that is a number.
fn panel_stride<C: Codes, Sc: Scales>(lanes: usize, blocks: usize) -> Option<usize> {
    let missing = blocks.next_multiple_of(Sc::SEGMENT) - blocks;
    let whole = segment_bytes::<C, Sc>(lanes).checked_mul(blocks.div_ceil(Sc::SEGMENT))?;
    (whole - missing * C::ROW_BYTES * lanes).checked_next_multiple_of(LINE)
}

/// Where in a panel the scales of block `b` and its codes begin.
#[inline(always)]
pub(crate) const fn places<C: Codes, Sc: Scales>(lanes: usize, b: usize) -> (usize, usize) {
    let (segment, k) = (b / Sc::SEGMENT, b % Sc::SEGMENT);
    let start = segment * segment_bytes::<C, Sc>(lanes);
    let scales = k * BLOCK / Sc::BLOCK * Sc::ROW_BYTES * lanes;
    let codes = scale_bytes::<Sc>(lanes) + k * C::ROW_BYTES * lanes;
    (start + scales, start + codes)
}

/// Bytes from one panel to the next, if that is a number.
fn stride(dtype: DType, cols: usize, lanes: usize) -> Option<usize> {
    with_format!(dtype, F => {
        panel_stride::<<F as Format>::Codes, <F as Format>::Scales>(lanes, cols / BLOCK)
    }, float => {
        let cols = match dtype {
            DType::BF16 => cols.checked_next_multiple_of(2)?,
            _ => cols,
        };
        let bytes = dtype.block_bytes().checked_mul(cols)?.checked_mul(lanes)?;
        bytes.checked_next_multiple_of(LINE)
    })
}

/// Which forms of activations products with `dtype` read on `isa`.
pub fn forms(dtype: DType, isa: Isa) -> Forms {
    with_format!(dtype, F => match correction::<F>(isa.i8_bias()) {
        None => Forms::CODES,
        Some(c) => Forms::corrected(c),
    }, float => match dtype {
        DType::BF16 => Forms::PAIRS,
        _ => Forms::FLOATS,
    })
}

/// The correction that products with `F` apply.
pub(crate) const fn correction<F: Format>(i8_bias: i32) -> Option<Correction> {
    let sub = F::Scales::SUB;
    let zero = if F::Codes::SIGNED {
        i8_bias
    } else {
        F::ZERO as i32
    };
    if F::Scales::OFFSET {
        Some(Correction::Float { sub })
    } else if zero != 0 {
        Some(Correction::Integer { zero, sub })
    } else {
        None
    }
}

impl Matrix {
    /// Zeros of the given shape, to be filled by [`Matrix::packer`].
    ///
    /// Returns `None` if the memory cannot be had.
    ///
    /// # Panics
    /// If a row is no whole number of blocks, or the CPU lacks the instruction
    /// set.
    pub fn zeroed(dtype: DType, rows: usize, cols: usize, isa: Isa) -> Option<Matrix> {
        // Products do not ask again.
        assert!(isa.is_available(), "{} is not available here", isa.name());
        assert!(cols.is_multiple_of(dtype.block_len()));
        let stride = stride(dtype, cols, isa.lanes())?;
        let bytes = rows.div_ceil(isa.lanes()).checked_mul(stride)?;
        Some(Matrix {
            dtype,
            rows,
            cols,
            isa,
            stride,
            panel_fn: panel_fn(dtype, isa),
            tile_fn: tile_fn(dtype, isa).filter(|_| cols.is_multiple_of(BLOCK)),
            data: AlignedBytes::zeroed(bytes)?,
        })
    }

    /// Packs `[rows, cols]` values stored row after row in `dtype`.
    pub fn pack(dtype: DType, rows: usize, cols: usize, data: &[u8], isa: Isa) -> Option<Matrix> {
        let mut m = Matrix::zeroed(dtype, rows, cols, isa)?;
        let row_bytes = dtype.row_bytes(cols)?;
        assert_eq!(data.len(), row_bytes * rows);
        let packer = m.packer();
        for row in 0..rows {
            if row.is_multiple_of(isa.lanes()) {
                packer.begin(row / isa.lanes());
            }
            // SAFETY: one thread.
            unsafe { packer.put_row(row, &data[row * row_bytes..][..row_bytes]) };
        }
        Some(m)
    }

    /// The same with products that use nothing but the instruction set's own
    /// features, so that both ways can be tested where the CPU has more.
    #[doc(hidden)]
    pub fn without_extras(mut self) -> Matrix {
        self.panel_fn = set_panel_fn(self.dtype, self.isa);
        self
    }

    /// The same with the plain definition of tile products in the place of tile registers,
    /// so that what is around them can be tested on any CPU with AVX-512. `None` on others.
    #[doc(hidden)]
    pub fn with_plain_tiles(mut self) -> Option<Matrix> {
        self.tile_fn = Some(plain_tile_fn(self.dtype, self.isa)?);
        self.cols.is_multiple_of(BLOCK).then_some(self)
    }

    /// A handle through which different panels can be filled at once.
    pub fn packer(&mut self) -> Packer<'_> {
        let data = self.data.as_mut_slice().as_mut_ptr();
        Packer {
            memory: &self.data,
            dtype: self.dtype,
            rows: self.rows,
            cols: self.cols,
            isa: self.isa,
            stride: self.stride,
            data,
        }
    }

    /// Type of the weights.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }
    /// Rows of a panel.
    pub fn lanes(&self) -> usize {
        self.isa.lanes()
    }
    /// Number of panels.
    pub fn panels(&self) -> usize {
        self.rows.div_ceil(self.lanes())
    }
    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.data.as_slice().len()
    }
    /// Bytes of one panel.
    pub fn panel_bytes(&self) -> usize {
        self.stride
    }
    /// A panel and those after it.
    pub(crate) fn since_panel(&self, panel: usize) -> &[u8] {
        &self.data()[panel * self.stride..]
    }
    /// Panels that a product computes together at most.
    pub(crate) fn panels_at_once(&self, rows: usize) -> usize {
        match self.dtype {
            DType::BF16 if self.isa.dots_bf16() && rows > FEW_ROWS => 4,
            dtype if dtype.is_float() && rows <= 2 => 4,
            _ => 2,
        }
    }
    /// The forms of activations a product reads.
    pub fn forms(&self) -> Forms {
        forms(self.dtype, self.isa)
    }
    /// The forms a product of prefill rows reads; see [`Team::prefill_products_bf16`].
    ///
    /// [`Team::prefill_products_bf16`]: crate::par::Team::prefill_products_bf16
    pub fn prefill_forms(&self) -> Forms {
        match self.tile_fn {
            Some(_) => Forms::TILES,
            None => self.forms(),
        }
    }
    pub(crate) fn isa(&self) -> Isa {
        self.isa
    }
    pub(crate) fn panel_fn(&self) -> PanelFn {
        self.panel_fn
    }
    pub(crate) fn tile_fn(&self) -> Option<PanelFn> {
        self.tile_fn
    }
    pub(crate) fn data(&self) -> &[u8] {
        self.data.as_slice()
    }

    /// Decodes one row into `out` (`cols` values): the look-up of an embedding.
    ///
    /// # Panics
    /// If `row` is out of range or `out` has another length.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.cols);
        let (lanes, lane) = (self.lanes(), row % self.lanes());
        let panel = &self.data()[row / lanes * self.stride..][..self.stride];
        let float = |out: &mut [f32], get: &dyn Fn(usize) -> f32| {
            for (i, o) in out.iter_mut().enumerate() {
                *o = get(i);
            }
        };
        let at = |i: usize| i * lanes + lane;
        let u16_at = |i: usize| u16::from_le_bytes([panel[2 * i], panel[2 * i + 1]]);
        match self.dtype {
            DType::F32 => float(out, &|i| {
                let b = &panel[4 * at(i)..][..4];
                f32::from_le_bytes([b[0], b[1], b[2], b[3]])
            }),
            DType::F16 => float(out, &|i| half::f16::from_bits(u16_at(at(i))).to_f32()),
            DType::BF16 => float(out, &|i| {
                half::bf16::from_bits(u16_at(2 * at(i / 2) + i % 2)).to_f32()
            }),
            _ => decode::decode_row(self, row, out),
        }
    }
}

/// Fills a [`Matrix`], from several threads if each panel has one writer.
pub struct Packer<'a> {
    memory: &'a AlignedBytes,
    dtype: DType,
    rows: usize,
    cols: usize,
    isa: Isa,
    stride: usize,
    data: *mut u8,
}

// SAFETY: panels are disjoint memory, and `put_row` forbids two writers of one.
unsafe impl Sync for Packer<'_> {}
// SAFETY: as above.
unsafe impl Send for Packer<'_> {}

impl Packer<'_> {
    /// Says that the rows of a panel follow.
    pub fn begin(&self, panel: usize) {
        self.memory
            .begin(panel * self.stride..(panel + 1) * self.stride);
    }

    /// Packs one row as it lies in a file.
    ///
    /// # Safety
    /// No other thread writes a row of the same panel at the same time.
    ///
    /// # Panics
    /// If `row` is out of range or the length is not that of a row.
    pub unsafe fn put_row(&self, row: usize, bytes: &[u8]) {
        assert!(row < self.rows);
        assert_eq!(Some(bytes.len()), self.dtype.row_bytes(self.cols));
        let lanes = self.isa.lanes();
        let start = self.data.add(row / lanes * self.stride);
        let panel = std::slice::from_raw_parts_mut(start, self.stride);
        let lane = row % lanes;
        with_format!(self.dtype, F => {
            words::put_blocks::<F>(panel, (lanes, lane), self.isa.i8_bias() as u8, bytes)
        }, float => {
            match self.dtype {
                DType::F16 => put_numbers::<2>(panel, lanes, lane, bytes),
                DType::BF16 => put_pairs(panel, lanes, lane, bytes),
                _ => put_numbers::<4>(panel, lanes, lane, bytes),
            }
        })
    }
}

fn put_numbers<const SIZE: usize>(panel: &mut [u8], lanes: usize, lane: usize, bytes: &[u8]) {
    let (numbers, _) = bytes.as_chunks::<SIZE>();
    let (slots, _) = panel.as_chunks_mut::<SIZE>();
    for (slot, number) in slots[lane..].iter_mut().step_by(lanes).zip(numbers) {
        *slot = *number;
    }
}

/// Pairs of two bytes each.
fn put_pairs(panel: &mut [u8], lanes: usize, lane: usize, bytes: &[u8]) {
    put_numbers::<4>(panel, lanes, lane, bytes);
    let (pairs, last) = bytes.as_chunks::<4>();
    if !last.is_empty() {
        panel[4 * (pairs.len() * lanes + lane)..][..last.len()].copy_from_slice(last);
    }
}
