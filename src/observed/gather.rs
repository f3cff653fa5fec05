//! Merges attributed observations until they are told.
//!
//! Owns the batch that is growing: it grows with what is different, never with time. Must never
//! drop an observation without counting it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;
use sidecarta_capture::observation::{Connection, InterfaceSpan, Lookup};

use super::{Asked, Call, Edge, Observed, Watching};
use crate::cluster::Pod;
use crate::model::{BatchId, Merge, Span, Spans, Tally, Time};

/// Edges of one batch. A scanner reaches as many addresses as it likes.
const MAX_EDGES: usize = 100_000;
/// Names asked for in one batch.
const MAX_ASKED: usize = 100_000;
/// Edges remembered as told. Forgetting them costs telling them once more before their time.
const MAX_TOLD: usize = 262_144;

/// Names of the counters that a batch carries besides those of the capture layer and of
/// attribution.
pub mod counter {
    /// Edges dropped because a batch that could not be delivered was full.
    pub const EDGES: &str = "edges-dropped";
    /// Edges of batches that were refused for good.
    pub const REFUSED: &str = "edges-refused";
    /// Names asked for, dropped for the same reason.
    pub const ASKED: &str = "names-dropped";
}

type PodKey = (String, Arc<str>, Time);

/// Merges observations into the next batch.
#[derive(Debug)]
pub struct Gatherer {
    node: String,
    source: String,
    sequence: u64,
    pods: Vec<Pod>,
    known: HashMap<PodKey, u32>,
    edges: HashMap<(u32, Call), Edge>,
    asked: HashMap<(u32, String), Tally>,
    watching: HashMap<u32, Watching>,
    counters: BTreeMap<String, u64>,
    totals: BTreeMap<String, u64>,
    spans: Spans,
    told: HashSet<u64>,
    hasher: RandomState,
    fresh: bool,
    revision: u64,
}

impl Gatherer {
    /// For an agent on a node. `boot` tells this run of it from all others.
    pub fn new(node: &str, boot: &str) -> Self {
        Self {
            node: node.to_owned(),
            source: format!("agent:{node}:{boot}"),
            sequence: 0,
            pods: Vec::new(),
            known: HashMap::new(),
            edges: HashMap::new(),
            asked: HashMap::new(),
            watching: HashMap::new(),
            counters: BTreeMap::new(),
            totals: BTreeMap::new(),
            spans: Spans::default(),
            told: HashSet::new(),
            hasher: RandomState::default(),
            fresh: false,
            revision: 0,
        }
    }

    /// Takes a connection of a pod in.
    pub fn connection(&mut self, pod: &Pod, c: &Connection) {
        let at = self.pod(pod);
        let mut names = c.names.clone();
        names.dns.iter_mut().for_each(|n| n.answered = 0);
        names.dns.sort();
        let call = Call {
            responder: c.responder,
            transport: c.transport,
            orientation: c.orientation,
            from_start: c.from_start,
            answered: c.answered,
            refused: c.refused,
            content: c.content,
            names,
        };
        let known =
            self.told.contains(&self.hasher.hash_one((&pod.workload, &pod.name, pod.start, &call)));
        if self.edges.len() >= MAX_EDGES && !self.edges.contains_key(&(at, call.clone())) {
            return self.count(counter::EDGES, 1);
        }
        let edge = Edge {
            pod: at,
            call: call.clone(),
            initiator: c.initiator,
            connections: u64::from(c.is_new),
            first: Time(c.first),
            last_began: Time(c.first),
            last: Time(c.last),
            packets: c.packets,
        };
        self.fresh |= !known;
        self.edges.entry((at, call)).and_modify(|e| e.merge(&edge)).or_insert(edge);
    }

    /// Takes a name in that a pod asked for.
    pub fn lookup(&mut self, pod: &Pod, l: &Lookup) {
        // Names that the DNS denies are steps of the search path, not what was meant.
        if l.rcode.is_some_and(|r| r != 0) {
            return;
        }
        let at = self.pod(pod);
        let tally = Tally::new(1, Time(l.time), Time(l.time));
        let key = (at, l.question.clone());
        if self.asked.len() >= MAX_ASKED && !self.asked.contains_key(&key) {
            return self.count(counter::ASKED, 1);
        }
        self.asked.entry(key).and_modify(|t| t.merge(&tally)).or_insert(tally);
    }

    /// Takes in that a pod's interface was watched.
    pub fn watch(&mut self, pod: &Pod, s: &InterfaceSpan) {
        let at = self.pod(pod);
        let spans = Span { from: Time(s.first), to: Time(s.last) }.alone();
        self.spans.merge(&spans);
        let entry = self.watching.entry(at).or_insert_with(|| Watching {
            pod: at,
            spans: Spans::default(),
            packets: 0,
        });
        entry.spans.merge(&spans);
        entry.packets = entry.packets.saturating_add(s.packets);
    }

    /// Adds to a counter.
    pub fn count(&mut self, name: &str, n: u64) {
        if n > 0 {
            for counters in [&mut self.counters, &mut self.totals] {
                let sum = counters.entry(name.to_owned()).or_default();
                *sum = sum.saturating_add(n);
            }
        }
    }

    /// All counters, since it was made.
    pub fn totals(&self) -> &BTreeMap<String, u64> {
        &self.totals
    }

    /// Whether something was taken in that has not been told before.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Another number whenever something was taken in.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Edges that wait to be told.
    pub fn waiting(&self) -> usize {
        self.edges.len()
    }

    /// The batch of all that was taken in since the last one; `None` where that is nothing.
    pub fn take(&mut self, made: Time) -> Option<Observed> {
        let id = BatchId { source: self.source.clone(), sequence: self.sequence };
        let batch = Observed { id, made, ..self.pending()? };
        self.sequence += 1;
        self.fresh = false;
        self.pods.clear();
        self.known.clear();
        self.edges.clear();
        self.asked.clear();
        self.watching.clear();
        self.counters.clear();
        self.spans = Spans::default();
        if self.told.len() + batch.edges.len() > MAX_TOLD {
            self.told.clear();
        }
        for e in &batch.edges {
            let pod = &batch.pods[e.pod as usize];
            self.told.insert(self.hasher.hash_one((&pod.workload, &pod.name, pod.start, &e.call)));
        }
        Some(batch)
    }

    /// What the next batch will hold at least, as a batch without an identity.
    pub fn pending(&self) -> Option<Observed> {
        let asked = self.asked.iter().map(|((pod, question), tally)| Asked {
            pod: *pod,
            question: question.clone(),
            tally: *tally,
        });
        let batch = Observed {
            id: BatchId { source: String::new(), sequence: 0 },
            node: self.node.clone(),
            made: Time(0),
            spans: self.spans.clone(),
            counters: self.counters.clone(),
            pods: self.pods.clone(),
            edges: sorted(self.edges.values().cloned(), |e| (e.pod, e.call.clone())),
            asked: sorted(asked, |a| (a.pod, a.question.clone())),
            watching: sorted(self.watching.values().cloned(), |w| w.pod),
        };
        (!batch.is_empty() || !batch.counters.is_empty()).then_some(batch)
    }

    /// Takes in what an earlier run had gathered.
    pub fn absorb(&mut self, batch: &Observed) {
        let at: Vec<u32> = batch.pods.iter().map(|p| self.pod(p)).collect();
        for edge in &batch.edges {
            let edge = Edge { pod: at[edge.pod as usize], ..edge.clone() };
            self.edges
                .entry((edge.pod, edge.call.clone()))
                .and_modify(|e| e.merge(&edge))
                .or_insert(edge);
        }
        for asked in &batch.asked {
            let key = (at[asked.pod as usize], asked.question.clone());
            self.asked.entry(key).and_modify(|t| t.merge(&asked.tally)).or_insert(asked.tally);
        }
        for w in &batch.watching {
            let pod = at[w.pod as usize];
            let entry = self.watching.entry(pod).or_insert_with(|| Watching {
                pod,
                spans: Spans::default(),
                packets: 0,
            });
            entry.spans.merge(&w.spans);
            entry.packets = entry.packets.saturating_add(w.packets);
        }
        self.spans.merge(&batch.spans);
        batch.counters.iter().for_each(|(name, n)| self.count(name, *n));
        self.fresh = true;
    }

    fn pod(&mut self, pod: &Pod) -> u32 {
        self.revision += 1;
        let key = (pod.workload.namespace.clone(), pod.name.clone(), pod.start);
        *self.known.entry(key).or_insert_with(|| {
            self.pods.push(pod.clone());
            (self.pods.len() - 1) as u32
        })
    }
}

/// By key, so that no order of hashes shows.
fn sorted<T, K: Ord>(all: impl Iterator<Item = T>, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut all: Vec<T> = all.collect();
    all.sort_by_cached_key(key);
    all
}
