//! DestinationRules as istiod merges and indexes them (`model/destination_rule.go`,
//! `setDestinationRules` and `destinationRule` in `model/push_context.go`).
//!
//! Owns which rules a client in a namespace finds for a Service. Must never decide whether the
//! Service is in scope.

use std::collections::BTreeMap;

use foldhash::HashMap;
use serde_json::Value;

use super::host::{HostMap, qualify};
use super::service::ExportTo;
use crate::objects::{DestinationRuleSpec, SpecObject, Subset};
use sidecarta_model::{Time, selects};

/// One or more rules of a namespace for one host, merged.
#[derive(Clone, Debug)]
pub struct MergedRule {
    /// `namespace/name` of the rules, in the order of merging.
    pub from: Vec<String>,
    /// Namespace of the rules.
    pub namespace: String,
    /// As declared; a rule with a selector is private.
    pub export: ExportTo,
    /// Pods that it is for; `None`: all.
    pub selector: Option<BTreeMap<String, String>>,
    pub(crate) subsets: Vec<Subset>,
    pub(crate) policy: Option<Value>,
}

impl MergedRule {
    /// The connection pool that it sets for a Service port, where it sets one
    /// (`GetPortLevelTrafficPolicy`: settings of a port replace the others whole).
    pub fn connection_pool(&self, port: u16) -> Option<&Value> {
        let policy = self.policy.as_ref()?;
        let of_port =
            policy.get("portLevelSettings").and_then(Value::as_array).into_iter().flatten();
        let of_port = of_port
            .filter(|p| p.pointer("/port/number").and_then(Value::as_u64) == Some(u64::from(port)))
            .map(|p| p.get("connectionPool"))
            .next();
        of_port.unwrap_or_else(|| policy.get("connectionPool")).filter(|p| !p.is_null())
    }
}

/// Rules of a namespace by host.
type RulesByHost = HostMap<String, Vec<u32>>;

/// The index of all rules.
#[derive(Clone, Debug, Default)]
pub(crate) struct RuleIndex {
    merged: Vec<MergedRule>,
    local: HashMap<String, RulesByHost>,
    exported: HashMap<String, RulesByHost>,
    root_private: RulesByHost,
    root: String,
}

impl RuleIndex {
    pub(super) fn build(
        objects: &[SpecObject<DestinationRuleSpec>],
        root: &str,
        default_export: &ExportTo,
        domain: &str,
    ) -> Self {
        let mut sorted: Vec<&SpecObject<DestinationRuleSpec>> = objects.iter().collect();
        // Rules with a selector first, then the oldest.
        sorted.sort_by_key(|o| {
            let m = &o.metadata;
            let created = m.creation_timestamp.unwrap_or(Time::MIN);
            (
                o.spec.as_ref().is_none_or(|s| s.workload_selector.is_none()),
                created,
                m.name.clone(),
                m.namespace.clone(),
            )
        });
        let mut out = Self { root: root.to_owned(), ..Self::default() };
        for object in sorted {
            let spec = object.spec.clone().unwrap_or_default();
            let namespace = &object.metadata.namespace;
            let selector = spec.workload_selector.map(|s| s.match_labels);
            let export = if selector.is_some() { vec![".".to_owned()] } else { spec.export_to };
            let rule = MergedRule {
                from: vec![format!("{namespace}/{}", object.metadata.name)],
                namespace: namespace.clone(),
                export: ExportTo::new(export),
                selector,
                subsets: spec.subsets,
                policy: spec.traffic_policy,
            };
            let host = qualify(&spec.host, namespace, domain);
            let export = &rule.export;
            if export.is_empty() || export.public() || export.lists(".") || export.lists(namespace)
            {
                merge(
                    &mut out.merged,
                    out.local.entry(namespace.clone()).or_default(),
                    &host,
                    &rule,
                );
            }
            // istiod reads only `.` and `*` of the mesh's default.
            let private = (export.is_empty() && default_export.lists("."))
                || (export.len() == 1 && (export.lists(".") || export.lists(namespace)));
            if !private {
                merge(
                    &mut out.merged,
                    out.exported.entry(namespace.clone()).or_default(),
                    &host,
                    &rule,
                );
            } else if namespace == root {
                merge(&mut out.merged, &mut out.root_private, &host, &rule);
            }
        }
        out
    }

    /// Rules that a client in `client` finds for a host whose Service lives in `owner`: the
    /// client's namespace, then the Service's, then the root namespace.
    pub(crate) fn lookup(&self, client: &str, host: &str, owner: &str) -> Vec<&MergedRule> {
        let local =
            if client == self.root { Some(&self.root_private) } else { self.local.get(client) };
        if let Some(found) = local.and_then(|h| h.most_specific(host)) {
            return found.iter().map(|&i| &self.merged[i as usize]).collect();
        }
        for namespace in [owner, &self.root] {
            let found = self
                .exported
                .get(namespace)
                .and_then(|h| h.most_specific(host))
                .map_or(&[][..], Vec::as_slice);
            let seen = |m: &&MergedRule| {
                m.export.is_empty() || m.export.public() || m.export.lists(client)
            };
            let found: Vec<&MergedRule> =
                found.iter().map(|&i| &self.merged[i as usize]).filter(seen).collect();
            if !found.is_empty() {
                return found;
            }
        }
        Vec::new()
    }
}

/// Selects from `found` the rule for pods with these labels: the first rule of the client's
/// namespace whose selector matches, else the last rule without a selector
/// (`SidecarScope.DestinationRule`).
pub(crate) fn select<'r>(
    found: &[&'r MergedRule],
    client: &str,
    labels: &BTreeMap<String, String>,
) -> Option<&'r MergedRule> {
    let chosen = |m: &&&MergedRule| {
        m.namespace == client && m.selector.as_ref().is_some_and(|s| selects(s, labels))
    };
    let by_selector = found.iter().find(chosen).copied();
    by_selector.or_else(|| found.iter().rev().find(|m| m.selector.is_none()).copied())
}

/// The rule that the receiving proxy uses: the last one without a selector.
pub(crate) fn inbound<'r>(found: &[&'r MergedRule]) -> Option<&'r MergedRule> {
    found.iter().rev().find(|m| m.selector.is_none()).copied()
}

/// Merges a rule into those of its host, or adds it (`mergeDestinationRule`).
fn merge(all: &mut Vec<MergedRule>, into: &mut RulesByHost, host: &str, rule: &MergedRule) {
    let list = into.or_insert(host.to_owned(), Vec::new());
    let mut separate = true;
    for &mut i in list.iter_mut() {
        let existing = &mut all[i as usize];
        if rule.export == existing.export {
            separate = false;
        } else {
            separate = true;
            if existing.export.is_empty() || !rule.export.superset_of(&existing.export) {
                continue;
            }
        }
        match (&existing.selector, &rule.selector) {
            (Some(a), Some(b)) if a != b => {
                separate = true;
                continue;
            }
            (Some(_), Some(_)) | (None, None) => separate = false,
            // A rule with a selector and one without are merged, and the new rule is also added on
            // its own.
            _ => {}
        }
        existing.from.extend(rule.from.iter().cloned());
        for subset in &rule.subsets {
            if !existing.subsets.iter().any(|s| s.name == subset.name) {
                existing.subsets.push(subset.clone());
            }
        }
        existing.policy = existing.policy.take().or_else(|| rule.policy.clone());
    }
    if separate {
        list.push(all.len() as u32);
        all.push(rule.clone());
    }
}
