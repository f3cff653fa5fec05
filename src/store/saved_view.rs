//! The saved view: what the live view of the cluster needs after a restart, in rows whose meaning
//! only the view knows.
//!
//! Owns where they are. They are transient, and no part of an export: in another cluster, or later,
//! they mean nothing.

use super::changes::RowChanges;
use super::error::StoreError;
use super::handle::Store;
use super::keys::{self, RowKind};

/// Key and text of a row.
pub type SavedRow = (Vec<u8>, Vec<u8>);

impl Store {
    /// The rows that were saved, by key.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn saved_view(&self) -> Result<Vec<SavedRow>, StoreError> {
        let mut out = Vec::new();
        for row in self.rows.scan_prefix([RowKind::SavedView as u8]) {
            let (key, row) = row?;
            out.push((key[1..].to_vec(), self.decompress(&row)?));
        }
        Ok(out)
    }

    /// Writes and removes rows, all or none. When this returns they are on the disk.
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub fn save_view(&mut self, put: &[SavedRow], remove: &[Vec<u8>]) -> Result<(), StoreError> {
        self.check_writable()?;
        let mut changes = RowChanges::default();
        for (key, text) in put {
            changes.put(keys::saved_view(key), self.compress(text)?);
        }
        for key in remove {
            changes.remove(keys::saved_view(key));
        }
        self.commit(changes)
    }
}
