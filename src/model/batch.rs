//! Batches: what learning hands to the store, self-contained and mergeable.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Dependency, DependencyKey, Lookups, Merge, Span, Spans, Watch, Workload, WorkloadId};

/// Names a batch for ever: a batch with an identity that the store already holds changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BatchId {
    /// Who made it: the digest of a capture and its snapshot, or an agent and its boot.
    pub source: String,
    /// Its number within the source.
    pub sequence: u64,
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.source, self.sequence)
    }
}

/// Totals of one source of observations: a replayed capture or an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// Same as [`BatchId::source`].
    pub source: String,
    /// What people call it: file names, or the agent's node.
    pub label: String,
    /// Packet time covered.
    pub spans: Spans,
    /// Counters by name: packets, bytes, connections, and every loss apart.
    pub counters: BTreeMap<String, u64>,
}

impl Source {
    /// Counters that are losses, by name. The rest tells what was read.
    pub fn losses(&self) -> impl Iterator<Item = (&str, u64)> {
        /// Counters that are no loss: totals, and traffic that concerns no workload.
        const NO_LOSS: [&str; 16] = [
            "packets",
            "bytes",
            "used",
            "not-ip",
            "other-transport",
            "later-fragments",
            "not-unicast",
            "repeated-sightings",
            "arriving-connections",
            "connections",
            "learned",
            "from-node",
            "from-outside",
            "from-elsewhere",
            "midway",
            "neither-end-known",
        ];
        let all = self.counters.iter().map(|(name, n)| (name.as_str(), *n));
        all.filter(|(name, n)| *n > 0 && !NO_LOSS.contains(name))
    }
}

impl Merge for Source {
    fn merge(&mut self, other: &Self) {
        if other.label > self.label {
            self.label.clone_from(&other.label);
        }
        self.spans.merge(&other.spans);
        for (name, n) in &other.counters {
            let sum = self.counters.entry(name.clone()).or_default();
            *sum = sum.saturating_add(*n);
        }
    }
}

/// One row of what is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
pub enum Record {
    /// A workload.
    Workload(Workload),
    /// A dependency.
    Dependency(Dependency),
    /// That a pod was watched.
    Watch(Watch),
    /// That a workload looked a host up.
    Lookups(Lookups),
    /// Totals of a source.
    Source(Source),
}

/// What makes two records the same. The order groups by kind, then by workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key<'a> {
    /// By workload.
    Workload(&'a WorkloadId),
    /// By dependency.
    Dependency(&'a DependencyKey),
    /// By workload and pod.
    Watch(&'a WorkloadId, &'a str),
    /// By workload and host.
    Lookups(&'a WorkloadId, &'a str),
    /// By source.
    Source(&'a str),
}

impl Record {
    /// Its key.
    pub fn key(&self) -> Key<'_> {
        match self {
            Self::Workload(w) => Key::Workload(&w.id),
            Self::Dependency(d) => Key::Dependency(&d.key),
            Self::Watch(w) => Key::Watch(&w.workload, &w.pod),
            Self::Lookups(l) => Key::Lookups(&l.workload, &l.host),
            Self::Source(s) => Key::Source(&s.source),
        }
    }
}

impl Merge for Record {
    /// Records of different kinds do not merge: `self` stays (keys keep them apart).
    fn merge(&mut self, other: &Self) {
        match (self, other) {
            (Self::Workload(a), Self::Workload(b)) => a.merge(b),
            (Self::Dependency(a), Self::Dependency(b)) => a.merge(b),
            (Self::Watch(a), Self::Watch(b)) => a.merge(b),
            (Self::Lookups(a), Self::Lookups(b)) => a.merge(b),
            (Self::Source(a), Self::Source(b)) => a.merge(b),
            _ => {}
        }
    }
}

/// Changes that belong together: applied whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Its identity.
    pub id: BatchId,
    /// Records to merge, one per key, ascending.
    pub records: Vec<Record>,
}

impl Span {
    /// The span as a set of spans.
    pub fn alone(self) -> Spans {
        Spans(vec![self])
    }
}
