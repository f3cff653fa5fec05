//! Snapshot files: what `kubectl get … -o yaml` or `-o json` prints, in one file, several, or a
//! directory.
//!
//! Owns reading the files, and feeds the indexes of `cluster` and of `mesh` with the same objects.
//! A broken object is named with file and line, and the rest is read; a file that cannot be read at
//! all is an error. Must never guess a value that an object lacks.

mod builders;
mod domain;
mod json_file;
mod object;
mod reader;
mod report;
mod text;
mod versions;
mod yaml_file;

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use crate::cluster::Cluster;
use reader::FileReader;
use text::{ListEnd, decoded, is_table, pieces};

pub use builders::{Builders, Snapshot};
pub use report::Report;

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A path cannot be read.
    #[error(
        "cannot read the snapshot {}: {error}; pass what `kubectl get pods,svc,endpointslices,… -A \
         -o yaml` printed",
        path.display()
    )]
    Read {
        /// The path.
        path: PathBuf,
        /// The reason.
        error: std::io::Error,
    },
    /// The file is for people, not for programs.
    #[error(
        "{} is a table, as `kubectl get` prints it for people: take the snapshot with `-o yaml` or \
         `-o json`",
        path.display()
    )]
    Table {
        /// The path.
        path: PathBuf,
    },
    /// No file has a Kubernetes object.
    #[error(
        "no Kubernetes object was found in {paths}; a snapshot is what `kubectl get \
         pods,services,endpointslices,… -A -o yaml` prints{}",
        first.as_deref().map(|f| format!("\n  first problem: {f}")).unwrap_or_default()
    )]
    Nothing {
        /// The paths given.
        paths: String,
        /// The first problem, if there was one.
        first: Option<String>,
    },
}

/// Reads a snapshot for resolving addresses.
///
/// # Errors
/// When a path cannot be read, or no object at all is found.
pub fn load(paths: &[PathBuf], domain: Option<&str>) -> Result<(Cluster, Report), SnapshotError> {
    let snapshot = read_all(paths, Builders::addresses(domain))?;
    Ok((snapshot.cluster, snapshot.report))
}

/// Reads a snapshot for resolving addresses and for scoping.
///
/// # Errors
/// When a path cannot be read, or no object at all is found.
pub fn load_mesh(paths: &[PathBuf], domain: Option<&str>) -> Result<Snapshot, SnapshotError> {
    read_all(paths, Builders::both(domain))
}

fn read_all(paths: &[PathBuf], mut builders: Builders) -> Result<Snapshot, SnapshotError> {
    let mut report = Report::default();
    for path in paths {
        for file in files(path)? {
            let bytes = fs::read(&file)
                .map_err(|error| SnapshotError::Read { path: file.clone(), error })?;
            let text = decoded(&bytes);
            if text.as_deref().is_ok_and(is_table) {
                return Err(SnapshotError::Table { path: file });
            }
            read_text(&file, text, &mut builders, &mut report);
        }
    }
    if report.used.is_empty() {
        let paths = paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ");
        return Err(SnapshotError::Nothing { paths, first: report.problems.into_iter().next() });
    }
    Ok(builders.build(report))
}

/// The files of a path: the path itself, or below a directory all that end in .yaml, .yml or .json,
/// sorted.
fn files(path: &Path) -> Result<Vec<PathBuf>, SnapshotError> {
    let fail = |error| SnapshotError::Read { path: path.to_owned(), error };
    if !fs::metadata(path).map_err(fail)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut out = Vec::new();
    for entry in fs::read_dir(path).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let path = entry.path();
        // Symbolic links to directories are not followed: they may form a loop.
        if entry.file_type().map_err(fail)?.is_dir() {
            out.extend(files(&path)?);
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json") {
            out.push(path);
        }
    }
    out.sort();
    Ok(out)
}

/// Reads the objects of one file. Never fails: what cannot be read is named in the report.
pub fn read(file: &Path, bytes: &[u8], builders: &mut Builders, report: &mut Report) {
    read_text(file, decoded(bytes), builders, report);
}

fn read_text(
    file: &Path,
    text: Result<Cow<'_, str>, String>,
    builders: &mut Builders,
    report: &mut Report,
) {
    builders.versions.next_file();
    let text = match text {
        Ok(text) => text,
        Err(problem) => {
            report.problems.push(format!("{}:{problem}; the file is skipped", file.display()));
            return;
        }
    };
    let mut reader = FileReader { file, builders, report };
    if text.trim_start().starts_with(['{', '[']) {
        reader.read_json(&text);
        return;
    }
    let mut end = ListEnd::Whole;
    for piece in pieces(&text) {
        end = end.max(piece.end);
        let is_last =
            piece.text.as_bytes().as_ptr_range().end == text.as_bytes().as_ptr_range().end;
        let is_read = reader.read_yaml(piece);
        // A List that ends within an item was cut there.
        if !is_read && piece.item && is_last {
            end = ListEnd::Cut;
        }
    }
    match end {
        ListEnd::Whole => {}
        ListEnd::Open => reader.report.remarks.push(format!(
            "{}: the List ends within its items, without what kubectl prints behind them: where \
             the file was cut short, objects are missing, and hosts with them",
            file.display()
        )),
        ListEnd::Cut => reader.cut_short(),
    }
}

#[cfg(test)]
mod forms;
