//! The recorder: a cluster's memory. Composes receiving, keeping, resolving, learning, serving.
//!
//! Owns the life of its parts. Must never acknowledge what is not on the disk.

pub mod auth;
pub mod engine;
pub mod tls;
