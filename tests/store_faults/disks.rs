//! Disks that are full, fill up, are read-only, or refuse a write.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::common::disk::Disk;
use super::common::rights::root;
use super::common::{expect, run};
use super::{LIMIT, export, reads, refused, replay, replay_of, spawn, undisturbed};

/// A limit on the length of files makes every write beyond it fail, in whatever the program is
/// doing then; without root.
#[test]
fn a_write_that_fails_ends_the_program_and_loses_nothing() {
    let want = undisturbed();
    let dir = tempfile::tempdir().unwrap();
    let mut failed = 0;
    for kib in [0, 1, 4, 8, 16, 24, 32, 48, 64, 4096] {
        let store = dir.path().join(format!("store-{kib}"));
        // Ignored, the signal becomes an error of the write.
        let script = format!("trap '' XFSZ; ulimit -f {kib}; exec \"$0\" \"$@\"");
        let mut command = Command::new("bash");
        command
            .args(["-c", &script, env!("CARGO_BIN_EXE_sidecarta")])
            .args(replay(&store))
            .env_remove("SIDECARTA_STORE");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let start = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if start.elapsed() > LIMIT {
                child.kill().unwrap();
                panic!("with files of {kib} KiB it hangs");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let out = child.wait_with_output().unwrap();
        if !out.status.success() {
            failed += 1;
            println!("{kib} KiB: {}", String::from_utf8_lossy(&out.stderr).trim());
            refused(&out, "store");
        }
        let out = run(&replay(&store));
        assert!(out.status.success(), "{kib} KiB: {}", String::from_utf8_lossy(&out.stderr));
        assert!(
            export(&store) == want,
            "{kib} KiB: another result than that of an undisturbed run"
        );
    }
    assert!(failed >= 3, "only {failed} limits made a write fail");
}

#[test]
fn a_full_disk_is_reported_before_anything_is_written() {
    let Some(disk) = Disk::mount("a full disk", "40m") else { return };
    let store = disk.path().join("store");
    expect(0, &replay_of("g1-headless", &store));
    let before = export(&store);
    fs::File::create(disk.path().join("ballast")).unwrap().write_all(&vec![1; 30 << 20]).unwrap();
    refused(&run(&replay(&store)), "make room");
    refused(&run(&replay(&disk.path().join("second"))), "make room");
    assert!(!disk.path().join("second").exists());
    assert_eq!(export(&store), before);
    // Not one byte is free: it is read all the same.
    let mut rest = fs::File::create(disk.path().join("rest")).unwrap();
    while rest.write_all(&[1; 4096]).is_ok() {}
    let files = reads::contents(&store);
    assert_eq!(export(&store), before);
    for command in ["dependencies", "status", "alerts"] {
        expect(0, &[command, "--store", store.to_str().unwrap()]);
    }
    refused(&run(&replay(&store)), "make room");
    assert!(reads::contents(&store) == files);
    fs::remove_file(disk.path().join("rest")).unwrap();
    fs::remove_file(disk.path().join("ballast")).unwrap();
    expect(0, &replay(&store));
    assert!(export(&store).len() > before.len());
}

#[test]
fn a_disk_that_fills_up_meanwhile_ends_the_program_and_loses_nothing() {
    let Some(disk) = Disk::mount("a disk that fills up", "40m") else { return };
    let want = undisturbed();
    let mut ended = 0;
    for after in [0, 20, 40, 60, 80, 100, 150] {
        let store = disk.path().join(format!("store-{after}"));
        let mut child = spawn(&replay(&store));
        std::thread::sleep(Duration::from_millis(after));
        let mut ballast = fs::File::create(disk.path().join("ballast")).unwrap();
        while ballast.write_all(&[1; 4096]).is_ok() {}
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if start.elapsed() > LIMIT {
                child.kill().unwrap();
                panic!("filled after {after} ms, it hangs");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        assert!(matches!(status.code(), Some(0 | 1)), "{status}");
        ended += u32::from(!status.success());
        // Its room is free when nobody has it open either.
        drop(ballast);
        fs::remove_file(disk.path().join("ballast")).unwrap();
        expect(0, &replay(&store));
        assert!(
            export(&store) == want,
            "filled after {after} ms: another result than that of an undisturbed run"
        );
        fs::remove_dir_all(&store).unwrap();
    }
    println!("{ended} of 7 replays met the full disk");
}

#[test]
fn a_read_only_store_is_read_and_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let mode = |path: &Path, mode| {
        fs::set_permissions(
            path,
            <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(mode),
        )
        .unwrap();
    };
    // Permissions do not bind root; a file system that is mounted read-only does.
    let disk = if root() { Disk::mount("a read-only disk", "40m") } else { None };
    if root() && disk.is_none() {
        return;
    }
    let place = disk.as_ref().map_or(dir.path(), Disk::path).to_owned();
    let store = place.join("store");
    expect(0, &replay(&store));
    let before = export(&store);
    match &disk {
        Some(disk) => disk.remount("ro"),
        None => {
            [store.join("db"), store.clone(), place.clone()].iter().for_each(|p| mode(p, 0o555))
        }
    }
    let made = run(&replay(&place.join("second")));
    assert_eq!(export(&store), before);
    for command in ["dependencies", "status", "alerts"] {
        expect(0, &[command, "--store", store.to_str().unwrap()]);
    }
    match &disk {
        Some(disk) => {
            refused(&run(&replay(&store)), "store");
            refused(&run(&["accept", "--store", store.to_str().unwrap()]), "store");
            disk.remount("rw");
        }
        None => {
            [place.clone(), store.clone(), store.join("db")].iter().for_each(|p| mode(p, 0o755))
        }
    }
    refused(&made, "cannot make the directory");
    assert_eq!(export(&store), before);
}
