//! The locks of a store.
//!
//! Owns who may write, and that nobody copies the database while it is written. Must never wait
//! without a limit.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation::{NonBlockingLockExclusive, NonBlockingLockShared, Unlock};
use rustix::fs::flock;
use rustix::io::Errno;

use super::error::StoreError;
use super::layout::{COMMIT, WRITER, database, fail};
use crate::private;

/// How long a reader waits for a writer that opens or commits, and how long a writer waits for a
/// reader that copies. A writer then goes on: the reader finds that its copy is not whole.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a writer tries to be the only one. A program that the last writer has just started has
/// its lock as well, until it is a program of its own (between `fork` and `exec`).
const BRIEFLY: Duration = Duration::from_millis(250);

/// A file of the store that is locked, or may be, as long as it is open.
#[derive(Debug)]
pub(super) struct StoreLock(File);

impl StoreLock {
    /// Makes this process the only one that writes.
    pub fn writer(dir: &Path) -> Result<Self, StoreError> {
        let file = Self::open_file(dir, WRITER)?;
        if wait(BRIEFLY, || flock(&file, NonBlockingLockExclusive)).is_err() {
            return Err(StoreError::Locked(dir.to_owned()));
        }
        // Programs that do not know this lock have sled's.
        let log = File::open(database(dir).join("db"));
        let is_locked =
            |log: &File| wait(BRIEFLY, || flock(log, NonBlockingLockExclusive)).is_err();
        if log.is_ok_and(|log| is_locked(&log)) {
            return Err(StoreError::Locked(dir.to_owned()));
        }
        Ok(Self(file))
    }

    /// The lock that a writer takes while it writes; not taken yet.
    pub fn commits(dir: &Path) -> Result<Self, StoreError> {
        Ok(Self(Self::open_file(dir, COMMIT)?))
    }

    fn open_file(dir: &Path, name: &str) -> Result<File, StoreError> {
        let path = dir.join(name);
        private::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(fail("open the store for writing:", &path))
    }

    /// Keeps readers away. Where the lock cannot be had in time, the writer goes on without it.
    pub fn exclusive(&self) -> LockGuard<'_> {
        let _ = wait(PATIENCE, || flock(&self.0, NonBlockingLockExclusive));
        LockGuard(&self.0)
    }

    /// Keeps writers away while the database is copied. `None`: there was never a writer, or the
    /// disk cannot lock.
    pub fn shared(dir: &Path) -> Result<Option<Self>, StoreError> {
        let path = dir.join(COMMIT);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(fail("open", &path)(e)),
        };
        match wait(PATIENCE, || flock(&file, NonBlockingLockShared)) {
            Err(Errno::WOULDBLOCK) => Err(StoreError::Locked(dir.to_owned())),
            _ => Ok(Some(Self(file))),
        }
    }
}

/// An exclusive lock, until it is dropped.
pub(super) struct LockGuard<'a>(&'a File);

impl Drop for LockGuard<'_> {
    fn drop(&mut self) {
        let _ = flock(self.0, Unlock);
    }
}

/// Refuses a store that is open in a program that does not know these locks.
pub(super) fn not_in_use(store: &Path) -> Result<(), StoreError> {
    let log = File::open(database(store).join("db"));
    let is_locked = |log: File| flock(&log, NonBlockingLockShared) == Err(Errno::WOULDBLOCK);
    if log.is_ok_and(is_locked) {
        return Err(StoreError::Locked(store.to_owned()));
    }
    Ok(())
}

/// Tries to lock while another process has the lock, until `patience` is over. Returns the result
/// of the last attempt.
fn wait(patience: Duration, lock: impl Fn() -> rustix::io::Result<()>) -> rustix::io::Result<()> {
    let until = Instant::now() + patience;
    loop {
        match lock() {
            Err(Errno::WOULDBLOCK) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(1));
            }
            result => return result,
        }
    }
}
