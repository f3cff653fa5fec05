//! Why a store could not be opened, read or written.
//!
//! Owns the messages. Each says what to do. Must never say that nothing was changed where something
//! was.

use std::io;
use std::path::PathBuf;

use super::schema::SCHEMA;

/// Why a store could not be opened, read or written. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no store here.
    #[error(
        "there is no store at {}: `sidecarta replay` or `sidecarta import` makes one, `--store \
         DIR` names another",
        .0.display()
    )]
    Missing(PathBuf),
    /// The directory has other files in it.
    #[error(
        "{} is not a store and not empty: it is left alone; choose another directory with --store",
        .0.display()
    )]
    NotAStore(PathBuf),
    /// Another process has it open.
    #[error(
        "the store {} is in use by another process; wait for it, or export from it and import \
         elsewhere",
        .0.display()
    )]
    Locked(PathBuf),
    /// Made by a newer program.
    #[error(
        "the store {} has schema {found}, this program knows up to {SCHEMA}: use the newer \
         sidecarta, or export with it",
        path.display()
    )]
    Newer {
        /// The store.
        path: PathBuf,
        /// Its schema.
        found: u32,
    },
    /// Rows are missing.
    #[error(
        "the store {} is damaged: {why}; nothing was changed. Restore it from an export \
         (`sidecarta import FILE --store NEW`), replay the captures into a new one, or save what \
         is left with `sidecarta export`",
        path.display()
    )]
    Torn {
        /// The store.
        path: PathBuf,
        /// What is missing, or cannot be read.
        why: String,
    },
    /// Too little room is free for a write. Nothing was written.
    #[error(
        "{} MiB are free at {}, {} MiB are needed: nothing was written; make room and run the \
         command again",
        free >> 20,
        path.display(),
        needed.div_ceil(1 << 20)
    )]
    DiskFull {
        /// The store.
        path: PathBuf,
        /// Free bytes.
        free: u64,
        /// Bytes that the write needs at most.
        needed: u64,
    },
    /// There is no room for the copy that is read.
    #[error(
        "the store {} is read from a copy, which needs {} MiB of the directory for temporary \
         files, and {} are free: set TMPDIR to a directory with more",
        path.display(),
        needed.div_ceil(1 << 20), free >> 20
    )]
    NoRoomToRead {
        /// The store.
        path: PathBuf,
        /// Most free bytes of a directory for temporary files.
        free: u64,
        /// Wanted bytes.
        needed: u64,
    },
    /// sled panicked. The store is not written to again.
    #[error(
        "the database of the store {} failed unexpectedly: {message}; what was stored before is \
         safe",
        path.display()
    )]
    Panicked {
        /// The store.
        path: PathBuf,
        /// The message of the panic.
        message: String,
    },
    /// An earlier write failed, and nothing is written after that.
    #[error(
        "the store {} stopped writing after an error; what was stored before is safe, start again \
         when the cause is gone",
        .0.display()
    )]
    Stopped(PathBuf),
    /// The file system reported an error.
    #[error("cannot {what} {}: {error}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        error: io::Error,
    },
    /// sled reported an error.
    #[error("the database of the store {} failed: {error}", path.display())]
    Database {
        /// The store.
        path: PathBuf,
        /// The reason.
        error: sled::Error,
    },
    /// A row cannot be read.
    #[error(
        "a row of the store {} cannot be read ({error}): it was written by another version or is \
         damaged; restore from an export",
        path.display()
    )]
    Row {
        /// The store.
        path: PathBuf,
        /// The reason.
        error: serde_json::Error,
    },
    /// An export cannot be read.
    #[error("line {line}: {why}; nothing was imported")]
    Import {
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// An export cannot be written.
    #[error("cannot write the export: {0}")]
    Export(#[from] io::Error),
}
