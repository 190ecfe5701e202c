//! The numbers GGUF gives to types of values and tensors.

use crate::DType;

/// A tensor type as GGML knows it, computed with here or not.
pub(crate) struct GgmlType {
    pub id: u32,
    pub name: &'static str,
    /// Values in one block.
    pub block_len: usize,
    /// Bytes of one block.
    pub block_bytes: usize,
}

const fn ggml(id: u32, name: &'static str, block_len: usize, block_bytes: usize) -> GgmlType {
    GgmlType {
        id,
        name,
        block_len,
        block_bytes,
    }
}

/// `enum ggml_type` of `ggml.h` with the sizes of `ggml-common.h`. The numbers
/// missing here were withdrawn (4, 5, 31 to 33, 36 to 38).
const TYPES: [GgmlType; 35] = [
    ggml(0, "F32", 1, 4),
    ggml(1, "F16", 1, 2),
    ggml(2, "Q4_0", 32, 18),
    ggml(3, "Q4_1", 32, 20),
    ggml(6, "Q5_0", 32, 22),
    ggml(7, "Q5_1", 32, 24),
    ggml(8, "Q8_0", 32, 34),
    ggml(9, "Q8_1", 32, 36),
    ggml(10, "Q2_K", 256, 84),
    ggml(11, "Q3_K", 256, 110),
    ggml(12, "Q4_K", 256, 144),
    ggml(13, "Q5_K", 256, 176),
    ggml(14, "Q6_K", 256, 210),
    ggml(15, "Q8_K", 256, 292),
    ggml(16, "IQ2_XXS", 256, 66),
    ggml(17, "IQ2_XS", 256, 74),
    ggml(18, "IQ3_XXS", 256, 98),
    ggml(19, "IQ1_S", 256, 50),
    ggml(20, "IQ4_NL", 32, 18),
    ggml(21, "IQ3_S", 256, 110),
    ggml(22, "IQ2_S", 256, 82),
    ggml(23, "IQ4_XS", 256, 136),
    ggml(24, "I8", 1, 1),
    ggml(25, "I16", 1, 2),
    ggml(26, "I32", 1, 4),
    ggml(27, "I64", 1, 8),
    ggml(28, "F64", 1, 8),
    ggml(29, "IQ1_M", 256, 56),
    ggml(30, "BF16", 1, 2),
    ggml(34, "TQ1_0", 256, 54),
    ggml(35, "TQ2_0", 256, 66),
    ggml(39, "MXFP4", 32, 17),
    ggml(40, "NVFP4", 64, 36),
    ggml(41, "Q1_0", 128, 18),
    ggml(42, "Q2_0", 64, 18),
];

/// The type numbered `id`, if it is known.
pub(crate) fn by_id(id: u32) -> Option<&'static GgmlType> {
    TYPES.iter().find(|t| t.id == id)
}

/// The number of a type, as written in tensor infos.
pub(crate) fn id_of(dtype: DType) -> u32 {
    let found = TYPES.iter().find(|t| t.name == dtype.name());
    found
        .expect("every DType is a type of GGML, as a test checks")
        .id
}

impl GgmlType {
    /// The type as one that is computed with.
    pub fn dtype(&self) -> Option<DType> {
        DType::ALL.into_iter().find(|d| d.name() == self.name)
    }
}

/// `enum gguf_type` of `gguf.h`.
pub(crate) mod value {
    pub const U8: u32 = 0;
    pub const I8: u32 = 1;
    pub const U16: u32 = 2;
    pub const I16: u32 = 3;
    pub const U32: u32 = 4;
    pub const I32: u32 = 5;
    pub const F32: u32 = 6;
    pub const BOOL: u32 = 7;
    pub const STRING: u32 = 8;
    pub const ARRAY: u32 = 9;
    pub const U64: u32 = 10;
    pub const I64: u32 = 11;
    pub const F64: u32 = 12;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dtype_has_the_sizes_of_its_ggml_type() {
        for dtype in DType::ALL {
            let ggml = by_id(id_of(dtype)).unwrap();
            assert_eq!(ggml.dtype(), Some(dtype));
            assert_eq!(ggml.block_len, dtype.block_len(), "{dtype}");
            assert_eq!(ggml.block_bytes, dtype.block_bytes(), "{dtype}");
        }
        assert!(by_id(4).is_none());
        assert!(by_id(9).unwrap().dtype().is_none());
    }
}
