//! Providers that Telemetries and AuthorizationPolicies name.
//!
//! Owns which of these objects apply to sidecars. Must never decide which pods they apply to.

use std::collections::BTreeMap;

use serde_json::Value;

use super::ProviderUse;
use crate::objects::{AuthorizationPolicy, ObjectMeta, Telemetry, TelemetryProviders};

impl ProviderUse {
    /// Of an object that names nothing yet.
    pub(super) fn of_object(
        kind: &'static str,
        object: &ObjectMeta,
        selector: BTreeMap<String, String>,
    ) -> Self {
        Self {
            kind,
            namespace: object.namespace.clone(),
            name: object.name.clone(),
            selector,
            providers: Vec::new(),
            clusters: Vec::new(),
        }
    }
}

/// Whether an object has target references (`targetRefs`, `targetRef`). It applies only to these,
/// gateways and waypoints, and not to sidecars (`ShouldAttachPolicy` in
/// `model/policyattachment.go`).
pub(super) fn has_targets(target_refs: &[Value], target_ref: Option<&Value>) -> bool {
    !target_refs.is_empty() || target_ref.is_some()
}

/// The providers that these objects use. An object that names none for sidecars is left out.
pub(super) fn provider_uses(
    telemetries: &[Telemetry],
    policies: &[AuthorizationPolicy],
) -> Vec<ProviderUse> {
    let mut out = Vec::new();
    for t in telemetries {
        let spec = t.spec.clone().unwrap_or_default();
        if has_targets(&spec.target_refs, spec.target_ref.as_ref()) {
            continue;
        }
        let part = |all: &[TelemetryProviders]| {
            let on = all.iter().filter(|p| !p.disabled && !p.disable_span_reporting);
            on.flat_map(|p| p.providers.iter().map(|n| n.name.clone())).collect::<Vec<_>>()
        };
        let parts = [
            ("tracing", &spec.tracing),
            ("accessLogging", &spec.access_logging),
            ("metrics", &spec.metrics),
        ];
        // A section that sets, for example, only a sampling rate does not change the providers.
        let says = |p: &TelemetryProviders| {
            !p.providers.is_empty() || p.disabled || p.disable_span_reporting
        };
        let said = parts.into_iter().filter(|(_, p)| p.iter().any(says));
        let providers = said.map(|(name, p)| (name, part(p))).collect();
        let selector = spec.selector.unwrap_or_default().match_labels;
        out.push(ProviderUse {
            providers,
            ..ProviderUse::of_object("Telemetry", &t.metadata, selector)
        });
    }
    for p in policies {
        let spec = p.spec.clone().unwrap_or_default();
        if spec.action != "CUSTOM" || has_targets(&spec.target_refs, spec.target_ref.as_ref()) {
            continue;
        }
        let selector = spec.selector.unwrap_or_default().match_labels;
        out.push(ProviderUse {
            providers: vec![("authorization", spec.provider.into_iter().map(|n| n.name).collect())],
            ..ProviderUse::of_object("AuthorizationPolicy", &p.metadata, selector)
        });
    }
    out
}
