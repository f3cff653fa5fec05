//! Capturing from live interfaces.

pub mod filter;
pub mod rule;
