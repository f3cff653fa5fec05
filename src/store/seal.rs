//! The seal: how many rows of each kind a store has, and a checksum of all of them.
//!
//! Owns the counting. The seal is a row of its own, written in the same atomic write as the rows
//! that it counts. After each write it is also written to the file `sidecarta.commits`. So when a
//! store is opened, the seal shows whether all rows are there, and whether the last writes are.
//! Must never be ahead of what is durable: the file is written last, and a crash before that leaves
//! an older one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::database::Rows;
use super::error::StoreError;
use super::keys::{self, RowKind};
use super::marker::Marker;
use super::schema::SEALED;
use crate::private;

/// File of the last seal.
pub(super) const FILE: &str = "sidecarta.commits";
/// Bytes of that file, at least. A newer seal overwrites all of an older one in one write.
const LENGTH: usize = 1024;

/// Counts and a checksum of the rows of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seal {
    /// Writes so far.
    pub commit: u64,
    /// Sum of the digests of all rows but the seal's own.
    pub digest: u64,
    /// Rows by kind (see [`class`]).
    pub rows: BTreeMap<char, u64>,
}

/// The class by which a row is counted: its kind. Later pieces of queued batches have a class of
/// their own, so that the class of first pieces counts batches.
fn class(key: &[u8]) -> char {
    match key.first() {
        Some(&k) if k == RowKind::Queued as u8 && !keys::is_first_piece(key) => 'Q',
        Some(&k) => char::from(k),
        None => '?',
    }
}

fn class_name(class: char) -> &'static str {
    match class {
        'w' => "workloads",
        'd' => "dependencies",
        'c' => "pages of dependencies",
        'p' => "watched pods",
        'l' => "looked-up hosts",
        's' => "sources",
        'b' => "marks of merged batches",
        'q' => "waiting batches",
        'Q' => "further parts of waiting batches",
        'n' => "baselines",
        'a' => "alerts",
        'g' => "accepted namespaces",
        'f' => "rows of counted connections",
        'v' => "rows about the cluster",
        'u' => "rows about pods that the cluster does not know",
        _ => "other rows",
    }
}

/// Digest of a row. The sum over all rows does not depend on their order. Must never change: the
/// sum is stored.
fn digest(key: &[u8], row: &[u8]) -> u64 {
    let both = (u64::from(crc32fast::hash(key)) << 32) | u64::from(crc32fast::hash(row));
    // splitmix64: equal differences of two sums must not cancel out.
    let z = both.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Seal {
    fn add(&mut self, key: &[u8], row: &[u8]) {
        self.digest = self.digest.wrapping_add(digest(key, row));
        let n = self.rows.entry(class(key)).or_default();
        *n = n.saturating_add(1);
    }

    fn remove(&mut self, key: &[u8], row: &[u8]) {
        self.digest = self.digest.wrapping_sub(digest(key, row));
        if let Some(n) = self.rows.get_mut(&class(key)) {
            *n = n.saturating_sub(1);
            if *n == 0 {
                self.rows.remove(&class(key));
            }
        }
    }

    /// Counts the change of a row. `before` is `None` for a new row, `after` for one that is
    /// removed.
    pub fn replace(&mut self, key: &[u8], before: Option<&[u8]>, after: Option<&[u8]>) {
        if let Some(row) = before {
            self.remove(key, row);
        }
        if let Some(row) = after {
            self.add(key, row);
        }
    }

    /// The number of lasting rows: it never becomes smaller.
    pub fn lasting(&self) -> u64 {
        let is_lasting = |class: char| {
            class != 'Q' && u8::try_from(class).is_ok_and(|kind| !RowKind::is_transient(kind))
        };
        let lasting = self.rows.iter().filter(|(class, _)| is_lasting(**class));
        lasting.map(|(_, n)| *n).fold(0, u64::saturating_add)
    }

    /// The number of all rows.
    pub fn total(&self) -> u64 {
        self.rows.values().copied().fold(0, u64::saturating_add)
    }

    /// Makes a row of it.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads the file; `None` where there is none, or where it is not whole.
    pub fn read(dir: &Path) -> Result<Option<Self>, StoreError> {
        let path = dir.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::Io { what: "read", path, error }),
        };
        Ok(decode(&text))
    }

    /// Writes the file in place, without waiting until it is durable: a seal that is older than the
    /// rows does no harm.
    pub fn write(&self, file: &File) -> std::io::Result<()> {
        let text = self.encode();
        let mut line = format!("{:08x} ", crc32fast::hash(&text)).into_bytes();
        line.extend(text);
        line.resize(LENGTH.max(line.len() + 1) - 1, b' ');
        line.push(b'\n');
        file.write_all_at(&line, 0)
    }
}

fn decode(text: &[u8]) -> Option<Seal> {
    let (sum, text) = text.split_at_checked(8)?;
    let sum = u32::from_str_radix(std::str::from_utf8(sum).ok()?, 16).ok()?;
    let text = text.trim_ascii();
    (crc32fast::hash(text) == sum).then(|| serde_json::from_slice(text).ok()).flatten()
}

/// What is found in a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FoundRows {
    /// The seal that its rows should have.
    pub counted: Seal,
    /// The seal that it has.
    pub stored: Option<Seal>,
}

impl FoundRows {
    /// Reads all rows.
    pub fn of(rows: &Rows) -> Result<Self, StoreError> {
        let mut found = Self { counted: Seal::default(), stored: None };
        for row in rows.iter() {
            let (key, row) = row?;
            if key.first() == Some(&(RowKind::Seal as u8)) {
                found.stored = serde_json::from_slice(&row).ok();
            } else {
                found.counted.add(&key, &row);
            }
        }
        found.counted.commit = found.stored.as_ref().map_or(0, |seal| seal.commit);
        Ok(found)
    }

    /// What shows that rows are missing; `None` where nothing does.
    pub fn damage(&self, marker: &Marker, last: Option<&Seal>) -> Option<String> {
        // A crash after a batch and before the marker leaves more rows than the marker says, never
        // fewer.
        let lasting = self.counted.lasting();
        let (found, written) = match marker.lasting {
            Some(written) => (lasting, written),
            None => (self.counted.total(), marker.rows),
        };
        let missing =
            (found < written).then(|| format!("{written} rows were written and {found} are found"));
        if marker.schema < SEALED {
            return missing;
        }
        let Some(newest) = self.stored.iter().chain(last).max_by_key(|s| s.commit) else {
            let unsealed =
                || (self.counted.total() > 0).then(|| "the seal of its rows is missing".to_owned());
            return missing.or_else(unsealed);
        };
        let behind = newest.commit.saturating_sub(self.counted.commit);
        if behind == 0 && newest.digest == self.counted.digest && newest.rows == self.counted.rows {
            return missing;
        }
        let mut out = Vec::new();
        for (class, &written) in &newest.rows {
            let found = self.counted.rows.get(class).copied().unwrap_or(0);
            if found < written {
                let missing = written - found;
                out.push(format!("{missing} of {written} {} are missing", class_name(*class)));
            }
        }
        if behind > 0 {
            out.push(format!("the last {behind} of {} writes are missing", newest.commit));
        }
        if out.is_empty() {
            out.push("some rows are not as they were last written".to_owned());
        }
        Some(out.join(", "))
    }
}

/// The file, open for writing.
pub(super) fn open(dir: &Path) -> std::io::Result<File> {
    private::options().write(true).create(true).truncate(false).open(dir.join(FILE))
}
