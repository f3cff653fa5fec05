//! Each promise in SECURITY.md names tests, and these exist.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use std::path::Path;

fn sources(dir: &Path, out: &mut String) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn each_promise_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut code = String::new();
    for dir in
        ["src", "tests", "capture/src", "capture/tests", "istio/src", "model/src", "text/src"]
    {
        sources(&root.join(dir), &mut code);
    }
    let text = std::fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let mut promises = 0;
    let mut missing = Vec::new();
    let mut in_table = false;
    for line in text.lines() {
        match line {
            "| promise | test |" => in_table = true,
            line if !line.starts_with('|') => in_table = false,
            _ => {}
        }
        let Some((_, tests)) = line.trim_end_matches(" |").rsplit_once(" | ") else { continue };
        if !in_table || tests == "test" {
            continue;
        }
        promises += 1;
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "a promise without a test: {line}");
        let defined = |name: &&str| code.contains(&format!("fn {name}("));
        missing.extend(names.into_iter().filter(|name| !defined(name)));
    }
    assert!(promises > 30, "{promises} promises: the tables of SECURITY.md have another form");
    assert_eq!(missing, Vec::<&str>::new(), "no such tests");
}
