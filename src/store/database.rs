//! sled's database: opening it, and every call of it.
//!
//! Owns sled's configuration, the errors and panics of its calls, and the removal of files that
//! sled was writing when the process was killed. sled 0.34 reads two of them as if they were whole,
//! and calls the database corrupt for ever: `conf`, which it writes in two steps, and
//! `snap.N.generating`, a copy of what is in the log, which it writes at every opening that finds
//! something new, and renames when it is whole. Both contain only what is elsewhere as well. Must
//! never call sled again after a write failed or any call panicked: it may hang, or write a part of
//! a batch.

use std::fs;
use std::io::ErrorKind;
use std::ops::RangeBounds;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::FlockOperation::NonBlockingLockExclusive;
use sled::IVec;

use super::caught::{caught, silence_panics};
use super::error::StoreError;
use super::flush::flush;

// A panic inside sled becomes an error of the store: that needs unwinding.
#[cfg(not(panic = "unwind"))]
compile_error!("the store needs `panic = \"unwind\"`");

/// Bytes of sled's page cache: its default of 1 GiB would be more than all other memory. One
/// command reads little twice, and that is in the cache of the system as well.
const CACHE: u64 = 8 * 1024 * 1024;

/// End of sled's name for a snapshot that is not whole yet (`pagecache/snapshot.rs`).
const UNFINISHED: &str = ".generating";

/// Which database is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// That of the store.
    Original,
    /// A copy: its files need not be durable.
    Copy,
}

/// The rows of a store, in sled.
#[derive(Debug)]
pub(super) struct Rows {
    /// `None` while it is being dropped.
    open: Option<(sled::Db, sled::Tree)>,
    /// The store, for messages.
    store: PathBuf,
    /// A write failed, or a call panicked.
    failed: AtomicBool,
}

impl Rows {
    /// Opens the database in the directory `path`, and makes one where there is none. sled always
    /// writes to a database while it opens it.
    pub fn open(store: &Path, path: &Path, purpose: Purpose) -> Result<Self, StoreError> {
        silence_panics();
        tidy(path).map_err(|error| StoreError::Io {
            what: "open the database of",
            path: store.to_owned(),
            error,
        })?;
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(CACHE)
            .flush_every_ms(None)
            .temporary(purpose == Purpose::Copy);
        let opened = caught(|| config.open().and_then(|db| Ok((db.open_tree("rows")?, db))));
        match opened {
            Ok(Ok((tree, db))) => Ok(Self {
                open: Some((db, tree)),
                store: store.to_owned(),
                failed: AtomicBool::new(false),
            }),
            Ok(Err(error)) => Err(failed(store, path, error)),
            Err(message) => Err(StoreError::Panicked { path: store.to_owned(), message }),
        }
    }

    /// The row of a key.
    pub fn get(&self, key: &[u8]) -> Result<Option<IVec>, StoreError> {
        self.call(|_, tree| tree.get(key))
    }

    /// Rows of a range of keys, in the order of keys.
    pub fn range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> RowIter<'_> {
        RowIter { rows: self, iter: self.open.as_ref().map(|(_, tree)| tree.range(range)) }
    }

    /// Rows whose key begins with this, in the order of keys.
    pub fn scan_prefix(&self, prefix: impl AsRef<[u8]>) -> RowIter<'_> {
        RowIter { rows: self, iter: self.open.as_ref().map(|(_, tree)| tree.scan_prefix(prefix)) }
    }

    /// All rows, in the order of keys.
    pub fn iter(&self) -> RowIter<'_> {
        RowIter { rows: self, iter: self.open.as_ref().map(|(_, tree)| tree.iter()) }
    }

    /// Writes all or nothing, and flushes it to the system. sled's flush leaves file metadata and
    /// the device cache alone.
    pub fn write(&self, batch: sled::Batch) -> Result<(), StoreError> {
        let written = self.call(|db, tree| tree.apply_batch(batch).and_then(|()| flush(db)));
        if written.is_err() {
            self.abandon();
        }
        written
    }

    /// Never calls sled again, so that it does not write what it has not written yet.
    pub fn abandon(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    fn call<T>(
        &self,
        call: impl FnOnce(&sled::Db, &sled::Tree) -> sled::Result<T>,
    ) -> Result<T, StoreError> {
        let open = self.open.as_ref().filter(|_| !self.failed.load(Ordering::Relaxed));
        let Some((db, tree)) = open else {
            return Err(StoreError::Stopped(self.store.clone()));
        };
        match caught(|| call(db, tree)) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(sled::Error::Io(error))) => Err(StoreError::Io {
                what: "use the database of the store",
                path: self.store.clone(),
                error,
            }),
            Ok(Err(error)) => Err(StoreError::Database { path: self.store.clone(), error }),
            Err(message) => {
                self.abandon();
                Err(StoreError::Panicked { path: self.store.clone(), message })
            }
        }
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        let open = self.open.take();
        if self.failed.load(Ordering::Relaxed) {
            // Dropping sled writes what is left in its buffers, such as a part of a failed write.
            std::mem::forget(open);
        } else {
            // All is durable already. sled flushes once more, and panics where that fails.
            let _ = caught(|| drop(open));
        }
    }
}

/// Rows as they are read. Ends behind the first error.
pub(super) struct RowIter<'a> {
    rows: &'a Rows,
    iter: Option<sled::Iter>,
}

impl<'a> RowIter<'a> {
    /// The keys alone.
    pub fn keys(self) -> impl Iterator<Item = Result<IVec, StoreError>> + use<'a> {
        self.map(|row| row.map(|(key, _)| key))
    }

    /// The values alone.
    pub fn values(self) -> impl Iterator<Item = Result<IVec, StoreError>> + use<'a> {
        self.map(|row| row.map(|(_, value)| value))
    }
}

impl Iterator for RowIter<'_> {
    type Item = Result<(IVec, IVec), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let iter = self.iter.as_mut()?;
        self.rows.call(|_, _| iter.next().transpose()).transpose()
    }
}

/// Whether sled was writing this file when the process was killed: nothing in it is needed.
pub(super) fn is_unfinished(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match &*name {
        // sled makes it again: the configuration is always the same.
        "conf" => match fs::read(path) {
            Ok(conf) => !whole(&conf),
            Err(_) => false,
        },
        name => is_snapshot(name) && name.ends_with(UNFINISHED),
    }
}

/// Whether this is the name of a snapshot, finished or not: a copy of what is in the log.
pub(super) fn is_snapshot(name: &str) -> bool {
    name.starts_with("snap.")
}

/// Removes the files that sled was writing when the process was killed.
fn tidy(db: &Path) -> std::io::Result<()> {
    let entries = match fs::read_dir(db) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if is_unfinished(&path) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Whether the configuration ends in its checksum (CRC-32, little-endian; `config.rs`).
fn whole(conf: &[u8]) -> bool {
    conf.split_last_chunk::<4>()
        .is_some_and(|(text, sum)| crc32fast::hash(text) == u32::from_le_bytes(*sum))
}

fn failed(store: &Path, database: &Path, error: sled::Error) -> StoreError {
    match error {
        // sled reports a lock of another process only as text (`config.rs`, `try_lock`).
        sled::Error::Io(e) if e.raw_os_error().is_none() && is_locked(database) => {
            StoreError::Locked(store.to_owned())
        }
        sled::Error::Io(error) => {
            StoreError::Io { what: "open the database of", path: store.to_owned(), error }
        }
        sled::Error::Corruption { .. } => StoreError::Torn {
            path: store.to_owned(),
            why: "the database file is corrupt".to_owned(),
        },
        error => StoreError::Database { path: store.to_owned(), error },
    }
}

/// Whether another process has sled's lock on the log of this database now.
fn is_locked(database: &Path) -> bool {
    fs::File::open(database.join("db")).is_ok_and(|log| {
        rustix::fs::flock(&log, NonBlockingLockExclusive) == Err(rustix::io::Errno::WOULDBLOCK)
    })
}
