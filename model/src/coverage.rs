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

/// Spans of capture files that are closer than this are one. A file does not say when it was begun
/// and ended, and a quiet veth has a probe every 10 s: a minute without packets is no gap.
const CAPTURE_GAP: u64 = 60_000_000_000;

/// Disjoint spans, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Spans(pub Vec<Span>);

impl Spans {
    /// Whether there is no span.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Total time, in nanoseconds.
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, s| sum.saturating_add(s.to.since(s.from)))
    }

    /// The time between the first and the last span that is in none.
    pub fn gaps(&self) -> Self {
        let between = self.0.windows(2).map(|pair| Span { from: pair[0].to, to: pair[1].from });
        Self(between.collect())
    }

    /// Joins spans that are at most this many nanoseconds apart.
    fn bridge(&mut self, gap: u64) {
        let mut out: Vec<Span> = Vec::with_capacity(self.0.len());
        for span in self.0.drain(..) {
            match out.last_mut() {
                Some(last) if span.from.since(last.to) <= gap => last.to = last.to.max(span.to),
                _ => out.push(span),
            }
        }
        self.0 = out;
    }
}

impl Merge for Spans {
    /// Spans that touch become one. What lies between two spans is a gap, however short it is.
    fn merge(&mut self, other: &Self) {
        self.0.extend(&other.0);
        self.0.sort_unstable();
        self.bridge(0);
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
    /// When capture files show its interface; also what stores of older versions have of agents.
    pub spans: Spans,
    /// When an agent watched its interface and lost no packet of it.
    #[serde(default, skip_serializing_if = "Spans::is_empty")]
    pub live: Spans,
    /// Packets seen on its interface.
    pub packets: u64,
    /// Packets and observations of its interface that were lost. The time in which an agent lost
    /// them is not in `live`.
    #[serde(default, skip_serializing_if = "crate::is_zero")]
    pub lost: u64,
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

    /// When the pod was watched.
    pub fn watched(&self) -> Spans {
        let mut all = self.spans.clone();
        all.merge(&self.live);
        all
    }

    /// Whether it was watched from the pod's start.
    pub fn from_start(&self) -> bool {
        self.span_from_start().is_some()
    }

    /// The span in which it was watched without a gap from the pod's start; `None` where its start
    /// was not watched.
    pub fn span_from_start(&self) -> Option<Span> {
        let first = *self.watched().0.first()?;
        (first.from.since(self.started?) <= Self::START_SLACK).then_some(first)
    }
}

impl Merge for Watch {
    fn merge(&mut self, other: &Self) {
        self.started = match (self.started, other.started) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.spans.merge(&other.spans);
        self.spans.bridge(CAPTURE_GAP);
        self.live.merge(&other.live);
        self.packets = self.packets.saturating_add(other.packets);
        self.lost = self.lost.saturating_add(other.lost);
        self.ownership.merge(&other.ownership);
        self.folded.merge(&other.folded);
    }
}

/// What the watches of one workload's pods say together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchTotals {
    /// Time in which one of its pods was watched.
    pub spans: Spans,
    /// Time between the first and the last span of a pod in which it was not watched.
    pub gaps: Spans,
    /// Packets seen on its interfaces.
    pub packets: u64,
    /// Packets and observations of its interfaces that were lost.
    pub lost: u64,
    /// Pods that were watched from their start.
    pub from_start: u64,
    /// The longest time without a gap from a pod's start, in nanoseconds.
    pub longest_from_start: u64,
}

impl WatchTotals {
    /// Sums up the watches of one workload's pods.
    pub fn of(watches: &[Watch]) -> Self {
        let mut out = Self::default();
        for watch in watches {
            let watched = watch.watched();
            out.gaps.merge(&watched.gaps());
            if let Some(span) = watch.span_from_start() {
                out.from_start += 1;
                out.longest_from_start = out.longest_from_start.max(span.to.since(span.from));
            }
            out.spans.merge(&watched);
            out.packets = out.packets.saturating_add(watch.packets);
            out.lost = out.lost.saturating_add(watch.lost);
        }
        out
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
