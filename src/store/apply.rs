//! Applying batches: their records are merged, and each batch counts once.
//!
//! Owns the marks of merged batches. Must never merge a batch and leave its mark to another write.

use std::collections::{BTreeMap, BTreeSet};

use super::changes::RowChanges;
use super::error::StoreError;
use super::handle::Store;
use super::keys;
use crate::model::{Batch, BatchId, Dependency, LedgerEntry, Merge, Record, WorkloadId};

/// What applying, or queueing, a batch did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It was merged, or queued.
    New,
    /// The store had it already: nothing changed.
    AlreadyMerged,
}

/// Dependencies that are to be merged, by workload.
pub(super) type NewDependencies<'a> = BTreeMap<&'a WorkloadId, Vec<&'a Dependency>>;

impl Store {
    /// Merges a batch, whole or not at all. When this returns, it is on the disk.
    ///
    /// # Errors
    /// On any failure nothing of the batch is merged, and the store writes no more.
    pub fn apply(&mut self, batch: &Batch) -> Result<Applied, StoreError> {
        self.apply_with(batch, &BTreeSet::new(), &[])
    }

    /// As [`Store::apply`]. Marks more batches as merged (those that an export was made of), and
    /// stores what was counted of some.
    pub(super) fn apply_with(
        &mut self,
        batch: &Batch,
        also_merged: &BTreeSet<BatchId>,
        counted: &[(BatchId, Vec<LedgerEntry>)],
    ) -> Result<Applied, StoreError> {
        self.check_writable()?;
        if self.has_merged(&batch.id)? {
            return Ok(Applied::AlreadyMerged);
        }
        let mut merged: BTreeSet<&BatchId> = also_merged.iter().collect();
        merged.insert(&batch.id);
        let mut changes = RowChanges::default();
        for (id, counted) in counted {
            self.record_counted(id, counted, &mut changes)?;
        }
        self.merge(&batch.records, &merged, changes).map(|()| Applied::New)
    }

    /// Merges records, and marks batches as merged, in one write with other changes.
    pub(super) fn merge(
        &mut self,
        records: &[Record],
        merged: &BTreeSet<&BatchId>,
        mut changes: RowChanges,
    ) -> Result<(), StoreError> {
        let folded = self.fold_records(records)?;
        let records = folded.as_deref().unwrap_or(records);
        let mut dependencies = NewDependencies::new();
        for record in records {
            if let Record::Dependency(d) = record {
                dependencies.entry(&d.key.workload).or_default().push(d);
                continue;
            }
            let key = keys::record(record);
            match self.get(&key)? {
                Some(row) => {
                    let mut stored: Record = self.decode(&row)?;
                    stored.merge(record);
                    changes.put(key, self.encode(&stored)?);
                }
                None => changes.put(key, self.encode(record)?),
            }
        }
        self.merge_dependencies(&dependencies, &mut changes)?;
        self.mark_all_merged(merged, &mut changes)?;
        self.commit(changes)
    }

    /// Marks batches as merged. Of each source one mark stays, that of its last batch, which stands
    /// for all before it.
    fn mark_all_merged(
        &self,
        merged: &BTreeSet<&BatchId>,
        changes: &mut RowChanges,
    ) -> Result<(), StoreError> {
        let mut before: Option<&BatchId> = None;
        for id in merged.iter().copied() {
            if let Some(before) = before.filter(|before| before.source == id.source) {
                changes.remove(keys::batch(before));
            }
            self.mark_merged(id, changes)?;
            before = Some(id);
        }
        Ok(())
    }

    /// Whether a batch was merged: it, or a later one of its source, is marked.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn has_merged(&self, id: &BatchId) -> Result<bool, StoreError> {
        let last = keys::batch(&BatchId { sequence: u64::MAX, ..id.clone() });
        match self.rows.range(keys::batch(id)..=last).next() {
            Some(row) => row.map(|_| true),
            None => Ok(false),
        }
    }
}
