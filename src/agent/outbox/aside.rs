//! Batches that were refused for good. They are set aside in the spool for people to read.
//!
//! Owns the directory `refused` of the spool: `N.ndjson`, which `sidecarta import --cluster` reads,
//! and `N.txt` with the reason. Must never grow without bound, and never delay later batches.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::observed::{self, Observed};

/// Batches that are stored at most.
const MAX_BATCHES: usize = 16;
/// Bytes of all stored batches and their reasons, at most.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// The directory of the batches that were set aside.
#[derive(Debug)]
pub(super) struct RefusedBatches {
    dir: PathBuf,
}

/// The result of setting a batch aside.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AddedBatch {
    /// The file of the batch; `None` if the batch alone exceeds `MAX_BYTES` and was not stored.
    pub path: Option<PathBuf>,
    /// Batches that are lost: older ones that were deleted to make room, or this one.
    pub dropped: u64,
    /// Batches that are stored now.
    pub stored: u64,
}

impl RefusedBatches {
    /// Those of this spool.
    pub fn of(spool: &Path) -> Self {
        Self { dir: spool.join("refused") }
    }

    /// How many batches are stored.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn stored(&self) -> io::Result<u64> {
        Ok(self.numbers()?.len() as u64)
    }

    /// Stores a batch with the reason of its refusal. Deletes the oldest ones if there is no room.
    ///
    /// # Errors
    /// When it cannot be written; no part of it is stored then.
    pub fn add(&self, batch: &Observed, why: &str) -> io::Result<AddedBatch> {
        fs::create_dir_all(&self.dir)?;
        let mut text = Vec::new();
        observed::write(batch, &mut text)?;
        let mut numbers = self.numbers()?;
        let number = numbers.last().map_or(1, |n| n + 1);
        let size = (text.len() + why.len()) as u64;
        if size > MAX_BYTES {
            return Ok(AddedBatch { path: None, dropped: 1, stored: numbers.len() as u64 });
        }
        let mut dropped = 0;
        while numbers.len() >= MAX_BATCHES || self.bytes(&numbers)? + size > MAX_BYTES {
            let oldest = numbers.remove(0);
            fs::remove_file(self.path(oldest, "ndjson"))?;
            remove(&self.path(oldest, "txt"))?;
            dropped += 1;
        }
        let path = self.path(number, "ndjson");
        let (new, reason) = (self.path(number, "new"), self.path(number, "txt"));
        let write = || {
            fs::write(&reason, format!("{}\n{why}\n", batch.id))?;
            let mut file = File::create(&new)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&new, &path)
        };
        if let Err(e) = write() {
            let _ = remove(&new);
            let _ = remove(&reason);
            return Err(e);
        }
        Ok(AddedBatch { path: Some(path), dropped, stored: numbers.len() as u64 + 1 })
    }

    fn path(&self, number: u64, extension: &str) -> PathBuf {
        self.dir.join(format!("{number}.{extension}"))
    }

    /// Numbers of the stored batches, ascending.
    fn numbers(&self) -> io::Result<Vec<u64>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut out = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let number: Option<u64> =
                name.to_str().and_then(|n| n.strip_suffix(".ndjson")?.parse().ok());
            out.extend(number);
        }
        out.sort_unstable();
        Ok(out)
    }

    /// Bytes of these batches and their reasons.
    fn bytes(&self, numbers: &[u64]) -> io::Result<u64> {
        let size = |path: PathBuf| match fs::metadata(path) {
            Ok(found) => Ok(found.len()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(e) => Err(e),
        };
        numbers.iter().try_fold(0, |sum, n| {
            Ok(sum + size(self.path(*n, "ndjson"))? + size(self.path(*n, "txt"))?)
        })
    }
}

/// Removes a file if it is there.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
