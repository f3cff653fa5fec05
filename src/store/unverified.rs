//! Unverified lines of batches: lines about pods that the cluster does not know. They are stored
//! until it knows the pod, or until they expire or are dropped.
//!
//! Owns their rows: a summary for each batch, and the lines, cut into pieces. The write that merges
//! the rest of a batch stores its unverified lines, and the write that merges them or counts them
//! as lost removes them, so that they count once. An export does not have them: elsewhere nobody
//! could confirm them. Must never store anything that a command or a Sidecar is made of.

use std::collections::BTreeSet;

use super::changes::RowChanges;
use super::error::StoreError;
use super::handle::Store;
use super::keys::{self, RowKind};
use super::queue::PIECE;
use crate::model::{BatchId, Record, UnverifiedBatch};

/// Changes of the unverified lines that are stored.
#[derive(Debug, Default)]
pub struct UnverifiedChanges {
    /// Summary and bytes of unverified lines. They replace those of the same batch.
    pub put: Vec<(UnverifiedBatch, Vec<u8>)>,
    /// Batches whose unverified lines are removed.
    pub remove: BTreeSet<BatchId>,
}

impl UnverifiedChanges {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.put.is_empty() && self.remove.is_empty()
    }
}

impl Store {
    /// Summaries of the unverified lines, by source and sequence number of their batch.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn unverified(&self) -> Result<Vec<UnverifiedBatch>, StoreError> {
        let mut out = Vec::new();
        for row in self.rows.scan_prefix([RowKind::Unverified as u8]) {
            let (key, row) = row?;
            if keys::is_first_piece(&key) {
                out.push(self.decode(&row)?);
            }
        }
        Ok(out)
    }

    /// The unverified lines of a batch, as they were put.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn read_unverified(&self, id: &BatchId) -> Result<Vec<u8>, StoreError> {
        let mut out = Vec::new();
        for row in self.rows.scan_prefix(keys::of_unverified(id)) {
            let (key, piece) = row?;
            if !keys::is_first_piece(&key) {
                out.extend_from_slice(&piece);
            }
        }
        Ok(out)
    }

    /// Merges records, marks queued batches as merged, and changes the unverified lines, in one
    /// write.
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub fn merge_with_unverified(
        &mut self,
        records: &[Record],
        queued: &BTreeSet<BatchId>,
        unverified: &UnverifiedChanges,
    ) -> Result<(), StoreError> {
        self.check_writable()?;
        let mut changes = RowChanges::default();
        let replaced = unverified.put.iter().map(|(summary, _)| &summary.id);
        for id in unverified.remove.iter().chain(replaced) {
            for key in self.rows.scan_prefix(keys::of_unverified(id)).keys() {
                changes.remove(key?.to_vec());
            }
        }
        for (summary, bytes) in &unverified.put {
            let mut row = Vec::new();
            self.encode_into(&mut row, summary)?;
            changes.put(keys::unverified(&summary.id, 0), row);
            for (n, piece) in bytes.chunks(PIECE).enumerate() {
                changes.put(keys::unverified(&summary.id, n as u32 + 1), piece);
            }
        }
        self.merge(records, &queued.iter().collect(), changes)
    }
}
