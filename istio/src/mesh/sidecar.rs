//! Reads Sidecar resources.
//!
//! Owns the conversion of the object. Must never decide to which pods a Sidecar applies.

use serde_json::Value;

use super::Sidecar;
use crate::objects;
use sidecarta_model::Time;
use sidecarta_text::yaml;

/// Reads a Sidecar.
pub(super) fn sidecar(object: &objects::SidecarObject) -> Sidecar {
    let (meta, spec) = (&object.metadata, object.spec.clone().unwrap_or_default());
    let set = |v: Option<Value>| v.filter(|v| !v.is_null());
    Sidecar {
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        created: meta.creation_timestamp.unwrap_or(Time::MIN),
        selector: spec.workload_selector.map(|s| s.labels),
        egress: spec.egress,
        outbound_traffic_policy: set(spec.outbound_traffic_policy),
        ingress: spec.ingress,
        inbound_connection_pool: set(spec.inbound_connection_pool),
        generated: meta
            .labels
            .get("app.kubernetes.io/managed-by")
            .is_some_and(|m| m == "sidecarta"),
    }
}

/// Reads one Sidecar from YAML or JSON text, as a file that is to be tried.
///
/// # Errors
/// When the text is no Sidecar, with line and column where the parser gives them.
pub fn sidecar_from_text(text: &str) -> Result<Sidecar, String> {
    let value: yaml::Value = yaml::from_str(text).map_err(|e| e.to_string())?;
    let kind = value.get("kind").and_then(yaml::Value::as_str).unwrap_or("an object without kind");
    if kind != "Sidecar" {
        return Err(format!("it contains {kind}, not a Sidecar"));
    }
    let object: objects::SidecarObject = yaml::from_value(value).map_err(|e| e.to_string())?;
    Ok(sidecar(&object))
}
