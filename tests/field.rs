//! Situations from real meshes. Each case of `tests/field/` has inputs, the rule of Istio's that
//! decides it, and the right result. `tests/field/FORMAT.md` describes the form of a case.
//!
//! `SIDECARTA_FIELD=DIR cargo test --test field` runs the cases of another directory.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

#[path = "field/expectation.rs"]
mod expectation;
#[path = "field/program.rs"]
mod program;

use std::path::{Path, PathBuf};

use expectation::{Expectation, Run, ScopeQuestion};
use program::{Manifest, Program, hosts_of};
use regex::RegexBuilder;
use serde_json::Value;

#[test]
fn every_case_comes_out_right() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/field");
    let top = std::env::var_os("SIDECARTA_FIELD").map_or(here, PathBuf::from);
    let mut cases: Vec<PathBuf> = std::fs::read_dir(&top)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.join("expect.json").exists())
        .collect();
    cases.sort();
    assert!(!cases.is_empty(), "no case in {}", top.display());
    let mut wrong = Vec::new();
    for case in &cases {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        wrong.extend(differences(case).into_iter().map(|d| format!("{name}: {d}")));
    }
    assert!(wrong.is_empty(), "{} differences\n{}", wrong.len(), wrong.join("\n"));
}

/// The differences between a case's expectations and the results of all its runs.
fn differences(case: &Path) -> Vec<String> {
    let mut out = Vec::new();
    let expected: Value =
        serde_json::from_slice(&std::fs::read(case.join("expect.json")).unwrap()).unwrap();
    for run in expected["runs"].as_array().unwrap() {
        let found = best(Run::alternatives(run).iter().map(|r| run_once(case, r)));
        out.extend(found.into_iter().map(|d| format!("{}: {d}", run["name"].as_str().unwrap())));
    }
    out
}

/// The differences of the first alternative that has none, else those of the first.
fn best(alternatives: impl Iterator<Item = Vec<String>>) -> Vec<String> {
    let mut first = None;
    for found in alternatives {
        if found.is_empty() {
            return found;
        }
        first.get_or_insert(found);
    }
    first.unwrap_or_default()
}

fn run_once(case: &Path, run: &Run) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let store = (!run.captures.is_empty()).then(|| dir.path().join("store"));
    let program = Program { case, store };
    let mut out = Vec::new();
    if program.store.is_some() {
        let replay = program.replay(run);
        if !run.replay_exit.contains(&replay.code) {
            out.push(format!("replay: exit {}: {}", replay.code, replay.all()));
            if program.store.as_ref().is_some_and(|s| !s.exists()) {
                return out;
            }
        }
        let printed = replay.all();
        out.extend(text_differences(
            &printed,
            &run.replay_must_say,
            &run.replay_must_not_say,
            "replay",
        ));
    }
    if !run.replay_only {
        if program.store.is_some() {
            out.extend(dependency_differences(run, &program));
        }
        out.extend(sidecar_differences(run, &program));
    }
    out.extend(run.scope.iter().flat_map(|question| scope_differences(question, run, &program)));
    out
}

/// What differs in an answer of `sidecarta scope`.
fn scope_differences(question: &ScopeQuestion, run: &Run, program: &Program<'_>) -> Vec<String> {
    let answer = program.scope(question, run);
    let who = format!("scope {}", question.pod);
    let mut out = Vec::new();
    if !question.exit.contains(&answer.code) {
        out.push(format!("{who}: exit {}: {}", answer.code, answer.err));
    }
    out.extend(text_differences(&answer.all(), &question.must_say, &question.must_not_say, &who));
    out
}

/// Patterns that a text lacks, or has and must not have. Commands to copy are left out: they say
/// nothing about what they name.
fn text_differences(text: &str, must: &[String], must_not: &[String], who: &str) -> Vec<String> {
    let pattern =
        |p: &str| RegexBuilder::new(p).case_insensitive(true).multi_line(true).build().unwrap();
    let text = pattern("`kubectl[^`]*`").replace_all(text, "");
    let lacks = must.iter().filter(|p| !pattern(p).is_match(&text));
    let mut out: Vec<String> = lacks.map(|p| format!("{who} does not say /{p}/")).collect();
    for p in must_not {
        if let Some(found) = pattern(p).find(&text) {
            out.push(format!("{who} says {:?} (/{p}/)", found.as_str()));
        }
    }
    out
}

/// What differs in what was learned.
fn dependency_differences(run: &Run, program: &Program<'_>) -> Vec<String> {
    if !run.asks_for_dependencies() {
        return Vec::new();
    }
    let dependencies = program.dependencies();
    let mut out = Vec::new();
    for wanted in &run.dependencies {
        if !wanted.iter().any(|w| dependencies.iter().any(|d| w.matches(d))) {
            out.push(format!("no dependency {wanted:?}"));
        }
    }
    for unwanted in &run.dependencies_not {
        if dependencies.iter().any(|d| unwanted.matches(d)) {
            out.push(format!("there is a dependency {unwanted:?}"));
        }
    }
    let missed = program.scope_misses(&dependencies);
    match run.no_scope_miss {
        Some(true) if !missed.is_empty() => out.push(format!("false scope miss of {missed:?}")),
        Some(false) if missed.is_empty() => out.push("no scope miss is reported".to_owned()),
        _ => {}
    }
    for any in &run.scope_miss_of {
        if !any.iter().any(|m| missed.contains(m)) {
            out.push(format!("no scope miss of {any:?}"));
        }
    }
    for m in run.scope_miss_not_of.iter().filter(|m| missed.contains(*m)) {
        out.push(format!("false scope miss of {m}"));
    }
    out
}

/// What differs in the Sidecars.
fn sidecar_differences(run: &Run, program: &Program<'_>) -> Vec<String> {
    if !run.together {
        return run
            .workloads
            .iter()
            .flat_map(|(key, alternatives)| {
                let chosen = [alternatives[0].pod.as_deref().unwrap_or(key)];
                let (code, manifests, said) = program.generate(&chosen, run);
                let all: Vec<&Manifest> = manifests.iter().collect();
                best(
                    alternatives.iter().map(|a| expectation_differences(a, &all, code, &said, key)),
                )
            })
            .collect();
    }
    let chosen: Vec<&str> =
        run.workloads.iter().map(|(key, a)| a[0].pod.as_deref().unwrap_or(key)).collect();
    let (code, manifests, said) = program.generate(&chosen, run);
    let mut out = Vec::new();
    let mut names: Vec<_> = manifests.iter().map(|m| (&m.namespace, &m.name)).collect();
    names.sort();
    for two in names.windows(2).filter(|w| w[0] == w[1]) {
        out.push(format!("two Sidecars are called {}/{}", two[0].0, two[0].1));
    }
    for (key, alternatives) in &run.workloads {
        let namespace = key.split('/').next().unwrap();
        let mine: Vec<&Manifest> = manifests
            .iter()
            .filter(|m| m.namespace == namespace && m.selects(&alternatives[0].labels))
            .collect();
        out.extend(best(
            alternatives.iter().map(|a| expectation_differences(a, &mine, code, &said, key)),
        ));
    }
    out
}

/// What differs between one expectation of a workload and the Sidecars written for it.
fn expectation_differences(
    want: &Expectation,
    got: &[&Manifest],
    code: i32,
    said: &str,
    who: &str,
) -> Vec<String> {
    let mut out = Vec::new();
    if !want.exit.contains(&code) {
        out.push(format!("{who}: exit {code}: {said}"));
    }
    out.extend(text_differences(said, &want.must_say, &want.must_not_say, who));
    if let Some(allowed) = &want.hosts {
        let hosts = (!got.is_empty()).then(|| hosts_of(got));
        if !allowed.contains(&hosts) {
            out.push(format!("{who}: hosts {hosts:?}, expected one of {allowed:?}\n{said}"));
        }
    }
    for manifest in got {
        let (name, selector) = (&manifest.name, &manifest.selector);
        if !want.name.is_empty() && !want.name.contains(name) {
            out.push(format!("{who}: the Sidecar is called {name}, expected {:?}", want.name));
        }
        if want.name_not.contains(name) {
            out.push(format!("{who}: the Sidecar is called {name}, as another is already"));
        }
        if want.selector.as_ref().is_some_and(|s| selector.as_ref() != Some(s)) {
            out.push(format!("{who}: selector {selector:?}, expected {:?}", want.selector));
        }
        let has = |key: &String| selector.as_ref().and_then(|s| s.get(key));
        for (key, value) in want.selector_must.iter().filter(|(k, v)| has(k) != Some(v)) {
            out.push(format!("{who}: selector {selector:?} lacks {key}={value}"));
        }
        for key in want.selector_must_not.iter().filter(|k| has(k).is_some()) {
            out.push(format!("{who}: selector has {key}"));
        }
        for labels in want.selects.iter().filter(|l| !manifest.selects(l)) {
            out.push(format!("{who}: selector {selector:?} does not meet {labels:?}"));
        }
        for labels in &want.selects_not {
            if selector.is_none() || manifest.selects(labels) {
                out.push(format!("{who}: selector {selector:?} meets {labels:?}"));
            }
        }
        if want.policy.as_ref().is_some_and(|p| *p != manifest.policy) {
            out.push(format!("{who}: policy {}, expected {:?}", manifest.policy, want.policy));
        }
    }
    out
}
