//! The recorded cases of Istio's scoping: reads them, and makes snapshots of their meshes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};
use sidecarta::mesh::Mesh;
use sidecarta::scope::{CallProtocol, ScopeCall};
use sidecarta::snapshot::{self, Builders, Snapshot};

/// The workload of a case.
#[derive(Debug, Deserialize)]
pub struct CaseClient {
    pub namespace: String,
    pub pod: String,
    pub ip: String,
    pub labels: BTreeMap<String, String>,
}

/// One case of a mesh.
#[derive(Debug)]
pub struct Case {
    pub id: String,
    pub client: CaseClient,
    pub expect: Value,
}

impl Case {
    pub fn new(value: &Value) -> Self {
        Self {
            id: value["id"].as_str().unwrap().to_owned(),
            client: serde_json::from_value(value["client"].clone()).unwrap(),
            expect: value["expect"].clone(),
        }
    }
}

/// The directory of the cases: SIDECARTA_SCOPE_CASES, else that of the project.
fn directory() -> PathBuf {
    std::env::var_os("SIDECARTA_SCOPE_CASES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scope-cases"),
        PathBuf::from,
    )
}

/// The lines of a file of cases, plain or gzip.
pub fn read(name: &str) -> Vec<Value> {
    let plain = directory().join(name);
    let file: Box<dyn Read> = match std::fs::File::open(&plain) {
        Ok(file) => Box::new(file),
        Err(_) => {
            let path = directory().join(format!("{name}.gz"));
            Box::new(flate2::read::GzDecoder::new(
                std::fs::File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())),
            ))
        }
    };
    BufReader::new(file).lines().map(|l| serde_json::from_str(&l.unwrap()).unwrap()).collect()
}

/// A mesh of a case as `kubectl get -o json` prints one.
pub fn list(mesh: &Value) -> Value {
    let mut items = mesh["objects"].as_array().unwrap().clone();
    if let Some(config) = mesh.get("meshConfig") {
        items.push(json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"namespace": "istio-system", "name": "istio"},
            "data": {"mesh": config.to_string()}
        }));
    }
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

/// A mesh of a case as a snapshot, with the indexes of addresses and Istio's configuration.
pub fn snapshot(mesh: &Value) -> Snapshot {
    let mut builders = Builders::both(None);
    let mut report = snapshot::Report::default();
    snapshot::read(
        Path::new("mesh.json"),
        list(mesh).to_string().as_bytes(),
        &mut builders,
        &mut report,
    );
    assert_eq!(report.problems, Vec::<String>::new());
    builders.build(report)
}

/// A mesh of a case.
pub fn mesh(mesh: &Value) -> Mesh {
    snapshot(mesh).meshes.into_first()
}

/// A call of a case.
pub fn call(value: &Value) -> ScopeCall {
    ScopeCall {
        host: value["host"].as_str().unwrap().to_owned(),
        port: u16::try_from(value["port"].as_u64().unwrap()).unwrap(),
        protocol: match value["protocol"].as_str().unwrap() {
            "http" => CallProtocol::Http,
            "tls" => CallProtocol::Tls,
            _ => CallProtocol::Tcp,
        },
        address: value["address"].as_str().unwrap().parse().unwrap(),
    }
}
