//! Observations become dependencies: attribute, resolve, merge.
//!
//! Owns aggregation. Pure: observations in, batches out, nothing kept beyond what a batch holds;
//! memory is bounded by distinct dependencies. Must never drop an observation without counting why.

mod records;
mod share;

use std::collections::{BTreeMap, BTreeSet};

use foldhash::HashMap;
use sidecarta_capture::observation::{
    Connection, InterfaceSpan, Lookup, Observation, Orientation, Transport,
};

use crate::attribute::{Attribution, Watched, attribute, watched};
use crate::cluster::{Cluster, Named, Pod};
use crate::model::{
    Batch, BatchId, Counted, Dependency, DependencyKey, Destination, Evidence, Example, Key,
    Lookups, Merge, Record, Source, Span, Spans, Tally, Time, Watch, Workload, WorkloadId,
};
use crate::observed::Observed;
use crate::resolve::{Resolution, protocol, resolve};
use records::Records;
pub use share::Earlier;
use share::{MISSED, Share, facet};

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
    /// What of [`Lesson::counters`] was counted before.
    before: BTreeMap<&'static str, u64>,
    /// What was counted, and what more is known now of what was counted before.
    counted: Vec<Counted>,
    /// It teaches more than what was learned before.
    is_new: bool,
    /// Connections that stay counted for another dependency.
    elsewhere: u64,
    spans: Spans,
}

/// What a source has taught, with what is needed to count it once.
#[derive(Debug)]
pub struct Taught {
    /// What it taught that was not learned before.
    pub batch: Batch,
    /// What was counted.
    pub counted: Vec<Counted>,
    /// What was in it and was counted before, by name as in [`Source::counters`].
    pub before: BTreeMap<String, u64>,
    /// It teaches more than what was learned before.
    pub is_new: bool,
    /// Connections of which an earlier source showed less: they stay counted for the dependency
    /// that it showed, and the one that this source shows is learned without them.
    pub elsewhere: u64,
}

/// Aggregates observations per source, against one view of the cluster.
#[derive(Debug)]
pub struct Learner<'a> {
    cluster: &'a Cluster,
    /// Absent where sources never show the same connections.
    earlier: Option<Earlier<'a>>,
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
}

impl<'a> Learner<'a> {
    /// A learner that knows this cluster.
    pub fn new(cluster: &'a Cluster) -> Self {
        Self { cluster, earlier: None, lessons: BTreeMap::new(), notes: BTreeSet::new() }
    }

    /// A learner that counts nothing that was counted before.
    pub fn after(cluster: &'a Cluster, earlier: Earlier<'a>) -> Self {
        Self { earlier: Some(earlier), ..Self::new(cluster) }
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
        Self { earlier: self.earlier, ..Self::new(self.cluster) }
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
        let attribution = attribute(cluster, c.initiator.ip(), Time(c.first));
        let resolved = match &attribution {
            Attribution::Pod(pod) => Some((*pod, resolve(cluster, pod, c))),
            _ => None,
        };
        let lesson = self.lessons.entry(c.interface.source).or_default();
        let share = match self.earlier.filter(|_| c.is_new) {
            Some(earlier) => {
                let call = resolved.as_ref().map(|(pod, resolution)| (&pod.workload, resolution));
                let now = share::sighting(c, call, &earlier.limits);
                lesson.share(now, &earlier)
            }
            None => Share::all(u64::from(c.is_new)),
        };
        let (n, before) = (u64::from(c.is_new), u64::from(c.is_new) - share.connections);
        let mut count = |name| {
            *lesson.counters.entry(name).or_default() += n;
            if before > 0 {
                *lesson.before.entry(name).or_default() += before;
            }
        };
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
        match attribution {
            Attribution::Pod(_) => count(counter::LEARNED),
            Attribution::Node => count(counter::FROM_NODE),
            Attribution::Outside => count(counter::FROM_OUTSIDE),
            Attribution::UnknownPod => count(counter::UNATTRIBUTED),
            Attribution::Contested => count(counter::CONTESTED),
        }
        match resolved {
            Some((pod, resolution)) if share.teaches => lesson.learn(pod, c, share, resolution),
            Some((pod, _)) => lesson.note_workload(pod, Time(c.last)),
            None => {}
        }
    }

    fn lookup(&mut self, l: &Lookup) {
        let Attribution::Pod(pod) = attribute(self.cluster, l.client, Time(l.time)) else { return };
        // Names that the DNS denies are steps of the search path, not what was meant.
        if l.rcode.is_some_and(|r| r != 0) {
            return;
        }
        let Some(host) = asked_host(self.cluster, pod, &l.question) else { return };
        let time = Time(l.time);
        let lesson = self.lessons.entry(l.interface.source).or_default();
        let count = match &self.earlier {
            Some(earlier) => {
                let now = share::asking(l, &pod.workload, &host);
                lesson.share(now, earlier).connections
            }
            None => 1,
        };
        lesson.asked(pod, host, Tally::new(count, time, time));
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
                lesson.learn(pod, &first, Share::all(edge.connections), resolution);
            } else {
                // The address changed hands between the first and the last of the connections: both
                // holders were called, and how often each of them was is not told.
                let half = edge.connections / 2;
                lesson.learn(pod, &first, Share::all(edge.connections - half), resolution);
                lesson.learn(pod, &last, Share::all(half), also);
                *lesson.counters.entry(counter::CHANGED_HANDS).or_default() += edge.connections;
            }
        }
        for asked in &told.asked {
            let pod = &told.pods[asked.pod as usize];
            if let Some(host) = asked_host(cluster, pod, &asked.question) {
                lesson.asked(pod, host, asked.tally);
            }
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
    ) -> Taught {
        let mut lesson = self.lessons.remove(&source).unwrap_or_default();
        let mut counted = std::mem::take(&mut lesson.counted);
        counted.sort_unstable();
        let before = lesson.before.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
        let (is_new, elsewhere) = (lesson.is_new, lesson.elsewhere);
        Taught { batch: lesson.batch(id, label, counters), counted, before, is_new, elsewhere }
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

/// The host that a name means, where it is one of the mesh.
fn asked_host(cluster: &Cluster, pod: &Pod, question: &str) -> Option<String> {
    match cluster.named(question, &pod.workload.namespace) {
        Named::Service { service, via } => Some(via.unwrap_or(&service.host).to_owned()),
        Named::Entry(_) => Some(question.to_owned()),
        Named::Unknown => None,
    }
}

impl Lesson {
    fn learn(&mut self, pod: &Pod, c: &Connection, share: Share, resolution: Resolution) {
        let counts = share.connections;
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
            let tally = Tally::new(share.of(facet(grade)), first, last);
            dependency.evidence.insert(grade, Evidence { tally, examples: vec![example] });
        }
        dependency.addressed = addressed.into_iter().map(|h| (h, tally)).collect();
        let missed = Tally::new(share.of(MISSED), first, last);
        dependency.scope_miss = scope_miss.then_some(missed);
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
        for (name, n) in other.before {
            *self.before.entry(name).or_default() += n;
        }
        self.counted.extend(other.counted);
        self.is_new |= other.is_new;
        self.elsewhere += other.elsewhere;
        self.spans.merge(&other.spans);
    }

    fn asked(&mut self, pod: &Pod, host: String, tally: Tally) {
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
            let before = self.before.get(name).copied().unwrap_or(0);
            *all.entry(name.to_owned()).or_default() += n - before;
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
