//! Routes of the Gateway API (`gateway.networking.k8s.io`), as far as sidecars have them: those
//! whose parent is a Service or a ServiceEntry.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::{SpecObject, nullable};

/// A route of the Gateway API: HTTPRoute, GRPCRoute, TCPRoute or TLSRoute.
pub type GatewayRoute = SpecObject<GatewayRouteSpec>;

/// What a route says.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayRouteSpec {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) parent_refs: Vec<ObjectReference>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) hostnames: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) rules: Vec<GatewayRule>,
}

/// A reference to another object, with what the kinds add to it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct ObjectReference {
    #[serde(default)]
    pub group: Option<String>,
    #[serde(default)]
    pub kind: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub namespace: String,
    #[serde(default)]
    pub port: Option<u16>,
    #[serde(default)]
    pub weight: Option<i64>,
}

/// A rule of a route.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GatewayRule {
    #[serde(default, deserialize_with = "nullable")]
    pub matches: Vec<GatewayMatch>,
    #[serde(default, deserialize_with = "nullable")]
    pub filters: Vec<GatewayFilter>,
    #[serde(default, deserialize_with = "nullable")]
    pub backend_refs: Vec<ObjectReference>,
}

/// A condition of a rule: of a GRPCRoute `method` is an object, of an HTTPRoute a word.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GatewayMatch {
    #[serde(default)]
    pub path: Option<GatewayValue>,
    #[serde(default, deserialize_with = "nullable")]
    pub headers: Vec<GatewayValue>,
    #[serde(default, deserialize_with = "nullable")]
    pub query_params: Vec<GatewayValue>,
    #[serde(default)]
    pub method: Option<Value>,
}

/// A name, a way to compare and a value.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
pub(crate) struct GatewayValue {
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
    #[serde(default, rename = "type", deserialize_with = "nullable")]
    pub kind: String,
    #[serde(default, deserialize_with = "nullable")]
    pub value: String,
}

/// A filter of a rule.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GatewayFilter {
    #[serde(default, rename = "type", deserialize_with = "nullable")]
    pub kind: String,
    #[serde(default)]
    pub request_mirror: Option<RequestMirror>,
}

/// Where copies of requests go.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RequestMirror {
    #[serde(default, deserialize_with = "nullable")]
    pub backend_ref: ObjectReference,
    #[serde(default)]
    pub percent: Option<f64>,
    #[serde(default)]
    pub fraction: Option<BTreeMap<String, f64>>,
}
