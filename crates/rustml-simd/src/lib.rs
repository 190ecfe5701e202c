//! Vectors of each instruction set behind one trait.
