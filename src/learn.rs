//! Edges become dependencies: resolve, merge.
//!
//! Owns aggregation. Pure: what is gathered in, batches of records out. Must never drop what was
//! gathered without counting why.

mod captures;
mod lesson;
mod records;
mod share;

use crate::cluster::{Cluster, Pod};
use crate::model::{Batch, BatchId, counter};
use crate::observed::{Edge, Observed};
pub use captures::{Captures, Taught};
use lesson::{Lesson, Part, asked_host, parts};
use records::Records;
pub use share::Earlier;

/// What a batch teaches, as a batch of records: a function of the two and of the cluster.
pub fn batch(cluster: &Cluster, told: &Observed) -> Batch {
    let mut lesson = Lesson::default();
    lesson.learn(cluster, told, &mut Unheard);
    lesson.batch(told.id.clone(), &told.node, told.spans.clone(), told.counters.clone())
}

/// Who is told what each line of a batch was resolved to, by its place in the batch.
trait Listener {
    /// An edge.
    fn edge(&mut self, _: usize, _: &Pod, _: &Edge, _: &[Part<'_>]) {}

    /// A name asked for.
    fn asked(&mut self, _: usize, _: &Pod, _: &str) {}
}

/// Nobody is.
struct Unheard;

impl Listener for Unheard {}

impl Lesson {
    /// Learns all lines of a batch.
    fn learn(&mut self, cluster: &Cluster, told: &Observed, listener: &mut impl Listener) {
        for (i, edge) in told.edges.iter().enumerate() {
            let pod = &told.pods[edge.pod as usize];
            let parts = parts(cluster, pod, edge);
            listener.edge(i, pod, edge, &parts);
            self.edge(pod, parts);
        }
        for (i, asked) in told.asked.iter().enumerate() {
            let pod = &told.pods[asked.pod as usize];
            match asked_host(cluster, pod, &asked.question) {
                Some(host) => {
                    listener.asked(i, pod, &host);
                    self.asked(pod, host, asked.tally);
                }
                None => self.count(counter::LOOKUPS_OUTSIDE, asked.tally.connections),
            }
        }
        for watching in &told.watching {
            self.watched(&told.pods[watching.pod as usize], watching.clone());
        }
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

    /// Merges all of another's.
    pub fn absorb(&mut self, other: Self) {
        self.id = self.id.take().or(other.id);
        self.records.absorb(other.records);
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

#[cfg(test)]
mod tests;
