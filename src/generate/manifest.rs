//! The `Sidecar` manifest as it is written.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::yaml;

/// Imports nothing: what a workload without calls needs (an empty list would mean `*/*`).
pub const SILENT: &str = "~/*";

/// A `networking.istio.io/v1` Sidecar. Fields stand in the order in which people write them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    api_version: &'static str,
    kind: &'static str,
    metadata: Metadata,
    spec: Spec,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Metadata {
    name: String,
    namespace: String,
    labels: BTreeMap<&'static str, &'static str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    workload_selector: Selector,
    egress: Vec<Egress>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Selector {
    labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Egress {
    hosts: Vec<String>,
}

impl Manifest {
    /// A Sidecar with one catch-all egress listener. `hosts` must be sorted and not empty.
    pub fn new(namespace: &str, name: &str, selector: BTreeMap<String, String>, hosts: Vec<String>) -> Self {
        Self {
            api_version: "networking.istio.io/v1",
            kind: "Sidecar",
            metadata: Metadata {
                name: name.to_owned(),
                namespace: namespace.to_owned(),
                labels: BTreeMap::from([("app.kubernetes.io/managed-by", "sidecarta")]),
            },
            spec: Spec { workload_selector: Selector { labels: selector }, egress: vec![Egress { hosts }] },
        }
    }

    /// Namespace of the Sidecar.
    pub fn namespace(&self) -> &str {
        &self.metadata.namespace
    }

    /// Name of the Sidecar.
    pub fn name(&self) -> &str {
        &self.metadata.name
    }

    /// Hosts of the egress listener.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.spec.egress.iter().flat_map(|e| e.hosts.iter().map(String::as_str))
    }

    /// The manifest as YAML, with the notes for its reviewer as comments above it.
    ///
    /// # Errors
    /// Never for manifests made here; the writer's error is passed on rather than hidden.
    pub fn to_yaml(&self, notes: &[String]) -> Result<String, yaml::Error> {
        let mut out = String::new();
        for note in notes {
            // A comment ends at any line break.
            out.push_str("# ");
            out.extend(note.chars().map(|c| if c.is_control() { ' ' } else { c }));
            out.push('\n');
        }
        out.push_str(&yaml::to_string(self)?);
        Ok(out)
    }
}
