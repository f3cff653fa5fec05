//! Files and directories that only their owner may read and write: other users must not learn what
//! workloads call.
//!
//! Owns their permissions, whatever the umask is. Must never touch what belongs to another user.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Permissions of a directory.
const DIRECTORY_MODE: u32 = 0o700;
/// Permissions of a file.
const FILE_MODE: u32 = 0o600;

/// Options to open files with. A file that they create is for its owner alone.
pub(crate) fn options() -> OpenOptions {
    let mut options = File::options();
    options.mode(FILE_MODE);
    options
}

/// Creates a file, or empties the one that is there.
///
/// # Errors
/// When the file system refuses.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    let file = options().write(true).create(true).truncate(true).open(path)?;
    // A file that was there still has its old permissions, and a umask may have removed some that
    // the owner needs.
    if file.metadata()?.mode() & 0o777 != FILE_MODE {
        file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    }
    Ok(file)
}

/// Creates a directory.
///
/// # Errors
/// When there is one, or the file system refuses.
pub(crate) fn create_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(DIRECTORY_MODE).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(DIRECTORY_MODE))
}

/// Creates a directory and those above it, where they are missing.
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

/// Removes the rights of all but the owner from a file, or from a directory and all below it.
///
/// # Errors
/// When the file system refuses.
pub(crate) fn tighten(path: &Path) -> io::Result<()> {
    let found = path.symlink_metadata()?;
    if found.is_symlink() {
        return Ok(());
    }
    // Rights are only removed, never added: what its owner has made read-only stays read-only.
    let wanted = found.mode() & if found.is_dir() { DIRECTORY_MODE } else { FILE_MODE };
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
