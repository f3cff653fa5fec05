//! What happens to the store when the program is killed, the disk is full or read-only, or a file
//! of the store is damaged: nothing that was reported is lost, nothing counts twice, and the
//! message says what to do.
//!
//! A case that needs to mount a file system says loudly where that is not permitted; in CI it fails
//! there instead.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod common;
#[path = "store_faults/exchange.rs"]
mod exchange;
#[path = "store_faults/reads.rs"]
mod reads;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::disk::Disk;
use common::rights::root;
use common::{captures, expect, run, samples};

/// Longer than any replay here takes: the program hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// Whether everything is tried, for however long it takes: `SIDECARTA_TORTURE=1`.
fn torture() -> bool {
    std::env::var_os("SIDECARTA_TORTURE").is_some()
}

/// Nine captures, each of which is a batch of its own.
fn replay(store: &Path) -> Vec<String> {
    replay_of("d-bookinfo", store)
}

fn replay_of(case: &str, store: &Path) -> Vec<String> {
    let case = samples().join(case);
    let mut paths = vec![case.join("cluster.yaml"), "--store".into(), store.to_owned()];
    paths.extend(captures(&case));
    let paths = paths.into_iter().map(|p| p.to_str().unwrap().to_owned());
    ["replay", "--cluster"].map(str::to_owned).into_iter().chain(paths).collect()
}

fn export(store: &Path) -> String {
    expect(0, &["export", "--store", store.to_str().unwrap()])
}

/// What a replay gives that nothing disturbs.
fn undisturbed() -> String {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    expect(0, &replay(&store));
    export(&store)
}

/// The batches that an export holds.
fn batches(export: &str) -> Vec<&str> {
    export.lines().filter(|l| l.starts_with("{\"batch\"")).collect()
}

/// That the command failed with one clear message, and changed nothing.
fn refused(out: &Output, words: &str) {
    let message = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{message}");
    assert!(message.contains(words) && !message.contains("panicked"), "{message}");
    assert_eq!(message.lines().filter(|l| l.starts_with("error")).count(), 1, "{message}");
    assert!(
        out.stdout.is_empty(),
        "it reports a success: {}",
        String::from_utf8_lossy(&out.stdout)
    );
}

fn spawn(args: &[String]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidecarta"));
    command
        .args(args)
        .env_remove("SIDECARTA_STORE")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn killed_at_any_instant_it_loses_nothing_and_counts_nothing_twice() {
    let want = undisturbed();
    let whole = batches(&want).len();
    assert_eq!(whole, 9);
    let dir = tempfile::tempdir().unwrap();
    let probe = dir.path().join("probe");
    let start = Instant::now();
    expect(0, &replay(&probe));
    let usual = start.elapsed();

    let (mut partial, mut unmade, mut finished) = (0, 0, 0);
    for round in 0..60u32 {
        let store = dir.path().join(format!("store-{round}"));
        let mut held = 0;
        // Twice, so that an open of what was left behind is interrupted as well.
        for attempt in 0..2 {
            // Spread evenly over the run, or over what follows the making of the store; the golden
            // ratio makes no pattern with whatever the program does in steps.
            let at = (f64::from(round * 2 + attempt) * 0.618_034).fract();
            let mut child = spawn(&replay(&store));
            if round % 2 == 0 {
                std::thread::sleep(usual.mul_f64(at * 1.1));
            } else {
                while !store.join("sidecarta.json").exists() && child.try_wait().unwrap().is_none()
                {
                }
                std::thread::sleep(usual.mul_f64(at * 0.8));
            }
            child.kill().unwrap();
            let reported = child.wait().unwrap().success();
            if !store.join("sidecarta.json").exists() {
                unmade += 1;
                continue;
            }
            let found = export(&store);
            let now = batches(&found).len();
            assert!(now >= held, "round {round}: {held} batches were there, {now} are");
            assert!(
                !reported || now == whole,
                "round {round}: all was reported, {now} batches are there"
            );
            assert!(batches(&found).iter().all(|b| want.contains(b)));
            held = now;
            partial += u32::from(0 < now && now < whole);
            finished += u32::from(now == whole);
        }
        let out = run(&replay(&store));
        assert!(out.status.success(), "round {round}: {}", String::from_utf8_lossy(&out.stderr));
        assert!(
            export(&store) == want,
            "round {round}: another result than that of an undisturbed run"
        );
    }
    println!(
        "120 kills within {usual:?}: {unmade} before there was a store, {partial} between batches, {finished} after the last"
    );
    assert!(unmade + partial + finished > 0 && finished < 120, "no kill came while it was at work");
}

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

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target: PathBuf = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// That a damaged store says so, or holds all that it held. True: it said so.
fn never_less(store: &Path, want: &str, damage: &str) -> bool {
    let before = reads::contents(store);
    let out = run(&["export", "--store", store.to_str().unwrap()]);
    assert!(reads::contents(store) == before, "{damage}: reading changed it");
    if out.status.success() {
        assert!(out.stdout == want.as_bytes(), "{damage}: it opens with other content");
        return false;
    }
    let message = String::from_utf8_lossy(&out.stderr);
    assert!(
        matches!(out.status.code(), Some(1 | 3)) && message.contains("damaged")
            || message.contains("cannot be read"),
        "{damage}: {message}"
    );
    true
}

#[test]
fn a_damaged_store_never_opens_with_fewer_rows() {
    let dir = tempfile::tempdir().unwrap();
    let (store, hurt) = (dir.path().join("store"), dir.path().join("hurt"));
    expect(0, &replay(&store));
    let want = export(&store);
    let bytes = fs::read(store.join("db/db")).unwrap();
    let mut noticed = 0;
    for length in [0, 1, 100, 4096].into_iter().chain((1..10).map(|i| bytes.len() * i / 10)) {
        copy(&store, &hurt);
        fs::write(hurt.join("db/db"), &bytes[..length]).unwrap();
        noticed += u32::from(never_less(
            &hurt,
            &want,
            &format!("cut to {length} of {} bytes", bytes.len()),
        ));
    }
    for at in (0..bytes.len()).step_by(bytes.len() / 12 + 1) {
        copy(&store, &hurt);
        let mut bytes = bytes.clone();
        let end = bytes.len().min(at + 4096);
        bytes[at..end].fill(0);
        fs::write(hurt.join("db/db"), bytes).unwrap();
        never_less(&hurt, &want, &format!("4 KiB of zeros at {at}"));
    }
    copy(&store, &hurt);
    fs::remove_dir_all(hurt.join("db")).unwrap();
    assert!(never_less(&hurt, &want, "without its database"));
    copy(&store, &hurt);
    fs::write(hurt.join("sidecarta.json"), "{").unwrap();
    assert!(never_less(&hurt, &want, "with half a marker"));
    assert!(noticed >= 4, "only {noticed} cuts were noticed");
}

/// Every state in which a kill leaves the two files that sled does not write in one step.
#[test]
fn files_that_sled_was_writing_when_it_was_killed_are_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (store, hurt) = (dir.path().join("store"), dir.path().join("hurt"));
    expect(0, &replay(&store));
    let want = export(&store);
    // Opened to write again, it has a snapshot of what the log holds.
    expect(0, &replay(&store));
    assert_eq!(export(&store), want);
    let snapshot_of = |store: &Path| {
        let mut files = fs::read_dir(store.join("db")).unwrap().map(|e| e.unwrap().path());
        files.find(|p| p.file_name().unwrap().to_str().unwrap().starts_with("snap.")).unwrap()
    };
    let (snapshot, conf) =
        (fs::read(snapshot_of(&store)).unwrap(), fs::read(store.join("db/conf")).unwrap());
    for length in (0..=snapshot.len())
        .step_by(snapshot.len() / 40)
        .chain(snapshot.len() - 14..=snapshot.len())
    {
        copy(&store, &hurt);
        // Longer than the log is, so that it is the last of them.
        fs::write(hurt.join("db/snap.0000000000FFFFFF.generating"), &snapshot[..length]).unwrap();
        assert!(
            export(&hurt) == want,
            "{length} of {} bytes of a snapshot: other content",
            snapshot.len()
        );
    }
    for length in 0..=conf.len() {
        copy(&store, &hurt);
        fs::write(hurt.join("db/conf"), &conf[..length]).unwrap();
        assert!(
            export(&hurt) == want,
            "{length} of {} bytes of the configuration: other content",
            conf.len()
        );
    }
    copy(&store, &hurt);
    let finished = snapshot_of(&hurt);
    fs::write(&finished, &snapshot[..snapshot.len() / 2]).unwrap();
    // The log holds all of it.
    assert!(!never_less(&hurt, &want, "half of a finished snapshot"));
    assert!(finished.exists(), "it was removed");
    expect(0, &replay(&hurt));
    assert!(export(&hurt) == want);
}

#[test]
fn a_store_of_a_newer_program_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    expect(0, &replay(&store));
    let marker = store.join("sidecarta.json");
    let text = fs::read_to_string(&marker).unwrap();
    fs::write(&marker, text.replace("\"schema\":", "\"added\":\"later\",\"schema\":9")).unwrap();
    let before = fs::read(store.join("db/db")).unwrap();
    for command in ["export", "status", "dependencies"] {
        refused(&run(&[command, "--store", store.to_str().unwrap()]), "use the newer sidecarta");
    }
    refused(&run(&replay(&store)), "use the newer sidecarta");
    assert_eq!(fs::read(store.join("db/db")).unwrap(), before);
}
