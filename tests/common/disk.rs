//! A small disk for tests, which can be filled or made read-only.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where
#![allow(dead_code)] // each test file uses a part of it

use std::path::Path;
use std::process::Command;

use super::rights::{not_run, rooted};

/// A small file system of its own, unmounted at the end.
pub struct Disk(tempfile::TempDir);

impl Disk {
    /// Mounts a disk of this size. `None` if the calling test does not go on: without root it was
    /// run in a user namespace, or it printed why it cannot run.
    pub fn mount(what: &str, size: &str) -> Option<Self> {
        if !rooted(what) {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let out = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(dir.path())
            .output();
        let why = match out {
            Ok(out) if out.status.success() => return Some(Self(dir)),
            Ok(out) => String::from_utf8_lossy(&out.stderr).trim().to_owned(),
            Err(e) => e.to_string(),
        };
        not_run(
            what,
            &format!(
                "mounting a file system failed ({why}); a container's root needs CAP_SYS_ADMIN"
            ),
        );
        None
    }

    /// Mounts it again; `mode` is `ro` or `rw`.
    pub fn remount(&self, mode: &str) {
        assert!(
            Command::new("mount")
                .args(["-o", &format!("remount,{mode}")])
                .arg(self.0.path())
                .status()
                .unwrap()
                .success()
        );
    }

    /// The directory at which it is mounted.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}
