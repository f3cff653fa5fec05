//! From connections of a pod to what an agent tells.
//!
//! Owns the merging of attributed observations into batches. The batch and its form are the
//! model's. Must never resolve a destination: that needs the whole cluster, which an agent does not
//! know.

pub mod gather;
mod seen;
#[cfg(test)]
pub(crate) mod tests;

pub use crate::model::observed::*;
pub use gather::{Budget, Gatherer};
pub use seen::{begun, call, protocol};
