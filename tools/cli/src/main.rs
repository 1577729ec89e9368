//! The binary `roof`.
fn main() {}
