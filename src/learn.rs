//! Observations become dependencies: attribute, resolve, merge.
//!
//! Owns aggregation. Pure: observations in, batches out, nothing kept beyond what a batch holds;
//! memory is bounded by distinct dependencies. Must never drop an observation without counting why.

mod records;

use std::collections::{BTreeMap, BTreeSet};

use foldhash::HashMap;
use sidecarta_capture::observation::{
    Connection, InterfaceSpan, Lookup, Observation, Orientation, Transport,
};

use crate::attribute::{Attribution, Watched, attribute, watched};
use crate::cluster::{Cluster, Named, Pod};
use crate::model::{
    Batch, BatchId, Dependency, DependencyKey, Destination, Evidence, Example, Key, Lookups, Merge,
    Record, Source, Span, Spans, Tally, Time, Watch, Workload, WorkloadId,
};
use crate::observed::Observed;
use crate::resolve::{Resolution, protocol, resolve};
use records::Records;

/// Addresses outside the cluster that are listed one by one per workload. A scanner or a crawler
/// reaches millions; what exceeds this is counted, and tells no more for a Sidecar than the first
/// thousand do.
const MAX_ADDRESSES: u32 = 1_000;

/// What one source of observations has taught so far.
#[derive(Debug, Default)]
struct Lesson {
    records: Records,
    addresses: HashMap<WorkloadId, u32>,
    counters: BTreeMap<&'static str, u64>,
    spans: Spans,
}

/// Aggregates observations per source, against one view of the cluster.
#[derive(Debug)]
pub struct Learner<'a> {
    cluster: &'a Cluster,
    lessons: BTreeMap<u32, Lesson>,
    notes: BTreeSet<String>,
}

/// Names of the counters that a [`Source`] record carries besides those of the capture layer.
pub mod counter {
    /// Connections told by the capture layer.
    pub const CONNECTIONS: &str = "connections";
    /// Connections of pods: learned.
    pub const LEARNED: &str = "learned";
    /// From a node or a pod on its network: kubelet's probes, node agents.
    pub const FROM_NODE: &str = "from-node";
    /// Of pods of other nodes, which the agents there tell of.
    pub const ELSEWHERE: &str = "from-elsewhere";
    /// Names asked for by an address that no known pod held then: a loss.
    pub const LOOKUPS_UNATTRIBUTED: &str = "look-ups-unattributed";
    /// From outside the cluster.
    pub const FROM_OUTSIDE: &str = "from-outside";
    /// From a pod's address that no known pod held then: a loss.
    pub const UNATTRIBUTED: &str = "unattributed";
    /// From an address that several pods claim: a loss.
    pub const CONTESTED: &str = "contested-source";
    /// The initiator is a guess.
    pub const GUESSED: &str = "guessed-initiator";
    /// Joined midway.
    pub const MIDWAY: &str = "midway";
    /// External addresses beyond those listed one by one.
    pub const UNLISTED: &str = "external-addresses-not-listed";
    /// Connections neither end of which is known: a snapshot of another cluster shows here.
    pub const STRANGE: &str = "neither-end-known";
    /// Connections to an address that changed hands while they were told as one.
    pub const CHANGED_HANDS: &str = "responder-changed";
    /// Captures that could not be opened, or are none: a loss. Only where there are any.
    pub const CAPTURES_NOT_READ: &str = "captures-not-read";
    /// Captures that could not be read to their end: a loss. Only where there are any.
    pub const CAPTURES_CUT: &str = "captures-cut";
}

impl<'a> Learner<'a> {
    /// A learner that knows this cluster.
    pub fn new(cluster: &'a Cluster) -> Self {
        Self { cluster, lessons: BTreeMap::new(), notes: BTreeSet::new() }
    }

    /// Learns from one observation.
    pub fn observe(&mut self, observation: Observation) {
        match observation {
            Observation::Connection(c) => self.connection(&c),
            Observation::Lookup(l) => self.lookup(&l),
            Observation::Interface(s) => self.interface(&s),
        }
    }

    /// An empty learner that may learn beside this one, what [`Learner::may_share`] says.
    pub fn beside(&self) -> Self {
        Self::new(self.cluster)
    }

    /// Whether an observation is for the learner beside this one: part of the workloads are, of
    /// which this one has learned nothing. Each workload's observations are all for one of the two,
    /// so that what they learn does not depend on how they share.
    pub fn may_share(&self, observation: &Observation) -> bool {
        /// Workloads of eight that are shared: more than half, for whoever shares has the
        /// observations to tell as well.
        const BESIDE: u64 = 5;
        let (source, address, time) = match observation {
            Observation::Connection(c) => (c.interface.source, c.initiator.ip(), c.first),
            Observation::Lookup(l) => (l.interface.source, l.client, l.time),
            Observation::Interface(_) => return false,
        };
        let (Some(lesson), Attribution::Pod(pod)) =
            (self.lessons.get(&source), attribute(self.cluster, address, Time(time)))
        else {
            return false;
        };
        let (hash, known) = lesson.records.find(&Key::Workload(&pod.workload));
        known.is_none() && hash % 8 < BESIDE
    }

    /// Takes over what the learner beside this one has learned.
    pub fn absorb(&mut self, beside: Self) {
        for (source, other) in beside.lessons {
            self.lessons.entry(source).or_default().absorb(other);
        }
        self.notes.extend(beside.notes);
    }

    /// What could not be decided, in words, sorted.
    pub fn notes(&self) -> impl Iterator<Item = &str> {
        self.notes.iter().map(String::as_str)
    }

    fn connection(&mut self, c: &Connection) {
        let cluster = self.cluster;
        let lesson = self.lessons.entry(c.interface.source).or_default();
        let counts = u64::from(c.is_new);
        let mut count = |name| *lesson.counters.entry(name).or_default() += counts;
        count(counter::CONNECTIONS);
        if midway(c) {
            count(counter::MIDWAY);
        }
        if c.orientation == Orientation::Guessed {
            count(counter::GUESSED);
        }
        if !cluster.knows(c.initiator.ip()) && !cluster.knows(c.responder.ip()) {
            count(counter::STRANGE);
        }
        match attribute(cluster, c.initiator.ip(), Time(c.first)) {
            Attribution::Pod(pod) => {
                count(counter::LEARNED);
                let resolution = resolve(cluster, pod, c);
                lesson.learn(pod, c, counts, resolution);
            }
            Attribution::Node => count(counter::FROM_NODE),
            Attribution::Outside => count(counter::FROM_OUTSIDE),
            Attribution::UnknownPod => count(counter::UNATTRIBUTED),
            Attribution::Contested => count(counter::CONTESTED),
        }
    }

    fn lookup(&mut self, l: &Lookup) {
        let Attribution::Pod(pod) = attribute(self.cluster, l.client, Time(l.time)) else { return };
        // Names that the DNS denies are steps of the search path, not what was meant.
        if l.rcode.is_some_and(|r| r != 0) {
            return;
        }
        let time = Time(l.time);
        let lesson = self.lessons.entry(l.interface.source).or_default();
        lesson.asked(self.cluster, pod, &l.question, Tally::new(1, time, time));
    }

    fn interface(&mut self, s: &InterfaceSpan) {
        let lesson = self.lessons.entry(s.interface.source).or_default();
        let span = Span { from: Time(s.first), to: Time(s.last) };
        lesson.spans.merge(&span.alone());
        match watched(self.cluster, s) {
            Watched::Pod(pod) => lesson.watched(pod, span.alone(), s.packets),
            Watched::OneConversation(a, b) => {
                self.notes.insert(format!(
                    "one interface showed nothing but a conversation of {}/{} with {}/{}: whose it is cannot be told, so neither \
                     counts as watched",
                    a.workload.namespace, a.name, b.workload.namespace, b.name
                ));
            }
            Watched::NoPod => {}
        }
    }

    /// What an agent's batch teaches, as a batch of records: a function of the two and of the
    /// cluster.
    pub fn batch(cluster: &'a Cluster, told: &Observed) -> Batch {
        let mut lesson = Lesson { spans: told.spans.clone(), ..Lesson::default() };
        for edge in &told.edges {
            let pod = &told.pods[edge.pod as usize];
            let first = edge.connection(edge.first);
            let resolution = resolve(cluster, pod, &first);
            let last = edge.connection(edge.last_began);
            let also = if edge.first == edge.last_began {
                resolution.clone()
            } else {
                resolve(cluster, pod, &last)
            };
            if also == resolution {
                lesson.learn(pod, &first, edge.connections, resolution);
            } else {
                // The address changed hands between the first and the last of the connections: both
                // holders were called, and how often each of them was is not told.
                lesson.learn(pod, &first, edge.connections - edge.connections / 2, resolution);
                lesson.learn(pod, &last, edge.connections / 2, also);
                *lesson.counters.entry(counter::CHANGED_HANDS).or_default() += edge.connections;
            }
        }
        for asked in &told.asked {
            lesson.asked(cluster, &told.pods[asked.pod as usize], &asked.question, asked.tally);
        }
        for w in &told.watching {
            lesson.watched(&told.pods[w.pod as usize], w.spans.clone(), w.packets);
        }
        lesson.batch(told.id.clone(), &told.node, told.counters.clone())
    }

    /// Sources that have taught anything.
    pub fn sources(&self) -> impl Iterator<Item = u32> + '_ {
        self.lessons.keys().copied()
    }

    /// Takes what a source has taught as a batch. `counters` are those of the capture layer for
    /// this source.
    pub fn take(
        &mut self,
        source: u32,
        id: BatchId,
        label: &str,
        counters: BTreeMap<String, u64>,
    ) -> Batch {
        self.lessons.remove(&source).unwrap_or_default().batch(id, label, counters)
    }
}

/// Batches as one.
#[derive(Debug, Default)]
pub struct Union {
    id: Option<BatchId>,
    records: Records,
}

impl Union {
    /// Merges one more.
    pub fn add(&mut self, batch: Batch) {
        self.id.get_or_insert(batch.id);
        batch.records.into_iter().for_each(|r| self.records.merge(r));
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The batch, with the identity of the first; `None` of none.
    pub fn batch(self) -> Option<Batch> {
        Some(Batch { id: self.id?, records: self.records.into_sorted() })
    }
}

/// Older than the capture. Only TCP has a beginning that can be missed.
fn midway(c: &Connection) -> bool {
    c.transport == Transport::Tcp && !c.from_start
}

impl Lesson {
    fn learn(&mut self, pod: &Pod, c: &Connection, counts: u64, resolution: Resolution) {
        let Resolution { destination, port, grades, addressed, scope_miss } = resolution;
        let (first, last) = (Time(c.first), Time(c.last));
        let tally = Tally::new(counts, first, last);
        let key = DependencyKey {
            workload: pod.workload.clone(),
            destination,
            port,
            protocol: protocol(c.transport),
        };
        let mut dependency = Dependency::new(key, tally);
        if !self.may_list(&dependency.key) {
            *self.counters.entry(counter::UNLISTED).or_default() += counts;
            return;
        }
        for (grade, name) in grades {
            let example = Example { time: first, from: c.initiator, to: c.responder, name };
            dependency.evidence.insert(grade, Evidence { tally, examples: vec![example] });
        }
        dependency.addressed = addressed.into_iter().map(|h| (h, tally)).collect();
        dependency.scope_miss = scope_miss.then_some(tally);
        dependency.midway = if midway(c) { counts } else { 0 };
        dependency.guessed = if c.orientation == Orientation::Guessed { counts } else { 0 };
        dependency.unanswered = if c.answered { 0 } else { counts };
        self.records.merge(Record::Dependency(dependency));
        self.note_workload(pod, last);
    }

    fn absorb(&mut self, other: Self) {
        self.records.absorb(other.records);
        for (workload, listed) in other.addresses {
            *self.addresses.entry(workload).or_default() += listed;
        }
        for (name, n) in other.counters {
            *self.counters.entry(name).or_default() += n;
        }
        self.spans.merge(&other.spans);
    }

    fn asked(&mut self, cluster: &Cluster, pod: &Pod, question: &str, tally: Tally) {
        let host = match cluster.named(question, &pod.workload.namespace) {
            Named::Service { service, via } => via.unwrap_or(&service.host).to_owned(),
            Named::Entry(_) => question.to_owned(),
            Named::Unknown => return,
        };
        self.records.merge(Record::Lookups(Lookups {
            workload: pod.workload.clone(),
            host,
            tally,
        }));
        self.note_workload(pod, tally.last_seen);
    }

    fn watched(&mut self, pod: &Pod, spans: Spans, packets: u64) {
        let seen = spans.0.last().map_or(pod.start, |s| s.to);
        self.records.merge(Record::Watch(Watch {
            workload: pod.workload.clone(),
            pod: pod.name.to_string(),
            started: Some(pod.start).filter(|t| *t != Time::MIN),
            spans,
            packets,
        }));
        self.note_workload(pod, seen);
    }

    fn batch(self, id: BatchId, label: &str, counters: BTreeMap<String, u64>) -> Batch {
        let mut all = counters;
        for (name, n) in self.counters {
            *all.entry(name.to_owned()).or_default() += n;
        }
        let source = Source {
            source: id.source.clone(),
            label: label.to_owned(),
            spans: self.spans,
            counters: all,
        };
        let mut records = self.records;
        records.merge(Record::Source(source));
        Batch { id, records: records.into_sorted() }
    }

    /// Whether a destination that no configuration of the mesh names may get a row of its own:
    /// those have no natural bound.
    fn may_list(&mut self, key: &DependencyKey) -> bool {
        let unbounded = matches!(
            key.destination,
            Destination::External { namespace: None, .. } | Destination::Unresolved { .. }
        );
        if !unbounded || self.records.get_mut(&Key::Dependency(key)).is_some() {
            return true;
        }
        let listed = self.addresses.entry(key.workload.clone()).or_default();
        *listed += 1;
        *listed <= MAX_ADDRESSES
    }

    fn note_workload(&mut self, pod: &Pod, seen: Time) {
        match self.records.get_mut(&Key::Workload(&pod.workload)) {
            Some(Record::Workload(w)) if w.last_seen >= seen => {}
            // The usual case, once a connection: nothing is new but the time.
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
}

#[cfg(test)]
mod tests;
