//! An open store: its rows, and the one way to write them.
//!
//! Owns the atomic write. Must never write after its first write error.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::{DeserializeOwned, Error as _};

use super::changes::RowChanges;
use super::database::Rows;
use super::error::StoreError;
use super::keys::RowKind;
use super::layout;
use super::lock::StoreLock;
use super::marker::Marker;
use super::new_dir::NewStoreDir;
use super::schema::SCHEMA;
use super::scratch::ScratchDir;
use super::seal::{self, Seal};
use crate::model::{Record, WorkloadId};

/// Free bytes below which no write is begun: sled hangs when it meets a full disk in the middle of
/// its work.
const MIN_FREE: u64 = 16 * 1024 * 1024;

/// Bytes that sled writes for a byte of a row, at most: it writes whole leaves of up to 17 rows
/// again and again, and frees what it no longer needs only later.
const AMPLIFICATION: u64 = 6;

/// An open store. One process at a time writes.
#[derive(Debug)]
pub struct Store {
    pub(super) dir: PathBuf,
    pub(super) rows: Rows,
    pub(super) marker: Marker,
    /// Counts and checksum of its rows: computed when the store is opened, and updated by each
    /// write.
    pub(super) seal: Seal,
    /// A write has failed.
    pub(super) stopped: bool,
    /// Counts the writes of alerts that wait to be delivered.
    pub(super) outbox: u64,
    /// The most unbounded destinations that a workload can have, as far as that was counted.
    pub(super) unbounded: HashMap<WorkloadId, usize>,
    /// What is missing of a damaged store.
    pub(super) damage: Option<String>,
    pub(super) location: Location,
}

/// Where the rows are.
#[derive(Debug)]
pub(super) enum Location {
    /// In the store.
    Original {
        /// What was made for it; `None` once something was written.
        new: Option<NewStoreDir>,
        commits: StoreLock,
        /// The file of the last seal.
        seals: File,
        _writer: StoreLock,
    },
    /// In a copy: what is written there is gone with it.
    Copy(ScratchDir),
}

impl Store {
    /// What is missing of a damaged store that was opened to be read.
    pub fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }

    /// What was missing of an export that was imported here: it was made of a damaged store.
    pub fn salvaged(&self) -> Option<&str> {
        self.marker.salvaged.as_deref()
    }

    /// Retains a store that was made when it was opened, though nothing was written.
    pub fn retain(&mut self) {
        if let Location::Original { new, .. } = &mut self.location {
            if let Some(dir) = new {
                dir.retain();
            }
            *new = None;
        }
    }

    /// Closes. All that was applied is durable already.
    ///
    /// # Errors
    /// When an earlier write failed.
    pub fn close(mut self) -> Result<(), StoreError> {
        self.retain();
        self.check_writable()
    }

    /// Refuses to write after a write has failed.
    pub(super) fn check_writable(&self) -> Result<(), StoreError> {
        if self.stopped { Err(StoreError::Stopped(self.dir.clone())) } else { Ok(()) }
    }

    /// Writes all or nothing, and makes it durable.
    pub(super) fn commit(&mut self, changes: RowChanges) -> Result<(), StoreError> {
        self.check_writable()?;
        check_room(&self.disk(), changes.size())?;
        let empty = changes.is_empty();
        // Reads all rows that are overwritten, too: what cannot be read ends this before sled has
        // begun to write.
        let mut seal = self.seal.clone();
        let mut batch = sled::Batch::default();
        for (key, row) in changes {
            let before = self.rows.get(&key)?;
            seal.replace(&key, before.as_deref(), row.as_deref());
            match row {
                Some(row) => batch.insert(key, row),
                None => batch.remove(key),
            }
        }
        seal.commit = seal.commit.saturating_add(1);
        batch.insert(&[RowKind::Seal as u8], seal.encode());
        let result = match &self.location {
            Location::Copy(_) => self.rows.write(batch),
            Location::Original { commits, seals, .. } => {
                let guard = commits.exclusive();
                let written = self.rows.write(batch).and_then(|()| self.sync(&seal, seals));
                drop(guard);
                written.map(|marker| self.marker = marker)
            }
        };
        // After the first error sled must not be written to again: it may hang.
        if result.is_err() {
            self.stopped = true;
            self.rows.abandon();
        } else {
            self.seal = seal;
            if !empty {
                self.retain();
            }
        }
        result
    }

    /// Makes the rows durable, then writes marker and seal. Returns the marker.
    fn sync(&self, seal: &Seal, seals: &File) -> Result<Marker, StoreError> {
        layout::make_durable(&self.dir)?;
        // Where only transient rows were written, their number is not: that there were any is.
        let lasting = seal.lasting();
        let rows = if seal.total() == 0 { 0 } else { lasting.max(1) };
        let marker = Marker { schema: SCHEMA, rows, lasting: Some(lasting), ..self.marker.clone() };
        if marker != self.marker {
            marker.write(&self.dir)?;
        }
        seal.write(seals).map_err(|error| StoreError::Io {
            what: "write to",
            path: self.dir.join(seal::FILE),
            error,
        })?;
        Ok(marker)
    }

    /// The directory whose disk is written to.
    fn disk(&self) -> PathBuf {
        match &self.location {
            Location::Original { .. } => self.dir.clone(),
            Location::Copy(scratch) => scratch.database(),
        }
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<sled::IVec>, StoreError> {
        self.rows.get(key)
    }

    pub(super) fn decode<T: DeserializeOwned>(&self, row: &[u8]) -> Result<T, StoreError> {
        serde_json::from_slice(row).map_err(|error| self.row_error(error))
    }

    pub(super) fn encode(&self, record: &Record) -> Result<Vec<u8>, StoreError> {
        let mut row = Vec::new();
        self.encode_into(&mut row, record)?;
        Ok(row)
    }

    pub(super) fn encode_into(
        &self,
        row: &mut Vec<u8>,
        value: &impl Serialize,
    ) -> Result<(), StoreError> {
        serde_json::to_writer(row, value).map_err(|error| self.row_error(error))
    }

    /// The error of a row that is cut short.
    pub(super) fn cut_row(&self, what: &str) -> StoreError {
        self.row_error(serde_json::Error::custom(format!("{what} is cut")))
    }

    pub(super) fn row_error(&self, error: serde_json::Error) -> StoreError {
        StoreError::Row { path: self.dir.clone(), error }
    }
}

/// Refuses to begin a write of so many bytes of rows where it may not find room.
pub(super) fn check_room(dir: &Path, bytes: u64) -> Result<(), StoreError> {
    let free = layout::free_bytes(dir)?;
    let needed = MIN_FREE.saturating_add(bytes.saturating_mul(AMPLIFICATION));
    if free < needed {
        return Err(StoreError::DiskFull { path: dir.to_owned(), free, needed });
    }
    Ok(())
}
