//! A small mesh with a bit of everything, and commands that are run on it.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use std::path::PathBuf;
use std::process::Output;

use serde_json::{Value, json};

use super::common::{expect, run};

pub const MESH: &str = include_str!("../mesh/shop.yaml");

/// A mesh in a directory: `mesh/shop.yaml` and what a test adds.
pub struct Lab {
    pub dir: tempfile::TempDir,
}

impl Lab {
    pub fn new(extra: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("mesh.yaml"), format!("{MESH}\n---\n{extra}")).unwrap();
        Self { dir }
    }

    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn mesh(&self) -> String {
        self.dir.path().join("mesh.yaml").display().to_string()
    }

    /// Declared calls: workload, host, port.
    pub fn calls(&self, calls: &[(&str, &str, u16)]) -> String {
        let lines =
            calls.iter().map(|(w, h, p)| json!({"workload": w, "host": h, "port": p}).to_string());
        self.file("calls.jsonl", &lines.collect::<Vec<_>>().join("\n")).display().to_string()
    }

    /// Runs `generate` for declared calls, whatever it gives.
    pub fn try_generate(&self, calls: &[(&str, &str, u16)], more: &[&str]) -> Output {
        let (mesh, calls) = (self.mesh(), self.calls(calls));
        let base = ["generate", "--include-unready", "--cluster", &mesh, "--calls", &calls];
        run(&[&base[..], more].concat())
    }

    /// The Sidecars that `generate` writes for declared calls.
    pub fn generate(&self, calls: &[(&str, &str, u16)], more: &[&str]) -> Vec<Value> {
        let (mesh, calls) = (self.mesh(), self.calls(calls));
        let base = ["generate", "--include-unready", "--cluster", &mesh, "--calls", &calls];
        let args = [&base[..], more].concat();
        documents(&expect(0, &args))
    }
}

/// The documents of a YAML text.
pub fn documents(text: &str) -> Vec<Value> {
    let parts = text.split("---\n").filter(|d| !d.trim().is_empty());
    parts.map(|d| sidecarta::yaml::from_str(d).unwrap()).collect()
}

/// The egress hosts of a Sidecar's last listener.
pub fn hosts(sidecar: &Value) -> Vec<&str> {
    let last = sidecar["spec"]["egress"].as_array().unwrap().last().unwrap();
    last["hosts"].as_array().unwrap().iter().map(|h| h.as_str().unwrap()).collect()
}

/// What a command says on standard error.
pub fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}
