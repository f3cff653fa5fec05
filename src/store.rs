//! The durable memory: every record merged into its row, every batch applied once.
//!
//! Owns the layout on disk, durability and torn-store detection; the only module that knows sled.
//! Must never write after its first write error, and never open a store that lost its rows as if it
//! were a new one.
//!
//! Layout: `DIR/sidecarta.json` (marker), `DIR/db/` (sled). All rows live in one named tree, so
//! that a batch and the note that it is held are one atomic write.

mod alerts;
mod counted;
mod database;
mod error;
mod exchange;
mod kept;
mod keys;
mod marker;
mod noted;
mod pages;

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::model::{
    Batch, BatchId, Counted, Dependency, Lookups, Merge, Record, Source, Watch, Workload,
    WorkloadId,
};
use keys::Kind;
use marker::Marker;
use pages::New;

pub use alerts::{Delivery, Raised};
pub use error::StoreError;
pub use exchange::Imported;

/// Version of the layout and of the rows' encoding.
///
/// 1: a row for each dependency. 2: pages of them.
pub const SCHEMA: u32 = 2;

/// Free space below which no batch is begun: sled hangs when it meets a full disk in the middle of
/// its work.
const MIN_FREE: u64 = 16 * 1024 * 1024;

/// How to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Make one where there is none.
    CreateOrOpen,
    /// It must be there.
    Existing,
}

/// What applying a batch did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It was merged.
    New,
    /// The store held it already: nothing changed.
    AlreadyHeld,
}

/// An open store. One process at a time.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    db: sled::Db,
    rows: sled::Tree,
    marker: Marker,
    /// Rows that only grow in number: counted when the store is opened, and kept up to date from
    /// then on.
    lasting: u64,
    stopped: bool,
    /// Counts the writes of alerts that wait to be delivered.
    outbox: u64,
}

/// Writes that belong together.
#[derive(Debug, Default)]
struct Change {
    batch: sled::Batch,
    /// Keys of lasting rows that are not there yet.
    new: HashSet<Vec<u8>>,
}

impl Change {
    /// Writes a row that is there already, or one that goes again in the course of things.
    fn put(&mut self, key: Vec<u8>, row: impl Into<sled::IVec>) {
        self.batch.insert(key, row);
    }

    /// Writes a lasting row that is not there yet.
    fn add(&mut self, key: Vec<u8>, row: impl Into<sled::IVec>) {
        self.new.insert(key.clone());
        self.batch.insert(key, row);
    }

    /// Removes a row that goes in the course of things.
    fn remove(&mut self, key: impl Into<sled::IVec>) {
        self.batch.remove(key);
    }
}

impl Store {
    /// Opens a store.
    ///
    /// # Errors
    /// See [`StoreError`]; nothing is changed on any of them.
    pub fn open(dir: &Path, access: Access) -> Result<Self, StoreError> {
        let io = |what: &'static str, error| StoreError::Io { what, path: dir.to_owned(), error };
        let marker = Marker::read(dir)?;
        let fresh = marker.is_none();
        if fresh {
            let entries = match fs::read_dir(dir) {
                Ok(entries) => entries,
                Err(e) if e.kind() == io::ErrorKind::NotFound && access == Access::CreateOrOpen => {
                    fs::create_dir_all(dir).map_err(|e| io("make the directory", e))?;
                    fs::read_dir(dir).map_err(|e| io("read the directory", e))?
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    return Err(StoreError::Missing(dir.to_owned()));
                }
                Err(e) => return Err(io("open the store", e)),
            };
            // What an interrupted creation may leave is no reason to refuse.
            if entries.flatten().any(|e| !Marker::is_unfinished(&e.file_name())) {
                return Err(StoreError::NotAStore(dir.to_owned()));
            }
            if access == Access::Existing {
                return Err(StoreError::Missing(dir.to_owned()));
            }
            room(dir)?;
            // Before the database: a directory with a database and no marker would be nobody's.
            Marker::default().write(dir)?;
        }
        if let Some(found) = marker.as_ref().map(|m| m.schema).filter(|s| *s > SCHEMA) {
            return Err(StoreError::Newer { path: dir.to_owned(), found });
        }
        let db = database::open(dir)?;
        let database = |error| StoreError::Database { path: dir.to_owned(), error };
        let rows = db.open_tree("rows").map_err(database)?;
        let mut store = Self {
            dir: dir.to_owned(),
            db,
            rows,
            marker: marker.unwrap_or_default(),
            lasting: 0,
            stopped: false,
            outbox: 0,
        };
        if fresh {
            store.sync()?;
        } else {
            store.check()?;
            if store.marker.schema < SCHEMA {
                store.migrate()?;
            }
        }
        Ok(store)
    }

    /// sled opens a cut or foreign file as an empty database without a word: the marker knows
    /// better.
    fn check(&mut self) -> Result<(), StoreError> {
        let torn = |why| Err(StoreError::Torn { path: self.dir.clone(), why });
        if self.marker.rows > 0 && !self.db.was_recovered() {
            return torn(format!(
                "{} rows were written and no database was found",
                self.marker.rows
            ));
        }
        // A crash after a batch and before the marker leaves more rows than the marker tells, never
        // fewer.
        self.lasting = self.count()?;
        let (found, written) = match self.marker.lasting {
            Some(lasting) => (self.lasting, lasting),
            None => (self.rows.len() as u64, self.marker.rows),
        };
        if found < written {
            return torn(format!("{written} rows were written and {found} are found"));
        }
        Ok(())
    }

    /// Merges a batch, whole or not at all. When this returns, it is on the disk.
    ///
    /// # Errors
    /// On any failure nothing of the batch is held, and the store writes no more.
    pub fn apply(&mut self, batch: &Batch) -> Result<Applied, StoreError> {
        self.apply_holding(batch, &BTreeSet::new(), &[])
    }

    /// As [`Store::apply`], and counts further batches as held from then on (those that an export
    /// was made of), with what was counted of some.
    fn apply_holding(
        &mut self,
        batch: &Batch,
        also: &BTreeSet<BatchId>,
        counted: &[(BatchId, Vec<Counted>)],
    ) -> Result<Applied, StoreError> {
        if self.stopped {
            return Err(StoreError::Stopped(self.dir.clone()));
        }
        if self.holds(&batch.id)? {
            return Ok(Applied::AlreadyHeld);
        }
        let mut writes = Change::default();
        let mut dependencies = New::new();
        for record in &batch.records {
            if let Record::Dependency(d) = record {
                dependencies.entry(&d.key.workload).or_default().push(d);
                continue;
            }
            let key = keys::record(record);
            match self.get(&key)? {
                Some(row) => {
                    let mut merged: Record = self.decode(&row)?;
                    merged.merge(record);
                    writes.put(key, self.encode(&merged)?);
                }
                None => writes.add(key, self.encode(record)?),
            }
        }
        self.write_all(&dependencies, &mut writes)?;
        for (id, counted) in counted {
            self.note_counted(id, counted, &mut writes)?;
        }
        // In their order, so that of several of one source the last one stays, which stands for
        // all.
        let held: BTreeSet<&BatchId> = also.iter().chain(std::iter::once(&batch.id)).collect();
        let mut before: Option<&BatchId> = None;
        for id in held {
            if let Some(before) = before.filter(|b| b.source == id.source) {
                writes.remove(keys::batch(before));
            }
            self.note_held(id, &mut writes)?;
            before = Some(id);
        }
        self.commit(writes).map(|()| Applied::New)
    }

    /// Writes all or nothing, and makes it durable.
    fn commit(&mut self, writes: Change) -> Result<(), StoreError> {
        room(&self.dir)?;
        self.lasting += writes.new.len() as u64;
        let result = self
            .rows
            .apply_batch(writes.batch)
            .map_err(|error| self.database(error))
            .and_then(|()| self.sync());
        // After the first error sled must not be written to again: it may hang.
        self.stopped = result.is_err();
        result
    }

    /// Whether a batch is held: it, or a later one of its source, was merged.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn holds(&self, id: &BatchId) -> Result<bool, StoreError> {
        let last = keys::batch(&BatchId { sequence: u64::MAX, ..id.clone() });
        match self.rows.range(keys::batch(id)..=last).next() {
            Some(row) => row.map(|_| true).map_err(|e| self.database(e)),
            None => Ok(false),
        }
    }

    /// Counts the rows that only grow in number. Reads all keys.
    fn count(&self) -> Result<u64, StoreError> {
        let mut n = 0;
        for key in self.rows.iter().keys() {
            let key = key.map_err(|e| self.database(e))?;
            n += u64::from(!key.first().is_some_and(|k| Kind::is_passing(*k)));
        }
        Ok(n)
    }

    /// Dependencies, of one namespace or all, sorted.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn dependencies(&self, namespace: Option<&str>) -> Result<Vec<Dependency>, StoreError> {
        let rows: Result<Vec<sled::IVec>, _> =
            self.rows.scan_prefix(keys::prefix(Kind::Page, namespace)).values().collect();
        let mut all = self.read_pages(&rows.map_err(|e| self.database(e))?)?;
        all.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(all)
    }

    /// Dependencies of the workloads that come after one (of the first without one), at least so
    /// many where there are as many. With the last of these workloads; `None` when there are no
    /// more.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn dependencies_after(
        &self,
        after: Option<&WorkloadId>,
        least: usize,
    ) -> Result<(Vec<Dependency>, Option<WorkloadId>), StoreError> {
        let first = after.map_or_else(|| keys::prefix(Kind::Page, None), keys::after_pages);
        let mut all: Vec<Dependency> = Vec::new();
        for row in self
            .rows
            .range(first..)
            .take_while(|r| r.as_ref().map_or(true, |(key, _)| keys::is_page(key)))
        {
            let (_, row) = row.map_err(|e| self.database(e))?;
            let mut page = self.page(&row)?;
            let last = all.last().map(|d| &d.key.workload);
            if all.len() >= least && page.first().map(|d| &d.key.workload) != last {
                let last = last.cloned();
                return Ok((all, last));
            }
            all.append(&mut page);
        }
        Ok((all, None))
    }

    /// Workloads, sorted.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn workloads(&self, namespace: Option<&str>) -> Result<Vec<Workload>, StoreError> {
        self.all(Kind::Workload, namespace, |r| match r {
            Record::Workload(w) => Some(w),
            _ => None,
        })
    }

    /// Which pods were watched, sorted by workload and pod.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn watches(&self, namespace: Option<&str>) -> Result<Vec<Watch>, StoreError> {
        self.all(Kind::Watch, namespace, |r| match r {
            Record::Watch(w) => Some(w),
            _ => None,
        })
    }

    /// Hosts looked up, sorted by workload and host.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn lookups(&self, namespace: Option<&str>) -> Result<Vec<Lookups>, StoreError> {
        self.all(Kind::Lookups, namespace, |r| match r {
            Record::Lookups(l) => Some(l),
            _ => None,
        })
    }

    /// Totals of every source, sorted.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn sources(&self) -> Result<Vec<Source>, StoreError> {
        self.all(Kind::Source, None, |r| match r {
            Record::Source(s) => Some(s),
            _ => None,
        })
    }

    /// Closes. All that was applied is durable already.
    ///
    /// # Errors
    /// When an earlier write failed.
    pub fn close(self) -> Result<(), StoreError> {
        if self.stopped { Err(StoreError::Stopped(self.dir.clone())) } else { Ok(()) }
    }

    fn all<T>(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        pick: impl Fn(Record) -> Option<T>,
    ) -> Result<Vec<T>, StoreError> {
        let mut out = Vec::new();
        for row in self.rows.scan_prefix(keys::prefix(kind, namespace)) {
            let (_, row) = row.map_err(|e| self.database(e))?;
            out.extend(pick(self.decode(&row)?));
        }
        Ok(out)
    }

    fn get(&self, key: &[u8]) -> Result<Option<sled::IVec>, StoreError> {
        self.rows.get(key).map_err(|e| self.database(e))
    }

    fn database(&self, error: sled::Error) -> StoreError {
        let path = self.dir.clone();
        match error {
            sled::Error::Io(error) => {
                StoreError::Io { what: "use the database of the store", path, error }
            }
            error => StoreError::Database { path, error },
        }
    }

    fn decode<T: DeserializeOwned>(&self, row: &[u8]) -> Result<T, StoreError> {
        serde_json::from_slice(row)
            .map_err(|error| StoreError::Row { path: self.dir.clone(), error })
    }

    /// A row that was cut.
    fn cut(&self, what: &str) -> StoreError {
        let error = serde::de::Error::custom(format!("{what} is cut"));
        StoreError::Row { path: self.dir.clone(), error }
    }

    fn encode(&self, record: &Record) -> Result<Vec<u8>, StoreError> {
        let mut row = Vec::new();
        self.encode_into(&mut row, record)?;
        Ok(row)
    }

    fn encode_into(&self, row: &mut Vec<u8>, value: &impl Serialize) -> Result<(), StoreError> {
        serde_json::to_writer(row, value)
            .map_err(|error| StoreError::Row { path: self.dir.clone(), error })
    }

    /// Makes everything durable. sled's own flush leaves file metadata and the device cache alone.
    fn sync(&mut self) -> Result<(), StoreError> {
        self.db.flush().map_err(|e| self.database(e))?;
        let file = self.dir.join("db").join("db");
        File::open(&file).and_then(|f| f.sync_all()).map_err(|error| StoreError::Io {
            what: "make durable",
            path: file,
            error,
        })?;
        // It need not be written where only rows came that go again; but that there were any.
        let rows = if self.rows.is_empty() { 0 } else { self.lasting.max(1) };
        let marker =
            Marker { schema: SCHEMA, rows, lasting: Some(self.lasting), ..self.marker.clone() };
        if marker != self.marker {
            marker.write(&self.dir)?;
            self.marker = marker;
        }
        Ok(())
    }
}

/// Refuses to begin a write that may not find room.
fn room(dir: &Path) -> Result<(), StoreError> {
    let stat = rustix::fs::statvfs(dir).map_err(|e| StoreError::Io {
        what: "ask for the free space of",
        path: dir.to_owned(),
        error: e.into(),
    })?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < MIN_FREE {
        return Err(StoreError::DiskFull { path: dir.to_owned(), free, needed: MIN_FREE });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
