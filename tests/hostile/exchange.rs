//! Hostile names in batches of agents and in exports.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::common::{learn, samples};
use crate::lab::{BREAKOUT, Lab, TIME};

fn case() -> PathBuf {
    samples().join("a-before")
}

/// A batch with one connection whose SNI is this name.
fn batch(sni: &str) -> String {
    let head = json!({"observed": {"version": 1, "source": "agent:n:1", "sequence": 0, "node": "n",
        "made": TIME, "spans": [], "counters": {}}});
    let pod = json!({"pod": {"name": "my-shell", "uid": "",
        "workload": {"namespace": "default", "kind": "Pod", "name": "my-shell"},
        "labels": {"run": "my-shell"}, "selector": {"run": "my-shell"}, "dataPlane": "sidecar",
        "start": TIME, "end": TIME, "addresses": ["10.244.2.34"], "node": "", "capture": {}}});
    let edge = json!({"edge": {"pod": 0, "responder": "203.0.113.9:443", "transport": "tcp",
        "orientation": "handshake", "fromStart": true, "answered": true, "refused": false,
        "content": "tls", "names": {"sni": sni}, "initiator": "10.244.2.34:4000",
        "connections": 1, "first": TIME, "lastBegan": TIME, "last": TIME, "packets": 3}});
    format!("{head}\n{pod}\n{edge}\n{}\n", json!({"end": {"lines": 3}}))
}

/// Imports a batch with this SNI into the store `store`.
fn import_batch(lab: &Lab, sni: &str) -> (i32, String, String) {
    lab.file("batches.ndjson", &batch(sni));
    let cluster = case().join("cluster.yaml").display().to_string();
    lab.run(&["import", "--store", "@store", "--cluster", &cluster, "@batches.ndjson"])
}

#[test]
fn a_name_that_a_packet_can_show_is_escaped_in_every_output() {
    let lab = Lab::new();
    let (code, _, stderr) = import_batch(&lab, "a.b\"]%%{init:{}}%%<b>&#34;`_srv._tcp");
    assert_eq!(code, 0, "{stderr}");
    let shown = |form: &str| {
        let (code, stdout, stderr) = lab.run(&["dependencies", "--store", "@store", "-o", form]);
        assert_eq!(code, 0, "{stderr}");
        stdout
    };
    assert!(shown("table").contains("a.b\"]%%{init:{}}%%<b>&#34;`_srv._tcp"));
    let label = "a.b#34;#93;#37;#37;#123;init:#123;#125;#125;#37;#37;#60;b#62;#38;#35;34#59;#96;\
                 _srv._tcp";
    let mermaid = shown("mermaid");
    assert!(mermaid.contains(&format!("{{{{\"external: {label}\"}}}}")), "{mermaid}");
    let label = "a.b\\\"]%%{init:{}}%%<b>&amp;#34;`_srv._tcp";
    let dot = shown("dot");
    assert!(dot.contains(&format!("[label=\"{label}\", shape=hexagon];")), "{dot}");
}

#[test]
fn a_batch_with_a_name_that_no_packet_can_show_is_refused() {
    let (code, _, stderr) = import_batch(&Lab::new(), BREAKOUT);
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("line 1: ") && stderr.contains("\\u{2028}"), "{stderr}");
}

#[test]
fn an_export_with_an_invalid_name_is_refused() {
    let lab = Lab::new();
    let captures: Vec<PathBuf> = vec![case().join("veth5f577e0f.pcap")];
    learn(&case(), &captures, &lab.path("learned"));
    let (code, export, stderr) = lab.run(&["export", "--store", "@learned"]);
    assert_eq!(code, 0, "{stderr}");
    lab.file("export.ndjson", &export);
    assert_eq!(lab.run(&["import", "--store", "@whole", "@export.ndjson"]).0, 0);
    let hostile: [(&str, Value); 3] = [
        ("\"my-shell\"", json!("my\u{2028}shell")),
        ("\"bookinfo\"", json!("book\u{1b}[2Jinfo")),
        ("\"reviews.bookinfo.svc.cluster.local\"", json!("reviews\u{85}.bookinfo")),
    ];
    for (word, odd) in hostile {
        assert!(export.contains(word), "{word}");
        lab.file("odd.ndjson", &export.replace(word, &odd.to_string()));
        let (code, _, stderr) = lab.run(&["import", "--store", "@odd", "@odd.ndjson"]);
        assert_eq!(code, 1, "{stderr}");
        assert!(stderr.contains("is not valid") && stderr.contains("\\u{"), "{stderr}");
    }
}
