//! What was watched: without it, silence of a workload would mean nothing.

use serde::{Deserialize, Serialize};

use super::{Merge, Tally, Time, WorkloadId};

/// A span of packet time, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Span {
    /// First packet.
    pub from: Time,
    /// Last packet.
    pub to: Time,
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
        self.0.iter().map(|s| s.to.since(s.from)).fold(0, u64::saturating_add)
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
    }
}

/// That a workload asked the DNS for a host of the cluster or of a ServiceEntry: what it may
/// address, called or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lookups {
    /// Who asked.
    pub workload: WorkloadId,
    /// The host, fully qualified.
    pub host: String,
    /// How often, first and last time (`connections` counts look-ups here).
    #[serde(flatten)]
    pub tally: Tally,
}

impl Merge for Lookups {
    fn merge(&mut self, other: &Self) {
        self.tally.merge(&other.tally);
    }
}
