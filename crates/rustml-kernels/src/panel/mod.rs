//! Weights packed for the vectors of the instruction set in use.
//!
//! A matrix of `rows` outputs and `cols` inputs is cut into *panels* of
//! [`Isa::lanes`] rows. In a panel the rows lie side by side, inputs in groups
//! of four bytes, so that one dot instruction serves all rows from one
//! broadcast of four activations: no horizontal sums, and one loop serves one
//! token and many. An integer panel is `[scales][codes]`, a float panel
//! `[input][row]`; each begins on a cache line. Rows beyond the last are zeros.

pub mod codes;
pub mod scales;
pub mod split;

use crate::acts::{Correction, Forms};
use crate::buffer::AlignedBytes;
use crate::gemm::{panel_fn, PanelFn};
use codes::{Codes, BLOCK};
use rustml_io::DType;
use rustml_simd::Isa;
use scales::{RawScales, Scales};
use split::Format;

/// Calls a generic function with the [`Format`] of a [`DType`].
#[macro_export]
#[doc(hidden)]
macro_rules! with_format {
    ($dtype:expr, $f:ident => $body:expr, float => $float:expr) => {{
        use $crate::panel::split;
        match $dtype {
            DType::Q4_0 => {
                type $f = split::Q4_0;
                $body
            }
            DType::Q4_1 => {
                type $f = split::Q4_1;
                $body
            }
            DType::Q5_0 => {
                type $f = split::Q5_0;
                $body
            }
            DType::Q5_1 => {
                type $f = split::Q5_1;
                $body
            }
            DType::Q8_0 => {
                type $f = split::Q8_0;
                $body
            }
            DType::Q2_K => {
                type $f = split::Q2_K;
                $body
            }
            DType::Q3_K => {
                type $f = split::Q3_K;
                $body
            }
            DType::Q4_K => {
                type $f = split::Q4_K;
                $body
            }
            DType::Q5_K => {
                type $f = split::Q5_K;
                $body
            }
            DType::Q6_K => {
                type $f = split::Q6_K;
                $body
            }
            DType::IQ4_NL => {
                type $f = split::IQ4_NL;
                $body
            }
            DType::IQ4_XS => {
                type $f = split::IQ4_XS;
                $body
            }
            DType::F32 | DType::F16 | DType::BF16 => $float,
        }
    }};
}

/// A packed weight matrix, `[rows, cols]`: `y[row] = sum over cols`.
pub struct Matrix {
    dtype: DType,
    rows: usize,
    cols: usize,
    isa: Isa,
    shape: PanelShape,
    panel_fn: PanelFn,
    data: AlignedBytes,
}

/// Sizes within a panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PanelShape {
    /// Bytes before the codes.
    pub scale_bytes: usize,
    /// Bytes from one panel to the next.
    pub stride: usize,
}

const LINE: usize = 64;

impl PanelShape {
    fn new(dtype: DType, cols: usize, lanes: usize) -> Option<PanelShape> {
        let (scale_bytes, bytes) = with_format!(dtype, F => {
            type Sc = <F as Format>::Scales;
            let scales = (cols / Sc::BLOCK).checked_mul(Sc::ROW_BYTES * lanes)?;
            let codes = (cols / BLOCK).checked_mul(<F as Format>::Codes::ROW_BYTES * lanes)?;
            let scales = scales.checked_next_multiple_of(LINE)?;
            (scales, scales.checked_add(codes)?)
        }, float => (0, dtype.block_bytes().checked_mul(cols)?.checked_mul(lanes)?));
        let stride = bytes.checked_next_multiple_of(LINE)?;
        Some(PanelShape {
            scale_bytes,
            stride,
        })
    }
}

/// Which forms of activations products with `dtype` read on `isa`.
pub fn forms(dtype: DType, isa: Isa) -> Forms {
    with_format!(dtype, F => match correction::<F>(isa.i8_bias()) {
        None => Forms::CODES,
        Some(c) => Forms::corrected(c),
    }, float => Forms::FLOATS)
}

/// The correction that products with `F` apply.
pub(crate) const fn correction<F: Format>(i8_bias: i32) -> Option<Correction> {
    let sub = F::Scales::SUB;
    let zero = if F::Codes::SIGNED { i8_bias } else { F::ZERO };
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
    /// If a row is no whole number of blocks.
    pub fn zeroed(dtype: DType, rows: usize, cols: usize, isa: Isa) -> Option<Matrix> {
        assert!(cols.is_multiple_of(dtype.block_len()));
        let shape = PanelShape::new(dtype, cols, isa.lanes())?;
        let bytes = rows.div_ceil(isa.lanes()).checked_mul(shape.stride)?;
        Some(Matrix {
            dtype,
            rows,
            cols,
            isa,
            shape,
            panel_fn: panel_fn(dtype, isa),
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
            // SAFETY: one thread.
            unsafe { packer.put_row(row, &data[row * row_bytes..][..row_bytes]) };
        }
        Some(m)
    }

    /// A handle through which different panels can be filled at once.
    pub fn packer(&mut self) -> Packer<'_> {
        Packer {
            dtype: self.dtype,
            rows: self.rows,
            cols: self.cols,
            isa: self.isa,
            shape: self.shape,
            data: self.data.as_mut_slice().as_mut_ptr(),
            _matrix: std::marker::PhantomData,
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
        self.shape.stride
    }
    /// The forms of activations a product reads.
    pub fn forms(&self) -> Forms {
        forms(self.dtype, self.isa)
    }
    pub(crate) fn shape(&self) -> PanelShape {
        self.shape
    }
    pub(crate) fn isa(&self) -> Isa {
        self.isa
    }
    pub(crate) fn panel_fn(&self) -> PanelFn {
        self.panel_fn
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
        let panel = &self.data()[row / lanes * self.shape.stride..][..self.shape.stride];
        let float = |out: &mut [f32], get: &dyn Fn(usize) -> f32| {
            for (i, o) in out.iter_mut().enumerate() {
                *o = get(i * lanes + lane);
            }
        };
        let u16_at = |i: usize| u16::from_le_bytes([panel[2 * i], panel[2 * i + 1]]);
        match self.dtype {
            DType::F32 => float(out, &|i| {
                let b = &panel[4 * i..4 * i + 4];
                f32::from_le_bytes([b[0], b[1], b[2], b[3]])
            }),
            DType::F16 => float(out, &|i| half::f16::from_bits(u16_at(i)).to_f32()),
            DType::BF16 => float(out, &|i| half::bf16::from_bits(u16_at(i)).to_f32()),
            _ => crate::gemm::decode_row(self, row, out),
        }
    }
}

/// Fills a [`Matrix`], from several threads if each panel has one writer.
pub struct Packer<'a> {
    dtype: DType,
    rows: usize,
    cols: usize,
    isa: Isa,
    shape: PanelShape,
    data: *mut u8,
    _matrix: std::marker::PhantomData<&'a mut Matrix>,
}

// SAFETY: panels are disjoint memory, and `put_row` forbids two writers of one.
unsafe impl Sync for Packer<'_> {}
// SAFETY: as above.
unsafe impl Send for Packer<'_> {}

impl Packer<'_> {
    /// Packs one row as it lies in a file.
    ///
    /// # Safety
    /// No other thread writes a row of the same panel at the same time, and
    /// no row is put twice.
    ///
    /// # Panics
    /// If `row` is out of range or the length is not that of a row.
    pub unsafe fn put_row(&self, row: usize, bytes: &[u8]) {
        assert!(row < self.rows);
        assert_eq!(Some(bytes.len()), self.dtype.row_bytes(self.cols));
        let lanes = self.isa.lanes();
        let start = self.data.add(row / lanes * self.shape.stride);
        let panel = std::slice::from_raw_parts_mut(start, self.shape.stride);
        let lane = row % lanes;
        with_format!(self.dtype, F => {
            let (scales, codes) = panel.split_at_mut(self.shape.scale_bytes);
            put_blocks::<F>(scales, codes, self.isa, lane, bytes)
        }, float => {
            let size = self.dtype.block_bytes();
            for (i, v) in bytes.chunks_exact(size).enumerate() {
                panel[(i * lanes + lane) * size..][..size].copy_from_slice(v);
            }
        })
    }
}

fn put_blocks<F: Format>(scales: &mut [u8], codes: &mut [u8], isa: Isa, lane: usize, bytes: &[u8]) {
    let lanes = isa.lanes();
    let len = F::Scales::BLOCK;
    let code_block = F::Codes::ROW_BYTES * lanes;
    let scale_block = F::Scales::ROW_BYTES * lanes;
    // Tables hold their bias themselves; plain signed codes carry it here.
    let bias = if F::Codes::SIGNED && F::Codes::ROW_BYTES == BLOCK {
        isa.i8_bias() as u8
    } else {
        0
    };
    let mut unsigned = [0u8; 256];
    let mut raw = RawScales::default();
    for (b, block) in bytes.chunks_exact(F::DTYPE.block_bytes()).enumerate() {
        F::split(block, &mut unsigned[..len], &mut raw);
        F::Scales::put(
            &mut scales[b * scale_block..][..scale_block],
            lanes,
            lane,
            &raw,
        );
        for (c, unsigned) in unsigned[..len].chunks_exact(BLOCK).enumerate() {
            let at = (b * len / BLOCK + c) * code_block;
            let to = &mut codes[at..][..code_block];
            for (i, &code) in unsigned.iter().enumerate() {
                F::Codes::put(to, lanes, lane, i, code.wrapping_add(bias));
            }
        }
    }
}
