//! Opening a store: to write, or to read.
//!
//! Owns the check that all rows are there. sled overwrites what it cannot read while it opens a
//! database, so neither way lets it at the only copy: who reads opens a copy in a directory for
//! temporary files, and who writes keeps a copy until every row was found. Must never change
//! anything of a store when it is opened to read, and never leave it changed when opening to write
//! fails.

use std::collections::HashMap;
use std::path::Path;

use super::database::Rows;
use super::files::{self, Backup, Lock, Made, Scratch};
use super::marker::Marker;
use super::schema::{PAGED, SCHEMA, SEALED};
use super::seal::{self, Found, Seal};
use super::{Access, Place, Store, StoreError, room};
use crate::private;

impl Store {
    /// Opens a store to read and to write.
    ///
    /// # Errors
    /// See [`StoreError`]; nothing is changed on any of them.
    pub fn open(dir: &Path, access: Access) -> Result<Self, StoreError> {
        let mut made = match Marker::read(dir)? {
            Some(marker) => {
                known(dir, &marker)?;
                None
            }
            None => Some(create(dir, access)?),
        };
        let writer = Lock::writer(dir).inspect_err(|e| {
            // Whoever has the lock makes a store here.
            if matches!(e, StoreError::Locked(_)) {
                made.iter_mut().for_each(Made::keep);
            }
        })?;
        let commits = Lock::commits(dir)?;
        let (rows, marker, seal, seals) = {
            let _held = commits.exclusive();
            // Another process may have made it before this one had the lock.
            let marker = match Marker::read(dir)? {
                Some(marker) => {
                    made.iter_mut().for_each(Made::keep);
                    made = None;
                    known(dir, &marker)?;
                    marker
                }
                None => {
                    let marker = Marker::default();
                    // Before the database: a directory with a database and no marker would be
                    // nobody's.
                    marker.write(dir)?;
                    marker
                }
            };
            tighten(dir)?;
            files::settle(dir)?;
            let (rows, found) = open_to_write(dir, &marker)?;
            let seals = seal::open(dir).map_err(|error| StoreError::Io {
                what: "open the store for writing:",
                path: dir.to_owned(),
                error,
            })?;
            tighten(dir)?;
            (rows, marker, found.rows, seals)
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
            place: Place::Store { made, commits, seals, _writer: writer },
        };
        if schema < PAGED {
            store.migrate()?;
        }
        Ok(store)
    }

    /// Opens a copy of a store, so that nothing of it can change; also one that is damaged, that
    /// another process writes to, or that is on a disk that is full or read-only. What
    /// [`Store::damage`] tells is missing then. Writes go to the copy, and are gone with it.
    ///
    /// # Errors
    /// When there is no store, or nothing of it can be read.
    pub fn read(dir: &Path) -> Result<Self, StoreError> {
        /// Reading may fail once, also of the copy.
        const ATTEMPTS: usize = 3;
        let mut best: Option<Self> = None;
        let mut failed = None;
        for attempt in 0..ATTEMPTS {
            // The last time without what sled can make again.
            match read_once(dir, attempt + 1 == ATTEMPTS) {
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
            // What is missing there may be what could not be read: later all of it may be.
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

fn tighten(dir: &Path) -> Result<(), StoreError> {
    private::tighten(dir).map_err(|error| StoreError::Io {
        what: "set the permissions of the store",
        path: dir.to_owned(),
        error,
    })
}

/// Refuses a store of a newer program.
fn known(dir: &Path, marker: &Marker) -> Result<(), StoreError> {
    if marker.schema > SCHEMA {
        return Err(StoreError::Newer { path: dir.to_owned(), found: marker.schema });
    }
    Ok(())
}

/// Makes the directory of a store, where that is wanted and nothing else is there.
fn create(dir: &Path, access: Access) -> Result<Made, StoreError> {
    if access == Access::Existing {
        return Err(none(dir));
    }
    room(dir, 0)?;
    Made::new(dir)
}

/// Why a directory without a marker is no store.
fn none(dir: &Path) -> StoreError {
    match std::fs::read_dir(dir) {
        Ok(entries) => {
            if entries.flatten().any(|e| files::is_foreign(&e)) {
                StoreError::NotAStore(dir.to_owned())
            } else {
                StoreError::Missing(dir.to_owned())
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            StoreError::Missing(dir.to_owned())
        }
        Err(error) => StoreError::Io { what: "open the store", path: dir.to_owned(), error },
    }
}

fn torn(dir: &Path, why: String) -> StoreError {
    StoreError::Torn { path: dir.to_owned(), why }
}

/// Whether a store without a database never had one.
fn without_database(dir: &Path, marker: &Marker, last: Option<&Seal>) -> Result<(), StoreError> {
    let written = marker.rows.max(last.map_or(0, Seal::total));
    if written > 0 {
        return Err(torn(dir, format!("{written} rows were written and no database was found")));
    }
    Ok(())
}

/// Opens the database itself. It is as it was before on any error.
fn open_to_write(dir: &Path, marker: &Marker) -> Result<(Rows, Found), StoreError> {
    let db = files::database(dir);
    let last = if marker.schema < SEALED { None } else { Seal::read(dir)? };
    if !db.join("db").exists() {
        without_database(dir, marker, last.as_ref())?;
        files::make_database(&db)?;
        let rows = Rows::open(dir, &db, false)?;
        let found = Found::of(&rows)?;
        return Ok((rows, found));
    }
    // Nothing tells what a store of an older program should hold: two ways of reading it must
    // agree.
    let twin = if marker.schema < SEALED { Some(found_in_copy(dir)?) } else { None };
    let mut failed = None;
    // A second time: reading may have failed for a moment, or of a snapshot of sled, which it can
    // make again.
    for again in [false, true] {
        let backup = Backup::make(dir)?;
        let opened = open_and_check(dir, marker, last.as_ref(), twin.as_ref(), again);
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
    twin: Option<&Found>,
    again: bool,
) -> Result<(Rows, Found), StoreError> {
    let db = files::database(dir);
    if again {
        files::remove_snapshots(&db).map_err(|error| StoreError::Io {
            what: "open the database of",
            path: dir.to_owned(),
            error,
        })?;
    }
    let rows = Rows::open(dir, &db, false)?;
    let checked = Found::of(&rows).and_then(|found| {
        let damage = found.damage(marker, last).or_else(|| {
            twin.is_some_and(|twin| *twin != found)
                .then(|| "reading it twice gave different rows".to_owned())
        });
        match damage {
            Some(why) => Err(torn(dir, why)),
            None => Ok(found),
        }
    });
    // What sled wrote goes away with its files; it must not write more.
    if checked.is_err() {
        rows.abandon();
    }
    Ok((rows, checked?))
}

/// What a copy of the database holds.
fn found_in_copy(dir: &Path) -> Result<Found, StoreError> {
    let scratch = Scratch::of(dir)?;
    let rows = Rows::open(dir, &scratch.database(), true)?;
    Found::of(&rows)
}

fn read_once(dir: &Path, without_snapshots: bool) -> Result<Store, StoreError> {
    let (marker, last, scratch) = {
        let lock = Lock::shared(dir)?;
        let marker = Marker::read(dir)?.ok_or_else(|| none(dir))?;
        known(dir, &marker)?;
        if lock.is_none() {
            files::not_in_use(dir)?;
        }
        let last = if marker.schema < SEALED { None } else { Seal::read(dir)? };
        (marker, last, Scratch::of(dir)?)
    };
    let db = scratch.database();
    let io = |error| StoreError::Io { what: "read", path: dir.to_owned(), error };
    if !db.join("db").exists() {
        without_database(dir, &marker, last.as_ref())?;
    }
    if without_snapshots && db.exists() {
        files::remove_snapshots(&db).map_err(io)?;
    }
    let rows = Rows::open(dir, &db, true)?;
    let found = Found::of(&rows)?;
    let mut damage = found.damage(&marker, last.as_ref());
    if marker.schema < SEALED && damage.is_none() && found_in_copy(dir)? != found {
        damage = Some("reading it twice gave different rows".to_owned());
    }
    scratch.hide();
    Ok(Store {
        dir: dir.to_owned(),
        rows,
        marker,
        seal: found.rows,
        stopped: false,
        outbox: 0,
        unbounded: HashMap::new(),
        damage,
        place: Place::Copy(scratch),
    })
}
