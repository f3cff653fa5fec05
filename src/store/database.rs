//! Opening sled's database, also after a kill at any instant.
//!
//! Owns sled's configuration and what is done about files that sled was writing when the process
//! was killed. sled 0.34 reads two of them as if they were whole and calls the database corrupt for
//! ever: `conf`, written in two steps, and `snap.N.generating`, a copy of what the log holds, which
//! it writes at every opening that finds something new, and renames when whole. Neither holds
//! anything that is not elsewhere. Must never touch the log, a finished snapshot, or a database
//! that another process has open.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::FlockOperation::NonBlockingLockExclusive;

use super::StoreError;

/// Page cache of sled: the default of 1 GiB would dwarf everything else. What is read again within
/// one command is little, and stands in the cache of the system as well.
const CACHE: u64 = 8 * 1024 * 1024;

/// sled's name of a snapshot that is not whole yet ends so (`pagecache/snapshot.rs`).
const UNFINISHED: &str = ".generating";

/// Opens the database of a store.
pub(super) fn open(store: &Path) -> Result<sled::Db, StoreError> {
    let path = store.join("db");
    let config = sled::Config::new().path(&path).cache_capacity(CACHE).flush_every_ms(None);
    let opened = match config.open() {
        Err(sled::Error::Corruption { .. } | sled::Error::Unsupported(_))
            if tidied(store, &path)? =>
        {
            config.open()
        }
        opened => opened,
    };
    opened.map_err(|e| failed(store, e))
}

/// Removes what sled was writing when it was killed. Whether there was anything.
fn tidied(store: &Path, db: &Path) -> Result<bool, StoreError> {
    // sled's own lock: whoever holds it may be writing these files now.
    let log =
        File::options().append(true).create(true).open(db.join("db")).map_err(|e| io(store, e))?;
    rustix::fs::flock(&log, NonBlockingLockExclusive).map_err(|e| match e {
        rustix::io::Errno::WOULDBLOCK => StoreError::Locked(store.to_owned()),
        e => io(store, e.into()),
    })?;
    let mut found = false;
    for entry in fs::read_dir(db).map_err(|e| io(store, e))? {
        let path = entry.map_err(|e| io(store, e))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let unfinished = match &*name {
            // sled makes it again: the configuration is always the same.
            "conf" => !fs::read(&path).is_ok_and(|conf| whole(&conf)),
            name => name.starts_with("snap.") && name.ends_with(UNFINISHED),
        };
        if unfinished {
            fs::remove_file(&path).map_err(|e| io(store, e))?;
            found = true;
        }
    }
    Ok(found)
}

/// Whether the configuration ends in its checksum (CRC-32, little-endian; `config.rs`).
fn whole(conf: &[u8]) -> bool {
    conf.split_last_chunk::<4>()
        .is_some_and(|(text, sum)| crc32fast::hash(text) == u32::from_le_bytes(*sum))
}

fn failed(store: &Path, error: sled::Error) -> StoreError {
    match error {
        // sled tells of a lock that another has in words only (`config.rs`, `try_lock`).
        sled::Error::Io(e) if e.raw_os_error().is_none() && is_locked(store) => {
            StoreError::Locked(store.to_owned())
        }
        sled::Error::Io(error) => io(store, error),
        sled::Error::Corruption { .. } => StoreError::Torn {
            path: store.to_owned(),
            why: "the database file is corrupt".to_owned(),
        },
        error => StoreError::Database { path: store.to_owned(), error },
    }
}

/// Whether another has sled's lock on the log now.
fn is_locked(store: &Path) -> bool {
    File::open(store.join("db").join("db")).is_ok_and(|log| {
        rustix::fs::flock(&log, NonBlockingLockExclusive) == Err(rustix::io::Errno::WOULDBLOCK)
    })
}

fn io(store: &Path, error: io::Error) -> StoreError {
    StoreError::Io { what: "open the database of", path: store.to_owned(), error }
}
