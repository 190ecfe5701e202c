//! Number formats and the operations that compute on them.

// Kernels index several arrays alike; the loops are unrolled by their constants.
#![allow(clippy::needless_range_loop)]

pub mod acts;
pub mod attention;
mod buffer;
mod cpus;
pub mod formats;
pub mod gemm;
pub mod ops;
pub mod pages;
pub mod panel;
pub mod par;
pub mod pool;
pub mod recurrent;
pub mod roof;
pub mod router;
mod ticks;

pub use acts::{Acts, Forms};
pub use buffer::{Aligned, AlignedBytes};
pub use gemm::{Product, Then};
pub use panel::Matrix;
pub use par::Phase;
pub use pool::Pool;
pub use ticks::{ticks, ticks_since};
