//! The records of one source: what its edges, lookups and watched interfaces add up to.
//!
//! Owns the path from a resolution to a dependency with its evidence. Memory is bounded by the
//! number of distinct dependencies. Must never leave an edge out without counting it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use foldhash::HashMap;

use super::records::RecordIndex;
use super::share::{Facets, MISSED, facet};
use crate::cluster::{Cluster, NameTarget, Pod};
use crate::model::{
    Batch, BatchId, Dependency, DependencyKey, Destination, Evidence, Example, Lookups, Record,
    RecordKey, Source, Spans, Tally, Time, Watch, Workload, WorkloadId, counter, sums,
};
use crate::observed::{Edge, Opening, WatchedInterface};
use crate::resolve::{CallResolution, resolve};

/// Addresses outside the cluster that are listed one by one for each workload. A scanner or a
/// crawler reaches millions. What exceeds this is counted: it says no more for a Sidecar than the
/// first thousand do.
const MAX_ADDRESSES: u32 = 1_000;

/// What a source is.
#[derive(Clone, Copy, Debug)]
pub(super) enum SourceKind {
    /// A capture file, which does not say when it was begun and ended.
    Capture,
    /// An agent, which reports when it watched.
    Agent,
}

/// What one source adds, as records.
#[derive(Debug)]
pub(super) struct SourceBatch {
    kind: SourceKind,
    records: RecordIndex,
    /// Number of addresses outside the cluster that are listed for each workload.
    addresses: HashMap<WorkloadId, u32>,
    counters: BTreeMap<String, u64>,
}

/// The connections of an edge that went to one destination, with that destination.
#[derive(Debug)]
pub(super) struct ResolvedEdge<'a> {
    edge: Cow<'a, Edge>,
    pub resolution: CallResolution,
}

/// Resolves an edge. Usually it has one destination. If the address changed hands during the edge,
/// each of its holders was called, and nothing shows how often.
pub(super) fn resolve_edge<'a>(
    cluster: &Cluster,
    pod: &Pod,
    edge: &'a Edge,
) -> Vec<ResolvedEdge<'a>> {
    let at = |time| resolve(cluster, pod, &edge.call, time);
    let first = at(edge.first());
    let is_one = edge.openings.len() < 2 || at(edge.last_began()) == first;
    if is_one {
        return vec![ResolvedEdge { edge: Cow::Borrowed(edge), resolution: first }];
    }
    let mut parts: Vec<ResolvedEdge<'_>> = Vec::new();
    for opening in &edge.openings {
        let resolution = at(opening.began);
        match parts.last_mut() {
            Some(last) if last.resolution == resolution => {
                last.edge.to_mut().openings.push(*opening);
            }
            _ => {
                let edge = Edge { openings: vec![*opening], ..edge.clone() };
                parts.push(ResolvedEdge { edge: Cow::Owned(edge), resolution });
            }
        }
    }
    // Each gets an equal share of the connections, and the first one the remainder.
    let n = parts.len() as u64;
    let divide = |sum: u64, i: usize| sum / n + if i == 0 { sum % n } else { 0 };
    for (i, part) in parts.iter_mut().enumerate() {
        let share = part.edge.to_mut();
        share.connections = divide(edge.connections, i);
        share.midway = divide(edge.midway, i);
        share.guessed = divide(edge.guessed, i);
        share.unanswered = divide(edge.unanswered, i);
    }
    parts
}

/// The host that a name means, if it is one of the mesh: that of a Service or an entry, or one that
/// a VirtualService routes. A name that the DNS answers with an address is that of a Service,
/// though the cluster is not known to have it. `answered`: whether such an answer was seen.
pub(super) fn asked_host(
    cluster: &Cluster,
    pod: &Pod,
    question: &str,
    answered: bool,
) -> Option<String> {
    match cluster.named(question, &pod.workload.namespace) {
        NameTarget::Service { service, via } => Some(via.unwrap_or(&service.host).to_owned()),
        NameTarget::Entry(_) => Some(question.to_owned()),
        NameTarget::Unknown => cluster
            .routed(question, &pod.workload.namespace)
            .or_else(|| answered.then(|| cluster.missing_service(question)).flatten()),
    }
}

impl SourceBatch {
    /// An empty one.
    pub fn of(kind: SourceKind) -> Self {
        Self {
            kind,
            records: RecordIndex::default(),
            addresses: HashMap::default(),
            counters: BTreeMap::new(),
        }
    }

    /// Adds to a counter.
    pub fn count(&mut self, name: &str, n: u64) {
        sums::add(&mut self.counters, name, n);
    }

    /// Adds an edge with all its destinations.
    pub fn add_edge(&mut self, pod: &Pod, resolved: Vec<ResolvedEdge<'_>>) {
        if resolved.len() > 1 {
            let all = resolved.iter().map(|p| p.edge.connections);
            self.count(counter::CHANGED_HANDS, all.fold(0, u64::saturating_add));
        }
        for ResolvedEdge { edge, resolution } in resolved {
            let facets = Facets::all(edge.connections);
            self.add_resolved(pod, &edge, facets, resolution);
        }
    }

    /// Adds connections that went to one destination.
    pub fn add_resolved(
        &mut self,
        pod: &Pod,
        edge: &Edge,
        facets: Facets,
        resolution: CallResolution,
    ) {
        let CallResolution { destination, port, grades, addressed, scope_miss } = resolution;
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
        self.add_workload(pod, last);
    }

    /// Whether a dependency may get a record of its own. Destinations that no configuration of the
    /// mesh names have no natural bound, so their number is limited.
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

    /// Adds lookups of a host by a pod.
    pub fn add_lookup(&mut self, pod: &Pod, host: String, tally: Tally) {
        let workload = pod.workload.clone();
        self.records.merge(Record::Lookups(Lookups { workload, host, tally }));
        self.add_workload(pod, tally.last_seen);
    }

    /// Adds the time in which a pod was watched.
    pub fn add_watch(&mut self, pod: &Pod, watching: WatchedInterface) {
        let WatchedInterface { spans, packets, lost, ownership, folded, .. } = watching;
        let seen = spans.0.last().map_or(pod.start, |s| s.to);
        let says_nothing = folded.connections() == 0 && ownership.is_empty() && lost == 0;
        if spans.is_empty() && says_nothing {
            // Only names were seen: nothing shows that it was watched on its own interface.
            return self.add_workload(pod, seen);
        }
        let (spans, live) = match self.kind {
            SourceKind::Capture => (spans, Spans::default()),
            SourceKind::Agent => (Spans::default(), spans),
        };
        self.records.merge(Record::Watch(Watch {
            workload: pod.workload.clone(),
            pod: pod.name.to_string(),
            started: Some(pod.start).filter(|t| *t != Time::MIN),
            spans,
            live,
            packets,
            lost,
            ownership,
            folded,
        }));
        self.add_workload(pod, seen);
    }

    /// Adds that the workload of a pod was seen at this time.
    pub fn add_workload(&mut self, pod: &Pod, seen: Time) {
        match self.records.get_mut(&RecordKey::Workload(&pod.workload)) {
            Some(Record::Workload(w)) if w.last_seen >= seen => {}
            // The usual case, once for each edge: only the time is new.
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

    /// All records, as a batch of this source.
    pub fn into_batch(
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
