//! The durable memory: every record merged into its row, every batch applied once.
//!
//! Owns the layout on disk, durability and torn-store detection; the only module that knows sled.
//! Must never write after its first write error, and never open a store that lost its rows as if it
//! were a new one.
//!
//! The layout of the directory is in `files`. All rows live in one named tree of sled, so that a
//! batch and the note that it is held are one atomic write.

mod alerts;
mod counted;
mod database;
mod error;
mod exchange;
mod files;
mod fold;
mod kept;
mod keys;
mod marker;
mod noted;
mod open;
mod pages;
mod schema;
mod seal;
mod unverified;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::model::{
    Batch, BatchId, Dependency, LedgerEntry, Lookups, Merge, Record, Source, Watch, Workload,
    WorkloadId,
};
use database::Rows;
use files::{Lock, Made, Scratch};
use keys::Kind;
use marker::Marker;
use seal::Seal;

pub use error::StoreError;
pub use exchange::Imported;
pub use fold::{DOMAINS, LISTED};
pub use schema::SCHEMA;
pub use unverified::Apart;

/// Free space below which no batch is begun: sled hangs when it meets a full disk in the middle of
/// its work.
const MIN_FREE: u64 = 16 * 1024 * 1024;

/// Bytes that sled writes for a byte of a row, at most: it writes whole leaves of up to 17 rows
/// again and again, and what it no longer needs is free only later.
const AMPLIFICATION: u64 = 6;

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

/// New dependencies by workload.
type New<'a> = BTreeMap<&'a WorkloadId, Vec<&'a Dependency>>;

/// An open store. One process at a time writes.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    rows: Rows,
    marker: Marker,
    /// What its rows amount to: counted when the store is opened, and kept up to date from then on.
    seal: Seal,
    stopped: bool,
    /// Counts the writes of alerts that wait to be delivered.
    outbox: u64,
    /// How many destinations without a bound workloads have at most, as far as that was counted.
    unbounded: HashMap<WorkloadId, usize>,
    /// What is missing.
    damage: Option<String>,
    place: Place,
}

/// Where the rows are.
#[derive(Debug)]
enum Place {
    /// In the store.
    Store {
        /// What was made for it, until something is written.
        made: Option<Made>,
        commits: Lock,
        /// The file of the last seal.
        seals: File,
        _writer: Lock,
    },
    /// In a copy: nothing that is written lasts.
    Copy(Scratch),
}

/// Writes that belong together.
#[derive(Debug, Default)]
struct Change(BTreeMap<Vec<u8>, Option<sled::IVec>>);

impl Change {
    /// Writes a row.
    fn put(&mut self, key: Vec<u8>, row: impl Into<sled::IVec>) {
        self.0.insert(key, Some(row.into()));
    }

    /// Removes a row that goes in the course of things.
    fn remove(&mut self, key: impl Into<Vec<u8>>) {
        self.0.insert(key.into(), None);
    }

    /// Bytes of the rows.
    fn size(&self) -> u64 {
        self.0.iter().map(|(k, row)| (k.len() + row.as_ref().map_or(0, |r| r.len())) as u64).sum()
    }
}

impl Store {
    /// What is missing of a damaged store that was opened to be read.
    pub fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }

    /// What an export was lacking that was imported here: it was made of a damaged store.
    pub fn salvaged(&self) -> Option<&str> {
        self.marker.salvaged.as_deref()
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
        counted: &[(BatchId, Vec<LedgerEntry>)],
    ) -> Result<Applied, StoreError> {
        if self.stopped {
            return Err(StoreError::Stopped(self.dir.clone()));
        }
        if self.holds(&batch.id)? {
            return Ok(Applied::AlreadyHeld);
        }
        let held: BTreeSet<&BatchId> = also.iter().chain(std::iter::once(&batch.id)).collect();
        let mut writes = Change::default();
        for (id, counted) in counted {
            self.note_counted(id, counted, &mut writes)?;
        }
        self.merge_all(&batch.records, &held, writes).map(|()| Applied::New)
    }

    /// Merges records, and counts batches as held, in one write with others.
    fn merge_all(
        &mut self,
        records: &[Record],
        held: &BTreeSet<&BatchId>,
        mut writes: Change,
    ) -> Result<(), StoreError> {
        let folded = self.fold_records(records)?;
        let records = folded.as_deref().unwrap_or(records);
        let mut dependencies = New::new();
        for record in records {
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
                None => writes.put(key, self.encode(record)?),
            }
        }
        self.write_all(&dependencies, &mut writes)?;
        // In their order, so that of several of one source the last one stays, which stands for
        // all.
        let mut before: Option<&BatchId> = None;
        for id in held.iter().copied() {
            if let Some(before) = before.filter(|b| b.source == id.source) {
                writes.remove(keys::batch(before));
            }
            self.note_held(id, &mut writes)?;
            before = Some(id);
        }
        self.commit(writes)
    }

    /// Writes all or nothing, and makes it durable.
    fn commit(&mut self, writes: Change) -> Result<(), StoreError> {
        if self.stopped {
            return Err(StoreError::Stopped(self.dir.clone()));
        }
        room(&self.on(), writes.size())?;
        let empty = writes.0.is_empty();
        // Reads all that is written over, too: what cannot be read ends this before sled has
        // begun to write.
        let mut seal = self.seal.clone();
        let mut batch = sled::Batch::default();
        for (key, row) in writes.0 {
            let before = self.rows.get(&key)?;
            seal.replace(&key, before.as_deref(), row.as_deref());
            match row {
                Some(row) => batch.insert(key, row),
                None => batch.remove(key),
            }
        }
        seal.commit = seal.commit.saturating_add(1);
        batch.insert(&[Kind::Seal as u8], seal.encode());
        let result = match &self.place {
            Place::Copy(_) => self.rows.write(batch),
            Place::Store { commits, seals, .. } => {
                let held = commits.exclusive();
                let written = self.rows.write(batch).and_then(|()| self.sync(&seal, seals));
                drop(held);
                written.map(|marker| self.marker = marker)
            }
        };
        // After the first error sled must not be written to again: it may hang.
        if result.is_err() {
            self.stopped = true;
            self.rows.abandon();
        } else {
            self.seal = seal;
            if !empty {
                self.stay();
            }
        }
        result
    }

    /// A store that was made when it was opened stays, though nothing was written.
    pub fn stay(&mut self) {
        if let Place::Store { made, .. } = &mut self.place {
            made.iter_mut().for_each(Made::keep);
            *made = None;
        }
    }

    /// What the free space of matters.
    fn on(&self) -> PathBuf {
        match &self.place {
            Place::Store { .. } => self.dir.clone(),
            Place::Copy(scratch) => scratch.database(),
        }
    }

    /// Whether a batch is held: it, or a later one of its source, was merged.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn holds(&self, id: &BatchId) -> Result<bool, StoreError> {
        let last = keys::batch(&BatchId { sequence: u64::MAX, ..id.clone() });
        match self.rows.range(keys::batch(id)..=last).next() {
            Some(row) => row.map(|_| true),
            None => Ok(false),
        }
    }

    /// Dependencies, of one namespace or all, sorted.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn dependencies(&self, namespace: Option<&str>) -> Result<Vec<Dependency>, StoreError> {
        let rows: Result<Vec<sled::IVec>, _> =
            self.rows.scan_prefix(keys::prefix(Kind::Page, namespace)).values().collect();
        let mut all = self.read_pages(&rows?)?;
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
            let (_, row) = row?;
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
    pub fn close(mut self) -> Result<(), StoreError> {
        self.stay();
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
            let (_, row) = row?;
            out.extend(pick(self.decode(&row)?));
        }
        Ok(out)
    }

    fn get(&self, key: &[u8]) -> Result<Option<sled::IVec>, StoreError> {
        self.rows.get(key)
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

    /// Makes durable what was written, and writes down what that amounts to. Gives the marker.
    fn sync(&self, seal: &Seal, seals: &File) -> Result<Marker, StoreError> {
        files::make_durable(&self.dir)?;
        // It need not be written where only rows came that go again; but that there were any.
        let lasting = seal.lasting();
        let rows = if seal.total() == 0 { 0 } else { lasting.max(1) };
        let marker = Marker { schema: SCHEMA, rows, lasting: Some(lasting), ..self.marker.clone() };
        if marker != self.marker {
            marker.write(&self.dir)?;
        }
        seal.write(seals).map_err(|error| StoreError::Io {
            what: "write to",
            path: self.dir.join(seal::FILE),
            error,
        })?;
        Ok(marker)
    }
}

/// Refuses to begin a write of so many bytes that may not find room.
fn room(dir: &Path, bytes: u64) -> Result<(), StoreError> {
    let free = files::free(dir)?;
    let needed = MIN_FREE.saturating_add(bytes.saturating_mul(AMPLIFICATION));
    if free < needed {
        return Err(StoreError::DiskFull { path: dir.to_owned(), free, needed });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
