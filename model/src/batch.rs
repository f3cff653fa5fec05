//! Batches: what learning hands to the store, self-contained and mergeable.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::Hasher;

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use super::{
    Dependency, DependencyKey, Lookups, Merge, Span, Spans, Watch, Workload, WorkloadId, counter,
    sums,
};

/// The identity of a batch. A batch whose identity the store has already merged changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BatchId {
    /// Who made it: the digest of a capture and its snapshot, or an agent and its boot.
    pub source: String,
    /// Its number within the source.
    pub sequence: u64,
}

impl BatchId {
    /// Of a replayed capture, by its digest and that of the snapshot. The same capture with the
    /// same snapshot is the same batch for ever; another snapshot may resolve it better, so it is
    /// another batch.
    pub fn of_capture(capture: u64, snapshot: u64) -> Self {
        Self { source: format!("capture:2:{capture:016x}:{snapshot:016x}"), sequence: 0 }
    }

    /// The identity that older programs gave a replayed capture. Those programs did not record
    /// which connections they counted. Stores contain such identities.
    pub fn of_capture_1(capture: u64, snapshot: u64) -> Self {
        Self { source: format!("capture:{capture:016x}:{snapshot:016x}"), sequence: 0 }
    }

    /// The identity of what only several captures together show, by the digests of all of them in
    /// any order.
    pub fn of_captures(captures: &[u64], snapshot: u64) -> Self {
        let sorted: BTreeSet<u64> = captures.iter().copied().collect();
        let mut hasher = SipHasher13::new();
        sorted.iter().for_each(|digest| hasher.write(&digest.to_be_bytes()));
        let captures = hasher.finish();
        Self { source: format!("captures:2:{captures:016x}:{snapshot:016x}"), sequence: 0 }
    }

    /// The digest of the snapshot that it was resolved by, where it is of captures.
    pub fn snapshot(&self) -> Option<u64> {
        let (kind, digests) = self.source.split_once(":2:")?;
        let (_, snapshot) = digests.split_once(':')?;
        let is_of_captures = kind == "capture" || kind == "captures";
        u64::from_str_radix(snapshot, 16).ok().filter(|_| is_of_captures)
    }
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
    /// Spans of packet time in which something was captured.
    pub spans: Spans,
    /// Counters by name: packets, bytes, connections, and each cause of loss.
    pub counters: BTreeMap<String, u64>,
}

impl Source {
    /// Counters of losses that are not 0, by name.
    pub fn losses(&self) -> impl Iterator<Item = (&str, u64)> {
        let all = self.counters.iter().map(|(name, n)| (name.as_str(), *n));
        all.filter(|(name, n)| *n > 0 && counter::is_loss(name))
    }
}

impl Merge for Source {
    fn merge(&mut self, other: &Self) {
        if other.label > self.label {
            self.label.clone_from(&other.label);
        }
        self.spans.merge(&other.spans);
        sums::merge(&mut self.counters, &other.counters);
    }
}

/// One row of what is learned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
pub enum Record {
    /// A workload.
    Workload(Workload),
    /// A dependency.
    Dependency(Dependency),
    /// That a pod was watched.
    Watch(Watch),
    /// The lookups of one host by one workload.
    Lookups(Lookups),
    /// Totals of a source.
    Source(Source),
}

/// What makes two records the same. The order groups by kind, then by workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RecordKey<'a> {
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
    /// The key under which records merge: two records of one thing have equal keys.
    pub fn key(&self) -> RecordKey<'_> {
        match self {
            Self::Workload(w) => RecordKey::Workload(&w.id),
            Self::Dependency(d) => RecordKey::Dependency(&d.key),
            Self::Watch(w) => RecordKey::Watch(&w.workload, &w.pod),
            Self::Lookups(l) => RecordKey::Lookups(&l.workload, &l.host),
            Self::Source(s) => RecordKey::Source(&s.source),
        }
    }
}

impl Merge for Record {
    /// Records of different kinds have different keys and do not merge: `self` stays as it is.
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
    /// Source and sequence number. A store applies each identity once.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Stores contain these names. With other names, every capture would count twice after an
    /// upgrade.
    #[test]
    fn batches_of_captures_have_the_names_that_stores_contain() {
        let names = [
            BatchId::of_capture(0x1d66_2503_4e01_362d, 0x5177_3e4a_4fa7_305a),
            BatchId::of_capture_1(0x1d66_2503_4e01_362d, 0x5177_3e4a_4fa7_305a),
            BatchId::of_captures(&[2, 1, 2], 0xa),
        ];
        assert_eq!(
            names.clone().map(|id| id.source),
            [
                "capture:2:1d6625034e01362d:51773e4a4fa7305a",
                "capture:1d6625034e01362d:51773e4a4fa7305a",
                "captures:2:69dafd1a1667ca8e:000000000000000a",
            ]
        );
        assert_eq!(names.map(|id| id.snapshot()), [Some(0x5177_3e4a_4fa7_305a), None, Some(0xa)]);
        let agent = BatchId { source: "agent:n1:2:b:f".to_owned(), sequence: 3 };
        assert_eq!(agent.snapshot(), None);
    }
}
