//! The classic command.
fn main() {}
