//! Merges attributed observations until they are sent.
//!
//! Owns the batch that grows, and the share of each pod in it. The batch grows with the number of
//! different calls, never with time. What a pod calls beyond its share is folded. Must never drop
//! an observation without counting it, nor drop one of a pod because of another pod.

mod batches;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use sidecarta_capture::observation::{Connection, InterfaceSpan, Lookup};

use super::budget::{Budget, PodBytes, call_bytes, lookup_bytes};
use super::{AskedName, Call, CallRef, Edge, WatchedInterface, seen};
use crate::attribute::owned_by;
use crate::cluster::Pod;
use crate::model::{Folded, Merge, Ownership, Span, Spans, Tally, Time, counter, sums};

/// Counts of connections of pods.
#[derive(Clone, Copy, Debug, Default)]
struct ConnectionCounts {
    learned: u64,
    midway: u64,
    guessed: u64,
}

/// An edge to which connections are added.
#[derive(Debug)]
struct GrowingEdge {
    edge: Edge,
    /// The edge takes connections that began within this time. The same pod or Service had the
    /// destination address all that time.
    steady: Span,
}

/// Merges observations into the next batch.
#[derive(Debug)]
pub struct Gatherer {
    node: String,
    source: String,
    sequence: u64,
    budget: Budget,
    pods: Vec<Pod>,
    pod_index: HashTable<u32>,
    /// Bytes that each pod takes.
    bytes: Vec<PodBytes>,
    /// Bytes that all pods take.
    total_bytes: usize,
    edges: Vec<GrowingEdge>,
    edge_index: HashTable<u32>,
    asked: Vec<AskedName>,
    asked_index: HashTable<u32>,
    watching: HashMap<u32, WatchedInterface>,
    counters: BTreeMap<String, u64>,
    connections: ConnectionCounts,
    /// Counters of the batches before.
    earlier_counters: BTreeMap<String, u64>,
    spans: Spans,
    /// Hashes of the edges that were sent.
    sent: HashSet<u64>,
    hasher: RandomState,
    fresh: bool,
    revision: u64,
}

impl Gatherer {
    /// For an agent on a node. `boot` distinguishes this run of the agent from all others.
    pub fn new(node: &str, boot: &str) -> Self {
        Self {
            node: node.to_owned(),
            source: format!("agent:{node}:{boot}"),
            sequence: 0,
            budget: Budget::default(),
            pods: Vec::new(),
            pod_index: HashTable::new(),
            bytes: Vec::new(),
            total_bytes: 0,
            edges: Vec::new(),
            edge_index: HashTable::new(),
            asked: Vec::new(),
            asked_index: HashTable::new(),
            watching: HashMap::new(),
            counters: BTreeMap::new(),
            connections: ConnectionCounts::default(),
            earlier_counters: BTreeMap::new(),
            spans: Spans::default(),
            sent: HashSet::new(),
            hasher: RandomState::default(),
            fresh: false,
            revision: 0,
        }
    }

    /// Replaces the limits.
    #[must_use]
    pub fn within(self, budget: Budget) -> Self {
        Self { budget, ..self }
    }

    /// Adds a connection of a pod, and counts it. `steady` gives the time around its first packet
    /// in which the holder of its destination address does not change. It is called only where the
    /// call was not gathered before. Returns the index of its edge in
    /// [`Observed::edges`](super::Observed::edges), in the order of gathering; `None` where the
    /// connection was folded.
    pub fn connection(
        &mut self,
        pod: &Pod,
        c: &Connection,
        steady: impl FnOnce() -> Span,
    ) -> Option<usize> {
        let pod_index = self.pod(pod);
        let begun = seen::begun(c);
        let n = u64::from(c.is_new);
        self.connections.learned += n;
        self.connections.midway += n * u64::from(begun.is_midway);
        self.connections.guessed += n * u64::from(begun.is_guessed);
        let call = seen::call(c);
        let hash = self.hasher.hash_one((pod_index, &call));
        let is_same = |gathered: &GrowingEdge| {
            gathered.edge.pod == pod_index
                && gathered.edge.call.is(&call)
                && gathered.steady.contains(Time(c.first))
        };
        if let Some(i) = self.edge_index.find(hash, |i| is_same(&self.edges[*i as usize])) {
            let i = *i as usize;
            self.edges[i].edge.add(&begun);
            return Some(i);
        }
        let edge = Edge::of(pod_index, call.to_call(), &begun);
        self.fresh |= !self.sent.contains(&self.sent_hash(pod, &edge.call));
        self.new_edge(edge, hash, steady())
    }

    fn sent_hash(&self, pod: &Pod, call: &Call) -> u64 {
        self.hasher.hash_one((&pod.workload, &pod.name, pod.start, call))
    }

    /// Adds an edge that equals none of the others. Returns its index; `None` where it exceeds the
    /// share of its pod, and was folded.
    fn new_edge(&mut self, edge: Edge, hash: u64, steady: Span) -> Option<usize> {
        let (pod_index, bytes) = (edge.pod, call_bytes(&edge.call));
        let has = self.bytes[pod_index as usize];
        if !self.has_room(has, has.calls, self.budget.share, bytes) {
            let mut folded = Folded::default();
            folded.add(edge.call.host(), edge.connections);
            self.fold(pod_index, &folded);
            self.count(counter::FOLDED, edge.connections);
            return None;
        }
        self.bytes[pod_index as usize].calls += bytes;
        self.total_bytes += bytes;
        let i = self.edges.len();
        self.edges.push(GrowingEdge { edge, steady });
        let (edges, hasher) = (&self.edges, &self.hasher);
        self.edge_index.insert_unique(hash, i as u32, |i| {
            let edge = &edges[*i as usize].edge;
            hasher.hash_one((edge.pod, &edge.call.borrowed()))
        });
        Some(i)
    }

    /// Merges an edge that was gathered before.
    fn merge(&mut self, edge: Edge) {
        let call: CallRef<'_> = edge.call.borrowed();
        let hash = self.hasher.hash_one((edge.pod, &call));
        let is_same = |gathered: &GrowingEdge| {
            gathered.edge.pod == edge.pod && gathered.edge.call == edge.call
        };
        match self.edge_index.find(hash, |i| is_same(&self.edges[*i as usize])) {
            Some(i) => self.edges[*i as usize].edge.merge(&edge),
            None => {
                self.new_edge(edge, hash, Span::ALWAYS);
            }
        }
    }

    /// Whether a pod that has so many bytes, and so many `of_kind`, may take `more` of that kind.
    fn has_room(&self, has: PodBytes, of_kind: usize, share: usize, more: usize) -> bool {
        let Budget { least, total, .. } = self.budget;
        has.all() + more <= least || of_kind + more <= share && self.total_bytes + more <= total
    }

    /// Marks the list of a pod's calls as incomplete.
    fn fold(&mut self, pod_index: u32, folded: &Folded) {
        if folded.is_empty() {
            return;
        }
        self.fresh |= !self.watching.contains_key(&pod_index);
        let watching =
            self.watching.entry(pod_index).or_insert_with(|| WatchedInterface::of(pod_index));
        watching.folded.merge(folded);
    }

    /// Folds connections of a pod that were too many to be read one by one.
    pub fn overflow(&mut self, pod: &Pod, connections: u64) {
        let pod_index = self.pod(pod);
        self.fold(pod_index, &Folded { others: connections, ..Folded::default() });
        self.count(counter::FOLDED, connections);
    }

    /// Adds a lookup of a pod. Returns its index in [`Observed::asked`](super::Observed::asked), in
    /// the order of gathering; `None` where the DNS denied the name, or the lookup was folded.
    pub fn lookup(&mut self, pod: &Pod, l: &Lookup) -> Option<usize> {
        // A denied name is a step of the search path, and not the name that the application meant.
        if l.rcode.is_some_and(|r| r != 0) {
            self.count(counter::LOOKUPS_DENIED, 1);
            return None;
        }
        let pod_index = self.pod(pod);
        let tally = Tally::new(1, Time(l.time), Time(l.time));
        self.ask(pod_index, &l.question, !l.addresses.is_empty(), tally)
    }

    fn ask(
        &mut self,
        pod_index: u32,
        question: &str,
        answered: bool,
        tally: Tally,
    ) -> Option<usize> {
        let hash = self.hasher.hash_one((pod_index, question));
        let is_same =
            |gathered: &AskedName| gathered.pod == pod_index && gathered.question == question;
        if let Some(i) = self.asked_index.find(hash, |i| is_same(&self.asked[*i as usize])) {
            let i = *i as usize;
            let same = &mut self.asked[i];
            same.tally.merge(&tally);
            same.answered |= answered;
            return Some(i);
        }
        let (has, bytes) = (self.bytes[pod_index as usize], lookup_bytes(question));
        if !self.has_room(has, has.lookups, self.budget.share / 4, bytes) {
            self.fold(pod_index, &Folded { names: tally.connections, ..Folded::default() });
            self.count(counter::NAMES_FOLDED, tally.connections);
            return None;
        }
        self.bytes[pod_index as usize].lookups += bytes;
        self.total_bytes += bytes;
        let i = self.asked.len();
        let question = question.to_owned();
        self.asked.push(AskedName { pod: pod_index, question, answered, tally });
        let (asked, hasher) = (&self.asked, &self.hasher);
        self.asked_index.insert_unique(hash, i as u32, |i| {
            let asked = &asked[*i as usize];
            hasher.hash_one((asked.pod, &*asked.question))
        });
        Some(i)
    }

    /// Adds the totals of a pod's interface.
    pub fn watch(&mut self, pod: &Pod, s: &InterfaceSpan) {
        let pod_index = self.pod(pod);
        // What was lost may have been a call: the time counts as not watched.
        let spans = match s.lost {
            0 => Span { from: Time(s.first), to: Time(s.last) }.alone(),
            _ => Spans::default(),
        };
        self.spans.merge(&spans);
        let ownership = Ownership {
            owner: s.owner.as_ref().map(|o| owned_by(o.by)),
            forged: s.forged,
            claimed: s.claimed.iter().copied().collect(),
        };
        self.fresh |= s.forged > 0 || s.lost > 0;
        let more = WatchedInterface {
            spans,
            packets: s.packets,
            lost: s.lost,
            ownership,
            ..WatchedInterface::of(pod_index)
        };
        self.watching
            .entry(pod_index)
            .or_insert_with(|| WatchedInterface::of(pod_index))
            .merge(&more);
    }

    /// Adds the time in which an interface was watched that belongs to no pod.
    pub fn covered(&mut self, span: Span) {
        self.spans.merge(&span.alone());
    }

    /// Adds to a counter.
    pub fn count(&mut self, name: &str, n: u64) {
        sums::add(&mut self.counters, name, n);
    }

    /// Counters since the last batch.
    fn counters(&self) -> BTreeMap<String, u64> {
        let mut all = self.counters.clone();
        let ConnectionCounts { learned, midway, guessed } = self.connections;
        sums::add(&mut all, counter::LEARNED, learned);
        sums::add(&mut all, counter::MIDWAY, midway);
        sums::add(&mut all, counter::GUESSED, guessed);
        all
    }

    /// All counters since the gatherer was made.
    pub fn totals(&self) -> BTreeMap<String, u64> {
        let mut all = self.earlier_counters.clone();
        self.counters().iter().for_each(|(name, n)| sums::add(&mut all, name, *n));
        all
    }

    /// Whether something was added that was not sent before.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// A number that changes whenever something is added.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Edges that wait to be sent.
    pub fn waiting(&self) -> usize {
        self.edges.len()
    }

    /// Index of a pod, which is added where it is new.
    fn pod(&mut self, pod: &Pod) -> u32 {
        self.revision += 1;
        fn key(p: &Pod) -> (&str, &str, Time) {
            (&p.workload.namespace, &p.name, p.start)
        }
        let (pods, hasher) = (&self.pods, &self.hasher);
        let entry = self.pod_index.entry(
            hasher.hash_one(key(pod)),
            |i| key(&pods[*i as usize]) == key(pod),
            |i| hasher.hash_one(key(&pods[*i as usize])),
        );
        match entry {
            Entry::Occupied(e) => *e.get(),
            Entry::Vacant(e) => {
                let pod_index = self.pods.len() as u32;
                e.insert(pod_index);
                self.pods.push(pod.clone());
                self.bytes.push(PodBytes::default());
                pod_index
            }
        }
    }
}
