//! The library people import, and the rustml-infer command.
