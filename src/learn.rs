//! From the edges and lookups of a batch to records: resolve, then merge.
//!
//! Owns aggregation. Pure: what was gathered in, batches of records out. Must never drop what was
//! gathered without counting why.

mod captures;
mod records;
mod share;
mod source_batch;

use crate::cluster::{Cluster, Pod};
use crate::model::{Batch, BatchId, counter};
use crate::observed::{Edge, Observed};
pub use captures::{CaptureLearner, LearnedCapture};
use records::RecordIndex;
use source_batch::{ResolvedEdge, SourceBatch, SourceKind, asked_host, resolve_edge};

pub use share::Earlier;

/// The records that an observed batch becomes. They depend on nothing but the batch and the
/// cluster.
pub fn batch(cluster: &Cluster, observed: &Observed) -> Batch {
    let mut learned = SourceBatch::of(SourceKind::Agent);
    learned.learn(cluster, observed, &mut NoObserver);
    learned.into_batch(
        observed.id.clone(),
        &observed.node,
        observed.spans.clone(),
        observed.counters.clone(),
    )
}

/// Is called with what each line of a batch was resolved to. Lines are named by their index in the
/// batch.
trait ResolutionObserver {
    /// An edge was resolved.
    fn edge(&mut self, _: usize, _: &Pod, _: &Edge, _: &[ResolvedEdge<'_>]) {}

    /// A lookup was resolved to a host.
    fn asked(&mut self, _: usize, _: &Pod, _: &str) {}
}

/// Does nothing.
struct NoObserver;

impl ResolutionObserver for NoObserver {}

impl SourceBatch {
    /// Adds all lines of a batch.
    fn learn(
        &mut self,
        cluster: &Cluster,
        observed: &Observed,
        observer: &mut impl ResolutionObserver,
    ) {
        for (i, edge) in observed.edges.iter().enumerate() {
            let pod = &observed.pods[edge.pod as usize];
            let resolved = resolve_edge(cluster, pod, edge);
            observer.edge(i, pod, edge, &resolved);
            self.add_edge(pod, resolved);
        }
        for (i, asked) in observed.asked.iter().enumerate() {
            let pod = &observed.pods[asked.pod as usize];
            match asked_host(cluster, pod, &asked.question, asked.answered) {
                Some(host) => {
                    observer.asked(i, pod, &host);
                    self.add_lookup(pod, host, asked.tally);
                }
                None => self.count(counter::LOOKUPS_OUTSIDE, asked.tally.connections),
            }
        }
        for watching in &observed.watching {
            self.add_watch(&observed.pods[watching.pod as usize], watching.clone());
        }
    }
}

/// Several batches of records, merged into one.
#[derive(Debug, Default)]
pub struct Union {
    id: Option<BatchId>,
    records: RecordIndex,
}

impl Union {
    /// Merges one more batch.
    pub fn add(&mut self, batch: Batch) {
        self.id.get_or_insert(batch.id);
        batch.records.into_iter().for_each(|r| self.records.merge(r));
    }

    /// Merges all records of another union.
    pub fn absorb(&mut self, other: Self) {
        self.id = self.id.take().or(other.id);
        self.records.absorb(other.records);
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The merged batch, with the identity of the first one; `None` if none was added.
    pub fn batch(self) -> Option<Batch> {
        Some(Batch { id: self.id?, records: self.records.into_sorted() })
    }
}

#[cfg(test)]
mod tests;
