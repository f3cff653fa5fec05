//! Copying the files of a database.
//!
//! Owns how bytes are copied. Must never skip what cannot be read: an error of reading is one of
//! copying.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::database;
use super::layout::sync;
use crate::private;

/// Bytes that are copied in one step.
const STEP: usize = 1 << 18;

/// How files are copied.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum CopyMode {
    /// By the file system, which shares their blocks, or not at all.
    Clone,
    /// Byte by byte, into a new directory.
    Bytes,
    /// Byte by byte, over the files that are there.
    Overwrite,
}

/// Whether a copy must be on the disk when copying returns.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    Durable,
    Temporary,
}

/// Bytes of all files below a directory.
pub(super) fn size(dir: &Path) -> io::Result<u64> {
    let mut sum = 0u64;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let found = entry.metadata()?;
        let n = if found.is_dir() { size(&entry.path())? } else { found.len() };
        sum = sum.saturating_add(n);
    }
    Ok(sum)
}

/// Copies the files of a database, except those that sled had not finished.
pub(super) fn copy(
    from: &Path,
    to: &Path,
    mode: CopyMode,
    durability: Durability,
) -> io::Result<()> {
    if mode != CopyMode::Overwrite {
        private::create_dir(to)?;
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            if mode == CopyMode::Overwrite {
                let _ = private::create_dir(&to);
            }
            copy(&from, &to, mode, durability)?;
        } else if !database::is_unfinished(&from) {
            copy_file(&from, &to, mode, durability)?;
        }
    }
    if durability == Durability::Durable { sync(to) } else { Ok(()) }
}

fn copy_file(from: &Path, to: &Path, mode: CopyMode, durability: Durability) -> io::Result<()> {
    let from = File::open(from)?;
    let new = mode != CopyMode::Overwrite;
    let to =
        private::options().write(true).create_new(new).create(!new).truncate(false).open(to)?;
    if mode == CopyMode::Clone {
        rustix::fs::ioctl_ficlone(&to, &from)?;
    } else {
        let copied = copy_bytes(&from, &to)?;
        if mode == CopyMode::Overwrite {
            to.set_len(copied)?;
        }
    }
    if durability == Durability::Durable { to.sync_all() } else { Ok(()) }
}

/// Copies all bytes of a file. Returns how many.
fn copy_bytes(from: &File, to: &File) -> io::Result<u64> {
    let mut buffer = vec![0; STEP];
    let mut at = 0;
    loop {
        match from.read_at(&mut buffer, at) {
            Ok(0) => break,
            Ok(n) => {
                to.write_all_at(&buffer[..n], at)?;
                at += n as u64;
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    if at < from.metadata()?.len() {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(at)
}
