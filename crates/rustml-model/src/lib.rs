//! Transformer architectures as data and the one forward pass over them.
