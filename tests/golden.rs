//! Each sample must give the files in its directory `expected/`, to the byte: dependencies, status
//! and Sidecars.
//!
//! `SIDECARTA_UPDATE=1 cargo test --test golden` rewrites them. Review the difference.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod common;

use std::path::Path;

use common::{captures, cases, expect, learn};

fn compare(path: &Path, got: &str) -> Option<String> {
    if std::env::var_os("SIDECARTA_UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, got).unwrap();
        return None;
    }
    let want = std::fs::read_to_string(path).unwrap_or_default();
    (want != got).then(|| format!("{} differs\n--- want\n{want}--- got\n{got}", path.display()))
}

fn outputs(case: &Path, store: &Path) -> [(&'static str, String); 3] {
    let store = store.to_str().unwrap();
    let cluster = case.join("cluster.yaml");
    // Captures of samples last seconds, so no workload of them is ready. One sample replaces the
    // Sidecar that its snapshot has.
    let mut generate = vec!["generate", "--store", store, "--include-unready", "--cluster"];
    generate.push(cluster.to_str().unwrap());
    if case.ends_with("d2-bookinfo-minimal") {
        generate.push("--adopt");
    }
    [
        ("dependencies.txt", expect(0, &["dependencies", "--store", store])),
        ("status.txt", expect(0, &["status", "--store", store])),
        ("sidecars.yaml", expect(0, &generate)),
    ]
}

#[test]
fn each_sample_gives_its_expected_files() {
    let mut wrong = Vec::new();
    for case in cases() {
        // The article's two captures are two situations, not one.
        let article = case.ends_with("article");
        let all = captures(&case);
        let groups: Vec<(String, Vec<_>)> = if article {
            all.iter()
                .map(|c| (c.file_stem().unwrap().to_string_lossy().into_owned(), vec![c.clone()]))
                .collect()
        } else {
            vec![(String::new(), all)]
        };
        for (group, files) in groups {
            let dir = tempfile::tempdir().unwrap();
            let store = dir.path().join("store");
            learn(&case, &files, &store);
            for (name, got) in outputs(&case, &store) {
                // Labels of captures contain the path of this checkout.
                let got = got.replace(&format!("{}/", case.display()), "");
                wrong.extend(compare(&case.join("expected").join(&group).join(name), &got));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn replaying_the_same_captures_again_changes_nothing() {
    let case = common::samples().join("d-bookinfo");
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let files = captures(&case);
    learn(&case, &files, &store);
    let before = expect(0, &["export", "--store", store.to_str().unwrap()]);
    // In another order, and with one of them alone first.
    learn(&case, &files[..1], &store);
    learn(&case, &files.iter().rev().cloned().collect::<Vec<_>>(), &store);
    assert_eq!(expect(0, &["export", "--store", store.to_str().unwrap()]), before);
}

#[test]
fn an_export_makes_the_same_store_again() {
    let case = common::samples().join("d-bookinfo");
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let file = dir.path().join("export.ndjson");
    let file = file.to_str().unwrap();
    let dependencies = learn(&case, &captures(&case), &one);
    expect(0, &["export", "--store", one.to_str().unwrap(), file]);
    expect(0, &["import", "--store", two.to_str().unwrap(), file]);
    assert_eq!(common::dependencies(&two), dependencies);
    // Again, and then the captures themselves: the store has all of it already.
    expect(0, &["import", "--store", two.to_str().unwrap(), file]);
    assert_eq!(learn(&case, &captures(&case), &two), dependencies);
}

#[test]
fn calls_without_a_route_stay_http_where_that_is_asked_for() {
    let case = common::samples().join("f0-external-none");
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    learn(&case, &captures(&case), &store);
    let (store, cluster) = (store.display().to_string(), case.join("cluster.yaml"));
    let cluster = cluster.display().to_string();
    let generate = ["generate", "--include-unready", "--store", &store, "--cluster", &cluster];
    let plain = expect(0, &generate);
    assert!(plain.contains("become plain TCP") && plain.contains("- ~/*"), "{plain}");
    let kept = expect(0, &[&generate[..], &["--keep-http-passthrough"]].concat());
    assert!(!kept.contains("become plain TCP"), "{kept}");
    // Any HTTP Service on the port makes the proxy listen: the cheapest one.
    let host = "    - istio-system/istio-egressgateway.istio-system.svc.cluster.local\n";
    assert!(kept.contains(host) && kept.matches("    - ").count() == 1, "{kept}");
}
