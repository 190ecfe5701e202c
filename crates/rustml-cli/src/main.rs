//! The rustml command.
fn main() {}
