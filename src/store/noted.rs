//! What the live view knows of the cluster: rows of its own that it makes sense of itself.
//!
//! Owns where they are. They go again in the course of things, and are no part of an export:
//! elsewhere, or later, they say nothing.

use super::keys::{self, Kind};
use super::{Change, Store, StoreError};

/// Key and text.
pub type Row = (Vec<u8>, Vec<u8>);

impl Store {
    /// What was noted, by key.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn noted(&self) -> Result<Vec<Row>, StoreError> {
        let mut out = Vec::new();
        for row in self.rows.scan_prefix([Kind::View as u8]) {
            let (key, row) = row?;
            out.push((key[1..].to_vec(), self.unpacked(&row)?));
        }
        Ok(out)
    }

    /// Writes and removes rows, all or none. When this returns they are on the disk.
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub fn note(&mut self, put: &[Row], remove: &[Vec<u8>]) -> Result<(), StoreError> {
        if self.stopped {
            return Err(StoreError::Stopped(self.dir.clone()));
        }
        let mut writes = Change::default();
        for (key, text) in put {
            writes.put(keys::view(key), self.packed(text)?);
        }
        remove.iter().for_each(|key| writes.remove(keys::view(key)));
        self.commit(writes)
    }
}
