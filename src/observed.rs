//! From the connections of pods to the batches that an agent sends.
//!
//! Owns the merging of attributed observations into batches. The package `model` owns the batch and
//! its form. Must never resolve a destination: that needs the whole cluster, and an agent sees only
//! its node.

mod budget;
pub mod gather;
mod seen;
#[cfg(test)]
pub(crate) mod tests;

pub use crate::model::observed::*;
pub use budget::Budget;
pub use gather::Gatherer;
pub use seen::{begun, call, is_undirected, protocol};
