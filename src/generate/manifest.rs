//! The `Sidecar` manifest as it is written.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::mesh::{Egress, Sidecar};
use crate::{text, yaml};

/// A `networking.istio.io/v1` Sidecar. Fields stand in the order in which people write them.
#[derive(Clone, Debug, PartialEq, Serialize)]
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

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(skip_serializing_if = "Option::is_none")]
    workload_selector: Option<ManifestSelector>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ingress: Vec<Value>,
    egress: Vec<Egress>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inbound_connection_pool: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outbound_traffic_policy: Option<Value>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct ManifestSelector {
    labels: BTreeMap<String, String>,
}

impl Manifest {
    /// A Sidecar; without a selector, the namespace's default. `egress` must list a host: Istio
    /// takes an empty list for `*/*`.
    pub fn new(
        namespace: &str,
        name: &str,
        selector: Option<BTreeMap<String, String>>,
        egress: Vec<Egress>,
    ) -> Self {
        Self {
            api_version: "networking.istio.io/v1",
            kind: "Sidecar",
            metadata: Metadata {
                name: name.to_owned(),
                namespace: namespace.to_owned(),
                labels: BTreeMap::from([("app.kubernetes.io/managed-by", "sidecarta")]),
            },
            spec: Spec {
                workload_selector: selector.map(|labels| ManifestSelector { labels }),
                ingress: Vec::new(),
                egress,
                inbound_connection_pool: None,
                outbound_traffic_policy: None,
            },
        }
    }

    /// Carries over what the replaced Sidecar sets beside `egress`. Istio does not merge Sidecars,
    /// so it would be lost.
    #[must_use]
    pub fn carrying(mut self, replaced: Option<&Sidecar>) -> Self {
        if let Some(old) = replaced {
            self.spec.ingress.clone_from(&old.ingress);
            self.spec.inbound_connection_pool.clone_from(&old.inbound_connection_pool);
            self.spec.outbound_traffic_policy.clone_from(&old.outbound_traffic_policy);
        }
        self
    }

    /// Namespace of the Sidecar.
    pub fn namespace(&self) -> &str {
        &self.metadata.namespace
    }

    /// Name of the Sidecar.
    pub fn name(&self) -> &str {
        &self.metadata.name
    }

    /// Hosts of the egress listeners.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.spec.egress.iter().flat_map(|e| e.hosts.iter().map(String::as_str))
    }

    /// The manifest as YAML, with the remarks for its reviewer as comments above it.
    ///
    /// # Errors
    /// Never for manifests made here; the writer's error is passed on rather than hidden.
    pub fn to_yaml(&self, remarks: &[String]) -> Result<String, yaml::YamlError> {
        let mut out = String::new();
        for remark in remarks {
            out.push_str("# ");
            out.push_str(&text::comment(remark));
            out.push('\n');
        }
        out.push_str(&yaml::to_string(self)?);
        Ok(out)
    }
}
