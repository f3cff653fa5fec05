//! What an agent tells: attributed observations, merged, in batches that anyone can learn from.
//!
//! Owns the batch and its form as NDJSON. A batch is self-contained (it carries the pods that it
//! speaks of, as the agent knew them at that time) and has an identity, so that it counts once
//! wherever it is delivered, and however often. Must never resolve a destination: that needs the
//! whole cluster, which an agent does not know.

pub mod gather;
mod ndjson;
mod size;
#[cfg(test)]
pub(crate) mod tests;
mod valid;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use sidecarta_capture::observation::{
    Connection, Content, InterfaceId, Names, Orientation, Transport,
};

use crate::cluster::Pod;
use crate::model::{BatchId, Folded, Merge, Ownership, Spans, Tally, Time};

pub use gather::Gatherer;
pub use ndjson::{MAX_MEMORY, MAX_TEXT, Packed, ReadError, Reader, allowance, write};

/// What connections have in common that are told as one: all that resolution looks at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// Address and port called.
    pub responder: SocketAddr,
    /// Transport protocol.
    pub transport: Transport,
    /// How initiator and responder were told apart.
    pub orientation: Orientation,
    /// False: the connections were older than the agent.
    pub from_start: bool,
    /// They were answered.
    pub answered: bool,
    /// They were refused.
    pub refused: bool,
    /// What the first bytes were.
    pub content: Content,
    /// Names seen. The times of DNS answers are not told: they are 0.
    pub names: Names,
}

/// Connections of one pod that have all of [`Call`] in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", from = "Flat")]
pub struct Edge {
    /// Index of the pod in [`Observed::pods`].
    pub pod: u32,
    /// What they have in common.
    #[serde(flatten)]
    pub call: Call,
    /// Address and port that the first of them came from.
    pub initiator: SocketAddr,
    /// New connections; 0 where it is only told that known ones go on.
    pub connections: u64,
    /// First packet of the first of them.
    pub first: Time,
    /// First packet of the last of them.
    pub last_began: Time,
    /// Last packet of any.
    pub last: Time,
    /// Packets of both directions that were sampled.
    pub packets: u64,
}

/// An edge as it is read, which is quicker without a flattened field.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Flat {
    pod: u32,
    responder: SocketAddr,
    transport: Transport,
    orientation: Orientation,
    from_start: bool,
    answered: bool,
    refused: bool,
    content: Content,
    names: Names,
    initiator: SocketAddr,
    connections: u64,
    first: Time,
    last_began: Time,
    last: Time,
    packets: u64,
}

impl From<Flat> for Edge {
    fn from(flat: Flat) -> Self {
        let Flat { pod, initiator, connections, first, last_began, last, packets, .. } = flat;
        let Flat {
            responder,
            transport,
            orientation,
            from_start,
            answered,
            refused,
            content,
            names,
            ..
        } = flat;
        let call = Call {
            responder,
            transport,
            orientation,
            from_start,
            answered,
            refused,
            content,
            names,
        };
        Self { pod, call, initiator, connections, first, last_began, last, packets }
    }
}

impl Edge {
    /// One of the connections: the first, or the last to begin.
    pub fn connection(&self, began: Time) -> Connection {
        let call = &self.call;
        Connection {
            initiator: self.initiator,
            responder: call.responder,
            transport: call.transport,
            orientation: call.orientation,
            from_start: call.from_start,
            answered: call.answered,
            refused: call.refused,
            first: began.0,
            last: self.last.0,
            packets: self.packets,
            content: call.content,
            names: call.names.clone(),
            interface: InterfaceId { source: 0, index: 0 },
            isn: None,
            closed: false,
            is_new: self.connections > 0,
        }
    }
}

impl Merge for Edge {
    /// Of two edges of the same pod and call.
    fn merge(&mut self, other: &Self) {
        if (other.first, other.initiator) < (self.first, self.initiator) {
            self.initiator = other.initiator;
        }
        self.connections = self.connections.saturating_add(other.connections);
        self.first = self.first.min(other.first);
        self.last_began = self.last_began.max(other.last_began);
        self.last = self.last.max(other.last);
        self.packets = self.packets.saturating_add(other.packets);
    }
}

/// That a pod asked the DNS for a name, and was not told that there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    /// Index of the pod in [`Observed::pods`].
    pub pod: u32,
    /// The name, lower case, without the final dot.
    pub question: String,
    /// How often, first and last time.
    #[serde(flatten)]
    pub tally: Tally,
}

/// That a pod's interface was watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Watching {
    /// Index of the pod in [`Observed::pods`].
    pub pod: u32,
    /// When, since it was last told.
    pub spans: Spans,
    /// Packets sampled on it.
    pub packets: u64,
    /// Whose the interface is, and what the pod sent that is not its own. Recorders that do not
    /// know of it pass it over.
    #[serde(default, skip_serializing_if = "Ownership::is_empty")]
    pub ownership: Ownership,
    /// What the pod called beyond its share of a batch.
    #[serde(default, skip_serializing_if = "Folded::is_empty")]
    pub folded: Folded,
}

impl Watching {
    /// Of a pod, and nothing yet.
    pub fn of(pod: u32) -> Self {
        Self {
            pod,
            spans: Spans::default(),
            packets: 0,
            ownership: Ownership::default(),
            folded: Folded::default(),
        }
    }
}

impl Merge for Watching {
    /// Of the same pod.
    fn merge(&mut self, other: &Self) {
        self.spans.merge(&other.spans);
        self.packets = self.packets.saturating_add(other.packets);
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
    /// When the agent made it, by its clock: what it tells happened before.
    pub made: Time,
    /// Packet time covered.
    pub spans: Spans,
    /// Counters by name, since the last batch.
    pub counters: BTreeMap<String, u64>,
    /// The pods that the rest speaks of.
    pub pods: Vec<Pod>,
    /// Connections.
    pub edges: Vec<Edge>,
    /// Names asked for.
    pub asked: Vec<Asked>,
    /// What was watched.
    pub watching: Vec<Watching>,
}

impl Observed {
    /// Whether it tells anything besides counters.
    pub fn is_empty(&self) -> bool {
        self.edges.is_empty() && self.asked.is_empty() && self.watching.is_empty()
    }
}
