//! Unverified lines: what agents sent about pods that the API server does not know, node by node.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{Time, UnverifiedBatch};

/// The unverified lines of one node. Nothing is learned from them until the API server knows the
/// pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeUnverified {
    /// The node of the agent that sent them.
    pub node: String,
    /// Number of lines: edges, names asked for, and watched interfaces.
    pub lines: u64,
    /// Number of pods that they are about. A pod in several batches counts once for each.
    pub pods: u64,
    /// When the oldest of them was stored.
    pub since: Time,
}

impl NodeUnverified {
    /// Sums up by node the lines about pods that are said to be of this namespace, or of any.
    pub fn of(all: &[UnverifiedBatch], namespace: Option<&str>) -> Vec<Self> {
        let mut nodes: BTreeMap<&str, Self> = BTreeMap::new();
        for of_batch in all {
            let amount = of_batch.amount(namespace);
            if amount.lines == 0 {
                continue;
            }
            let new =
                || Self { node: of_batch.node.clone(), lines: 0, pods: 0, since: of_batch.since };
            let node = nodes.entry(&of_batch.node).or_insert_with(new);
            node.lines = node.lines.saturating_add(amount.lines);
            node.pods = node.pods.saturating_add(amount.pods);
            node.since = node.since.min(of_batch.since);
        }
        nodes.into_values().collect()
    }

    /// The sentence for people.
    pub fn text(&self) -> String {
        format!(
            "unverified: the agent on {} sent {} lines about {} pods that the API server does not \
             know, the first at {}: nothing is learned from them until it knows the pods, and they \
             expire after a while",
            self.node, self.lines, self.pods, self.since
        )
    }
}
