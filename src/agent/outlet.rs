//! Where batches go.
//!
//! Owns delivery. A batch is delivered when it is durable there; until then the agent keeps it. Must never deliver a part of one.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::learn::Learner;
use crate::observed::{self, Observed};
use crate::store::{Store, StoreError};
use crate::view::View;

/// Why a batch was not delivered.
#[derive(Debug, thiserror::Error)]
pub enum Undelivered {
    /// It may be delivered later.
    #[error("{0}")]
    Later(String),
    /// It will never be: the agent has to end.
    #[error("{0}")]
    Never(String),
}

/// Takes batches.
pub trait Outlet: Send {
    /// Delivers a batch. Delivering it again after a failure changes nothing more.
    ///
    /// # Errors
    /// See [`Undelivered`].
    fn deliver(&mut self, batch: &Observed) -> Result<(), Undelivered>;
}

/// A file that grows.
#[derive(Debug)]
pub struct ToFile {
    path: PathBuf,
    file: File,
}

impl ToFile {
    /// Opens a file to append to.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        // What a killed agent left of a line must not run into the next one.
        let length = file.seek(SeekFrom::End(0))?;
        if length > 0 {
            let mut last = [0];
            file.seek(SeekFrom::Start(length - 1))?;
            io::Read::read_exact(&mut file, &mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
            }
        }
        Ok(Self { path: path.to_owned(), file })
    }
}

impl Outlet for ToFile {
    fn deliver(&mut self, batch: &Observed) -> Result<(), Undelivered> {
        let later = |e: io::Error| Undelivered::Later(format!("cannot write {}: {e}", self.path.display()));
        let mut text = Vec::new();
        observed::write(batch, &mut text).map_err(later)?;
        let before = self.file.seek(SeekFrom::End(0)).map_err(later)?;
        let written = self.file.write_all(&text).and_then(|()| self.file.sync_data());
        written.map_err(|e| {
            // A part of a batch would be read as a cut one: away with it, the whole of it follows.
            let _ = self.file.set_len(before);
            later(e)
        })
    }
}

/// Standard output.
#[derive(Debug, Default)]
pub struct ToStdout;

impl Outlet for ToStdout {
    fn deliver(&mut self, batch: &Observed) -> Result<(), Undelivered> {
        let mut text = Vec::new();
        let written = observed::write(batch, &mut text).and_then(|()| {
            let mut out = io::stdout().lock();
            out.write_all(&text)?;
            out.flush()
        });
        // A part may be written: it cannot be taken back.
        written.map_err(|e| Undelivered::Never(format!("cannot write to standard output: {e}")))
    }
}

/// A store in this process: learning and all.
#[derive(Debug)]
pub struct ToStore {
    store: Store,
    view: View,
}

impl ToStore {
    /// Learns with this view of the cluster.
    pub fn new(store: Store, view: View) -> Self {
        Self { store, view }
    }
}

impl Outlet for ToStore {
    fn deliver(&mut self, batch: &Observed) -> Result<(), Undelivered> {
        if !self.view.status().synced {
            return Err(Undelivered::Later("the view of the cluster is not complete yet".to_owned()));
        }
        let records = Learner::batch(&self.view.current(), batch);
        match self.store.apply(&records) {
            Ok(_) => Ok(()),
            Err(e @ StoreError::DiskFull { .. }) => Err(Undelivered::Later(e.to_string())),
            Err(e) => Err(Undelivered::Never(e.to_string())),
        }
    }
}
