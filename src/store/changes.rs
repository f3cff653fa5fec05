//! Changes of rows that are written together.

use std::collections::BTreeMap;

use sled::IVec;

/// Changes of rows that are written together: all of them, or none.
#[derive(Debug, Default)]
pub(super) struct RowChanges(BTreeMap<Vec<u8>, Option<IVec>>);

impl RowChanges {
    /// Writes a row.
    pub fn put(&mut self, key: Vec<u8>, row: impl Into<IVec>) {
        self.0.insert(key, Some(row.into()));
    }

    /// Removes a row of a kind that is transient.
    pub fn remove(&mut self, key: impl Into<Vec<u8>>) {
        self.0.insert(key.into(), None);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes of all keys and of the rows that are written.
    pub fn size(&self) -> u64 {
        let sizes = self.0.iter().map(|(key, row)| key.len() + row.as_ref().map_or(0, |r| r.len()));
        sizes.map(|n| n as u64).sum()
    }
}

impl IntoIterator for RowChanges {
    type Item = (Vec<u8>, Option<IVec>);
    type IntoIter = std::collections::btree_map::IntoIter<Vec<u8>, Option<IVec>>;

    /// By key. `None`: the row is removed.
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
