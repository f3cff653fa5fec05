//! Files and directories that are for their owner alone: what workloads call is nobody else's.
//!
//! Owns their permissions, whatever the umask is. Must never touch what belongs to another user.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Permissions of a directory.
const DIRECTORY: u32 = 0o700;
/// Permissions of a file.
const FILE: u32 = 0o600;

/// Options to open files with. One that is new is its owner's alone.
pub(crate) fn options() -> OpenOptions {
    let mut options = File::options();
    options.mode(FILE);
    options
}

/// Makes a file, or empties one.
///
/// # Errors
/// When the file system refuses.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    let file = options().write(true).create(true).truncate(true).open(path)?;
    // One that was there keeps its permissions, and a umask may have taken too many.
    if file.metadata()?.mode() & 0o777 != FILE {
        file.set_permissions(Permissions::from_mode(FILE))?;
    }
    Ok(file)
}

/// Makes a directory.
///
/// # Errors
/// When there is one, or the file system refuses.
pub(crate) fn create_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(DIRECTORY).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(DIRECTORY))
}

/// Makes a directory and those above it, where they are missing.
///
/// # Errors
/// When the file system refuses.
pub(crate) fn create_dir_all(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    path.parent().map_or(Ok(()), create_dir_all)?;
    match create_dir(path) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made,
    }
}

/// Gives a file, or a directory and all below it, to its owner alone.
///
/// # Errors
/// When the file system refuses.
pub(crate) fn tighten(path: &Path) -> io::Result<()> {
    let found = path.symlink_metadata()?;
    if found.is_symlink() {
        return Ok(());
    }
    // Only taken away: what its owner has made read-only stays so.
    let wanted = found.mode() & if found.is_dir() { DIRECTORY } else { FILE };
    let own = found.uid() == rustix::process::geteuid().as_raw();
    if own && found.mode() & 0o7777 != wanted {
        fs::set_permissions(path, Permissions::from_mode(wanted))?;
    }
    if found.is_dir() {
        for entry in fs::read_dir(path)? {
            tighten(&entry?.path())?;
        }
    }
    Ok(())
}
