//! What istiod's admission would refuse (`pkg/config/validation/agent/validation.go`,
//! `validation.go`), named with its rule.
//!
//! Owns the messages. Must never leave an object out: `scope` models what istiod does with such an
//! object.

use crate::objects::{DestinationRule, Egress, SidecarObject, VirtualServiceObject};
use sidecarta_model::valid;

/// Why admission refuses an egress host; `None` when it is valid.
pub fn egress_host(entry: &str) -> Option<&'static str> {
    let Some((namespace, name)) = entry.split_once('/') else {
        return Some("a host must be `namespace/dnsName`");
    };
    if name.contains('/') {
        return Some("a host has exactly one slash");
    }
    let namespace = namespace.strip_prefix('~').unwrap_or(namespace);
    if !matches!(namespace, "" | "*" | ".") && valid::namespace(namespace).is_err() {
        return Some("the namespace must be a name, `.`, `*` or `~`");
    }
    if namespace.is_empty() && !entry.starts_with('~') {
        return Some("the namespace must be a name, `.`, `*` or `~`");
    }
    if name == "*" {
        return None;
    }
    if !name.contains('.') {
        return Some("short names are not allowed: the host must be fully qualified");
    }
    let rest = name.strip_prefix("*.").unwrap_or(name);
    if rest.contains('*') {
        return Some("a wildcard may only be the whole left-most label");
    }
    if !valid::is_host(rest) {
        return Some("it is not a DNS name");
    }
    None
}

/// Adds a message to `problems` for each object that admission would refuse.
pub(super) fn all(
    sidecars: &[SidecarObject],
    virtual_services: &[VirtualServiceObject],
    rules: &[DestinationRule],
    problems: &mut Vec<String>,
) {
    let mut sorted: Vec<&SidecarObject> = sidecars.iter().collect();
    sorted.sort_by_key(|o| (&o.metadata.namespace, &o.metadata.name));
    for object in sorted {
        for why in sidecar(object) {
            let m = &object.metadata;
            problems.push(format!(
                "Sidecar {}/{}: istiod's validation refuses it: {why}",
                m.namespace, m.name
            ));
        }
    }
    for object in virtual_services {
        let (m, spec) = (&object.metadata, object.spec.clone().unwrap_or_default());
        let bare = spec.hosts.is_empty() && (!spec.tcp.is_empty() || !spec.tls.is_empty());
        if bare {
            problems.push(format!(
                "VirtualService {}/{}: istiod's validation refuses it: \
                 a delegate (no hosts) may have HTTP rules only",
                m.namespace, m.name
            ));
        }
    }
    for object in rules {
        let (m, spec) = (&object.metadata, object.spec.clone().unwrap_or_default());
        if spec.host.is_empty() {
            problems.push(format!(
                "DestinationRule {}/{}: istiod's validation refuses it: it needs a host",
                m.namespace, m.name
            ));
        }
    }
}

fn sidecar(object: &SidecarObject) -> Vec<String> {
    let spec = object.spec.clone().unwrap_or_default();
    let mut out = Vec::new();
    if let Some(selector) = &spec.workload_selector {
        if selector.labels.is_empty() {
            out.push(
                "its workloadSelector is empty: it would match every pod of the namespace"
                    .to_owned(),
            );
        }
        for (k, v) in &selector.labels {
            if k.is_empty() || k.contains('*') || v.contains('*') {
                out.push(format!("its workloadSelector has a wildcard or an empty key ({k}: {v})"));
            }
        }
    }
    if spec.egress.is_empty()
        && spec.ingress.is_empty()
        && spec.inbound_connection_pool.is_none()
        && spec.outbound_traffic_policy.is_none()
    {
        out.push("it is empty".to_owned());
    }
    let last = spec.egress.len().saturating_sub(1);
    for (i, Egress { port, hosts, .. }) in spec.egress.iter().enumerate() {
        if port.is_none() && i < last {
            out.push("the egress listener without a port must be the last one".to_owned());
        }
        if hosts.is_empty() {
            out.push("an egress listener without hosts".to_owned());
        }
        for host in hosts {
            if let Some(why) = egress_host(host) {
                out.push(format!("egress host {host:?}: {why}"));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_the_webhook_refuses_are_named_with_the_rule() {
        for fine in [
            "prod/reviews.prod.svc.cluster.local",
            "./*",
            "*/*",
            "~/*",
            "~prod/*",
            "ext/*.wikipedia.org",
            "*/a.b",
        ] {
            assert_eq!(egress_host(fine), None, "{fine}");
        }
        for (host, part) in [
            ("prod/reviews", "short names"),
            ("reviews.prod.svc.cluster.local", "namespace/dnsName"),
            ("prod/rev*.prod.svc", "not a DNS name"),
            ("prod/a.*.svc", "wildcard"),
            ("a/b/c.d", "one slash"),
            ("/a.b", "namespace must"),
        ] {
            let why = egress_host(host).unwrap_or_else(|| panic!("{host} is accepted"));
            assert!(why.contains(part) || why.contains("wildcard"), "{host}: {why}");
        }
    }
}
