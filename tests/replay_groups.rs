//! Captures are replayed one by one, in groups and all together: a connection counts once.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod common;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};

use common::{captures, dependencies, expect, learn, samples};
use serde_json::{Value, json};
use sidecarta_testkit::random::Random;

/// The captures in a random order and in random groups, with some of them more than once.
fn groups(random: &mut Random, all: &[PathBuf]) -> Vec<Vec<PathBuf>> {
    let mut order = all.to_vec();
    for i in (1..order.len()).rev() {
        order.swap(i, random.index(i + 1));
    }
    let mut groups: Vec<Vec<PathBuf>> = Vec::new();
    for capture in order {
        match groups.last_mut() {
            Some(last) if random.index(3) > 0 => last.push(capture),
            _ => groups.push(vec![capture]),
        }
        // Sometimes a capture of an earlier group is in this one as well.
        if random.index(4) == 0 {
            let again = all[random.index(all.len())].clone();
            groups.last_mut().unwrap().push(again);
        }
    }
    groups
}

/// The counts of each dependency and the totals. With `grades`, also the counts of each grade of
/// evidence.
fn counts(found: &[Value], store: &Path, grades: bool) -> BTreeMap<String, Value> {
    let mut out: BTreeMap<String, Value> = found
        .iter()
        .map(|d| {
            let key = json!([d["workload"], d["destination"], d["port"], d["protocol"]]);
            let all = d["evidence"].as_array().unwrap().iter().filter(|_| grades);
            let all: Vec<_> = all.map(|e| json!([e["grade"], e["connections"]])).collect();
            let missed = d["scopeMiss"]["connections"].clone();
            let doubts = json!([d["midway"], d["guessed"], d["unanswered"]]);
            (key.to_string(), json!([d["connections"], all, missed, doubts]))
        })
        .collect();
    let mut totals: BTreeMap<String, u64> = BTreeMap::new();
    let status = expect(0, &["status", "-o", "json", "--store", store.to_str().unwrap()]);
    let status: Value = serde_json::from_str(&status).unwrap();
    for source in status["sources"].as_array().unwrap() {
        for (name, n) in source["counters"].as_object().unwrap() {
            *totals.entry(name.clone()).or_default() += n.as_u64().unwrap();
        }
    }
    for name in ["packets", "bytes", "used", "connections", "learned", "from-node", "from-outside"]
    {
        out.insert(name.to_owned(), json!(totals.get(name).copied().unwrap_or(0)));
    }
    out
}

#[test]
fn a_connection_counts_once_however_captures_are_grouped() {
    let mut random = Random(7);
    // Of one call, the captures of q-formats show different evidence: one is cut before the names.
    for (case, rounds, grades) in [
        ("d-bookinfo", 8, true),
        ("d2-bookinfo-minimal", 6, true),
        ("b-after", 2, true),
        ("q-formats", 6, false),
    ] {
        let case = samples().join(case);
        let all = captures(&case);
        let dir = tempfile::tempdir().unwrap();
        let together = dir.path().join("together");
        let want = counts(&learn(&case, &all, &together), &together, grades);
        for round in 0..rounds {
            let store = dir.path().join(format!("store-{round}"));
            let groups = groups(&mut random, &all);
            let mut found = Vec::new();
            for group in &groups {
                found = learn(&case, group, &store);
            }
            let got = counts(&found, &store, grades);
            let names: Vec<Vec<_>> = groups
                .iter()
                .map(|g| g.iter().map(|p| p.file_name().unwrap().to_string_lossy()).collect())
                .collect();
            for (key, value) in &want {
                assert_eq!(got.get(key), Some(value), "{key}\n{names:#?}");
            }
            assert_eq!(got.len(), want.len(), "{got:#?}\n{names:#?}");
        }
    }
}

/// Replays, and gives the summary.
fn replay(case: &Path, captures: &[PathBuf], store: &Path) -> String {
    let mut args = vec![OsString::from("replay"), "--cluster".into()];
    args.push(case.join("cluster.yaml").into());
    args.extend(["--store".into(), store.as_os_str().to_owned()]);
    args.extend(captures.iter().map(|c| c.as_os_str().to_owned()));
    expect(0, &args)
}

/// Two captures that show the same connections.
fn two_ends(case: &Path) -> [Vec<PathBuf>; 2] {
    let all = captures(case);
    ["my-shell", "productpage"].map(|name| {
        let named = |p: &&PathBuf| p.file_name().unwrap().to_string_lossy().starts_with(name);
        vec![all.iter().find(named).unwrap().clone()]
    })
}

/// What the program of before would have made of a capture: a store that does not know which
/// connections it counted.
fn store_of_before(case: &Path, captures: &[PathBuf], dir: &Path) -> PathBuf {
    let (now, before) = (dir.join("now"), dir.join("before"));
    learn(case, captures, &now);
    let export = expect(0, &["export", "--store", now.to_str().unwrap()]);
    let mut text = String::new();
    for line in export.lines().filter(|l| !l.starts_with("{\"counted\"")) {
        let mut line: Value = serde_json::from_str(line).unwrap();
        for at in ["/batch/source", "/row/source"] {
            if let Some(name) = line.pointer_mut(at) {
                *name = json!(name.as_str().unwrap().replace("capture:2:", "capture:"));
            }
        }
        if let Some(end) = line.get_mut("end") {
            end.as_object_mut().unwrap().remove("counted");
        }
        text.push_str(&format!("{line}\n"));
    }
    let file = dir.join("export.ndjson");
    std::fs::write(&file, text).unwrap();
    expect(0, &["import", "--store", before.to_str().unwrap(), file.to_str().unwrap()]);
    before
}

#[test]
fn what_a_store_of_before_learned_is_refused_and_noted_and_counts_once() {
    let case = samples().join("d-bookinfo");
    let [one, two] = two_ends(&case);
    let both = [one.clone(), two.clone()].concat();
    let dir = tempfile::tempdir().unwrap();
    let together = dir.path().join("together");
    let want = counts(&learn(&case, &both, &together), &together, true);

    // Replayed with another one, it is recorded first.
    let store = store_of_before(&case, &one, dir.path());
    let said = replay(&case, &both, &store);
    assert_eq!(said.matches("unchanged ").count(), 1, "{said}");
    assert_eq!(counts(&dependencies(&store), &store, true), want);

    // The other one alone: what it cannot know is said, with what to do.
    let dir = tempfile::tempdir().unwrap();
    let store = store_of_before(&case, &one, dir.path());
    let copy = dir.path().join("copy");
    let copied = std::process::Command::new("cp").arg("-r").args([&store, &copy]).status();
    assert!(copied.unwrap().success());
    let said = replay(&case, &two, &copy);
    assert!(said.contains("1 captures were learned by a program that did not record"), "{said}");
    // What to do, done: replayed alone, it changes nothing but that.
    let said = replay(&case, &one, &store);
    assert_eq!(said.matches("unchanged ").count(), 1, "{said}");
    let said = replay(&case, &two, &store);
    assert!(
        said.contains("connections count nothing") && !said.contains("did not record"),
        "{said}"
    );
    assert_eq!(counts(&dependencies(&store), &store, true), want);
}

/// `tests/store-1` was written by an early release, and has all captures of this sample.
#[test]
fn a_store_of_an_early_release_refuses_what_it_learned() {
    let case = samples().join("d-bookinfo");
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/store-1");
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s");
    std::fs::create_dir_all(store.join("db")).unwrap();
    std::fs::copy(old.join("sidecarta.json"), store.join("sidecarta.json")).unwrap();
    std::fs::copy(old.join("conf"), store.join("db/conf")).unwrap();
    let mut packed = flate2::read::GzDecoder::new(File::open(old.join("db.gz")).unwrap());
    std::io::copy(&mut packed, &mut File::create(store.join("db/db")).unwrap()).unwrap();
    let before = dependencies(&store);
    assert!(!before.is_empty());
    for _ in 0..2 {
        let said = replay(&case, &captures(&case), &store);
        assert_eq!(said.matches("unchanged ").count(), 9, "{said}");
        assert_eq!(dependencies(&store), before);
    }
}

#[test]
fn what_was_counted_moves_with_an_export_and_doubles_are_told() {
    let case = samples().join("d-bookinfo");
    let [one, two] = two_ends(&case);
    let dir = tempfile::tempdir().unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| dir.path().join(name));
    let together = dir.path().join("together");
    let both = [one.clone(), two.clone()].concat();
    let want = counts(&learn(&case, &both, &together), &together, true);
    learn(&case, &one, &a);
    learn(&case, &two, &b);
    let file = dir.path().join("export.ndjson");
    let file = file.to_str().unwrap();
    expect(0, &["export", "--store", a.to_str().unwrap(), file]);
    expect(0, &["import", "--store", c.to_str().unwrap(), file]);
    assert_eq!(counts(&learn(&case, &two, &c), &c, true), want);
    // Into a store that learned the other end already: the sums of the two cannot be separated.
    let said = common::run(&["import", "--store", b.to_str().unwrap(), file]);
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(said.contains("connections were learned here as well"), "{said}");
}
