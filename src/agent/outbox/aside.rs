//! Batches that were refused for good: set aside in the spool, for people to look at.
//!
//! Owns the directory `refused` of the spool: `N.ndjson`, which `sidecarta import --cluster` reads,
//! and `N.txt` with the reason. Must never grow without bound, and never hold up what follows.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::observed::{self, Observed};

/// Batches that are kept.
const MAX_BATCHES: usize = 16;
/// Bytes of them, with their reasons.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// What was set aside.
#[derive(Debug)]
pub(super) struct Aside {
    dir: PathBuf,
}

/// What setting a batch aside has led to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Set {
    /// Where it is; `None` where it alone is more than may be kept.
    pub path: Option<PathBuf>,
    /// Batches that had to make room: they are gone.
    pub dropped: u64,
    /// Batches there are now.
    pub kept: u64,
}

impl Aside {
    /// Within a spool.
    pub fn of(spool: &Path) -> Self {
        Self { dir: spool.join("refused") }
    }

    /// How many there are.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn kept(&self) -> io::Result<u64> {
        Ok(self.numbers()?.len() as u64)
    }

    /// Keeps a batch with the reason of its refusal; the oldest make room for it.
    ///
    /// # Errors
    /// When it cannot be written; then it is not there.
    pub fn set(&self, batch: &Observed, why: &str) -> io::Result<Set> {
        fs::create_dir_all(&self.dir)?;
        let mut text = Vec::new();
        observed::write(batch, &mut text)?;
        let mut numbers = self.numbers()?;
        let number = numbers.last().map_or(1, |n| n + 1);
        let size = (text.len() + why.len()) as u64;
        if size > MAX_BYTES {
            return Ok(Set { path: None, dropped: 1, kept: numbers.len() as u64 });
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
        Ok(Set { path: Some(path), dropped, kept: numbers.len() as u64 + 1 })
    }

    fn path(&self, number: u64, extension: &str) -> PathBuf {
        self.dir.join(format!("{number}.{extension}"))
    }

    /// Numbers of the batches, ascending.
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

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
