//! Batches of agents that cannot be resolved yet, kept as they came.
//!
//! Owns their rows. A batch is acknowledged when it is here, and leaves in the same write that
//! merges what it taught. Must never hold a batch that was merged already.

use std::collections::BTreeSet;

use super::keys::{self, Kind};
use super::{Applied, Change, Store, StoreError};
use crate::model::{Batch, BatchId};

/// Bytes in a row: as small as a page, for the same reason (see `pages`).
const PART: usize = 6 * 1024;

impl Store {
    /// Keeps batches, all or none. When this returns they are on the disk.
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub fn keep(&mut self, batches: &[(&BatchId, &[u8])]) -> Result<Vec<Applied>, StoreError> {
        if self.stopped {
            return Err(StoreError::Stopped(self.dir.clone()));
        }
        let mut writes = Change::default();
        let mut new = BTreeSet::new();
        let mut out = Vec::new();
        for (id, bytes) in batches {
            if self.holds(id)? || self.get(&keys::kept(id, 0))?.is_some() || !new.insert(*id) {
                out.push(Applied::AlreadyHeld);
                continue;
            }
            // One part even of nothing: its presence is what tells that it is kept.
            let parts = bytes.chunks(PART).chain(bytes.is_empty().then_some(&[][..]));
            for (n, part) in parts.enumerate() {
                writes.put(keys::kept(id, n as u32), part);
            }
            out.push(Applied::New);
        }
        if !new.is_empty() {
            self.commit(writes)?;
        }
        Ok(out)
    }

    /// Which batches are kept, by source and sequence.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn kept(&self) -> Result<Vec<BatchId>, StoreError> {
        let mut out: Vec<BatchId> = Vec::new();
        for key in self.rows.scan_prefix([Kind::Kept as u8]).keys() {
            let key = key.map_err(|e| self.database(e))?;
            let id = keys::parse_kept(&key);
            if id.is_some() && id.as_ref() != out.last() {
                out.extend(id);
            }
        }
        Ok(out)
    }

    /// A kept batch, as it came.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn read_kept(&self, id: &BatchId) -> Result<Vec<u8>, StoreError> {
        let mut out = Vec::new();
        for part in self.rows.scan_prefix(keys::of_kept(id)).values() {
            out.extend_from_slice(&part.map_err(|e| self.database(e))?);
        }
        Ok(out)
    }

    /// Merges what kept batches have taught, and lets them go, in one write.
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub fn settle(
        &mut self,
        taught: &Batch,
        kept: &BTreeSet<BatchId>,
    ) -> Result<Applied, StoreError> {
        self.apply_holding(taught, kept, &[])
    }

    /// Adds to a write that a batch is held from then on, and no longer kept. Those before it of
    /// the same source need no note: a source numbers its batches in the order in which it delivers
    /// them.
    pub(super) fn note_held(&self, id: &BatchId, writes: &mut Change) -> Result<(), StoreError> {
        for key in self
            .rows
            .range(keys::batch(&BatchId { sequence: 0, ..id.clone() })..keys::batch(id))
            .keys()
        {
            writes.remove(key.map_err(|e| self.database(e))?);
        }
        writes.put(keys::batch(id), &b""[..]);
        for key in self.rows.scan_prefix(keys::of_kept(id)).keys() {
            writes.remove(key.map_err(|e| self.database(e))?);
        }
        Ok(())
    }
}
