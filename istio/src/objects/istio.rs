//! Istio's objects as `kubectl` prints them, as far as scoping and routing ask for them. Unknown
//! fields are ignored; a known field of a wrong type is an error that names it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{SpecObject, WorkloadSelector, nullable};

impl VirtualServiceObject {
    /// The hosts that it routes, as it spells them.
    pub fn hosts(&self) -> &[String] {
        self.spec.as_ref().map_or(&[], |s| &s.hosts)
    }
}

/// A VirtualService (`networking.istio.io`).
pub type VirtualServiceObject = SpecObject<VirtualServiceSpec>;
/// A DestinationRule (`networking.istio.io`).
pub type DestinationRule = SpecObject<DestinationRuleSpec>;
/// A Sidecar (`networking.istio.io`).
pub type SidecarObject = SpecObject<SidecarSpec>;
/// A Telemetry (`telemetry.istio.io`).
pub type Telemetry = SpecObject<TelemetrySpec>;
/// An AuthorizationPolicy (`security.istio.io`).
pub type AuthorizationPolicy = SpecObject<AuthorizationPolicySpec>;

impl DestinationRule {
    /// The rule's host as written, where a policy of the rule has the load balancer `PASSTHROUGH`:
    /// the proxy then connects to the address that the application called (`applyLoadBalancer`,
    /// `pilot/pkg/networking/core/cluster_traffic_policy.go`: ORIGINAL_DST).
    pub fn passed_through(&self) -> Option<&str> {
        let spec = self.spec.as_ref()?;
        let policy = spec.traffic_policy.as_ref()?;
        let passes = |p: &Value| {
            p.pointer("/loadBalancer/simple").is_some_and(|s| s == "PASSTHROUGH" || s == 4)
        };
        let ports = policy.get("portLevelSettings").and_then(Value::as_array);
        (passes(policy) || ports.into_iter().flatten().any(passes)).then_some(spec.host.as_str())
    }
}

/// What a VirtualService says, as far as the mesh's own proxies read it.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualServiceSpec {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) hosts: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) gateways: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) http: Vec<HttpRoute>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) tls: Vec<L4Route>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) tcp: Vec<L4Route>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) export_to: Vec<String>,
}

/// A rule for HTTP traffic.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HttpRoute {
    #[serde(default, rename = "match", deserialize_with = "nullable")]
    pub(crate) matches: Vec<HttpMatch>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) route: Vec<WeightedDestination>,
    #[serde(default)]
    pub(crate) delegate: Option<Delegate>,
    #[serde(default)]
    pub(crate) redirect: Option<Value>,
    #[serde(default)]
    pub(crate) direct_response: Option<Value>,
    #[serde(default)]
    pub(crate) mirror: Option<RouteDestination>,
    #[serde(default)]
    pub(crate) mirror_percent: Option<Value>,
    #[serde(default)]
    pub(crate) mirror_percentage: Option<Percent>,
    #[serde(default)]
    pub(crate) mirrors: Option<Vec<Mirror>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct Delegate {
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub namespace: String,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Mirror {
    #[serde(default)]
    pub destination: Option<RouteDestination>,
    #[serde(default)]
    pub percentage: Option<Percent>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Percent {
    #[serde(default)]
    pub value: f64,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct WeightedDestination {
    #[serde(default)]
    pub destination: Option<RouteDestination>,
    #[serde(default, deserialize_with = "nullable")]
    pub weight: i64,
}

/// Where a rule sends traffic.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct RouteDestination {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) host: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) subset: String,
    #[serde(default)]
    pub(crate) port: Option<PortSelector>,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub(crate) struct PortSelector {
    #[serde(default)]
    pub number: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct StringMatch {
    #[serde(default, deserialize_with = "nullable")]
    pub exact: String,
    #[serde(default, deserialize_with = "nullable")]
    pub prefix: String,
    #[serde(default, deserialize_with = "nullable")]
    pub regex: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HttpMatch {
    #[serde(default)]
    pub uri: Option<StringMatch>,
    #[serde(default)]
    pub scheme: Option<StringMatch>,
    #[serde(default)]
    pub method: Option<StringMatch>,
    #[serde(default)]
    pub authority: Option<StringMatch>,
    #[serde(default, deserialize_with = "nullable")]
    pub headers: BTreeMap<String, StringMatch>,
    #[serde(default, deserialize_with = "nullable")]
    pub without_headers: BTreeMap<String, StringMatch>,
    #[serde(default, deserialize_with = "nullable")]
    pub query_params: BTreeMap<String, StringMatch>,
    #[serde(default, deserialize_with = "nullable")]
    pub ignore_uri_case: bool,
    #[serde(default, deserialize_with = "nullable")]
    pub port: u16,
    #[serde(default, deserialize_with = "nullable")]
    pub source_labels: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "nullable")]
    pub source_namespace: String,
    #[serde(default, deserialize_with = "nullable")]
    pub gateways: Vec<String>,
}

/// A rule for TLS or TCP traffic.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct L4Route {
    #[serde(default, rename = "match", deserialize_with = "nullable")]
    pub matches: Vec<L4Match>,
    #[serde(default, deserialize_with = "nullable")]
    pub route: Vec<WeightedDestination>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct L4Match {
    #[serde(default, deserialize_with = "nullable")]
    pub sni_hosts: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub destination_subnets: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub port: u16,
    #[serde(default, deserialize_with = "nullable")]
    pub source_labels: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "nullable")]
    pub source_namespace: String,
    #[serde(default, deserialize_with = "nullable")]
    pub gateways: Vec<String>,
}

/// What a DestinationRule says.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DestinationRuleSpec {
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) host: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) subsets: Vec<Subset>,
    #[serde(default)]
    pub(crate) traffic_policy: Option<Value>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) export_to: Vec<String>,
    #[serde(default)]
    pub(crate) workload_selector: Option<MatchLabels>,
}

#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MatchLabels {
    #[serde(default, deserialize_with = "nullable")]
    pub match_labels: BTreeMap<String, String>,
}

/// A named subset of a Service's endpoints.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Subset {
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub traffic_policy: Option<Value>,
}

/// The specification of a Sidecar. What is only carried over stays as it was written.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SidecarSpec {
    #[serde(default)]
    pub(crate) workload_selector: Option<WorkloadSelector>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) ingress: Vec<Value>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) egress: Vec<Egress>,
    #[serde(default)]
    pub(crate) inbound_connection_pool: Option<Value>,
    #[serde(default)]
    pub(crate) outbound_traffic_policy: Option<Value>,
}

/// An egress listener of a Sidecar.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Egress {
    /// Absent on the catch-all listener.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<EgressPort>,
    /// Address or Unix socket that it is bound to.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "nullable")]
    pub bind: String,
    /// `DEFAULT`, `IPTABLES` or `NONE`.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "nullable")]
    pub capture_mode: String,
    /// `namespace/dnsName`.
    #[serde(default, deserialize_with = "nullable")]
    pub hosts: Vec<String>,
}

impl Egress {
    /// Whether a host names the namespace of the client as `.`.
    pub fn depends_on_client(&self) -> bool {
        self.hosts.iter().any(|h| h.starts_with("./") || h.starts_with("~./"))
    }
}

/// The port of an egress listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressPort {
    /// Number.
    #[serde(default, deserialize_with = "nullable")]
    pub number: u16,
    /// Protocol as Istio spells it.
    #[serde(default, deserialize_with = "nullable")]
    pub protocol: String,
    /// Name.
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
}

/// What a Telemetry says of providers.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TelemetrySpec {
    #[serde(default)]
    pub(crate) selector: Option<MatchLabels>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) target_refs: Vec<Value>,
    #[serde(default)]
    pub(crate) target_ref: Option<Value>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) tracing: Vec<TelemetryProviders>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) access_logging: Vec<TelemetryProviders>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) metrics: Vec<TelemetryProviders>,
}

/// A section of a Telemetry that names providers.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TelemetryProviders {
    #[serde(default, deserialize_with = "nullable")]
    pub providers: Vec<ProviderName>,
    #[serde(default, deserialize_with = "nullable")]
    pub disable_span_reporting: bool,
    #[serde(default, deserialize_with = "nullable")]
    pub disabled: bool,
}

#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
pub(crate) struct ProviderName {
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
}

/// What an AuthorizationPolicy says of providers.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationPolicySpec {
    #[serde(default)]
    pub(crate) selector: Option<MatchLabels>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) target_refs: Vec<Value>,
    #[serde(default)]
    pub(crate) target_ref: Option<Value>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) action: String,
    #[serde(default)]
    pub(crate) provider: Option<ProviderName>,
}
