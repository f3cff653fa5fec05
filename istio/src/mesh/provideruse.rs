//! Providers that Telemetries and AuthorizationPolicies name.
//!
//! Owns which of these objects apply to sidecars. Must never decide which pods they apply to.

use super::ProviderUse;
use crate::objects::{AuthorizationPolicy, Telemetry, TelemetryProviders};

/// The providers that these objects use. An object that names none for sidecars is left out.
pub(super) fn provider_uses(
    telemetries: &[Telemetry],
    policies: &[AuthorizationPolicy],
) -> Vec<ProviderUse> {
    let mut out = Vec::new();
    for t in telemetries {
        let spec = t.spec.clone().unwrap_or_default();
        // An object with target references applies only to these: gateways and waypoints
        // (`ShouldAttachPolicy`).
        if !spec.target_refs.is_empty() || spec.target_ref.is_some() {
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
        out.push(ProviderUse {
            kind: "Telemetry",
            namespace: t.metadata.namespace.clone(),
            name: t.metadata.name.clone(),
            selector: spec.selector.unwrap_or_default().match_labels,
            providers,
            clusters: Vec::new(),
        });
    }
    for p in policies {
        let spec = p.spec.clone().unwrap_or_default();
        let referring = !spec.target_refs.is_empty() || spec.target_ref.is_some();
        if spec.action != "CUSTOM" || referring {
            continue;
        }
        out.push(ProviderUse {
            kind: "AuthorizationPolicy",
            namespace: p.metadata.namespace.clone(),
            name: p.metadata.name.clone(),
            selector: spec.selector.unwrap_or_default().match_labels,
            providers: vec![("authorization", spec.provider.into_iter().map(|n| n.name).collect())],
            clusters: Vec::new(),
        });
    }
    out
}
