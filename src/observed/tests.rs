//! Tests of batches: gathering them, and reading them again.

mod gathering;
mod merging;
mod reading;
mod samples;

pub(crate) use samples::{connection, pod};
