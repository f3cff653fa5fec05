//! Batches of what was gathered: taking them out, and adding one again.
//!
//! Owns where a batch is cut when it is too large, and the order of its lines. Must never leave
//! anything out of a batch without putting it into the next one.

use std::collections::BTreeMap;

use super::{ConnectionCounts, Gatherer};
use crate::model::{BatchId, Merge, Spans, Time, sums};
use crate::observed::budget::PodBytes;
use crate::observed::{AskedName, Edge, Observed, WatchedInterface};

/// Edges that are remembered as sent. A forgotten edge is sent once more, earlier than it need be.
const MAX_SENT: usize = 262_144;

impl Gatherer {
    /// Takes out the next batch: what was added since the last one, of as many pods as a batch has
    /// room for. What was added of the other pods stays for the batch after it. `None` where
    /// nothing was added.
    pub fn take(&mut self, made: Time) -> Option<Observed> {
        let id = BatchId { source: self.source.clone(), sequence: self.sequence };
        let mut batch = Observed { id, made, ..self.pending()? };
        let rest = self.divide(&mut batch);
        self.sequence += 1;
        self.fresh = false;
        self.drain();
        if self.sent.len() + batch.edges.len() > MAX_SENT {
            self.sent.clear();
        }
        for e in &batch.edges {
            let hash = self.sent_hash(&batch.pods[e.pod as usize], &e.call);
            self.sent.insert(hash);
        }
        if let Some(rest) = rest {
            self.absorb(&rest);
        }
        Some(batch)
    }

    /// Takes out all that was added since the last batch, in the order of gathering, as a batch
    /// without an identity. For a program that learns from it without sending it.
    pub fn drain(&mut self) -> Observed {
        let mut watching: Vec<WatchedInterface> =
            std::mem::take(&mut self.watching).into_values().collect();
        watching.sort_unstable_by_key(|w| w.pod);
        self.pod_index.clear();
        self.edge_index.clear();
        self.asked_index.clear();
        self.bytes.clear();
        self.total_bytes = 0;
        let counters = self.counters();
        counters.iter().for_each(|(name, n)| sums::add(&mut self.earlier_counters, name, *n));
        self.connections = ConnectionCounts::default();
        self.counters.clear();
        Observed {
            id: BatchId { source: String::new(), sequence: 0 },
            node: self.node.clone(),
            made: Time(0),
            spans: std::mem::take(&mut self.spans),
            counters,
            pods: std::mem::take(&mut self.pods),
            edges: std::mem::take(&mut self.edges)
                .into_iter()
                .map(|growing| growing.edge)
                .collect(),
            asked: std::mem::take(&mut self.asked),
            watching,
        }
    }

    /// Cuts off a batch what it has no room for: the last pods, with all their lines.
    fn divide(&self, batch: &mut Observed) -> Option<Observed> {
        let mut bytes = 0;
        let fits = |pod: &&PodBytes| {
            bytes += pod.all();
            bytes <= self.budget.batch
        };
        // A pod is never divided, so that one pod always fits.
        let first_cut = self.bytes.iter().take_while(fits).count().max(1) as u32;
        if first_cut as usize >= self.bytes.len() {
            return None;
        }
        let mut rest = Observed {
            id: BatchId { source: String::new(), sequence: 0 },
            node: batch.node.clone(),
            made: Time(0),
            // Spans and counters of all pods are sent with the first batch.
            spans: Spans::default(),
            counters: BTreeMap::new(),
            pods: batch.pods.split_off(first_cut as usize),
            edges: batch.edges.extract_if(.., |e| e.pod >= first_cut).collect(),
            asked: batch.asked.extract_if(.., |a| a.pod >= first_cut).collect(),
            watching: batch.watching.extract_if(.., |w| w.pod >= first_cut).collect(),
        };
        rest.edges.iter_mut().for_each(|e| e.pod -= first_cut);
        rest.asked.iter_mut().for_each(|a| a.pod -= first_cut);
        rest.watching.iter_mut().for_each(|w| w.pod -= first_cut);
        Some(rest)
    }

    /// What the next batch will contain at least, as a batch without an identity.
    pub fn pending(&self) -> Option<Observed> {
        // Sorted by reference: a sort key of each edge would be as large as the edge.
        let mut edges: Vec<Edge> = self.edges.iter().map(|growing| growing.edge.clone()).collect();
        edges.sort_unstable_by(|a, b| {
            (a.pod, &a.call, &a.openings).cmp(&(b.pod, &b.call, &b.openings))
        });
        let mut asked = self.asked.clone();
        asked.sort_unstable_by(|a, b| (a.pod, &a.question).cmp(&(b.pod, &b.question)));
        let mut watching: Vec<WatchedInterface> = self.watching.values().cloned().collect();
        watching.sort_unstable_by_key(|w| w.pod);
        let batch = Observed {
            id: BatchId { source: String::new(), sequence: 0 },
            node: self.node.clone(),
            made: Time(0),
            spans: self.spans.clone(),
            counters: self.counters(),
            pods: self.pods.clone(),
            edges,
            asked,
            watching,
        };
        (!batch.is_empty() || !batch.counters.is_empty()).then_some(batch)
    }

    /// Adds what an earlier run had gathered.
    pub fn absorb(&mut self, batch: &Observed) {
        let pods: Vec<u32> = batch.pods.iter().map(|p| self.pod(p)).collect();
        for edge in &batch.edges {
            self.merge(Edge { pod: pods[edge.pod as usize], ..edge.clone() });
        }
        for asked in &batch.asked {
            let AskedName { pod, question, answered, tally } = asked;
            self.ask(pods[*pod as usize], question, *answered, *tally);
        }
        for w in &batch.watching {
            let pod = pods[w.pod as usize];
            self.watching.entry(pod).or_insert_with(|| WatchedInterface::of(pod)).merge(w);
        }
        self.spans.merge(&batch.spans);
        batch.counters.iter().for_each(|(name, n)| self.count(name, *n));
        self.fresh = true;
    }
}
