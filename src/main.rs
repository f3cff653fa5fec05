//! The `sidecarta` command.
fn main() {}
