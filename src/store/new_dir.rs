//! The directory of a store that is being created.
//!
//! Owns removing it again where creating the store fails. Must never remove what it did not make.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::error::StoreError;
use super::layout::{COMMIT, WRITER, database, fail, is_foreign};
use super::marker::Marker;
use super::seal;
use crate::private;

/// What was made for a new store. Dropped, it is removed again, unless it is retained.
#[derive(Debug)]
pub(super) struct NewStoreDir {
    /// The store; `None` where it is retained.
    dir: Option<PathBuf>,
    /// The directories that were made: those above the store and its own, the uppermost first.
    made: Vec<PathBuf>,
}

impl NewStoreDir {
    /// Makes the directory of a new store, or takes an empty one.
    pub fn new(dir: &Path) -> Result<Self, StoreError> {
        let ancestors = dir.ancestors().take_while(|path| !path.as_os_str().is_empty());
        let mut missing: Vec<&Path> =
            ancestors.take_while(|path| path.symlink_metadata().is_err()).collect();
        missing.reverse();
        let mut new = Self { dir: Some(dir.to_owned()), made: Vec::new() };
        for path in missing {
            match private::create_dir(path) {
                Ok(()) => new.made.push(path.to_owned()),
                Err(e) if e.kind() == ErrorKind::AlreadyExists && path.is_dir() => {}
                Err(e) => return Err(fail("make the directory", dir)(e)),
            }
        }
        let mut entries = fs::read_dir(dir).map_err(fail("open the store", dir))?;
        let foreign = |entry: io::Result<fs::DirEntry>| {
            // What another process makes at this moment is no reason to refuse either.
            entry.is_ok_and(|entry| is_foreign(&entry)) && !Marker::is_in(dir)
        };
        if entries.any(foreign) {
            new.dir = None;
            return Err(StoreError::NotAStore(dir.to_owned()));
        }
        Ok(new)
    }

    /// The store stays.
    pub fn retain(&mut self) {
        self.dir = None;
    }
}

impl Drop for NewStoreDir {
    fn drop(&mut self) {
        let Some(dir) = &self.dir else { return };
        for file in [seal::FILE, COMMIT, WRITER] {
            let _ = fs::remove_file(dir.join(file));
        }
        let _ = fs::remove_dir_all(database(dir));
        Marker::remove(dir);
        // A directory that has anything else in it stays.
        for dir in self.made.iter().rev() {
            let _ = fs::remove_dir(dir);
        }
    }
}
