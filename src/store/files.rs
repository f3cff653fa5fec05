//! The files of a store: who may write them, who reads them when, and copies of them.
//!
//! Owns the layout of the directory, its locks and permissions, and the copy that is kept while
//! sled opens the database. sled takes what it cannot read for torn, and overwrites it: so whoever
//! reads opens a copy, and whoever writes keeps one until all rows were found. Must never let go of
//! that copy before, and never copy what could not be read.
//!
//! Layout: `sidecarta.json` (marker), `sidecarta.commits` (last seal), `db/` (sled), `writer.lock`
//! (held by the one process that writes), `commit.lock` (held shared while the database is copied,
//! exclusively while it is opened or written). `db.before/` is there while the database is being
//! opened, and is what counts then; `db.copying/` and `db.rejected/` count for nothing.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation::{NonBlockingLockExclusive, NonBlockingLockShared, Unlock};
use rustix::io::Errno;

use super::error::StoreError;
use super::marker::Marker;
use super::{database, seal};
use crate::private;

const DATABASE: &str = "db";
const BEFORE: &str = "db.before";
const COPYING: &str = "db.copying";
const REJECTED: &str = "db.rejected";
const WRITER: &str = "writer.lock";
const COMMIT: &str = "commit.lock";
/// Room that opening takes beside the copy: sled's own snapshot, and a segment of its log.
const SLACK: u64 = 4 * 1024 * 1024;
/// How long a reader waits for a writer that opens or commits, and how long a writer waits for a
/// reader that copies. A writer then goes on: the reader notices that its copy is not whole.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a writer tries to be the only one. A program that the last writer has just started
/// holds its lock as well, until it is a program of its own (between `fork` and `exec`).
const BRIEFLY: Duration = Duration::from_millis(250);

fn fail<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |error| StoreError::Io { what, path: path.to_owned(), error }
}

/// Where sled's files are.
pub(super) fn database(dir: &Path) -> PathBuf {
    dir.join(DATABASE)
}

/// Makes what was written durable: sled's own flush leaves file metadata and the device cache
/// alone.
pub(super) fn make_durable(dir: &Path) -> Result<(), StoreError> {
    let file = database(dir).join("db");
    File::open(&file).and_then(|f| f.sync_all()).map_err(|error| StoreError::Io {
        what: "make durable",
        path: file,
        error,
    })
}

/// Whether a file is no trace of a store whose creation was interrupted before it had a marker.
pub(super) fn is_foreign(entry: &fs::DirEntry) -> bool {
    let name = entry.file_name();
    !(Marker::is_unfinished(&name) || name == WRITER || name == COMMIT)
}

/// What was made for a new store. Dropped, it is removed again, unless it is kept.
#[derive(Debug)]
pub(super) struct Made {
    /// The store; absent where it is kept.
    dir: Option<PathBuf>,
    /// Directories above it and itself, the uppermost first.
    dirs: Vec<PathBuf>,
}

impl Made {
    /// Makes the directory of a new store, or takes one that is empty.
    pub fn new(dir: &Path) -> Result<Self, StoreError> {
        let mut missing: Vec<&Path> = dir
            .ancestors()
            .take_while(|p| !p.as_os_str().is_empty() && p.symlink_metadata().is_err())
            .collect();
        missing.reverse();
        let mut made = Self { dir: Some(dir.to_owned()), dirs: Vec::new() };
        for path in missing {
            match private::create_dir(path) {
                Ok(()) => made.dirs.push(path.to_owned()),
                Err(e) if e.kind() == ErrorKind::AlreadyExists && path.is_dir() => {}
                Err(e) => return Err(fail("make the directory", dir)(e)),
            }
        }
        let mut entries = fs::read_dir(dir).map_err(fail("open the store", dir))?;
        let foreign = |e: io::Result<fs::DirEntry>| {
            // What another process makes at this moment is no reason to refuse either.
            e.is_ok_and(|e| is_foreign(&e)) && !Marker::is_in(dir)
        };
        if entries.any(foreign) {
            made.dir = None;
            return Err(StoreError::NotAStore(dir.to_owned()));
        }
        Ok(made)
    }

    /// The store stays.
    pub fn keep(&mut self) {
        self.dir = None;
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let Some(dir) = &self.dir else { return };
        for file in [seal::FILE, COMMIT, WRITER] {
            let _ = fs::remove_file(dir.join(file));
        }
        let _ = fs::remove_dir_all(database(dir));
        Marker::remove(dir);
        // One that holds anything else stays.
        for dir in self.dirs.iter().rev() {
            let _ = fs::remove_dir(dir);
        }
    }
}

/// A lock on a file of the store, held as long as it is open.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    /// Makes this process the only one that writes.
    pub fn writer(dir: &Path) -> Result<Self, StoreError> {
        let file = Self::make(dir, WRITER)?;
        if wait(BRIEFLY, || rustix::fs::flock(&file, NonBlockingLockExclusive)).is_err() {
            return Err(StoreError::Locked(dir.to_owned()));
        }
        // Programs that do not know this lock hold sled's.
        match File::open(database(dir).join("db")) {
            Ok(log)
                if wait(BRIEFLY, || rustix::fs::flock(&log, NonBlockingLockExclusive)).is_err() =>
            {
                Err(StoreError::Locked(dir.to_owned()))
            }
            _ => Ok(Self(file)),
        }
    }

    /// The lock that writers hold while they write, not held yet.
    pub fn commits(dir: &Path) -> Result<Self, StoreError> {
        Ok(Self(Self::make(dir, COMMIT)?))
    }

    fn make(dir: &Path, name: &str) -> Result<File, StoreError> {
        let path = dir.join(name);
        private::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(fail("open the store for writing:", &path))
    }

    /// Keeps readers away. Where that is not to be had, the writer goes on.
    pub fn exclusive(&self) -> Held<'_> {
        let _ = wait(PATIENCE, || rustix::fs::flock(&self.0, NonBlockingLockExclusive));
        Held(&self.0)
    }

    /// Keeps writers away while the database is copied. Absent: there was never a writer, or the
    /// disk cannot lock.
    pub fn shared(dir: &Path) -> Result<Option<Self>, StoreError> {
        let path = dir.join(COMMIT);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(fail("open", &path)(e)),
        };
        match wait(PATIENCE, || rustix::fs::flock(&file, NonBlockingLockShared)) {
            Err(Errno::WOULDBLOCK) => Err(StoreError::Locked(dir.to_owned())),
            _ => Ok(Some(Self(file))),
        }
    }
}

/// A lock that is held exclusively for a while.
pub(super) struct Held<'a>(&'a File);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let _ = rustix::fs::flock(self.0, Unlock);
    }
}

/// Tries to lock as long as another holds the lock, until `patience` is over. What the last try said
/// is the result.
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

/// Free bytes where this is.
pub(super) fn free(path: &Path) -> Result<u64, StoreError> {
    let there = path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("."));
    let stat = rustix::fs::statvfs(there)
        .map_err(|e| fail("ask for the free space of", path)(e.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Bytes of all files below a directory.
fn size(dir: &Path) -> io::Result<u64> {
    let mut sum = 0u64;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let found = entry.metadata()?;
        let n = if found.is_dir() { size(&entry.path())? } else { found.len() };
        sum = sum.saturating_add(n);
    }
    Ok(sum)
}

/// How files are copied.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Copying {
    /// By the file system, which shares their blocks, or not at all.
    Clone,
    /// Byte by byte.
    Bytes,
    /// Byte by byte, over what is there.
    Back,
}

/// Copies the files of a database, but for those that hold nothing. Any error of reading is one of
/// copying.
fn copy(from: &Path, to: &Path, copying: Copying, durable: bool) -> io::Result<()> {
    if copying != Copying::Back {
        private::create_dir(to)?;
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            if copying == Copying::Back {
                let _ = private::create_dir(&to);
            }
            copy(&from, &to, copying, durable)?;
        } else if !database::is_unfinished(&from) {
            copy_file(&from, &to, copying, durable)?;
        }
    }
    if durable { sync(to) } else { Ok(()) }
}

fn copy_file(from: &Path, to: &Path, copying: Copying, durable: bool) -> io::Result<()> {
    let from = File::open(from)?;
    let new = copying != Copying::Back;
    let to =
        private::options().write(true).create_new(new).create(!new).truncate(false).open(to)?;
    if copying == Copying::Clone {
        rustix::fs::ioctl_ficlone(&to, &from)?;
    } else {
        let mut buffer = vec![0; 1 << 18];
        let mut at = 0;
        loop {
            match from.read_at(&mut buffer, at) {
                Ok(0) => break,
                Ok(n) => {
                    to.write_all_at(&buffer[..n], at)?;
                    at += n as u64;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        if at < from.metadata()?.len() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if copying == Copying::Back {
            to.set_len(at)?;
        }
    }
    if durable { to.sync_all() } else { Ok(()) }
}

/// The copy of a database that is kept while sled opens it.
#[derive(Debug)]
pub(super) struct Backup {
    store: PathBuf,
    /// It is in the directory for temporary files: the disk of the store has no room for it.
    elsewhere: Option<Scratch>,
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
        let (free, needed) = (free(store)?, size.saturating_add(SLACK));
        if free < SLACK {
            return Err(StoreError::DiskFull { path: store.to_owned(), free, needed: SLACK });
        }
        let _ = fs::remove_dir_all(&copying);
        if copy(&db, &copying, Copying::Clone, true).is_err() {
            let _ = fs::remove_dir_all(&copying);
            if free < needed {
                let scratch = Scratch::new(store, size)?;
                copy(&db, &scratch.database(), Copying::Bytes, true).map_err(failed)?;
                return Ok(Self { store: store.to_owned(), elsewhere: Some(scratch) });
            }
            copy(&db, &copying, Copying::Bytes, true).map_err(failed)?;
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

    /// The database is as it was before sled opened it.
    pub fn restore(self) -> Result<(), StoreError> {
        match &self.elsewhere {
            None => settle(&self.store),
            Some(scratch) => {
                let db = database(&self.store);
                copy(&scratch.database(), &db, Copying::Back, true).map_err(fail("write", &db))
            }
        }
    }
}

/// Takes back what an opening that was interrupted, or failed, has done to the database.
pub(super) fn settle(store: &Path) -> Result<(), StoreError> {
    let (db, before, rejected) = (database(store), store.join(BEFORE), store.join(REJECTED));
    let _ = fs::remove_dir_all(&rejected);
    let _ = fs::remove_dir_all(store.join(COPYING));
    if before.exists() {
        let set = || {
            if db.exists() {
                fs::rename(&db, &rejected)?;
            }
            fs::rename(&before, &db)?;
            sync(store)
        };
        set().map_err(fail("write", &db))?;
        let _ = fs::remove_dir_all(&rejected);
    }
    Ok(())
}

/// Refuses a store that a program has open which does not know the locks.
pub(super) fn not_in_use(store: &Path) -> Result<(), StoreError> {
    match File::open(database(store).join("db")) {
        Ok(log) if rustix::fs::flock(&log, NonBlockingLockShared) == Err(Errno::WOULDBLOCK) => {
            Err(StoreError::Locked(store.to_owned()))
        }
        _ => Ok(()),
    }
}

/// Makes the directory of a new database.
pub(super) fn make_database(db: &Path) -> Result<(), StoreError> {
    match private::create_dir(db) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(fail("make the directory", db)(e)),
        _ => Ok(()),
    }
}

/// Removes the snapshots of a database: sled makes them again from its log.
pub(super) fn remove_snapshots(db: &Path) -> io::Result<()> {
    for entry in fs::read_dir(db)? {
        let entry = entry?;
        if database::is_snapshot(&entry.file_name().to_string_lossy()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// A directory for temporary files, removed when it is dropped.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Makes one with room for so many bytes, for a copy of this store.
    fn new(store: &Path, bytes: u64) -> Result<Self, StoreError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let needed = bytes.saturating_add(SLACK);
        let (mut most, mut error) = (0, None);
        for place in [std::env::temp_dir(), "/dev/shm".into(), "/var/tmp".into()] {
            let free = if place.is_dir() { free(&place)? } else { continue };
            most = most.max(free);
            if free < needed {
                continue;
            }
            for _ in 0..100 {
                let n = NUMBER.fetch_add(1, Ordering::Relaxed);
                let path = place.join(format!("sidecarta-{}-{n}", std::process::id()));
                match private::create_dir(&path) {
                    Ok(()) => return Ok(Self(path)),
                    Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                    Err(e) => {
                        error = Some(fail("make a copy of the store in", &place)(e));
                        break;
                    }
                }
            }
        }
        Err(error.unwrap_or(StoreError::NoRoomToRead {
            path: store.to_owned(),
            free: most,
            needed,
        }))
    }

    /// Copies the database of a store that nobody writes at this moment.
    pub fn of(store: &Path) -> Result<Self, StoreError> {
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
            copy(&db, &scratch.database(), Copying::Bytes, false).map_err(failed)?;
        }
        Ok(scratch)
    }

    /// Removes the names of the files that sled has opened: a process that is killed leaves nothing
    /// but empty directories.
    pub fn hide(&self) {
        for entry in fs::read_dir(self.database()).into_iter().flatten().flatten() {
            let _ = fs::remove_file(entry.path());
        }
    }

    /// The copy.
    pub fn database(&self) -> PathBuf {
        database(&self.0)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
