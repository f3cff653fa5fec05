//! Queued batches: those of agents that are acknowledged and not resolved yet, as they came.
//!
//! Owns their rows. A batch is acknowledged when it is here, and leaves in the same write that
//! merges what was learned from it. Must never queue a batch that was merged already.

use std::collections::BTreeSet;

use super::apply::Applied;
use super::changes::RowChanges;
use super::error::StoreError;
use super::handle::Store;
use super::keys::{self, RowKind};
use crate::model::{Batch, BatchId};

/// Bytes in a row: as few as in a page, for the same reason (see `pages`).
pub(super) const PIECE: usize = 6 * 1024;

impl Store {
    /// Queues batches, all or none. When this returns they are on the disk.
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub fn queue(&mut self, batches: &[(&BatchId, &[u8])]) -> Result<Vec<Applied>, StoreError> {
        self.check_writable()?;
        let mut changes = RowChanges::default();
        let mut new = BTreeSet::new();
        let mut out = Vec::new();
        for (id, bytes) in batches {
            let is_here = self.has_merged(id)? || self.get(&keys::queued(id, 0))?.is_some();
            if is_here || !new.insert(*id) {
                out.push(Applied::AlreadyMerged);
                continue;
            }
            // An empty batch has one piece as well: the first piece shows that it is queued.
            let pieces = bytes.chunks(PIECE).chain(bytes.is_empty().then_some(&[][..]));
            for (n, piece) in pieces.enumerate() {
                changes.put(keys::queued(id, n as u32), piece);
            }
            out.push(Applied::New);
        }
        if !new.is_empty() {
            self.commit(changes)?;
        }
        Ok(out)
    }

    /// Which batches are queued, by source and sequence number.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn queued(&self) -> Result<Vec<BatchId>, StoreError> {
        let mut out: Vec<BatchId> = Vec::new();
        for key in self.rows.scan_prefix([RowKind::Queued as u8]).keys() {
            let key = key?;
            let id = keys::parse_queued(&key);
            if id.is_some() && id.as_ref() != out.last() {
                out.extend(id);
            }
        }
        Ok(out)
    }

    /// A queued batch, as it came.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn read_queued(&self, id: &BatchId) -> Result<Vec<u8>, StoreError> {
        let mut out = Vec::new();
        for piece in self.rows.scan_prefix(keys::of_queued(id)).values() {
            out.extend_from_slice(&piece?);
        }
        Ok(out)
    }

    /// Merges what was learned from queued batches, and removes them from the queue, in one write.
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub fn merge_queued(
        &mut self,
        learned: &Batch,
        queued: &BTreeSet<BatchId>,
    ) -> Result<Applied, StoreError> {
        self.apply_with(learned, queued, &[])
    }

    /// Records in `changes` that the batch is merged, and deletes its queued pieces. The marks of
    /// earlier batches of its source are deleted as well: a source numbers its batches in the order
    /// in which it sends them.
    pub(super) fn mark_merged(
        &self,
        id: &BatchId,
        changes: &mut RowChanges,
    ) -> Result<(), StoreError> {
        let first = keys::batch(&BatchId { sequence: 0, ..id.clone() });
        for key in self.rows.range(first..keys::batch(id)).keys() {
            changes.remove(key?.to_vec());
        }
        changes.put(keys::batch(id), &b""[..]);
        for key in self.rows.scan_prefix(keys::of_queued(id)).keys() {
            changes.remove(key?.to_vec());
        }
        Ok(())
    }
}
