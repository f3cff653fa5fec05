//! The ConfigMap that contains a MeshConfig, and the fields of a MeshConfig that are read.
//!
//! Owns these fields. Must never decide their defaults.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::meta::{ObjectMeta, nullable};

/// A ConfigMap: only the mesh's own is read.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ConfigMap {
    pub(crate) metadata: ObjectMeta,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) data: BTreeMap<String, String>,
}

impl ConfigMap {
    /// Whether it contains a MeshConfig.
    pub fn is_mesh_config(&self) -> bool {
        self.data.contains_key("mesh")
    }

    /// The object without its data, which may be anything, unless it contains a MeshConfig.
    #[must_use]
    pub fn without_other_data(mut self) -> Self {
        if !self.is_mesh_config() {
            self.data.clear();
        }
        self
    }
}

/// The fields of a MeshConfig that scoping depends on.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MeshConfigSpec {
    #[serde(default, deserialize_with = "nullable")]
    pub root_namespace: String,
    #[serde(default)]
    pub outbound_traffic_policy: Option<Value>,
    #[serde(default, deserialize_with = "nullable")]
    pub default_service_export_to: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub default_virtual_service_export_to: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub default_destination_rule_export_to: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub extension_providers: Vec<serde_json::Map<String, Value>>,
    #[serde(default)]
    pub default_providers: Option<DefaultProviders>,
    #[serde(default, deserialize_with = "nullable")]
    pub enable_tracing: bool,
    #[serde(default)]
    pub default_config: Option<ProxyConfigSpec>,
    #[serde(default, deserialize_with = "nullable")]
    pub discovery_selectors: Vec<LabelSelector>,
}

/// Labels with conditions (`LabelSelector` of `meta/v1`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LabelSelector {
    #[serde(default, deserialize_with = "nullable")]
    pub match_labels: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "nullable")]
    pub match_expressions: Vec<LabelExpression>,
}

/// A condition on a label.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct LabelExpression {
    #[serde(default, deserialize_with = "nullable")]
    pub key: String,
    #[serde(default, deserialize_with = "nullable")]
    pub operator: String,
    #[serde(default, deserialize_with = "nullable")]
    pub values: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DefaultProviders {
    #[serde(default, deserialize_with = "nullable")]
    pub tracing: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub access_logging: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub metrics: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ProxyConfigSpec {
    #[serde(default, deserialize_with = "nullable")]
    pub proxy_metadata: BTreeMap<String, String>,
    #[serde(default)]
    pub tracing: Option<Value>,
}
