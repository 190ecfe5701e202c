//! GGUF and safetensors files as one store of named tensors.

mod dtype;

pub use dtype::DType;
