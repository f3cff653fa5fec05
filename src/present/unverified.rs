//! What agents told of pods that the cluster does not know, node by node.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{Time, UnverifiedBatch};

/// What is kept apart of one node: it teaches nothing until the cluster knows the pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeUnverified {
    /// The node whose agent told it.
    pub node: String,
    /// Lines: connection edges, names asked for, interfaces watched.
    pub lines: u64,
    /// Pods that they are about; one that several batches speak of counts as often.
    pub pods: u64,
    /// When the oldest of them was put aside.
    pub since: Time,
}

impl NodeUnverified {
    /// By node; of pods that are said to be of a namespace, or of all.
    pub fn of(all: &[UnverifiedBatch], namespace: Option<&str>) -> Vec<Self> {
        let mut nodes: BTreeMap<&str, Self> = BTreeMap::new();
        for part in all {
            let amount = part.amount(namespace);
            if amount.lines == 0 {
                continue;
            }
            let new = || Self { node: part.node.clone(), lines: 0, pods: 0, since: part.since };
            let node = nodes.entry(&part.node).or_insert_with(new);
            node.lines = node.lines.saturating_add(amount.lines);
            node.pods = node.pods.saturating_add(amount.pods);
            node.since = node.since.min(part.since);
        }
        nodes.into_values().collect()
    }

    /// In words.
    pub fn text(&self) -> String {
        format!(
            "unverified: the agent on {} told {} lines about {} pods that the API server does not know, the first at {}: \
             they teach nothing until it knows them, and are given up after a while",
            self.node, self.lines, self.pods, self.since
        )
    }
}
