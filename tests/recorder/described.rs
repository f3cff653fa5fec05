//! `openapi.yaml` against the running recorder: paths, statuses, and the form of errors.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use std::collections::BTreeSet;

use serde_json::Value;

use super::cluster::{Cluster, Says};
use super::running::{Recorder, snapshot};

const JSON: &str = "Content-Type: application/json\r\n";

fn described() -> Value {
    sidecarta::yaml::from_str(include_str!("../../openapi.yaml")).unwrap()
}

type Key = (&'static str, bool, &'static str);

/// Keys that OpenAPI 3.0.3 knows of an object of a kind, as far as the description uses them: the
/// key, whether it must be there, and what its value is (empty: anything; `*`: a map of these).
const FORMS: [(&str, &[Key]); 15] = [
    (
        "document",
        &[
            ("openapi", true, ""),
            ("info", true, "info"),
            ("servers", false, "servers"),
            ("security", false, ""),
            ("paths", true, "*path"),
            ("components", false, "components"),
        ],
    ),
    ("info", &[("title", true, ""), ("version", true, ""), ("description", false, "")]),
    ("server", &[("url", true, ""), ("description", false, "")]),
    ("path", &[("get", false, "operation"), ("post", false, "operation")]),
    (
        "operation",
        &[
            ("operationId", true, ""),
            ("summary", true, ""),
            ("description", false, ""),
            ("parameters", false, "[parameter"),
            ("requestBody", false, "body"),
            ("responses", true, "*response"),
        ],
    ),
    (
        "parameter",
        &[
            ("name", true, ""),
            ("in", true, ""),
            ("description", false, ""),
            ("required", false, ""),
            ("schema", true, "schema"),
        ],
    ),
    ("body", &[("required", false, ""), ("content", true, "*media")]),
    ("response", &[("description", true, ""), ("content", false, "*media")]),
    ("media", &[("schema", true, "schema")]),
    (
        "schema",
        &[
            ("type", true, ""),
            ("format", false, ""),
            ("enum", false, ""),
            ("nullable", false, ""),
            ("maxLength", false, ""),
            ("description", false, ""),
            ("required", false, ""),
            ("additionalProperties", false, "schema or not"),
            ("properties", false, "*schema"),
            ("items", false, "schema"),
        ],
    ),
    (
        "components",
        &[
            ("securitySchemes", false, "*scheme"),
            ("parameters", false, "*parameter"),
            ("schemas", false, "*schema"),
            ("responses", false, "*response"),
        ],
    ),
    ("scheme", &[("type", true, ""), ("scheme", true, "")]),
    ("servers", &[]),
    ("schema or not", &[]),
    ("", &[]),
];

/// Holds a part of the description against its form, all the way down.
fn well_formed(document: &Value, value: &Value, form: &str, at: &str) {
    if let Some(form) = form.strip_prefix('*') {
        for (key, value) in value.as_object().unwrap_or_else(|| panic!("{at}: no map")) {
            well_formed(document, value, form, &format!("{at}/{key}"));
        }
        return;
    }
    let list = form.strip_prefix('[').or_else(|| (form == "servers").then_some("server"));
    if let Some(form) = list {
        for value in value.as_array().unwrap_or_else(|| panic!("{at}: no list")) {
            well_formed(document, value, form, at);
        }
        return;
    }
    if form.is_empty() {
        return assert!(!value.is_null(), "{at} has no value");
    }
    if form == "schema or not" {
        return if !value.is_boolean() {
            well_formed(document, value, "schema", at)
        };
    }
    let object = value.as_object().unwrap_or_else(|| panic!("{at} is no {form}: {value}"));
    if let Some(reference) = object.get("$ref") {
        let pointer = reference.as_str().unwrap().strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{at} leads nowhere: {pointer}");
        return assert_eq!(object.len(), 1, "{at}");
    }
    let (_, keys) = FORMS.iter().find(|(name, _)| *name == form).unwrap();
    for (key, value) in object {
        let known = keys.iter().find(|(name, ..)| name == key);
        let (.., form) = known.unwrap_or_else(|| panic!("{at} is a {form} and has {key:?}"));
        well_formed(document, value, form, &format!("{at}/{key}"));
    }
    for (key, must, _) in *keys {
        assert!(!must || object.contains_key(*key), "{at} is a {form} without {key:?}");
    }
}

#[test]
fn the_description_is_valid_and_has_every_path() {
    let described = described();
    well_formed(&described, &described, "document", "");
    // The check itself: a comma in plain words within braces makes a key of what follows.
    let broken = serde_json::json!({"description": "Not an agent's token", "or of another": null});
    let found = std::panic::catch_unwind(|| well_formed(&broken, &broken, "response", ""));
    assert!(found.is_err());
    let source = include_str!("../../src/recorder/api.rs");
    let routes = source
        .lines()
        .filter_map(|l| l.trim().strip_prefix(".route(\"")?.split_once('"').map(|(path, _)| path));
    let paths = described["paths"].as_object().unwrap();
    assert_eq!(
        routes.collect::<BTreeSet<_>>(),
        paths.keys().map(String::as_str).collect::<BTreeSet<_>>()
    );
}

/// Holds an answer against the description: its status, and the body of an error.
fn hold(described: &Value, method: &str, path: &str, asked: &str, (status, body): (u16, String)) {
    let plain = path.split('?').next().unwrap();
    let what = &described["paths"][plain][method]["responses"][status.to_string()];
    let context = format!("{method} {path} {asked}: {status} {body}");
    if status != 405 {
        assert!(!what.is_null(), "not described: {context}");
    }
    if status >= 400 {
        is_error(&body, &context);
        let reference = what["$ref"].as_str();
        assert!(
            status == 405 || reference.is_some_and(|r| r.starts_with("#/components/responses/")),
            "{context}"
        );
    }
}

/// The key `error`, with words, and besides it at most `batch`: that it is the batch that is
/// refused.
fn is_error(body: &str, context: &str) {
    let error: Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {context}"));
    let error = error.as_object().unwrap();
    assert!(!error["error"].as_str().unwrap().is_empty(), "{context}");
    let known =
        |(key, value): (&String, &Value)| key == "error" || key == "batch" && value == "refused";
    assert!(error.iter().all(known), "{context}");
}

#[test]
fn every_path_answers_as_described_also_when_it_refuses() {
    let described = described();
    let dir = tempfile::tempdir().unwrap();
    let snapshot = snapshot(dir.path()).display().to_string();
    let open = ["--no-auth", "--cluster", &snapshot];
    let open = Recorder::start(&dir.path().join("open"), None, &open);
    let mut says = Says::default();
    says.person("bob", &[]);
    let cluster = Cluster::start(says);
    let guarded =
        Recorder::start(&dir.path().join("guarded"), Some(cluster.kubeconfig.path()), &[]);
    let long = vec![b' '; (1 << 20) + 1];
    let bodies: [&[u8]; 7] = [
        b"",
        b"{}",
        b"{",
        br#"{"namespace":"shop"}"#,
        br#"{"id":"a/b/c","reason":"x"}"#,
        b"[1]",
        &long,
    ];
    let mut seen = BTreeSet::new();
    for (path, methods) in described["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let upper = method.to_uppercase();
            let mut check = |path: &str, asked: &str, answer: (u16, String)| {
                seen.insert(answer.0);
                hold(&described, method, path, asked, answer);
            };
            for body in bodies {
                let some = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
                for headers in [JSON, "", "Content-Encoding: br\r\n"] {
                    let answer = open.ask(&upper, path, None, headers, body);
                    check(path, &format!("{headers}{some}"), answer);
                }
                for token in [None, Some("made-up"), Some("bob")] {
                    let answer = guarded.ask(&upper, path, token, JSON, body);
                    assert!(token == Some("bob") || answer.0 == 401, "{path}: {answer:?}");
                    check(path, &format!("{token:?} {some}"), answer);
                }
            }
            for query in ["?namespace=UPPER", "?namespace=a&namespace=b", "?namespace=%ff", "?x=%"]
            {
                let path = format!("{path}{query}");
                check(&path, "", open.ask(&upper, &path, None, JSON, b"{}"));
            }
            for other in ["PUT", "DELETE", "PATCH", if upper == "GET" { "POST" } else { "GET" }] {
                let (status, body) = open.ask(other, path, None, JSON, b"");
                assert_eq!(status, 405, "{other} {path}: {body}");
                is_error(&body, path);
            }
        }
    }
    for status in [200, 400, 401, 403, 404, 413, 415, 422] {
        assert!(seen.contains(&status), "{status} was never answered: {seen:?}");
    }
    for path in ["/", "/v1/else", "/v1", "/v1/records/x"] {
        let (status, body) = open.get(path, None);
        assert_eq!(status, 404, "{path}");
        is_error(&body, path);
    }
    assert_eq!((open.kill("TERM").0, guarded.kill("TERM").0), (Some(0), Some(0)));
}
