//! What was counted of captures, so that another capture of the same connections counts nothing.
//!
//! Owns its rows, which belong to the batch that was counted and are written with it. Must never
//! hold them without the batch, nor the batch without them.

use std::collections::BTreeSet;

use super::keys::{self, Kind};
use super::{Applied, Change, Store, StoreError};
use crate::model::{Batch, BatchId, LedgerEntry};

/// Of one batch in a row: 6 KiB, for the same reason as in `kept`. What is counted hardly becomes
/// smaller by packing.
const ROW: usize = 130;

impl Store {
    /// As [`Store::apply`], with what was counted.
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub fn apply_counted(
        &mut self,
        batch: &Batch,
        counted: &[LedgerEntry],
    ) -> Result<Applied, StoreError> {
        self.apply_holding(batch, &BTreeSet::new(), &[(batch.id.clone(), counted.to_vec())])
    }

    /// As [`Store::apply`] of what several batches have taught, with what each counted: one write.
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub fn apply_together(
        &mut self,
        taught: &Batch,
        ids: &BTreeSet<BatchId>,
        counted: &[(BatchId, Vec<LedgerEntry>)],
    ) -> Result<Applied, StoreError> {
        self.apply_holding(taught, ids, counted)
    }

    /// What was counted, by batch.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn counted(&self) -> Result<Vec<(BatchId, Vec<LedgerEntry>)>, StoreError> {
        let mut out: Vec<(BatchId, Vec<LedgerEntry>)> = Vec::new();
        for row in self.rows.scan_prefix([Kind::Counted as u8]) {
            let (key, row) = row?;
            let all = self.unpacked(&row)?;
            let all = LedgerEntry::read_all(&all).ok_or_else(|| self.cut("what was counted"))?;
            let id = keys::parse_counted(&key).ok_or_else(|| self.cut("a key"))?;
            match out.last_mut().filter(|(last, _)| *last == id) {
                Some((_, known)) => known.extend(all),
                None => out.push((id, all)),
            }
        }
        Ok(out)
    }

    /// Captures that are held without what was counted: programs of before did not note it.
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
            // It may have been replayed once more since, and noted then.
            let noted = BatchId { source: format!("capture:2:{name}"), sequence: 0 };
            n += u64::from(!self.holds(&noted)?);
        }
        Ok(n)
    }

    /// Adds to a write what was counted of a batch.
    pub(super) fn note_counted(
        &self,
        id: &BatchId,
        counted: &[LedgerEntry],
        writes: &mut Change,
    ) -> Result<(), StoreError> {
        for (part, some) in (0u32..).zip(counted.chunks(ROW)) {
            let mut bytes = Vec::with_capacity(ROW * LedgerEntry::BYTES);
            some.iter().for_each(|c| c.write(&mut bytes));
            writes.put(keys::counted(id, part), self.packed(&bytes)?);
        }
        Ok(())
    }
}
