//! What was watched. Without this record it would be unknown whether a silent workload made no
//! calls or was not seen.
//!
//! Owns how spans of watching merge. Must never read a clock.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Folded, Merge, Tally, Time, WorkloadId};

/// A span of packet time, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Span {
    /// Packet time of the first packet, included.
    pub from: Time,
    /// Packet time of the last packet, included. Not before `from`.
    pub to: Time,
}

impl Span {
    /// The span that contains every time.
    pub const ALWAYS: Self = Self { from: Time::MIN, to: Time::MAX };

    /// Whether a time lies in it.
    pub fn contains(&self, time: Time) -> bool {
        self.from <= time && time <= self.to
    }
}

/// Spans closer than this are one: a quiet veth has a probe every 10 s, so a minute without packets
/// is no gap in watching.
const GAP: u64 = 60_000_000_000;

/// Disjoint spans, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Spans(pub Vec<Span>);

impl Spans {
    /// Total time, in nanoseconds.
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, s| sum.saturating_add(s.to.since(s.from)))
    }
}

impl Merge for Spans {
    fn merge(&mut self, other: &Self) {
        let mut all: Vec<Span> = self.0.iter().chain(&other.0).copied().collect();
        all.sort();
        let mut out: Vec<Span> = Vec::with_capacity(all.len());
        for span in all {
            match out.last_mut() {
                Some(last) if span.from.since(last.to) <= GAP => last.to = last.to.max(span.to),
                _ => out.push(span),
            }
        }
        self.0 = out;
    }
}

/// How it is known whose an interface is, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OwnedBy {
    /// By its packets alone: the node has no evidence.
    Packets,
    /// The node's neighbours (ARP, NDP) and the bridge's forwarding table: the first that was
    /// known.
    Neighbour,
    /// The node has a host route through it.
    Route,
}

/// What is known of the interface that a pod was watched on, besides that it is its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ownership {
    /// How it is known that it is the pod's; the weakest of all times. `None` of captures, and of
    /// what older agents sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<OwnedBy>,
    /// Packets that the pod sent with an address that is not its own. They are not learned.
    #[serde(skip_serializing_if = "crate::is_zero")]
    pub forged: u64,
    /// Some of the addresses that those claimed, at most [`Ownership::MAX_CLAIMED`].
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub claimed: BTreeSet<IpAddr>,
}

impl Ownership {
    /// Claimed addresses that are remembered.
    pub const MAX_CLAIMED: usize = 8;

    /// Whether nothing is known of it.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Merge for Ownership {
    fn merge(&mut self, other: &Self) {
        self.owner = match (self.owner, other.owner) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.forged = self.forged.saturating_add(other.forged);
        // The least ones, so that the order of batches does not show.
        self.claimed.extend(&other.claimed);
        while self.claimed.len() > Self::MAX_CLAIMED {
            self.claimed.pop_last();
        }
    }
}

/// That a pod was watched on its own interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Watch {
    /// The pod's workload.
    pub workload: WorkloadId,
    /// Name of the pod (shown in coverage only; it never reaches a manifest).
    pub pod: String,
    /// When the pod started, where that is known.
    pub started: Option<Time>,
    /// When it was watched.
    pub spans: Spans,
    /// Packets seen on its interface.
    pub packets: u64,
    /// How it is known that the interface is the pod's, and the forged sources that it sent.
    #[serde(default, skip_serializing_if = "Ownership::is_empty")]
    pub ownership: Ownership,
    /// What it called beyond its share: what is known of its calls is incomplete.
    #[serde(default, skip_serializing_if = "Folded::is_empty")]
    pub folded: Folded,
}

impl Watch {
    /// Watching may begin this long after the pod's start and still count as "from its start" (5 s:
    /// API times have whole seconds, and a sidecar's first packets precede the application's).
    const START_SLACK: u64 = 5_000_000_000;

    /// Whether it was watched from the pod's start.
    pub fn from_start(&self) -> bool {
        match (self.started, self.spans.0.first()) {
            (Some(start), Some(span)) => span.from.since(start) <= Self::START_SLACK,
            _ => false,
        }
    }
}

impl Merge for Watch {
    fn merge(&mut self, other: &Self) {
        self.started = match (self.started, other.started) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.spans.merge(&other.spans);
        self.packets = self.packets.saturating_add(other.packets);
        self.ownership.merge(&other.ownership);
        self.folded.merge(&other.folded);
    }
}

/// That a workload asked the DNS for a host of the cluster or of a ServiceEntry: what it may
/// address, called or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lookups {
    /// The workload whose pods asked.
    pub workload: WorkloadId,
    /// The host, fully qualified.
    pub host: String,
    /// How often, first and last time (`connections` counts lookups here).
    #[serde(flatten)]
    pub tally: Tally,
}

impl Merge for Lookups {
    fn merge(&mut self, other: &Self) {
        self.tally.merge(&other.tally);
    }
}
