//! Calls that fail: reading a store never changes it, whatever the disk answers, and opening it to
//! write leaves all of it or changes nothing.
//!
//! `SIDECARTA_TORTURE=1` tries every call with every error; without it a part of them is tried.

#![allow(clippy::print_stdout)] // a sweep says what it has met, with `--nocapture`

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use sidecarta_testkit::random::Random;

use super::common::{expect, samples};
use super::{LIMIT, captures, copy, export, replay, torture};

/// EIO, ESTALE, ENOMEM: a broken disk, a network file system that was away, no memory.
const READ_ERRORS: [i32; 3] = [5, 116, 12];
/// EIO, ENOSPC, EDQUOT.
const WRITE_ERRORS: [i32; 3] = [5, 28, 122];

/// The library that makes calls fail.
fn library() -> &'static Path {
    static BUILT: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    &BUILT
        .get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/store_faults/failing.c");
            let library = dir.path().join("failing.so");
            let out = Command::new("cc")
                .args(["-shared", "-fPIC", "-O1", "-o"])
                .args([&library, &source])
                .arg("-ldl")
                .output()
                .unwrap_or_else(|e| panic!("cc, which libpcap's headers need too: {e}"));
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            (dir, library)
        })
        .1
}

/// A place whose files fail.
struct Faulty {
    dir: tempfile::TempDir,
}

impl Faulty {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("faulty").tempdir().unwrap();
        fs::create_dir(dir.path().join("tmp")).unwrap();
        Self { dir }
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// Runs the program while the `at`th call fails; whether there were so many.
    fn run(&self, args: &[String], call: &str, at: u32, error: i32, all: bool) -> (Output, bool) {
        let mark = self.dir.path().join("hit");
        let _ = fs::remove_file(&mark);
        let mut command = Command::new("timeout");
        command
            .arg(LIMIT.as_secs().to_string())
            .arg("env")
            .arg(format!("LD_PRELOAD={}", library().display()))
            .arg(env!("CARGO_BIN_EXE_sidecarta"))
            .args(args)
            .env_remove("SIDECARTA_STORE")
            .env("TMPDIR", self.dir.path().join("tmp"))
            .env("FAIL_PATH", self.dir.path())
            .env("FAIL_CALL", call)
            .env("FAIL_AT", at.to_string())
            .env("FAIL_ERRNO", error.to_string())
            .env("FAIL_MARK", &mark);
        if all {
            command.env("FAIL_ALL", "1");
        }
        let out = command.output().unwrap();
        let message = String::from_utf8_lossy(&out.stderr);
        assert_ne!(out.status.code(), Some(124), "it hangs at {call} {at}: {message}");
        assert!(!message.contains("panicked"), "{call} {at}: {message}");
        assert!(out.status.code().is_some(), "{call} {at}: {}: {message}", out.status);
        (out, mark.exists())
    }
}

/// All files below a directory, with what they hold.
pub fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut out = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            out.insert(entry.path(), Vec::new());
            out.extend(contents(&entry.path()));
        } else {
            out.insert(entry.path(), fs::read(entry.path()).unwrap());
        }
    }
    out
}

/// Which calls fail: all of them, or some of many.
fn next(at: u32) -> u32 {
    if torture() || at < 24 { at + 1 } else { at + at / 8 }
}

fn args(words: &[&str], store: &Path) -> Vec<String> {
    let store = ["--store", store.to_str().unwrap()];
    words.iter().chain(&store).map(|w| (*w).to_owned()).collect()
}

#[test]
fn a_read_that_fails_while_reading_changes_nothing() {
    let place = Faulty::new();
    let store = place.store();
    expect(0, &replay(&store));
    let before = contents(&store);
    let (mut runs, mut failed, mut whole) = (0, 0, 0);
    for command in [&["dependencies", "-o", "json"][..], &["export"], &["status"]] {
        let command = args(command, &store);
        let want = expect(0, &command);
        for error in READ_ERRORS {
            for all in [false, true] {
                let mut at = 1;
                loop {
                    let (out, hit) = place.run(&command, "read", at, error, all);
                    let told = || format!("read {at} fails with {error}, all later {all}");
                    assert!(contents(&store) == before, "{}: the store was changed", told());
                    let left = fs::read_dir(place.dir.path().join("tmp")).unwrap().count();
                    assert_eq!(left, 0, "{}: its copy is left", told());
                    runs += 1;
                    match out.status.code() {
                        Some(0) => {
                            assert!(out.stdout == want.as_bytes(), "{}: other output", told());
                            whole += 1;
                        }
                        code => {
                            let message = String::from_utf8_lossy(&out.stderr);
                            assert_eq!(code, Some(1), "{}: {message}", told());
                            assert!(message.contains("store"), "{}: {message}", told());
                            failed += 1;
                        }
                    }
                    if !hit {
                        break;
                    }
                    at = next(at);
                }
                if !torture() && error != READ_ERRORS[0] {
                    break;
                }
            }
        }
        assert_eq!(expect(0, &command), want);
    }
    println!("{runs} runs, {failed} failed, {whole} gave all");
    assert!(failed > 10 && whole > 10, "{failed} failed, {whole} gave all");
}

/// Makes a store, and returns a command that learns one more capture into a copy of it.
fn learning(original: &Path, store: &Path) -> Vec<String> {
    let case = samples().join("d-bookinfo");
    let mut captures = captures(&case);
    let last = captures.pop().unwrap();
    let learn = |store: &Path, captures: &[PathBuf]| {
        let mut args: Vec<String> =
            ["replay", "--cluster"].iter().map(|w| (*w).to_owned()).collect();
        let paths = [case.join("cluster.yaml"), "--store".into(), store.to_owned()];
        args.extend(paths.iter().chain(captures).map(|p| p.to_str().unwrap().to_owned()));
        args
    };
    expect(0, &learn(original, &captures));
    learn(store, &[last])
}

/// Runs a command that writes while a call fails, on a copy of a store each time. Afterwards all
/// that was there is there, or also what the command was to add.
fn sweep_writer(call: &str, errors: &[i32]) {
    let place = Faulty::new();
    let (original, store) = (place.dir.path().join("original"), place.store());
    let command = learning(&original, &store);
    let before = export(&original);
    copy(&original, &store);
    expect(0, &command);
    let after = export(&store);
    assert_ne!(before, after);
    let (mut runs, mut failed, mut healed) = (0, 0, 0);
    for &error in errors {
        for all in [false, true] {
            let mut at = 1;
            loop {
                copy(&original, &store);
                let (out, hit) = place.run(&command, call, at, error, all);
                let told = format!("{call} {at} fails with {error}, all later {all}");
                let message = String::from_utf8_lossy(&out.stderr);
                let now = export(&store);
                runs += 1;
                match out.status.code() {
                    Some(0) => {
                        assert!(now == after, "{told}: success, and something is missing");
                        healed += u32::from(hit);
                    }
                    code => {
                        assert_eq!(code, Some(1), "{told}: {message}");
                        assert!(now == before || now == after, "{told}: something is missing");
                        failed += 1;
                        // Later it works.
                        expect(0, &command);
                        assert!(export(&store) == after, "{told}: other content later");
                    }
                }
                if !hit {
                    break;
                }
                at = next(at);
            }
            if !torture() && error != errors[0] {
                break;
            }
        }
    }
    println!("{runs} runs, {failed} failed, {healed} went on");
    assert!(failed > 10, "only {failed} failed");
}

#[test]
fn a_read_that_fails_while_writing_loses_nothing() {
    sweep_writer("read", &READ_ERRORS);
}

#[test]
fn a_write_that_fails_at_any_call_loses_nothing() {
    sweep_writer("write", &WRITE_ERRORS);
}

/// sled wakes nobody when the write of a buffer fails that its last writer has left. Which writes
/// these are depends on its threads, so a few are tried again and again, on several threads: with a
/// plain flush of sled's, one of three runs of this test hangs.
#[test]
fn a_flush_ends_whichever_write_fails() {
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let place = Faulty::new();
                let (original, store) = (place.dir.path().join("original"), place.store());
                let command = learning(&original, &store);
                for n in 0..if torture() { 400 } else { 40 } {
                    let at = 14 + n % 5;
                    copy(&original, &store);
                    // Fails where the program hangs.
                    place.run(&command, "write", at, WRITE_ERRORS[0], n % 2 == 0);
                }
            });
        }
    });
}

/// Damages the log of a store, and says how. Now and then its snapshots are gone, too.
fn damage(store: &Path, random: &mut Random) -> String {
    let mut bytes = fs::read(store.join("db/db")).unwrap();
    let length = bytes.len() as u64;
    let (kind, at) = (random.below(4), random.below(length) as usize);
    match kind {
        0 => bytes.truncate(at),
        1 => bytes[at] ^= 1 << random.below(8),
        2 => {
            let end = bytes.len().min(at + 1 + random.below(65_536) as usize);
            bytes[at..end].fill(0);
        }
        _ => {
            // A block of elsewhere.
            let from = random.below(length) as usize / 4096 * 4096;
            let to = at / 4096 * 4096;
            let n = (bytes.len() - from.max(to)).min(4096);
            let block = bytes[from..from + n].to_vec();
            bytes[to..to + n].copy_from_slice(&block);
        }
    }
    fs::write(store.join("db/db"), bytes).unwrap();
    if random.below(2) == 0 {
        for entry in fs::read_dir(store.join("db")).unwrap().map(Result::unwrap) {
            if entry.file_name().to_str().unwrap().starts_with("snap.") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
    }
    format!("damage {kind} at {at}")
}

/// What a damaged store gave.
#[derive(PartialEq)]
enum Given {
    Whole,
    Part,
    Nothing,
}

/// Reads a damaged store, which changes nothing: all of it, or a part and a report, or a refusal.
fn read_damaged(store: &Path, want: &str, told: &str, saved: &Path) -> Given {
    let before = contents(store);
    let out = super::run(&args(&["export"], store));
    let message = String::from_utf8_lossy(&out.stderr);
    assert!(!message.contains("panicked"), "{told}: {message}");
    assert!(contents(store) == before, "{told}: reading changed it");
    match out.status.code() {
        Some(0) => {
            assert!(out.stdout == want.as_bytes(), "{told}: it opens with other content");
            Given::Whole
        }
        Some(3) => {
            assert!(message.contains("the store is damaged"), "{told}: {message}");
            fs::write(saved, &out.stdout).unwrap();
            Given::Part
        }
        code => {
            assert_eq!(code, Some(1), "{told}: {message}");
            let said = ["damaged", "the database of the store"];
            assert!(said.iter().any(|s| message.contains(s)), "{told}: {message}");
            Given::Nothing
        }
    }
}

/// What was saved of a damaged store can be imported, and says that it is a part.
fn assert_part_imports(saved: &Path, other: &Path, told: &str) {
    let _ = fs::remove_dir_all(other);
    let out = super::run(&args(&["import", saved.to_str().unwrap()], other));
    assert_eq!(out.status.code(), Some(3), "{told}");
    let status = super::run(&args(&["status"], other));
    assert_eq!(status.status.code(), Some(3), "{told}");
}

/// Whoever writes works with all of it, or leaves it alone.
fn assert_writer_has_all_or_changes_nothing(store: &Path, want: &str, told: &str) {
    let before = contents(store);
    let out = super::run(&replay(store));
    if out.status.success() {
        assert!(export(store) == want, "{told}: other content after a write");
    } else {
        assert_eq!(contents_of_database(store), contents_of_database_in(&before), "{told}");
    }
}

/// Random damage, many times: what opens as whole is whole, nothing is ever written to a store that
/// is read, and what is left can be saved.
#[test]
fn damage_anywhere_is_reported_and_the_rest_can_be_saved() {
    let rounds = if torture() { 1000 } else { 40 };
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (store, hurt, saved) = (path("store"), path("hurt"), path("saved.ndjson"));
    expect(0, &replay(&store));
    let want = export(&store);
    let mut random = Random(0x5eed);
    let mut all = Vec::new();
    let begun = Instant::now();
    for round in 0..rounds {
        copy(&store, &hurt);
        let told = format!("round {round}, {}", damage(&hurt, &mut random));
        let given = read_damaged(&hurt, &want, &told, &saved);
        if given == Given::Part {
            assert_part_imports(&saved, &path("other"), &told);
        }
        assert_writer_has_all_or_changes_nothing(&hurt, &want, &told);
        all.push(given);
        assert!(begun.elapsed() < Duration::from_secs(1800), "too slow: {round} rounds");
    }
    let count = |kind: Given| all.iter().filter(|given| **given == kind).count();
    let (whole, partly) = (count(Given::Whole), count(Given::Part));
    let refused = count(Given::Nothing);
    println!("{rounds} damaged stores: {whole} whole, {partly} read in part, {refused} refused");
    assert!(partly > 0, "{whole} whole, {partly} in part, {refused} refused");
}

fn contents_of_database(store: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    contents_of_database_in(&contents(store))
}

/// Without the locks that an attempt to write may leave.
fn contents_of_database_in(all: &BTreeMap<PathBuf, Vec<u8>>) -> BTreeMap<PathBuf, Vec<u8>> {
    all.iter()
        .filter(|(path, _)| path.extension().is_none_or(|e| e != "lock"))
        .map(|(path, bytes)| (path.clone(), bytes.clone()))
        .collect()
}
