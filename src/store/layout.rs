//! Where the files of a store are, and what the system says of them.
//!
//! Owns the names of files and directories. Must never read the content of a file.
//!
//! | name | what it is |
//! |---|---|
//! | `sidecarta.json` | the marker |
//! | `sidecarta.commits` | the last seal |
//! | `db/` | the database, written by sled |
//! | `writer.lock` | locked by the one process that writes |
//! | `commit.lock` | locked shared to copy the database, exclusively to open and write it |
//! | `db.before/` | a copy of the database while it is being opened: then it counts, not `db/` |
//! | `db.copying/`, `db.rejected/` | leftovers, which count for nothing |

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::database;
use super::error::StoreError;
use super::marker::Marker;
use crate::private;

const DATABASE: &str = "db";
pub(super) const BEFORE: &str = "db.before";
pub(super) const COPYING: &str = "db.copying";
pub(super) const REJECTED: &str = "db.rejected";
pub(super) const WRITER: &str = "writer.lock";
pub(super) const COMMIT: &str = "commit.lock";
/// Bytes that opening takes beside the copy: sled's own snapshot, and a segment of its log.
pub(super) const SLACK: u64 = 4 * 1024 * 1024;

/// Makes an error of the system one of the store: `what` was tried on `path`.
pub(super) fn fail<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |error| StoreError::Io { what, path: path.to_owned(), error }
}

/// The directory of sled's files, in a store or in a copy.
pub(super) fn database(dir: &Path) -> PathBuf {
    dir.join(DATABASE)
}

/// Makes the directory of a new database.
pub(super) fn make_database(db: &Path) -> Result<(), StoreError> {
    match private::create_dir(db) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(fail("make the directory", db)(e)),
        _ => Ok(()),
    }
}

/// Makes what was written durable: sled's own flush leaves file metadata and the device cache
/// alone.
pub(super) fn make_durable(dir: &Path) -> Result<(), StoreError> {
    let file = database(dir).join("db");
    sync(&file).map_err(|error| StoreError::Io { what: "make durable", path: file, error })
}

/// Makes a file or a directory durable.
pub(super) fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
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

/// Whether a file does not belong to a store. A store whose creation was interrupted before it had
/// a marker has other files already.
pub(super) fn is_foreign(entry: &fs::DirEntry) -> bool {
    let name = entry.file_name();
    !(Marker::is_unfinished(&name) || name == WRITER || name == COMMIT)
}

/// Free bytes on the disk of a path, which need not exist yet.
pub(super) fn free_bytes(path: &Path) -> Result<u64, StoreError> {
    let existing = path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("."));
    let stat = rustix::fs::statvfs(existing)
        .map_err(|e| fail("ask for the free space of", path)(e.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
