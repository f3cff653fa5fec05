//! Istio's ServiceEntry, which owns addresses as a Service does.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{ObjectMeta, SpecObject, nullable};

/// A ServiceEntry (`networking.istio.io`).
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ServiceEntry {
    pub metadata: ObjectMeta,
    #[serde(default, deserialize_with = "nullable")]
    pub spec: ServiceEntrySpec,
    #[serde(default, deserialize_with = "nullable")]
    pub status: ServiceEntryStatus,
}

/// What a ServiceEntry says.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceEntrySpec {
    #[serde(default, deserialize_with = "nullable")]
    pub hosts: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub addresses: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub endpoints: Vec<WorkloadEntry>,
    #[serde(default, deserialize_with = "nullable")]
    pub ports: Vec<ServiceEntryPort>,
    #[serde(default, deserialize_with = "nullable")]
    pub location: String,
    #[serde(default, deserialize_with = "nullable")]
    pub resolution: String,
    #[serde(default, deserialize_with = "nullable")]
    pub export_to: Vec<String>,
    #[serde(default)]
    pub workload_selector: Option<WorkloadSelector>,
}

/// A port of its hosts.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceEntryPort {
    pub number: u16,
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub protocol: String,
    /// Port of the endpoints; absent or 0: its number.
    #[serde(default)]
    pub target_port: Option<u16>,
}

/// `networking.istio.io` `WorkloadSelector`: labels, all of which a pod must have.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct WorkloadSelector {
    #[serde(default, deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
}

/// A WorkloadEntry as an object of its own (`networking.istio.io`).
pub type WorkloadEntryObject = SpecObject<WorkloadEntry>;

/// An endpoint that it lists, and what a WorkloadEntry says.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct WorkloadEntry {
    #[serde(default, deserialize_with = "nullable")]
    pub address: String,
    /// Ports of the endpoint, by the names of the Service's ports.
    #[serde(default, deserialize_with = "nullable")]
    pub ports: BTreeMap<String, u16>,
    #[serde(default, deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
}

/// What istiod made of it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct ServiceEntryStatus {
    #[serde(default, deserialize_with = "nullable")]
    pub addresses: Vec<EntryAddress>,
}

/// An address that istiod allocated.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct EntryAddress {
    #[serde(default, deserialize_with = "nullable")]
    pub value: String,
}
