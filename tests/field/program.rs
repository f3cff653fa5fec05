//! Runs the program on one case.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::expectation::{Run, ScopeQuestion};

/// The program, in the directory of a case.
pub struct Program<'a> {
    pub case: &'a Path,
    /// The store that it learns into; `None` if the case only declares calls.
    pub store: Option<PathBuf>,
}

/// The result of a command.
pub struct CommandResult {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl CommandResult {
    pub fn all(&self) -> String {
        format!("{}{}", self.out, self.err)
    }
}

impl Program<'_> {
    fn run(&self, args: &[&str]) -> CommandResult {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sidecarta"));
        command.args(args).current_dir(self.case).env("NO_COLOR", "1");
        for (key, _) in
            std::env::vars_os().filter(|(k, _)| k.to_string_lossy().starts_with("SIDECARTA_"))
        {
            command.env_remove(key);
        }
        if let Some(store) = self.store.as_ref().filter(|_| args[0] != "scope") {
            command.env("SIDECARTA_STORE", store);
        }
        let done = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        CommandResult {
            code: done.status.code().unwrap_or(-1),
            out: text(&done.stdout),
            err: text(&done.stderr),
        }
    }

    pub fn replay(&self, run: &Run) -> CommandResult {
        self.run(&args(
            &["replay"],
            &[&run.flags, &cluster_args(run), &["--".to_owned()], &run.captures],
        ))
    }

    pub fn scope(&self, question: &ScopeQuestion, run: &Run) -> CommandResult {
        let calls: Vec<String> =
            question.calls.iter().flat_map(|c| ["--call".to_owned(), c.clone()]).collect();
        let pod = ["--".to_owned(), question.pod.clone()];
        self.run(&args(&["scope"], &[&run.flags, &cluster_args(run), &calls, &pod]))
    }

    /// The exit code, the Sidecars, and the text: comments and standard error.
    pub fn generate(&self, workloads: &[&str], run: &Run) -> (i32, Vec<Manifest>, String) {
        let calls: Vec<String> =
            run.calls.iter().flat_map(|c| ["--calls".to_owned(), c.clone()]).collect();
        let chosen: Vec<String> =
            workloads.iter().flat_map(|w| ["--workload".to_owned(), (*w).to_owned()]).collect();
        let ran = self.run(&args(
            &["generate", "--include-unready"],
            &[&run.flags, &cluster_args(run), &calls, &chosen],
        ));
        let comments: Vec<&str> =
            ran.out.lines().filter(|l| l.trim_start().starts_with('#')).collect();
        (ran.code, Manifest::all(&ran.out), format!("{}\n{}", comments.join("\n"), ran.err))
    }

    pub fn dependencies(&self) -> Vec<Value> {
        let ran = self.run(&["dependencies", "-o", "json"]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        serde_json::from_str(&ran.out).unwrap()
    }

    /// All names of each destination with a scope miss.
    pub fn scope_misses(&self, dependencies: &[Value]) -> BTreeSet<String> {
        let mut out = BTreeSet::new();
        for d in dependencies.iter().filter(|d| !d["scopeMiss"].is_null()) {
            out.extend(names(&d["destination"], &d["port"]));
        }
        let ran = self.run(&["status", "-o", "json"]);
        let status: Value = serde_json::from_str(&ran.out).unwrap_or_default();
        for workload in status["workloads"].as_array().into_iter().flatten() {
            for missed in workload["scopeMisses"].as_array().into_iter().flatten() {
                match missed {
                    Value::String(text) => out.extend(text.split(' ').next().map(str::to_owned)),
                    _ => out.extend(names(
                        missed.get("destination").unwrap_or(missed),
                        &missed["port"],
                    )),
                }
            }
        }
        out
    }
}

/// The arguments that name the snapshot of a run.
fn cluster_args(run: &Run) -> Vec<String> {
    std::iter::once("--cluster".to_owned()).chain(run.cluster.iter().cloned()).collect()
}

fn args<'a>(first: &[&'a str], more: &[&'a [String]]) -> Vec<&'a str> {
    first.iter().copied().chain(more.iter().copied().flatten().map(String::as_str)).collect()
}

/// All ways to name a destination.
fn names(destination: &Value, port: &Value) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    let candidates = destination["candidates"].as_array().into_iter().flatten();
    for d in std::iter::once(destination).chain(candidates) {
        let field = |key: &str| d[key].as_str().map(str::to_owned);
        let within = |key: &str| Some(format!("{}/{}", field("namespace")?, field(key)?));
        let of_it = [field("host"), field("address"), within("name"), within("host")];
        for name in of_it.into_iter().flatten() {
            out.insert(format!("{name}:{port}"));
            out.extend(d.get("port").map(|p| format!("{name}:{p}")));
            out.insert(name);
        }
    }
    out
}

/// A Sidecar that was written.
pub struct Manifest {
    pub namespace: String,
    pub name: String,
    /// `None`: it has no selector.
    pub selector: Option<BTreeMap<String, String>>,
    /// Its `outboundTrafficPolicy`; null where it has none.
    pub policy: Value,
    hosts: Vec<String>,
}

impl Manifest {
    fn all(text: &str) -> Vec<Self> {
        let documents = serde_yaml::Deserializer::from_str(text);
        let values = documents.map(|d| <Value as serde::Deserialize>::deserialize(d).unwrap());
        values.filter(|v| v["kind"] == "Sidecar").map(|v| Self::of(&v)).collect()
    }

    fn of(value: &Value) -> Self {
        let text = |pointer: &str| value.pointer(pointer).unwrap().as_str().unwrap().to_owned();
        let selector = value.pointer("/spec/workloadSelector").map(|s| {
            let labels = s.get("labels").or(s.get("matchLabels"));
            labels.map(|l| serde_json::from_value(l.clone()).unwrap()).unwrap_or_default()
        });
        let egress = value.pointer("/spec/egress").and_then(Value::as_array).into_iter().flatten();
        let hosts = egress.flat_map(|e| e["hosts"].as_array().into_iter().flatten());
        Self {
            namespace: text("/metadata/namespace"),
            name: text("/metadata/name"),
            selector,
            policy: value.pointer("/spec/outboundTrafficPolicy").cloned().unwrap_or_default(),
            hosts: hosts.map(|h| h.as_str().unwrap().to_owned()).collect(),
        }
    }

    /// Whether its selector matches these labels.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        let meets = |s: &BTreeMap<String, String>| s.iter().all(|(k, v)| labels.get(k) == Some(v));
        self.selector.as_ref().is_some_and(meets)
    }
}

/// Hosts that Sidecars import, with `./` as their own namespace. `~/*` and the host that matches
/// nothing are left out.
pub fn hosts_of(manifests: &[&Manifest]) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for m in manifests {
        let some = m.hosts.iter().filter(|h| *h != "~/*" && !h.ends_with("unused.invalid"));
        out.extend(some.map(|h| match h.strip_prefix('.') {
            Some(rest) => format!("{}{rest}", m.namespace),
            None => h.clone(),
        }));
    }
    out
}
