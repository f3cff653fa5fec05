//! The seal: how many rows of each kind a store holds, and a checksum of all of them.
//!
//! Owns the counting. The seal is a row of its own, written in the same atomic write as the rows
//! that it counts; after each write it also goes to the file `sidecarta.commits`. So at opening it
//! shows whether all rows are there, and whether the last writes are. Must never be ahead of what
//! is durable: the file is written last, and a process or system that ends before leaves it behind.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::database::Rows;
use super::error::StoreError;
use super::keys::{self, Kind};
use super::marker::Marker;
use super::schema::SEALED;
use crate::private;

/// File of the last seal.
pub(super) const FILE: &str = "sidecarta.commits";
/// Its length, so that a newer seal overwrites all of an older one in one write.
const LENGTH: usize = 1024;

/// What a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seal {
    /// Writes so far.
    pub commit: u64,
    /// Sum of the digests of all rows but the seal's own.
    pub digest: u64,
    /// Rows by kind (see [`class`]).
    pub rows: BTreeMap<char, u64>,
}

/// What is counted apart: the kind of a row; of the parts of a batch that waits, the first one.
fn class(key: &[u8]) -> char {
    match key.first() {
        Some(&k) if k == Kind::Kept as u8 && !keys::is_first_part(key) => 'Q',
        Some(&k) => char::from(k),
        None => '?',
    }
}

fn words(class: char) -> &'static str {
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
        'f' => "notes of counted connections",
        'v' => "rows about the cluster",
        'u' => "rows about pods that the cluster does not know",
        _ => "other rows",
    }
}

/// Digest of a row. The sum over all rows does not depend on their order. Must never change: it is
/// stored.
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

    /// Counts a row that takes the place of another, of none, or goes.
    pub fn replace(&mut self, key: &[u8], before: Option<&[u8]>, after: Option<&[u8]>) {
        if let Some(row) = before {
            self.remove(key, row);
        }
        if let Some(row) = after {
            self.add(key, row);
        }
    }

    /// Rows that only grow in number.
    pub fn lasting(&self) -> u64 {
        let lasting =
            |c: char| c != 'Q' && u8::try_from(c).is_ok_and(|kind| !Kind::is_passing(kind));
        self.rows.iter().filter(|(c, _)| lasting(**c)).map(|(_, n)| *n).fold(0, u64::saturating_add)
    }

    /// All rows.
    pub fn total(&self) -> u64 {
        self.rows.values().copied().fold(0, u64::saturating_add)
    }

    /// As a row.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads the file; `None` where there is none, or one that is not whole.
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
pub(super) struct Found {
    /// What its rows amount to.
    pub rows: Seal,
    /// The row that holds the seal.
    pub row: Option<Seal>,
}

impl Found {
    /// Reads all rows.
    pub fn of(rows: &Rows) -> Result<Self, StoreError> {
        let mut found = Self { rows: Seal::default(), row: None };
        for row in rows.iter() {
            let (key, row) = row?;
            if key.first() == Some(&(Kind::Seal as u8)) {
                found.row = serde_json::from_slice(&row).ok();
            } else {
                found.rows.add(&key, &row);
            }
        }
        found.rows.commit = found.row.as_ref().map_or(0, |r| r.commit);
        Ok(found)
    }

    /// What shows that rows are missing; `None` where nothing does.
    pub fn damage(&self, marker: &Marker, last: Option<&Seal>) -> Option<String> {
        // A crash after a batch and before the marker leaves more rows than the marker tells,
        // never fewer.
        let lasting = self.rows.lasting();
        let (found, written) = match marker.lasting {
            Some(written) => (lasting, written),
            None => (self.rows.total(), marker.rows),
        };
        let missing =
            (found < written).then(|| format!("{written} rows were written and {found} are found"));
        if marker.schema < SEALED {
            return missing;
        }
        let Some(newest) = self.row.iter().chain(last).max_by_key(|s| s.commit) else {
            let unsealed =
                || (self.rows.total() > 0).then(|| "the seal of its rows is missing".to_owned());
            return missing.or_else(unsealed);
        };
        let behind = newest.commit.saturating_sub(self.rows.commit);
        if behind == 0 && newest.digest == self.rows.digest && newest.rows == self.rows.rows {
            return missing;
        }
        let mut out = Vec::new();
        for (class, &written) in &newest.rows {
            let found = self.rows.rows.get(class).copied().unwrap_or(0);
            if found < written {
                let gone = written - found;
                out.push(format!("{gone} of {written} {} are missing", words(*class)));
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
