//! A directory with the files of a test, and the program that is run on them.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use crate::common::run;

const MESH: &str = include_str!("../mesh/shop.yaml");

/// A host that ends a comment in YAML 1.1, and brings an object with it.
pub const BREAKOUT: &str = "x\u{2028}apiVersion: rbac.authorization.k8s.io/v1\u{2028}kind: \
                        \"\\x43luster\\x52ole\\x42inding\"\u{2028}metadata: {name: p}\u{2028}\
                        ---\u{2028}#";

pub const TIME: &str = "2023-08-30T14:57:06Z";

/// The directory, which has `mesh.yaml` from the beginning.
pub struct Lab(tempfile::TempDir);

impl Lab {
    pub fn new() -> Self {
        let lab = Self(tempfile::tempdir().unwrap());
        lab.file("mesh.yaml", MESH);
        lab
    }

    /// Writes a file, and returns its path.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs the program; an argument `@NAME` is the path of a file. Returns exit code, standard
    /// output and standard error. Checks that a terminal obeys no character of both.
    pub fn run(&self, args: &[&str]) -> (i32, String, String) {
        let args = args.iter().map(|a| match a.strip_prefix('@') {
            Some(name) => self.path(name).into_os_string(),
            None => (*a).into(),
        });
        let out = run(&args.collect::<Vec<std::ffi::OsString>>());
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (stdout, stderr) = (text(out.stdout), text(out.stderr));
        for shown in [&stdout, &stderr] {
            let odd = shown
                .chars()
                .find(|c| c.is_control() && *c != '\n' || "\u{2028}\u{202e}".contains(*c));
            assert_eq!(odd, None, "{shown}");
            assert!(!shown.contains("panicked"), "{shown}");
        }
        (out.status.code().unwrap(), stdout, stderr)
    }
}

/// All documents of a stream, by a reader of YAML 1.1 (its line breaks are those of libyaml).
pub fn by_yaml_1_1(text: &str) -> Vec<Value> {
    let all = serde_yaml::Deserializer::from_str(text);
    all.map(|d| Value::deserialize(d).unwrap()).filter(|v| !v.is_null()).collect()
}

/// All documents of a stream, by a reader of YAML 1.2.
pub fn by_yaml_1_2(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap()
}
