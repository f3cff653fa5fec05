//! MeshConfig: the mesh's own settings, from the ConfigMap `istio`.
//!
//! Owns their defaults (`pkg/config/mesh/mesh.go`). Must never contain settings of a workload.

use serde_json::Value;

use super::service::ExportTo;
use crate::objects::{LabelSelector, MeshConfigSpec, ProxyConfigSpec};
use sidecarta_text::yaml;

/// What a proxy does with calls for which it has no route (`outboundTrafficPolicy.mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TrafficMode {
    /// Refused.
    RegistryOnly,
    /// Let through, outside the mesh.
    AllowAny,
    /// Let through; HTTP by a dynamic forward proxy.
    AllowAnyDynamicDns,
}

impl TrafficMode {
    /// As Istio spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::RegistryOnly => "REGISTRY_ONLY",
            Self::AllowAny => "ALLOW_ANY",
            Self::AllowAnyDynamicDns => "ALLOW_ANY_DYNAMIC_DNS",
        }
    }

    /// Reads an `outboundTrafficPolicy`. Without a mode it is REGISTRY_ONLY, the enum's zero.
    pub(crate) fn of(policy: &Value) -> Self {
        match policy.get("mode") {
            Some(Value::String(m)) if m == "ALLOW_ANY" => Self::AllowAny,
            Some(Value::String(m)) if m == "ALLOW_ANY_DYNAMIC_DNS" => Self::AllowAnyDynamicDns,
            Some(Value::Number(n)) if n.as_u64() == Some(1) => Self::AllowAny,
            Some(Value::Number(n)) if n.as_u64() == Some(2) => Self::AllowAnyDynamicDns,
            _ => Self::RegistryOnly,
        }
    }
}

/// An extension provider (`extensionProviders`) that proxies send to: tracing, logs,
/// authorization.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// Name that Telemetry and AuthorizationPolicy use.
    pub name: String,
    /// What it is, as MeshConfig's field says: `zipkin`, `envoyExtAuthzGrpc`…
    pub kind: String,
    /// Its host, fully qualified or `namespace/host`.
    pub service: String,
    /// Port of that host that proxies send to.
    pub port: u16,
}

/// The mesh's settings.
#[derive(Clone, Debug)]
pub struct MeshConfig {
    /// Namespace of mesh-wide defaults (`rootNamespace`).
    pub root_namespace: String,
    /// Applies where a Sidecar sets no `outboundTrafficPolicy`.
    pub outbound: TrafficMode,
    /// `exportTo` of Services that set none (`defaultServiceExportTo`).
    pub service_export: ExportTo,
    /// `exportTo` of VirtualServices that set none (`defaultVirtualServiceExportTo`).
    pub virtual_service_export: ExportTo,
    /// `exportTo` of DestinationRules that set none (`defaultDestinationRuleExportTo`).
    pub destination_rule_export: ExportTo,
    /// `extensionProviders` that have a Service.
    pub providers: Vec<Provider>,
    /// Providers in force without a Telemetry, by part: `tracing`, `accessLogging`, `metrics`.
    pub default_providers: Vec<(&'static str, Vec<String>)>,
    /// Hosts of `defaultConfig.tracing`, in force where tracing has no provider: host and port.
    pub default_tracing: Vec<(String, u16)>,
    /// Proxies answer DNS queries and use allocated addresses (`ISTIO_META_DNS_CAPTURE`).
    pub dns_capture: bool,
    /// Selectors of the namespaces that istiod reads; empty: all.
    pub(super) discovery_selectors: Vec<LabelSelector>,
}

/// Reads a MeshConfig as istiod does: protobuf's JSON takes a field under its own name as well as
/// in camel case (`protomarshal.ApplyYAML`).
pub(super) fn read(text: &str) -> Result<MeshConfigSpec, String> {
    let value = yaml::from_str::<Value>(text).map_err(|e| e.to_string())?;
    let spec: Option<MeshConfigSpec> =
        serde_json::from_value(camel(value)).map_err(|e| e.to_string())?;
    Ok(spec.unwrap_or_default())
}

/// Converts field names to camel case. Keys that users choose stay as they are.
fn camel(value: Value) -> Value {
    /// Maps whose keys are chosen by users.
    const FREE: [&str; 6] =
        ["proxyMetadata", "matchLabels", "labels", "customTags", "headers", "runtimeValues"];
    let word = |key: String| {
        let plain = key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !plain || !key.contains('_') {
            return key;
        }
        let mut parts = key.split('_');
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |out, part| {
            let mut letters = part.chars();
            let upper = letters.next().map(|c| c.to_ascii_uppercase());
            out + &upper.into_iter().chain(letters).collect::<String>()
        })
    };
    match value {
        Value::Object(all) => Value::Object(
            all.into_iter()
                .map(|(k, v)| {
                    let k = word(k);
                    let v = if FREE.contains(&k.as_str()) { v } else { camel(v) };
                    (k, v)
                })
                .collect(),
        ),
        Value::Array(all) => Value::Array(all.into_iter().map(camel).collect()),
        other => other,
    }
}

/// Reads a port. Protobuf's JSON allows a number as a string, too.
fn port(value: &Value) -> Option<u16> {
    match value {
        Value::String(text) => text.parse().ok(),
        other => u16::try_from(other.as_u64()?).ok(),
    }
}

impl Default for MeshConfig {
    fn default() -> Self {
        Self::new(MeshConfigSpec::default())
    }
}

impl MeshConfig {
    pub(super) fn new(spec: MeshConfigSpec) -> Self {
        let export = |list: Vec<String>| {
            if list.is_empty() { ExportTo::new(vec!["*".to_owned()]) } else { ExportTo::new(list) }
        };
        let default = spec.default_providers.unwrap_or_default();
        let proxy = spec.default_config.unwrap_or_default();
        let truthy = |k: &str| proxy.proxy_metadata.get(k).is_some_and(|v| v == "true");
        Self {
            root_namespace: if spec.root_namespace.is_empty() {
                "istio-system".to_owned()
            } else {
                spec.root_namespace
            },
            outbound: spec
                .outbound_traffic_policy
                .as_ref()
                .map_or(TrafficMode::AllowAny, TrafficMode::of),
            service_export: export(spec.default_service_export_to),
            virtual_service_export: export(spec.default_virtual_service_export_to),
            destination_rule_export: export(spec.default_destination_rule_export_to),
            providers: spec.extension_providers.iter().filter_map(provider).collect(),
            default_providers: vec![
                ("tracing", default.tracing),
                ("accessLogging", default.access_logging),
                ("metrics", default.metrics),
            ],
            default_tracing: if spec.enable_tracing { tracing(&proxy) } else { Vec::new() },
            dns_capture: truthy("ISTIO_META_DNS_CAPTURE"),
            discovery_selectors: spec.discovery_selectors,
        }
    }
}

/// Reads an extension provider: its name, and one field named after its kind.
fn provider(entry: &serde_json::Map<String, Value>) -> Option<Provider> {
    let name = entry.get("name")?.as_str()?.to_owned();
    entry.iter().filter(|(k, _)| *k != "name").find_map(|(kind, v)| {
        let service = v.get("service").or_else(|| v.get("host"))?.as_str()?.to_owned();
        let port = port(v.get("port")?)?;
        Some(Provider { name: name.clone(), kind: kind.clone(), service, port })
    })
}

fn tracing(proxy: &ProxyConfigSpec) -> Vec<(String, u16)> {
    let Some(tracing) = &proxy.tracing else { return Vec::new() };
    ["zipkin", "lightstep", "openCensusAgent", "datadog"]
        .iter()
        .filter_map(|k| tracing.get(k)?.get("address")?.as_str()?.rsplit_once(':'))
        .filter_map(|(host, port)| Some((host.to_owned(), port.parse().ok()?)))
        .collect()
}
