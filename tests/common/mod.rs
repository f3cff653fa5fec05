//! What the tests of the command line share: the program, the samples, and a small disk.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where
#![allow(dead_code)] // each test file uses a part of it

pub mod cases;
pub mod disk;
pub mod rights;

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

/// The samples of the project.
pub fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("samples")
}

/// All samples with captures, by name.
pub fn cases() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(samples())
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.join("cluster.yaml").exists())
        .collect();
    all.sort();
    assert!(all.len() >= 24, "samples are missing: {} found", all.len());
    all
}

/// Captures of a sample, sorted.
pub fn captures(case: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(case)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "pcap" || e == "pcapng"))
        .collect();
    all.sort();
    assert!(!all.is_empty(), "{} has no captures", case.display());
    all
}

/// Writes a kubeconfig of an API server, with this user.
pub fn kubeconfig(path: &Path, server: SocketAddr, user: &Value) {
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://{server}")}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": user}]});
    std::fs::write(path, config.to_string()).unwrap();
}

/// Runs the program, without a store from the environment.
pub fn run<S: AsRef<OsStr>>(args: &[S]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sidecarta"))
        .args(args)
        .env_remove("SIDECARTA_STORE")
        .output()
        .unwrap()
}

/// Runs the program, which must exit with `code`, and returns its standard output.
pub fn expect<S: AsRef<OsStr>>(code: i32, args: &[S]) -> String {
    let out = run(args);
    let words: Vec<_> = args.iter().map(|a| a.as_ref().to_string_lossy().into_owned()).collect();
    assert_eq!(
        out.status.code(),
        Some(code),
        "{}\n{}{}",
        words.join(" "),
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}

/// Replays captures into a store and returns its dependencies.
pub fn learn(case: &Path, captures: &[PathBuf], store: &Path) -> Vec<Value> {
    let mut args = vec![
        "replay".into(),
        "--cluster".into(),
        case.join("cluster.yaml").into_os_string(),
        "--store".into(),
        store.as_os_str().to_owned(),
    ];
    args.extend(captures.iter().map(|c| c.as_os_str().to_owned()));
    expect(0, &args);
    dependencies(store)
}

/// The dependencies of a store.
pub fn dependencies(store: &Path) -> Vec<Value> {
    let json = expect(
        0,
        &[
            "dependencies".as_ref(),
            "-o".as_ref(),
            "json".as_ref(),
            "--store".as_ref(),
            store.as_os_str(),
        ],
    );
    serde_json::from_str(&json).unwrap()
}

/// A string within a JSON value.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}
