//! Merges attributed observations until they are told.
//!
//! Owns the batch that is growing, and each pod's share of it: it grows with what is different,
//! never with time, and what a pod calls beyond its share is folded. Must never drop an observation
//! without counting it, nor one of a pod for what another one does.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;
use sidecarta_capture::observation::{Connection, InterfaceSpan, Lookup, Names};

use super::{Asked, Call, Edge, Observed, Watching};
use crate::attribute::owned_by;
use crate::cluster::Pod;
use crate::model::{BatchId, Folded, Merge, Ownership, Span, Spans, Tally, Time};

/// Edges remembered as told. Forgetting them costs telling them once more before their time.
const MAX_TOLD: usize = 262_144;

/// Bytes of memory that what is gathered may take, as [`cost`] counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Of the calls of one pod, while there is room for all; a quarter of it for its names.
    pub share: usize,
    /// Of one pod in any case, whatever others take.
    pub least: usize,
    /// Of all pods, but for what each has in any case.
    pub total: usize,
    /// Of one batch. One that is larger is cut into several, between pods: so that it stays far
    /// below what a recorder takes (128 MiB of text, 16 MiB of it compressed), also where each
    /// byte of a name takes six in JSON.
    pub batch: usize,
}

impl Default for Budget {
    fn default() -> Self {
        const KIB: usize = 1_024;
        Self { share: 2_048 * KIB, least: 64 * KIB, total: 12_288 * KIB, batch: 4_096 * KIB }
    }
}

/// Names of the counters that a batch carries besides those of the capture layer and of
/// attribution.
pub mod counter {
    /// Connections folded, as their pod went beyond its share of a batch.
    pub const FOLDED: &str = "connections-folded";
    /// Edges of batches that were refused for good.
    pub const REFUSED: &str = "edges-refused";
    /// Names asked for, folded for the same reason.
    pub const ASKED: &str = "names-folded";
}

type PodKey = (String, Arc<str>, Time);

/// Bytes that a pod takes.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    calls: usize,
    names: usize,
}

/// Bytes of memory that an edge takes, about: its call stands in it and in its key.
fn cost(names: &Names) -> usize {
    const PLAIN: usize = 640;
    let text = |s: &Option<String>| s.as_ref().map_or(0, String::len);
    let alpn = names.alpn.iter().map(|a| 24 + a.len()).sum::<usize>();
    let dns = names.dns.iter().map(|d| 56 + d.question.len() + text(&d.canonical)).sum::<usize>();
    PLAIN + 2 * (text(&names.sni) + text(&names.authority) + alpn + dns)
}

/// The host that a connection named, for folding.
fn host(names: &Names) -> Option<&str> {
    let dns = names.dns.first().map(|n| n.question.as_str());
    names.sni.as_deref().or(names.authority.as_deref()).or(dns)
}

/// Merges observations into the next batch.
#[derive(Debug)]
pub struct Gatherer {
    node: String,
    source: String,
    sequence: u64,
    budget: Budget,
    pods: Vec<Pod>,
    known: HashMap<PodKey, u32>,
    /// What each pod takes, of [`Budget::share`], by calls and names.
    taken: Vec<Taken>,
    total: usize,
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
            budget: Budget::default(),
            pods: Vec::new(),
            known: HashMap::new(),
            taken: Vec::new(),
            total: 0,
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

    /// With other limits.
    #[must_use]
    pub fn within(self, budget: Budget) -> Self {
        Self { budget, ..self }
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
        if self.edge(edge) {
            self.fresh |= !known;
        }
    }

    /// Takes an edge in; false where it goes beyond its pod's share, and was folded.
    fn edge(&mut self, edge: Edge) -> bool {
        let (at, bytes) = (edge.pod, cost(&edge.call.names));
        let key = (at, edge.call.clone());
        if let Some(known) = self.edges.get_mut(&key) {
            known.merge(&edge);
            return true;
        }
        let taken = self.taken[at as usize];
        if !self.has_room(taken.calls + taken.names, taken.calls, self.budget.share, bytes) {
            let mut folded = Folded::default();
            folded.add(host(&edge.call.names), edge.connections);
            self.fold(at, &folded);
            self.count(counter::FOLDED, edge.connections);
            return false;
        }
        self.taken[at as usize].calls += bytes;
        self.total += bytes;
        self.edges.insert(key, edge);
        true
    }

    /// Whether a pod may take more bytes: with what it has of this kind, and in all.
    fn has_room(&self, all: usize, of_kind: usize, share: usize, more: usize) -> bool {
        let Budget { least, total, .. } = self.budget;
        all + more <= least || of_kind + more <= share && self.total + more <= total
    }

    /// Notes that what is known of a pod's calls is incomplete.
    fn fold(&mut self, at: u32, folded: &Folded) {
        if !folded.is_empty() {
            self.fresh |= !self.watching.contains_key(&at);
            self.watching.entry(at).or_insert_with(|| Watching::of(at)).folded.merge(folded);
        }
    }

    /// Connections of a pod that were too many to be looked at one by one.
    pub fn overflow(&mut self, pod: &Pod, connections: u64) {
        let at = self.pod(pod);
        self.fold(at, &Folded { others: connections, ..Folded::default() });
        self.count(counter::FOLDED, connections);
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
        self.ask(key, tally);
    }

    fn ask(&mut self, key: (u32, String), tally: Tally) {
        if let Some(known) = self.asked.get_mut(&key) {
            return known.merge(&tally);
        }
        let at = key.0 as usize;
        let (taken, bytes) = (self.taken[at], 160 + 2 * key.1.len());
        let share = self.budget.share / 4;
        if !self.has_room(taken.calls + taken.names, taken.names, share, bytes) {
            self.fold(key.0, &Folded { names: tally.connections, ..Folded::default() });
            return self.count(counter::ASKED, tally.connections);
        }
        self.taken[at].names += bytes;
        self.total += bytes;
        self.asked.insert(key, tally);
    }

    /// Takes in that a pod's interface was watched.
    pub fn watch(&mut self, pod: &Pod, s: &InterfaceSpan) {
        let at = self.pod(pod);
        let spans = Span { from: Time(s.first), to: Time(s.last) }.alone();
        self.spans.merge(&spans);
        let ownership = Ownership {
            owner: s.owner.as_ref().map(|o| owned_by(o.by)),
            forged: s.forged,
            claimed: s.claimed.iter().copied().collect(),
        };
        self.fresh |= s.forged > 0;
        let told = Watching { spans, packets: s.packets, ownership, ..Watching::of(at) };
        self.watching.entry(at).or_insert_with(|| Watching::of(at)).merge(&told);
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

    /// The batch of what was taken in since the last one: of as many pods as a batch has room for,
    /// the others' is in the next one. `None` where there is nothing.
    pub fn take(&mut self, made: Time) -> Option<Observed> {
        let id = BatchId { source: self.source.clone(), sequence: self.sequence };
        let mut batch = Observed { id, made, ..self.pending()? };
        let rest = self.divide(&mut batch);
        self.sequence += 1;
        self.fresh = false;
        self.pods.clear();
        self.known.clear();
        self.taken.clear();
        self.total = 0;
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
        if let Some(rest) = rest {
            self.absorb(&rest);
        }
        Some(batch)
    }

    /// Takes out of a batch what it has no room for: the pods after so many bytes.
    fn divide(&self, batch: &mut Observed) -> Option<Observed> {
        let mut bytes = 0;
        let fits = |taken: &&Taken| {
            bytes += taken.calls + taken.names;
            bytes <= self.budget.batch
        };
        let keep = self.taken.iter().take_while(fits).count().max(1) as u32;
        if keep as usize >= self.taken.len() {
            return None;
        }
        let mut rest = Observed {
            id: BatchId { source: String::new(), sequence: 0 },
            node: batch.node.clone(),
            made: Time(0),
            // Those of the whole, and the counters, are told with the first part.
            spans: Spans::default(),
            counters: BTreeMap::new(),
            pods: batch.pods.split_off(keep as usize),
            edges: batch.edges.extract_if(.., |e| e.pod >= keep).collect(),
            asked: batch.asked.extract_if(.., |a| a.pod >= keep).collect(),
            watching: batch.watching.extract_if(.., |w| w.pod >= keep).collect(),
        };
        rest.edges.iter_mut().for_each(|e| e.pod -= keep);
        rest.asked.iter_mut().for_each(|a| a.pod -= keep);
        rest.watching.iter_mut().for_each(|w| w.pod -= keep);
        Some(rest)
    }

    /// What the next batch will hold at least, as a batch without an identity.
    pub fn pending(&self) -> Option<Observed> {
        let asked = self.asked.iter().map(|((pod, question), tally)| Asked {
            pod: *pod,
            question: question.clone(),
            tally: *tally,
        });
        // Sorted in place: a key of each would be as large again.
        let mut edges: Vec<Edge> = self.edges.values().cloned().collect();
        edges.sort_unstable_by(|a, b| (a.pod, &a.call).cmp(&(b.pod, &b.call)));
        let batch = Observed {
            id: BatchId { source: String::new(), sequence: 0 },
            node: self.node.clone(),
            made: Time(0),
            spans: self.spans.clone(),
            counters: self.counters.clone(),
            pods: self.pods.clone(),
            edges,
            asked: sorted(asked, |a| (a.pod, a.question.clone())),
            watching: sorted(self.watching.values().cloned(), |w| w.pod),
        };
        (!batch.is_empty() || !batch.counters.is_empty()).then_some(batch)
    }

    /// Takes in what an earlier run had gathered.
    pub fn absorb(&mut self, batch: &Observed) {
        let at: Vec<u32> = batch.pods.iter().map(|p| self.pod(p)).collect();
        for edge in &batch.edges {
            self.edge(Edge { pod: at[edge.pod as usize], ..edge.clone() });
        }
        for asked in &batch.asked {
            self.ask((at[asked.pod as usize], asked.question.clone()), asked.tally);
        }
        for w in &batch.watching {
            let pod = at[w.pod as usize];
            self.watching.entry(pod).or_insert_with(|| Watching::of(pod)).merge(w);
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
            self.taken.push(Taken::default());
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
