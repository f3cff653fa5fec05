//! Objects that change the proxy itself, and namespaces with their labels.

use serde::Deserialize;
use serde_json::Value;

use super::istio::MatchLabels;
use super::{ObjectMeta, SpecObject, WorkloadSelector, nullable};

/// An EnvoyFilter (`networking.istio.io`).
pub type EnvoyFilter = SpecObject<EnvoyFilterSpec>;

/// A WasmPlugin (`extensions.istio.io`).
pub type WasmPlugin = SpecObject<WasmPluginSpec>;

/// A RequestAuthentication (`security.istio.io`).
pub type RequestAuthentication = SpecObject<RequestAuthenticationSpec>;

/// A namespace (`v1`). Its labels decide whether istiod reads it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Namespace {
    pub metadata: ObjectMeta,
}

/// What an EnvoyFilter says.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnvoyFilterSpec {
    #[serde(default)]
    pub(crate) workload_selector: Option<WorkloadSelector>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) target_refs: Vec<Value>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) config_patches: Vec<ConfigPatch>,
}

/// One patch of an EnvoyFilter.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ConfigPatch {
    #[serde(default, deserialize_with = "nullable")]
    pub apply_to: String,
    #[serde(default, rename = "match")]
    pub matches: Option<PatchMatch>,
    #[serde(default)]
    pub patch: Option<Patch>,
}

/// What a patch is for.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
pub(crate) struct PatchMatch {
    #[serde(default, deserialize_with = "nullable")]
    pub context: String,
}

/// What a patch does.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
pub(crate) struct Patch {
    #[serde(default, deserialize_with = "nullable")]
    pub operation: String,
    #[serde(default)]
    pub value: Option<Value>,
}

/// What a WasmPlugin says.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WasmPluginSpec {
    #[serde(default)]
    pub(crate) selector: Option<MatchLabels>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) target_refs: Vec<Value>,
    #[serde(default)]
    pub(crate) target_ref: Option<Value>,
    #[serde(default)]
    pub(crate) plugin_config: Option<Value>,
}

/// What a RequestAuthentication says.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestAuthenticationSpec {
    #[serde(default)]
    pub(crate) selector: Option<MatchLabels>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) target_refs: Vec<Value>,
    #[serde(default)]
    pub(crate) target_ref: Option<Value>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) jwt_rules: Vec<JwtRule>,
}

/// Where the keys of one issuer are.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct JwtRule {
    #[serde(default, deserialize_with = "nullable")]
    pub jwks_uri: String,
}
