//! The search for inputs, and their order.
//!
//! Owns which files of a directory are captures, and that none is read twice. Must never read more
//! of an input than its first frame.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::input::OpenInput;
use super::outcome::SourceError;
use super::{parked, sniff};
use crate::observation::Nanos;

/// Inputs that were found.
pub(super) struct InputPlan {
    /// Packet time of the first frame, and path.
    pub found: Vec<(Nanos, PathBuf)>,
    /// Device and inode of the files found.
    seen: HashSet<(u64, u64)>,
    /// No input is compressed or a pipe.
    pub is_plain: bool,
    pub errors: Vec<SourceError>,
    pub notes: Vec<String>,
}

impl InputPlan {
    pub(super) fn new() -> Self {
        Self {
            found: Vec::new(),
            seen: HashSet::new(),
            is_plain: true,
            errors: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds a path: a file, a directory, or `-`.
    pub(super) fn add(&mut self, path: &Path) {
        if path.as_os_str() == "-" {
            self.is_plain = false;
            // Standard input cannot be inspected first. It is opened at once, as if it began before
            // all others.
            if self.seen.insert((u64::MAX, u64::MAX)) {
                self.found.push((Nanos::MIN, path.to_owned()));
            }
            return;
        }
        let text = path.display().to_string();
        let meta = match fs::metadata(path) {
            Ok(meta) => meta,
            Err(error) => return self.errors.push(SourceError::Open { path: text, error }),
        };
        if meta.is_dir() {
            return self.add_directory(path);
        }
        if !self.seen.insert((meta.dev(), meta.ino())) {
            return self
                .notes
                .push(format!("{text} is the same file as one given before; it is read once"));
        }
        // Inspecting a pipe would take bytes away that the reader needs later.
        if meta.file_type().is_fifo()
            || meta.file_type().is_char_device()
            || meta.file_type().is_socket()
        {
            self.is_plain = false;
            return self.found.push((Nanos::MIN, path.to_owned()));
        }
        if let Some(beginning) = parked::inspect(path) {
            self.is_plain &= !beginning.compressed;
            return self.found.push((beginning.first.unwrap_or(Nanos::MIN), path.to_owned()));
        }
        match OpenInput::open(path) {
            Ok(mut input) => {
                self.is_plain &= !input.is_piped();
                let mut first = Nanos::MIN;
                // How it ends is reported when it is read.
                let _ = input.read(1, &mut |frame| first = frame.time);
                self.found.push((first, path.to_owned()));
            }
            Err(error) => self.errors.push(error),
        }
    }

    /// Adds the captures in a directory, and in those below it.
    fn add_directory(&mut self, path: &Path) {
        let entries = fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let mut entries = match entries {
            Ok(entries) => entries,
            Err(error) => {
                return self
                    .errors
                    .push(SourceError::Open { path: path.display().to_string(), error });
            }
        };
        entries.sort_by_key(fs::DirEntry::path);
        let (mut captures, mut others) = (0, 0);
        for entry in entries {
            let path = entry.path();
            // Links to directories are not followed, since they may lead in circles.
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                self.add_directory(&path);
            } else if sniff::is_capture(&path) {
                captures += 1;
                self.add(&path);
            } else {
                others += 1;
            }
        }
        if others > 0 {
            self.notes.push(format!(
                "{}: {captures} captures are read, {others} other files are left alone",
                path.display()
            ));
        }
    }
}
