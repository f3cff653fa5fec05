//! Copies of a database in a directory for temporary files.
//!
//! Owns finding room for them, and removing them. Must never change the store.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::copy::{CopyMode, Durability, copy, size};
use super::error::StoreError;
use super::layout::{BEFORE, SLACK, database, fail, free_bytes};
use crate::private;

/// Names that are tried in a directory for temporary files.
const ATTEMPTS: usize = 100;

/// A directory of temporary files for a copy of a database, removed when it is dropped.
#[derive(Debug)]
pub(super) struct ScratchDir(PathBuf);

impl ScratchDir {
    /// Makes a directory with room for so many bytes, for a copy of this store.
    pub fn new(store: &Path, bytes: u64) -> Result<Self, StoreError> {
        let needed = bytes.saturating_add(SLACK);
        let (mut most_free, mut error) = (0, None);
        for parent in [std::env::temp_dir(), "/dev/shm".into(), "/var/tmp".into()] {
            if !parent.is_dir() {
                continue;
            }
            let free = free_bytes(&parent)?;
            most_free = most_free.max(free);
            if free < needed {
                continue;
            }
            match make_below(&parent) {
                Ok(Some(path)) => return Ok(Self(path)),
                Ok(None) => {}
                Err(e) => error = Some(fail("make a copy of the store in", &parent)(e)),
            }
        }
        Err(error.unwrap_or(StoreError::NoRoomToRead {
            path: store.to_owned(),
            free: most_free,
            needed,
        }))
    }

    /// Copies the database of a store that nobody writes at this moment.
    pub fn copy_of(store: &Path) -> Result<Self, StoreError> {
        // An opening that was interrupted left the database in whatever state.
        let before = store.join(BEFORE);
        let db = if before.exists() { before } else { database(store) };
        let failed = |error| fail("read", &db)(error);
        let bytes = match size(&db) {
            Err(e) if e.kind() == ErrorKind::NotFound => 0,
            found => found.map_err(failed)?,
        };
        let scratch = Self::new(store, bytes)?;
        if db.exists() {
            copy(&db, &scratch.database(), CopyMode::Bytes, Durability::Temporary)
                .map_err(failed)?;
        }
        Ok(scratch)
    }

    /// Removes the names of the files that sled has open. A process that is killed then leaves only
    /// empty directories.
    pub fn unlink_files(&self) {
        for entry in fs::read_dir(self.database()).into_iter().flatten().flatten() {
            let _ = fs::remove_file(entry.path());
        }
    }

    /// Where the copy is.
    pub fn database(&self) -> PathBuf {
        database(&self.0)
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Makes a directory that nothing else uses; `None` where all names that were tried are taken.
fn make_below(parent: &Path) -> std::io::Result<Option<PathBuf>> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    for _ in 0..ATTEMPTS {
        let n = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("sidecarta-{}-{n}", std::process::id()));
        match private::create_dir(&path) {
            Ok(()) => return Ok(Some(path)),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}
