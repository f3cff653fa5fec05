//! What happens to the store when the program is killed, the disk is full or read-only, or a file
//! of the store is damaged: nothing that was reported is lost, nothing counts twice, and the
//! message says what to do.
//!
//! A case that needs to mount a file system says loudly where that is not permitted; in CI it fails
//! there instead.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod common;
#[path = "store_faults/damage.rs"]
mod damage;
#[path = "store_faults/disks.rs"]
mod disks;
#[path = "store_faults/exchange.rs"]
mod exchange;
#[path = "store_faults/reads.rs"]
mod reads;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

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
        "120 kills within {usual:?}: {unmade} before there was a store, {partial} between \
         batches, {finished} after the last"
    );
    assert!(unmade + partial + finished > 0 && finished < 120, "no kill came while it was at work");
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
