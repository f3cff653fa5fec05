//! A dependency: a workload calls a destination on a port, with the evidence for it.
//!
//! Owns when two dependencies are the same. Must never resolve a destination.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Destination, Evidence, Grade, Merge, Protocol, Tally, Time, WorkloadId};

/// What makes two dependencies the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DependencyKey {
    /// The workload whose pods opened the connections.
    pub workload: WorkloadId,
    /// What was called, as resolution found it.
    pub destination: Destination,
    /// The Service's port where there is a Service, else the port on the wire.
    pub port: u16,
    /// Transport protocol of the connections.
    pub protocol: Protocol,
}

/// Most names stored per dependency. A shared gateway can have thousands of virtual hosts;
/// generation needs only those of the mesh, which are few.
const ADDRESSED: usize = 32;

/// A dependency with its evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", from = "DependencyFields")]
pub struct Dependency {
    /// Which one.
    #[serde(flatten)]
    pub key: DependencyKey,
    /// All connections.
    #[serde(flatten)]
    pub tally: Tally,
    /// Evidence by grade, strongest first.
    pub evidence: BTreeMap<Grade, Evidence>,
    /// Host names that the application addressed it by (DNS, HTTP authority, SNI), other than the
    /// destination's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub addressed: BTreeMap<String, Tally>,
    /// Whether more names were seen than are stored.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub addressed_more: bool,
    /// Connections of an injected pod that reached a Service's own address: its Envoy had no
    /// configuration for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope_miss: Option<Tally>,
    /// Connections older than the capture.
    #[serde(default)]
    pub midway: u64,
    /// Connections whose initiator is a guess.
    #[serde(default)]
    pub guessed: u64,
    /// Connections that nothing answered.
    #[serde(default)]
    pub unanswered: u64,
}

/// The fields of a dependency as they are read. A flattened field would be read into a map first,
/// which takes twice as long as the rest.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DependencyFields {
    workload: WorkloadId,
    destination: Destination,
    port: u16,
    protocol: Protocol,
    connections: u64,
    first_seen: Time,
    last_seen: Time,
    evidence: BTreeMap<Grade, Evidence>,
    #[serde(default)]
    addressed: BTreeMap<String, Tally>,
    #[serde(default)]
    addressed_more: bool,
    #[serde(default)]
    scope_miss: Option<Tally>,
    #[serde(default)]
    midway: u64,
    #[serde(default)]
    guessed: u64,
    #[serde(default)]
    unanswered: u64,
}

impl From<DependencyFields> for Dependency {
    fn from(flat: DependencyFields) -> Self {
        let DependencyFields {
            workload,
            destination,
            port,
            protocol,
            connections,
            first_seen,
            last_seen,
            ..
        } = flat;
        Self {
            key: DependencyKey { workload, destination, port, protocol },
            tally: Tally { connections, first_seen, last_seen },
            evidence: flat.evidence,
            addressed: flat.addressed,
            addressed_more: flat.addressed_more,
            scope_miss: flat.scope_miss,
            midway: flat.midway,
            guessed: flat.guessed,
            unanswered: flat.unanswered,
        }
    }
}

impl Dependency {
    /// A dependency with no evidence yet.
    pub fn new(key: DependencyKey, tally: Tally) -> Self {
        Self {
            key,
            tally,
            evidence: BTreeMap::new(),
            addressed: BTreeMap::new(),
            addressed_more: false,
            scope_miss: None,
            midway: 0,
            guessed: 0,
            unanswered: 0,
        }
    }

    /// Whether it has not been seen for this long, in nanoseconds, while its workload was: measured
    /// from the workload's own last sighting, so that nothing becomes stale while nobody watches.
    pub fn is_stale(&self, workload_seen: Time, after: u64) -> bool {
        workload_seen.since(self.tally.last_seen) >= after
    }

    /// Strongest grade of evidence.
    pub fn strongest(&self) -> Option<Grade> {
        self.evidence.keys().next().copied()
    }
}

impl Merge for Dependency {
    fn merge(&mut self, other: &Self) {
        self.tally.merge(&other.tally);
        for (grade, evidence) in &other.evidence {
            merge_into(&mut self.evidence, *grade, evidence);
        }
        for (host, tally) in &other.addressed {
            merge_into(&mut self.addressed, host.clone(), tally);
        }
        self.addressed_more |= other.addressed_more || self.addressed.len() > ADDRESSED;
        // The first by name stay: a rule that does not depend on the order of merging.
        while self.addressed.len() > ADDRESSED {
            self.addressed.pop_last();
        }
        self.scope_miss.merge(&other.scope_miss);
        self.midway = self.midway.saturating_add(other.midway);
        self.guessed = self.guessed.saturating_add(other.guessed);
        self.unanswered = self.unanswered.saturating_add(other.unanswered);
    }
}

fn merge_into<K: Ord, V: Merge + Clone>(map: &mut BTreeMap<K, V>, key: K, value: &V) {
    match map.entry(key) {
        std::collections::btree_map::Entry::Vacant(e) => {
            e.insert(value.clone());
        }
        std::collections::btree_map::Entry::Occupied(mut e) => e.get_mut().merge(value),
    }
}
