//! A small disk, to be filled or made read-only.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where
#![allow(dead_code)] // each test file uses a part of it

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

/// A small file system of its own, unmounted at the end.
pub struct Disk(tempfile::TempDir);

impl Disk {
    /// `None`, loudly, where mounting is not permitted.
    pub fn mount(what: &str, size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let out = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(dir.path()).output();
        let why = match out {
            Ok(out) if out.status.success() => return Some(Self(dir)),
            Ok(out) => String::from_utf8_lossy(&out.stderr).trim().to_owned(),
            Err(e) => e.to_string(),
        };
        // Past the capture of output, which shows that of failed tests only.
        let _ = writeln!(std::io::stderr(), "NOT RUN: {what}: mounting a file system failed ({why}); run the tests as root");
        let must = root() && std::env::var("CI").as_deref() == Ok("true");
        assert!(!must, "{what} must run in CI: {why}");
        None
    }

    /// `ro` or `rw`.
    pub fn remount(&self, mode: &str) {
        assert!(Command::new("mount").args(["-o", &format!("remount,{mode}")]).arg(self.0.path()).status().unwrap().success());
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

/// Whether this is root, who may mount.
pub fn root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}
