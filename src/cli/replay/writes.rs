//! Writes what captures add to the store.
//!
//! Owns how many captures one write has: each write waits for the disk. Must never merge a capture
//! twice.

use std::collections::BTreeSet;

use crate::learn::Union;
use crate::model::{Batch, BatchId, LedgerEntry};
use crate::store::{Applied, Store};

/// About how many records one write has.
const RECORDS_PER_WRITE: usize = 16_384;
/// About how many counted connections one write has.
const CONNECTIONS_PER_WRITE: usize = 65_536;

/// A store, with the batches that wait to be written to it.
pub(super) struct CaptureWrites {
    store: Store,
    waiting: Union,
    /// Identities of the batches in `waiting`.
    ids: BTreeSet<BatchId>,
    /// What each of them counted.
    counted: Vec<(BatchId, Vec<LedgerEntry>)>,
    /// Number of connections in `counted`.
    connections: usize,
}

impl CaptureWrites {
    pub fn new(store: Store) -> Self {
        Self {
            store,
            waiting: Union::default(),
            ids: BTreeSet::new(),
            counted: Vec::new(),
            connections: 0,
        }
    }

    /// Adds the batch of a capture. False where the store has merged it already.
    pub fn add(&mut self, batch: &Batch, counted: &[LedgerEntry]) -> anyhow::Result<bool> {
        if self.ids.contains(&batch.id) || self.store.has_merged(&batch.id)? {
            return Ok(false);
        }
        if batch.records.len() >= RECORDS_PER_WRITE || counted.len() >= CONNECTIONS_PER_WRITE {
            return Ok(self.store.apply_counted(batch, counted)? == Applied::New);
        }
        self.ids.insert(batch.id.clone());
        self.waiting.add(batch.clone());
        self.counted.push((batch.id.clone(), counted.to_vec()));
        self.connections += counted.len();
        if self.waiting.len() >= RECORDS_PER_WRITE || self.connections >= CONNECTIONS_PER_WRITE {
            self.write()?;
        }
        Ok(true)
    }

    fn write(&mut self) -> anyhow::Result<()> {
        let (ids, counted) = (std::mem::take(&mut self.ids), std::mem::take(&mut self.counted));
        self.connections = 0;
        if let Some(batch) = std::mem::take(&mut self.waiting).batch() {
            self.store.apply_together(&batch, &ids, &counted)?;
        }
        Ok(())
    }

    /// Writes what waits, and returns the store.
    pub fn finish(mut self) -> anyhow::Result<Store> {
        self.write()?;
        Ok(self.store)
    }
}
