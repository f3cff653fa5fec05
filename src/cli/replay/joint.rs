//! What captures that were merged before show only together with other captures.
//!
//! Owns which of their records and counters are added. Must never add coverage, packets or losses:
//! those were learned with each capture.

use std::collections::BTreeMap;

use crate::learn::{LearnedCapture, Union};
use crate::model::{Batch, BatchId, LedgerEntry, Record, Source, Spans, counter, sums};

/// Counters of what is learned from connections. They are added with the connections.
const JOINT_COUNTERS: [&str; 10] = [
    counter::CONNECTIONS,
    counter::LEARNED,
    counter::FROM_NODE,
    counter::FROM_OUTSIDE,
    counter::UNATTRIBUTED,
    counter::CONTESTED,
    counter::GUESSED,
    counter::MIDWAY,
    counter::STRANGE,
    counter::UNLISTED,
];

/// The batch of what captures that were merged before now show in addition: a name that another
/// capture has, or the rest of a connection.
#[derive(Default)]
pub(super) struct JointBatch {
    learned: Union,
    counted: Vec<LedgerEntry>,
    counters: BTreeMap<String, u64>,
    labels: Vec<String>,
    is_new: bool,
}

impl JointBatch {
    /// Adds what a capture that was merged before shows now.
    pub fn add(&mut self, capture: &LearnedCapture, path: &str) {
        if capture.counted.is_empty() {
            return;
        }
        self.counted.extend(&capture.counted);
        self.labels.push(path.to_owned());
        self.is_new |= capture.is_new;
        let mut added = Batch { id: capture.batch.id.clone(), records: Vec::new() };
        for record in &capture.batch.records {
            match record {
                Record::Dependency(_) | Record::Workload(_) | Record::Lookups(_) => {
                    added.records.push(record.clone());
                }
                Record::Watch(_) => {}
                Record::Source(source) => self.add_counters(&source.counters),
            }
        }
        self.learned.add(added);
    }

    fn add_counters(&mut self, counters: &BTreeMap<String, u64>) {
        for name in JOINT_COUNTERS {
            let n = counters.get(name).copied().unwrap_or(0);
            sums::add(&mut self.counters, name, n);
        }
    }

    /// The batch and what it counts. `None` where it adds nothing. `has_new_captures`: other
    /// captures of this replay were never merged.
    pub fn into_batch(
        self,
        capture_digests: &[u64],
        snapshot_digest: u64,
        has_new_captures: bool,
    ) -> Option<(Batch, Vec<LedgerEntry>)> {
        if !self.is_new && !has_new_captures {
            return None;
        }
        let mut batch = self.learned.batch()?;
        batch.id = BatchId::of_captures(capture_digests, snapshot_digest);
        if !self.counters.is_empty() {
            batch.records.push(Record::Source(Source {
                source: batch.id.source.clone(),
                label: self.labels.join(", "),
                spans: Spans::default(),
                counters: self.counters,
            }));
        }
        Some((batch, self.counted))
    }
}
