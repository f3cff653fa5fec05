//! Hostile lines in files of declared calls.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use serde_json::{Value, json};

use crate::lab::{BREAKOUT, Lab, by_yaml_1_1, by_yaml_1_2};

const GENERATE: [&str; 6] =
    ["generate", "--include-unready", "--cluster", "@mesh.yaml", "--calls", "@calls.jsonl"];

fn good_call() -> Value {
    json!({"workload": "shop/web", "host": "cart.shop", "port": 80})
}

#[test]
fn a_declared_host_that_is_no_host_withholds_its_workload_and_its_line_is_named() {
    let lab = Lab::new();
    let mut lines = vec![good_call().to_string(), String::new()];
    let hostile = [
        json!({"workload": "shop/web", "host": BREAKOUT}),
        json!({"workload": "shop/web", "host": "a.b\u{feff}"}),
        json!({"workload": "shop/web", "host": "a\u{85}b.c"}),
        json!({"workload": "shop/web", "host": "_srv._tcp.a.b"}),
        json!({"workload": "shop/web", "host": "a.b", "port": 0}),
        json!({"workload": "shop/web", "host": "a.b", "protocol": "\u{1b}[2J"}),
    ];
    lines.extend(hostile.iter().map(Value::to_string));
    lab.file("calls.jsonl", &lines.join("\n"));
    let (code, stdout, stderr) = lab.run(&GENERATE);
    assert_eq!((code, stdout.as_str()), (5, ""), "{stderr}");
    for n in 3..9 {
        assert!(stderr.contains(&format!("calls.jsonl:{n}: ")), "{n}: {stderr}");
    }
    assert!(stderr.contains("\\u{2028}") && stderr.contains("withheld: shop/web"), "{stderr}");
}

#[test]
fn a_declared_line_without_a_workload_ends_the_run() {
    // It could be a call of any workload.
    let lab = Lab::new();
    lab.file("calls.jsonl", "cart.shop:80");
    let (code, stdout, stderr) = lab.run(&GENERATE);
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    assert!(stderr.contains("nothing is written"), "{stderr}");
}

#[test]
fn a_declared_call_of_an_unknown_workload_is_skipped() {
    let lab = Lab::new();
    let unknown = json!({"workload": BREAKOUT, "host": "a.b"});
    lab.file("calls.jsonl", &format!("{}\n{unknown}", good_call()));
    let (code, stdout, stderr) = lab.run(&GENERATE);
    assert_eq!(code, 3, "{stderr}");
    assert_eq!((by_yaml_1_1(&stdout).len(), by_yaml_1_2(&stdout).len()), (1, 1));
}
