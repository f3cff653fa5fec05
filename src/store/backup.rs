//! The copy of a database that is retained while sled opens it.
//!
//! Owns that copy, and putting it back. sled takes what it cannot read for torn, and overwrites it.
//! Must never drop the copy before all rows were found, and never take a copy for whole of which
//! something could not be read.

use std::fs;
use std::path::{Path, PathBuf};

use super::copy::{CopyMode, Durability, copy, size};
use super::error::StoreError;
use super::layout::{BEFORE, COPYING, REJECTED, SLACK, database, fail, free_bytes, sync};
use super::scratch::ScratchDir;

/// The copy of a database that is retained while sled opens it.
#[derive(Debug)]
pub(super) struct Backup {
    store: PathBuf,
    /// Where the disk of the store has no room for the copy: a directory for temporary files.
    elsewhere: Option<ScratchDir>,
}

impl Backup {
    /// Copies the database. On any error nothing has changed.
    pub fn make(store: &Path) -> Result<Self, StoreError> {
        let (db, copying) = (database(store), store.join(COPYING));
        let failed = |error| {
            let _ = fs::remove_dir_all(&copying);
            fail("copy before it is opened (nothing was changed, run the command again)", &db)(
                error,
            )
        };
        let size = size(&db).map_err(failed)?;
        let (free, needed) = (free_bytes(store)?, size.saturating_add(SLACK));
        if free < SLACK {
            return Err(StoreError::DiskFull { path: store.to_owned(), free, needed: SLACK });
        }
        let _ = fs::remove_dir_all(&copying);
        if copy(&db, &copying, CopyMode::Clone, Durability::Durable).is_err() {
            let _ = fs::remove_dir_all(&copying);
            if free < needed {
                let scratch = ScratchDir::new(store, size)?;
                copy(&db, &scratch.database(), CopyMode::Bytes, Durability::Durable)
                    .map_err(failed)?;
                return Ok(Self { store: store.to_owned(), elsewhere: Some(scratch) });
            }
            copy(&db, &copying, CopyMode::Bytes, Durability::Durable).map_err(failed)?;
        }
        fs::rename(&copying, store.join(BEFORE))
            .and_then(|()| sync(store))
            .map_err(fail("write", &copying))?;
        Ok(Self { store: store.to_owned(), elsewhere: None })
    }

    /// The database is whole: the copy is no longer needed.
    pub fn discard(self) -> Result<(), StoreError> {
        if self.elsewhere.is_none() {
            let rejected = self.store.join(REJECTED);
            let _ = fs::remove_dir_all(&rejected);
            fs::rename(self.store.join(BEFORE), &rejected)
                .and_then(|()| sync(&self.store))
                .map_err(fail("write", &rejected))?;
            let _ = fs::remove_dir_all(&rejected);
        }
        Ok(())
    }

    /// Makes the database what it was before sled opened it.
    pub fn restore(self) -> Result<(), StoreError> {
        match &self.elsewhere {
            None => recover(&self.store),
            Some(scratch) => {
                let db = database(&self.store);
                copy(&scratch.database(), &db, CopyMode::Overwrite, Durability::Durable)
                    .map_err(fail("write", &db))
            }
        }
    }
}

/// Undoes what an opening that was interrupted, or failed, has done to the database.
pub(super) fn recover(store: &Path) -> Result<(), StoreError> {
    let (db, before, rejected) = (database(store), store.join(BEFORE), store.join(REJECTED));
    let _ = fs::remove_dir_all(&rejected);
    let _ = fs::remove_dir_all(store.join(COPYING));
    if before.exists() {
        let put_back = || {
            if db.exists() {
                fs::rename(&db, &rejected)?;
            }
            fs::rename(&before, &db)?;
            sync(store)
        };
        put_back().map_err(fail("write", &db))?;
        let _ = fs::remove_dir_all(&rejected);
    }
    Ok(())
}
