//! What an agent sends: attributed observations, merged, in self-contained batches.
//!
//! Owns the batch and its form as NDJSON, with its versions. A batch is self-contained (it carries
//! the pods that it speaks of, as the agent knew them at that time) and has an identity, so that it
//! counts once wherever it is delivered, and however often. Must never resolve a destination: that
//! needs the whole cluster, which an agent does not know.

mod call;
mod ndjson;
mod size;
mod valid;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{BatchId, Folded, Merge, Ownership, Pod, Spans, Tally, Time};

pub use call::{Call, CallRef, Edge, EdgeConnection, Opening};
pub use ndjson::{
    BatchReadError, MAX_MEMORY, MAX_TEXT, Packed, Reader, VERSION, VERSION_HEADER, allowance, write,
};

/// A DNS name that a pod looked up and that was not answered with NXDOMAIN or another error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AskedName {
    /// Index of the pod in [`Observed::pods`].
    pub pod: u32,
    /// The name, lower case, without the final dot.
    pub question: String,
    /// Whether an answer with an address was seen. Older recorders skip this field.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub answered: bool,
    /// How often, first and last time.
    #[serde(flatten)]
    pub tally: Tally,
}

/// That a pod's interface was watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WatchedInterface {
    /// Index of the pod in [`Observed::pods`].
    pub pod: u32,
    /// When it was watched, since the batch before. The time in which packets of it were lost is
    /// not in it.
    pub spans: Spans,
    /// Packets sampled on it.
    pub packets: u64,
    /// Packets and observations of it that were lost. Older recorders skip this field.
    #[serde(default, skip_serializing_if = "crate::is_zero")]
    pub lost: u64,
    /// How it is known that the interface is the pod's, and the forged sources that it sent. Older
    /// recorders skip this field.
    #[serde(default, skip_serializing_if = "Ownership::is_empty")]
    pub ownership: Ownership,
    /// What the pod called beyond its share of a batch.
    #[serde(default, skip_serializing_if = "Folded::is_empty")]
    pub folded: Folded,
}

impl WatchedInterface {
    /// For a pod, with nothing watched yet.
    pub fn of(pod: u32) -> Self {
        Self {
            pod,
            spans: Spans::default(),
            packets: 0,
            lost: 0,
            ownership: Ownership::default(),
            folded: Folded::default(),
        }
    }
}

impl Merge for WatchedInterface {
    /// Of the same pod.
    fn merge(&mut self, other: &Self) {
        self.spans.merge(&other.spans);
        self.packets = self.packets.saturating_add(other.packets);
        self.lost = self.lost.saturating_add(other.lost);
        self.ownership.merge(&other.ownership);
        self.folded.merge(&other.folded);
    }
}

/// A batch of attributed observations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The agent's boot, and the number of the batch in it.
    pub id: BatchId,
    /// Name of the node.
    pub node: String,
    /// When the agent made it, by its clock. Everything in it happened before.
    pub made: Time,
    /// Spans of packet time in which the agent watched any interface.
    pub spans: Spans,
    /// Counters by name, since the last batch.
    pub counters: BTreeMap<String, u64>,
    /// The pods that the rest speaks of.
    pub pods: Vec<Pod>,
    /// Connections of the pods, merged by call.
    pub edges: Vec<Edge>,
    /// Names that the pods asked the DNS for, merged by name.
    pub asked: Vec<AskedName>,
    /// Interfaces of the pods that were watched, one for each pod.
    pub watching: Vec<WatchedInterface>,
}

impl Observed {
    /// Whether it contains nothing besides counters.
    pub fn is_empty(&self) -> bool {
        self.edges.is_empty() && self.asked.is_empty() && self.watching.is_empty()
    }
}
