//! The connections that captures counted, so that another capture of them counts nothing.
//!
//! Owns their rows, which belong to the batch that counted them. Must never write them without the
//! batch, nor the batch without them.

use std::collections::BTreeSet;

use super::apply::Applied;
use super::changes::RowChanges;
use super::error::StoreError;
use super::handle::Store;
use super::keys::{self, RowKind};
use crate::model::{Batch, BatchId, LedgerEntry};

/// Connections in a row: 6 KiB, for the same reason as in `queue`. Compression hardly makes them
/// smaller.
const IN_ROW: usize = 130;

impl Store {
    /// As [`Store::apply`], with the connections that the batch counted.
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub fn apply_counted(
        &mut self,
        batch: &Batch,
        counted: &[LedgerEntry],
    ) -> Result<Applied, StoreError> {
        self.apply_with(batch, &BTreeSet::new(), &[(batch.id.clone(), counted.to_vec())])
    }

    /// As [`Store::apply`] of what was learned from several batches, with the connections that each
    /// counted, in one write.
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub fn apply_together(
        &mut self,
        learned: &Batch,
        ids: &BTreeSet<BatchId>,
        counted: &[(BatchId, Vec<LedgerEntry>)],
    ) -> Result<Applied, StoreError> {
        self.apply_with(learned, ids, counted)
    }

    /// The connections that were counted, by batch.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn counted(&self) -> Result<Vec<(BatchId, Vec<LedgerEntry>)>, StoreError> {
        let mut out: Vec<(BatchId, Vec<LedgerEntry>)> = Vec::new();
        for row in self.rows.scan_prefix([RowKind::Counted as u8]) {
            let (key, row) = row?;
            let all = self.decompress(&row)?;
            let all =
                LedgerEntry::read_all(&all).ok_or_else(|| self.cut_row("what was counted"))?;
            let id = keys::parse_counted(&key).ok_or_else(|| self.cut_row("a key"))?;
            match out.last_mut().filter(|(last, _)| *last == id) {
                Some((_, known)) => known.extend(all),
                None => out.push((id, all)),
            }
        }
        Ok(out)
    }

    /// How many captures were merged without their connections: older programs did not store them.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn uncounted(&self) -> Result<u64, StoreError> {
        let mut n = 0;
        for key in self.rows.scan_prefix(keys::prefix_of_source("capture:")).keys() {
            let key = key?;
            let old = keys::parse_batch(&key).filter(|id| id.snapshot().is_none());
            let Some(name) = old.as_ref().and_then(|id| id.source.strip_prefix("capture:")) else {
                continue;
            };
            // It may have been replayed once more since, and its connections stored then.
            let replayed = BatchId { source: format!("capture:2:{name}"), sequence: 0 };
            n += u64::from(!self.has_merged(&replayed)?);
        }
        Ok(n)
    }

    /// Adds the connections that a batch counted to `changes`.
    pub(super) fn record_counted(
        &self,
        id: &BatchId,
        counted: &[LedgerEntry],
        changes: &mut RowChanges,
    ) -> Result<(), StoreError> {
        for (piece, some) in (0u32..).zip(counted.chunks(IN_ROW)) {
            let mut bytes = Vec::with_capacity(IN_ROW * LedgerEntry::BYTES);
            some.iter().for_each(|c| c.write(&mut bytes));
            changes.put(keys::counted(id, piece), self.compress(&bytes)?);
        }
        Ok(())
    }
}
