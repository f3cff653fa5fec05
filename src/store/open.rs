//! Opening a store: to write, or to read.
//!
//! Owns the check that all rows are there. sled overwrites what it cannot read while it opens a
//! database, so it is never given the only copy: a reader opens a copy in a directory for temporary
//! files, and a writer retains a copy until every row was found. Must never change anything of a
//! store when it is opened to read, and never leave it changed when opening to write fails.

use std::collections::HashMap;
use std::path::Path;

use super::backup::{self, Backup};
use super::database::{Purpose, Rows};
use super::error::StoreError;
use super::handle::{Location, Store, check_room};
use super::layout::{self, fail};
use super::lock::{self, StoreLock};
use super::marker::Marker;
use super::new_dir::NewStoreDir;
use super::schema::{PAGED, SCHEMA, SEALED};
use super::scratch::ScratchDir;
use super::seal::{self, FoundRows, Seal};
use crate::private;

/// What opening does where there is no store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It makes one.
    CreateOrOpen,
    /// It fails.
    Existing,
}

impl Store {
    /// Opens a store to read and to write.
    ///
    /// # Errors
    /// See [`StoreError`]; nothing is changed on any of them.
    pub fn open(dir: &Path, access: Access) -> Result<Self, StoreError> {
        let mut new = match Marker::read(dir)? {
            Some(marker) => {
                check_schema(dir, &marker)?;
                None
            }
            None => Some(create(dir, access)?),
        };
        let writer = StoreLock::writer(dir).inspect_err(|e| {
            // The process that has the lock makes a store here.
            if matches!(e, StoreError::Locked(_)) {
                new.iter_mut().for_each(NewStoreDir::retain);
            }
        })?;
        let commits = StoreLock::commits(dir)?;
        let (rows, marker, seal, seals) = {
            let _guard = commits.exclusive();
            // Another process may have made it before this one had the lock.
            let marker = match Marker::read(dir)? {
                Some(marker) => {
                    new.iter_mut().for_each(NewStoreDir::retain);
                    new = None;
                    check_schema(dir, &marker)?;
                    marker
                }
                None => {
                    let marker = Marker::default();
                    // Before the database: a directory with a database and no marker is no store.
                    marker.write(dir)?;
                    marker
                }
            };
            tighten(dir)?;
            backup::recover(dir)?;
            let (rows, found) = open_to_write(dir, &marker)?;
            let seals = seal::open(dir).map_err(fail("open the store for writing:", dir))?;
            tighten(dir)?;
            (rows, marker, found.counted, seals)
        };
        let schema = marker.schema;
        let mut store = Self {
            dir: dir.to_owned(),
            rows,
            marker,
            seal,
            stopped: false,
            outbox: 0,
            unbounded: HashMap::new(),
            damage: None,
            location: Location::Original { new, commits, seals, _writer: writer },
        };
        if schema < PAGED {
            store.migrate()?;
        }
        Ok(store)
    }

    /// Opens a copy of a store, so that the store cannot change. The store may be damaged
    /// ([`Store::damage`] says what is missing), another process may write to it, and its disk may
    /// be full or read-only. Writes go to the copy, and are gone with it.
    ///
    /// # Errors
    /// When there is no store, or nothing of it can be read.
    pub fn read(dir: &Path) -> Result<Self, StoreError> {
        /// Reading may fail once, also of the copy.
        const ATTEMPTS: usize = 3;
        let mut best: Option<Self> = None;
        let mut failed = None;
        for attempt in 0..ATTEMPTS {
            let last = attempt + 1 == ATTEMPTS;
            match read_once(dir, if last { Snapshots::Without } else { Snapshots::With }) {
                Ok(store) if store.damage.is_none() => {
                    best = Some(store);
                    break;
                }
                Ok(store) => {
                    if best.as_ref().is_none_or(|b| b.seal.total() < store.seal.total()) {
                        best = Some(store);
                    }
                }
                Err(
                    e @ (StoreError::Missing(_)
                    | StoreError::NotAStore(_)
                    | StoreError::Newer { .. }
                    | StoreError::NoRoomToRead { .. }
                    | StoreError::Locked(_)),
                ) => return Err(e),
                Err(e) => failed = Some(e),
            }
        }
        let mut store = match (best, failed) {
            // What is missing may be what could not be read, and a later attempt may read it.
            (Some(store), Some(e @ StoreError::Io { .. })) if store.damage.is_some() => {
                return Err(e);
            }
            (Some(store), _) => store,
            (None, failed) => {
                return Err(failed.unwrap_or_else(|| StoreError::Missing(dir.to_owned())));
            }
        };
        if store.marker.schema < PAGED {
            store.migrate()?;
        }
        Ok(store)
    }
}

/// Whether a database is opened with sled's snapshots, or without: sled can make them again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Snapshots {
    With,
    Without,
}

/// Takes all permissions on the store from other users.
fn tighten(dir: &Path) -> Result<(), StoreError> {
    private::tighten(dir).map_err(fail("set the permissions of the store", dir))
}

/// Refuses a store of a newer program.
fn check_schema(dir: &Path, marker: &Marker) -> Result<(), StoreError> {
    if marker.schema > SCHEMA {
        return Err(StoreError::Newer { path: dir.to_owned(), found: marker.schema });
    }
    Ok(())
}

/// Makes the directory of a store, where that is wanted and nothing else is there.
fn create(dir: &Path, access: Access) -> Result<NewStoreDir, StoreError> {
    if access == Access::Existing {
        return Err(no_store(dir));
    }
    check_room(dir, 0)?;
    NewStoreDir::new(dir)
}

/// Why a directory without a marker is no store.
fn no_store(dir: &Path) -> StoreError {
    match std::fs::read_dir(dir) {
        Ok(entries) => {
            if entries.flatten().any(|e| layout::is_foreign(&e)) {
                StoreError::NotAStore(dir.to_owned())
            } else {
                StoreError::Missing(dir.to_owned())
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            StoreError::Missing(dir.to_owned())
        }
        Err(error) => fail("open the store", dir)(error),
    }
}

fn torn(dir: &Path, why: String) -> StoreError {
    StoreError::Torn { path: dir.to_owned(), why }
}

/// Refuses a store that lost its database. A store without rows may have none.
fn check_never_written(dir: &Path, marker: &Marker, last: Option<&Seal>) -> Result<(), StoreError> {
    let written = marker.rows.max(last.map_or(0, Seal::total));
    if written > 0 {
        return Err(torn(dir, format!("{written} rows were written and no database was found")));
    }
    Ok(())
}

/// Opens the database itself. On any error it is as it was before.
fn open_to_write(dir: &Path, marker: &Marker) -> Result<(Rows, FoundRows), StoreError> {
    let db = layout::database(dir);
    let last = if marker.schema < SEALED { None } else { Seal::read(dir)? };
    if !db.join("db").exists() {
        check_never_written(dir, marker, last.as_ref())?;
        layout::make_database(&db)?;
        let rows = Rows::open(dir, &db, Purpose::Original)?;
        let found = FoundRows::of(&rows)?;
        return Ok((rows, found));
    }
    // Nothing says which rows a store of an older program should have: it is read twice, and both
    // must agree.
    let other = if marker.schema < SEALED { Some(found_in_copy(dir)?) } else { None };
    let mut failed = None;
    // A second time without snapshots: reading may have failed for a moment, or because of one.
    for snapshots in [Snapshots::With, Snapshots::Without] {
        let backup = Backup::make(dir)?;
        let opened = open_and_check(dir, marker, last.as_ref(), other.as_ref(), snapshots);
        match opened {
            Ok(opened) => {
                backup.discard()?;
                return Ok(opened);
            }
            Err(StoreError::Locked(path)) => {
                backup.discard()?;
                return Err(StoreError::Locked(path));
            }
            Err(e) => {
                backup.restore()?;
                failed = Some(e);
            }
        }
    }
    Err(failed.unwrap_or_else(|| torn(dir, "it cannot be opened".to_owned())))
}

fn open_and_check(
    dir: &Path,
    marker: &Marker,
    last: Option<&Seal>,
    other: Option<&FoundRows>,
    snapshots: Snapshots,
) -> Result<(Rows, FoundRows), StoreError> {
    let db = layout::database(dir);
    if snapshots == Snapshots::Without {
        layout::remove_snapshots(&db).map_err(fail("open the database of", dir))?;
    }
    let rows = Rows::open(dir, &db, Purpose::Original)?;
    let checked = FoundRows::of(&rows).and_then(|found| {
        let differs = other.is_some_and(|other| *other != found);
        let damage = found.damage(marker, last).or_else(|| differs.then(different_rows));
        match damage {
            Some(why) => Err(torn(dir, why)),
            None => Ok(found),
        }
    });
    // The caller replaces the files that sled has changed; sled must not write more.
    if checked.is_err() {
        rows.abandon();
    }
    Ok((rows, checked?))
}

fn different_rows() -> String {
    "reading it twice gave different rows".to_owned()
}

/// The rows that a copy of the database has.
fn found_in_copy(dir: &Path) -> Result<FoundRows, StoreError> {
    let scratch = ScratchDir::copy_of(dir)?;
    let rows = Rows::open(dir, &scratch.database(), Purpose::Copy)?;
    FoundRows::of(&rows)
}

fn read_once(dir: &Path, snapshots: Snapshots) -> Result<Store, StoreError> {
    let (marker, last, scratch) = {
        let lock = StoreLock::shared(dir)?;
        let marker = Marker::read(dir)?.ok_or_else(|| no_store(dir))?;
        check_schema(dir, &marker)?;
        if lock.is_none() {
            lock::not_in_use(dir)?;
        }
        let last = if marker.schema < SEALED { None } else { Seal::read(dir)? };
        (marker, last, ScratchDir::copy_of(dir)?)
    };
    let db = scratch.database();
    if !db.join("db").exists() {
        check_never_written(dir, &marker, last.as_ref())?;
    }
    if snapshots == Snapshots::Without && db.exists() {
        layout::remove_snapshots(&db).map_err(fail("read", dir))?;
    }
    let rows = Rows::open(dir, &db, Purpose::Copy)?;
    let found = FoundRows::of(&rows)?;
    let mut damage = found.damage(&marker, last.as_ref());
    if marker.schema < SEALED && damage.is_none() && found_in_copy(dir)? != found {
        damage = Some(different_rows());
    }
    scratch.unlink_files();
    Ok(Store {
        dir: dir.to_owned(),
        rows,
        marker,
        seal: found.counted,
        stopped: false,
        outbox: 0,
        unbounded: HashMap::new(),
        damage,
        location: Location::Copy(scratch),
    })
}
