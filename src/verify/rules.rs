//! What the lines of a batch are checked against, besides the cluster.

use super::time::KUBERNETES;
use crate::model::Time;
use crate::observed::Observed;

/// Whether the sender of a batch has proved which node it runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeIdentity {
    /// By its token. Pods must be on the batch's node.
    Proven,
    /// The node is a mere claim, and no line is refused for it.
    Claimed,
}

/// What the lines of a batch are checked against, besides the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckRules {
    /// The latest time at which anything can have been seen.
    pub now: Time,
    /// Whether pods must be on the batch's node.
    pub node: NodeIdentity,
}

impl CheckRules {
    /// For a batch in a file: all that it reports happened before it was made, unless it says that
    /// it was made in the future.
    pub fn of_file(batch: &Observed, now: Time) -> Self {
        let made = (batch.made > KUBERNETES && batch.made < now).then_some(batch.made);
        Self { now: made.unwrap_or(now), node: NodeIdentity::Proven }
    }
}
