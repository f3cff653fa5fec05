//! Parts of batches about pods that the cluster does not know: kept apart until it does, or until
//! they are given up.
//!
//! Owns their rows: one that tells in short what there is, and the part itself, cut into pieces. A
//! part comes in the write that merges the rest of its batch, and goes in the write that merges it
//! or counts it as given up, so that it counts once. It is no part of an export: elsewhere nobody
//! could ever confirm it. Must never hold anything that a command or a Sidecar is made of.

use std::collections::BTreeSet;

use super::keys::{self, Kind};
use super::{Change, Store, StoreError};
use crate::model::{BatchId, Record, UnverifiedBatch};

/// Bytes in a row: see `kept`.
const PART: usize = 6 * 1024;

/// Changes of what is kept apart.
#[derive(Debug, Default)]
pub struct Apart {
    /// What comes, or replaces the part of the same batch, with its bytes.
    pub put: Vec<(UnverifiedBatch, Vec<u8>)>,
    /// What goes.
    pub remove: BTreeSet<BatchId>,
}

impl Apart {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.put.is_empty() && self.remove.is_empty()
    }
}

impl Store {
    /// What is kept apart, in short, by source and sequence.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn unverified(&self) -> Result<Vec<UnverifiedBatch>, StoreError> {
        let mut out = Vec::new();
        for row in self.rows.scan_prefix([Kind::Unverified as u8]) {
            let (key, row) = row?;
            if key.ends_with(&[0; 4]) {
                out.push(self.decode(&row)?);
            }
        }
        Ok(out)
    }

    /// What is kept apart of a batch, as it was put.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn read_unverified(&self, id: &BatchId) -> Result<Vec<u8>, StoreError> {
        let mut out = Vec::new();
        for row in self.rows.scan_prefix(keys::of_unverified(id)) {
            let (key, part) = row?;
            if !key.ends_with(&[0; 4]) {
                out.extend_from_slice(&part);
            }
        }
        Ok(out)
    }

    /// Merges records, counts batches as held and no longer kept, and changes what is kept apart,
    /// in one write.
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub fn settle_apart(
        &mut self,
        records: &[Record],
        kept: &BTreeSet<BatchId>,
        apart: &Apart,
    ) -> Result<(), StoreError> {
        if self.stopped {
            return Err(StoreError::Stopped(self.dir.clone()));
        }
        let mut writes = Change::default();
        let replaced = apart.put.iter().map(|(told, _)| &told.id);
        for id in apart.remove.iter().chain(replaced) {
            for key in self.rows.scan_prefix(keys::of_unverified(id)).keys() {
                writes.remove(key?.to_vec());
            }
        }
        for (told, bytes) in &apart.put {
            let mut short = Vec::new();
            self.encode_into(&mut short, told)?;
            writes.put(keys::unverified(&told.id, 0), short);
            for (n, part) in bytes.chunks(PART).enumerate() {
                writes.put(keys::unverified(&told.id, n as u32 + 1), part);
            }
        }
        self.merge_all(records, &kept.iter().collect(), writes)
    }
}
