//! What edges, names asked for and watched interfaces amount to, as records.
//!
//! Owns the way from a resolution to a dependency with its evidence. Memory is bounded by distinct
//! dependencies. Must never leave an edge out without counting it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use foldhash::HashMap;

use super::records::Records;
use super::share::{Facets, MISSED, facet};
use crate::cluster::{Cluster, Named, Pod};
use crate::model::{
    Batch, BatchId, Dependency, DependencyKey, Destination, Evidence, Example, Lookups, Record,
    RecordKey, Source, Spans, Tally, Time, Watch, Workload, WorkloadId, counter, sums,
};
use crate::observed::{Edge, Opening, WatchedInterface};
use crate::resolve::{Resolution, resolve};

/// Addresses outside the cluster that are listed one by one per workload. A scanner or a crawler
/// reaches millions; what exceeds this is counted, and tells no more for a Sidecar than the first
/// thousand do.
const MAX_ADDRESSES: u32 = 1_000;

/// What is learned.
#[derive(Debug, Default)]
pub(super) struct Lesson {
    records: Records,
    addresses: HashMap<WorkloadId, u32>,
    counters: BTreeMap<String, u64>,
}

/// The connections of an edge that went to one destination.
#[derive(Debug)]
pub(super) struct Part<'a> {
    edge: Cow<'a, Edge>,
    pub resolution: Resolution,
}

/// What an edge resolves to. It is one part, but where the address changed hands in between:
/// all its holders were called, and how often each of them was is not told.
pub(super) fn parts<'a>(cluster: &Cluster, pod: &Pod, edge: &'a Edge) -> Vec<Part<'a>> {
    let at = |time| resolve(cluster, pod, &edge.call, time);
    let first = at(edge.first());
    let steady = edge.openings.len() < 2 || at(edge.last_began()) == first;
    if steady {
        return vec![Part { edge: Cow::Borrowed(edge), resolution: first }];
    }
    let mut parts: Vec<Part<'_>> = Vec::new();
    for opening in &edge.openings {
        let resolution = at(opening.began);
        match parts.last_mut() {
            Some(part) if part.resolution == resolution => {
                part.edge.to_mut().openings.push(*opening);
            }
            _ => {
                let edge = Edge { openings: vec![*opening], ..edge.clone() };
                parts.push(Part { edge: Cow::Owned(edge), resolution });
            }
        }
    }
    // As many for each, and what is left for the first.
    let n = parts.len() as u64;
    let divide = |sum: u64, i: usize| sum / n + if i == 0 { sum % n } else { 0 };
    for (i, part) in parts.iter_mut().enumerate() {
        let part = part.edge.to_mut();
        part.connections = divide(edge.connections, i);
        part.midway = divide(edge.midway, i);
        part.guessed = divide(edge.guessed, i);
        part.unanswered = divide(edge.unanswered, i);
    }
    parts
}

/// The host that a name means, where it is one of the mesh: a Service's, an entry's, or one that a
/// VirtualService routes.
pub(super) fn asked_host(cluster: &Cluster, pod: &Pod, question: &str) -> Option<String> {
    match cluster.named(question, &pod.workload.namespace) {
        Named::Service { service, via } => Some(via.unwrap_or(&service.host).to_owned()),
        Named::Entry(_) => Some(question.to_owned()),
        Named::Unknown => cluster.routed(question, &pod.workload.namespace),
    }
}

impl Lesson {
    /// Adds to a counter.
    pub fn count(&mut self, name: &str, n: u64) {
        sums::add(&mut self.counters, name, n);
    }

    /// Learns what an edge resolves to, all of its parts.
    pub fn edge(&mut self, pod: &Pod, parts: Vec<Part<'_>>) {
        if parts.len() > 1 {
            let all = parts.iter().map(|p| p.edge.connections);
            self.count(counter::CHANGED_HANDS, all.fold(0, u64::saturating_add));
        }
        for Part { edge, resolution } in parts {
            let facets = Facets::all(edge.connections);
            self.part(pod, &edge, facets, resolution);
        }
    }

    /// Learns of connections that went to one destination.
    pub fn part(&mut self, pod: &Pod, edge: &Edge, facets: Facets, resolution: Resolution) {
        let Resolution { destination, port, grades, addressed, scope_miss } = resolution;
        let (first, last) = (edge.first(), edge.last);
        let tally = Tally::new(edge.connections, first, last);
        let key = DependencyKey {
            workload: pod.workload.clone(),
            destination,
            port,
            protocol: edge.call.protocol,
        };
        let mut dependency = Dependency::new(key, tally);
        if !self.may_list(&dependency.key) {
            return self.count(counter::UNLISTED, edge.connections);
        }
        for (grade, name) in grades {
            let example = |opening: &Opening| Example {
                time: opening.began,
                from: opening.from,
                to: edge.call.responder,
                name: name.clone(),
            };
            let tally = Tally::new(facets.of(facet(grade)), first, last);
            let examples = edge.openings.iter().map(example).collect();
            dependency.evidence.insert(grade, Evidence { tally, examples });
        }
        dependency.addressed = addressed.into_iter().map(|h| (h, tally)).collect();
        let missed = Tally::new(facets.of(MISSED), first, last);
        dependency.scope_miss = scope_miss.then_some(missed);
        dependency.midway = edge.midway;
        dependency.guessed = edge.guessed;
        dependency.unanswered = edge.unanswered;
        self.records.merge(Record::Dependency(dependency));
        self.seen(pod, last);
    }

    /// Whether a destination that no configuration of the mesh names may get a row of its own:
    /// those have no natural bound.
    fn may_list(&mut self, key: &DependencyKey) -> bool {
        let unbounded = matches!(
            key.destination,
            Destination::External { namespace: None, .. } | Destination::Unresolved { .. }
        );
        if !unbounded || self.records.get_mut(&RecordKey::Dependency(key)).is_some() {
            return true;
        }
        let listed = self.addresses.entry(key.workload.clone()).or_default();
        *listed += 1;
        *listed <= MAX_ADDRESSES
    }

    /// Learns that a pod looked a host up.
    pub fn asked(&mut self, pod: &Pod, host: String, tally: Tally) {
        let workload = pod.workload.clone();
        self.records.merge(Record::Lookups(Lookups { workload, host, tally }));
        self.seen(pod, tally.last_seen);
    }

    /// Learns that a pod was watched.
    pub fn watched(&mut self, pod: &Pod, watching: WatchedInterface) {
        let WatchedInterface { spans, packets, ownership, folded, .. } = watching;
        let seen = spans.0.last().map_or(pod.start, |s| s.to);
        if spans.0.is_empty() && folded.connections() == 0 && ownership.is_empty() {
            // Names alone: it was not watched on its own interface for all that is known.
            return self.seen(pod, seen);
        }
        self.records.merge(Record::Watch(Watch {
            workload: pod.workload.clone(),
            pod: pod.name.to_string(),
            started: Some(pod.start).filter(|t| *t != Time::MIN),
            spans,
            packets,
            ownership,
            folded,
        }));
        self.seen(pod, seen);
    }

    /// Learns that a pod's workload was there then.
    pub fn seen(&mut self, pod: &Pod, seen: Time) {
        match self.records.get_mut(&RecordKey::Workload(&pod.workload)) {
            Some(Record::Workload(w)) if w.last_seen >= seen => {}
            // The usual case, once an edge: nothing is new but the time.
            Some(Record::Workload(w))
                if w.data_plane == pod.data_plane && w.selector == *pod.selector =>
            {
                w.last_seen = seen
            }
            _ => self.records.merge(Record::Workload(Workload {
                id: pod.workload.clone(),
                selector: BTreeMap::clone(&pod.selector),
                data_plane: pod.data_plane,
                last_seen: seen,
            })),
        }
    }

    /// All that was learned, as a batch of this source.
    pub fn batch(
        self,
        id: BatchId,
        label: &str,
        spans: Spans,
        counters: BTreeMap<String, u64>,
    ) -> Batch {
        let mut all = self.counters;
        sums::merge(&mut all, &counters);
        let source = id.source.clone();
        let mut records = self.records;
        records.merge(Record::Source(Source {
            source,
            label: label.to_owned(),
            spans,
            counters: all,
        }));
        Batch { id, records: records.into_sorted() }
    }
}
