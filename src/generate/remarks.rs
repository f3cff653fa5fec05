//! Remarks for the reviewer of a manifest: ambiguity, gaps, and calls that no host covers.
//!
//! Owns the sentences. Must never decide what is listed or withheld.

use std::collections::{BTreeMap, BTreeSet};

use super::group::Group;
use super::learned::Learned;
use super::minimal::{FORCE_SCAN, Minimal, SILENT, Widening};
use crate::mesh::{Mesh, TrafficMode};
use crate::model::{Dependency, Destination, Protocol, WatchTotals, valid};
use crate::scope::ScopeCall;

/// Whether a dependency is reason for a host: it leads to a Service or a ServiceEntry over TCP, or
/// may do so.
pub(super) fn needs_a_host(d: &Dependency) -> bool {
    d.key.protocol == Protocol::Tcp
        && match &d.key.destination {
            Destination::Service(_) | Destination::Ambiguous { .. } => true,
            Destination::External { namespace, .. } => namespace.is_some(),
            Destination::Unresolved { .. } | Destination::Others { why: Some(_), .. } => true,
            Destination::Pod { .. }
            | Destination::Infrastructure { .. }
            | Destination::Others { why: None, .. } => false,
        }
}

/// Remarks on what was learned.
pub(super) fn of_dependencies(learned: &Learned, remarks: &mut Vec<String>) {
    for d in &learned.past {
        let (to, port, n) = (&d.key.destination, d.key.port, d.tally.connections);
        remarks.push(format!(
            "{n} connections to {to}:{port} went past the proxy, by a port or range that its pods \
             exclude: no host does anything for them"
        ));
    }
    // Envoy captures TCP only.
    for d in learned.dependencies.iter().filter(|d| d.key.protocol == Protocol::Tcp) {
        remarks.extend(of_destination(d));
        for name in names_on_the_wire(d).filter(|n| !valid::is_wildcard_host(n)) {
            remarks.push(format!(
                "{name} was named on the wire and is no valid host name: it is never listed, and \
                 what is listed keeps its route"
            ));
        }
        if let Some(missed) = d.scope_miss {
            remarks.push(format!(
                "scope miss: {} connections reached {}:{} at the Service's own address, outside \
                 the mesh",
                missed.connections, d.key.destination, d.key.port
            ));
        }
    }
}

/// Remarks on how a workload was watched.
pub(super) fn of_watching(learned: &Learned) -> Vec<String> {
    let totals = WatchTotals::of(&learned.watches);
    let mut out = Vec::new();
    if !learned.watches.is_empty() && totals.from_start == 0 {
        out.push(
            "start not seen: no pod was watched from its start, so what it calls only then is \
             missing"
                .to_owned(),
        );
    }
    if totals.lost > 0 {
        out.push(format!(
            "{} packets or observations of its pods' interfaces were lost; that time does not \
             count as watched",
            totals.lost
        ));
    }
    out
}

/// What a reviewer must know of where a dependency leads.
fn of_destination(d: &Dependency) -> Option<String> {
    let (to, port, n) = (&d.key.destination, d.key.port, d.tally.connections);
    Some(match to {
        Destination::Service(_)
        | Destination::Infrastructure { .. }
        | Destination::External { namespace: Some(_), .. } => return None,
        Destination::Ambiguous { .. } => format!(
            "{n} connections went to one of {to}: nothing on the wire told which, so all are listed"
        ),
        Destination::External { .. } => format!(
            "{to}:{port} is outside the mesh and no ServiceEntry holds it: there is no host to list"
        ),
        Destination::Pod { .. } => format!(
            "{n} connections called pods of {to} directly on port {port}: no host covers a pod \
             address"
        ),
        Destination::Others { why: None, .. } => format!(
            "{n} connections went to {to}: more hosts outside the mesh than are listed one by \
             one; a ServiceEntry that was made for one of them since is not looked for"
        ),
        Destination::Others { why: Some(why), .. } => {
            format!("{n} connections to {to} could not be resolved ({why})")
        }
        Destination::Unresolved { why, .. } => {
            format!("{n} connections to {to}:{port} could not be resolved ({why})")
        }
    })
}

/// Names by which a dependency was addressed, where a ServiceEntry or a Service stands behind them.
fn names_on_the_wire(d: &Dependency) -> impl Iterator<Item = &String> {
    let own = match &d.key.destination {
        Destination::External { host, namespace: Some(_), .. } => host.as_ref(),
        _ => None,
    };
    own.into_iter().chain(d.addressed.keys())
}

/// Remarks on hosts that are listed though the snapshot lacks them.
pub(super) fn of_assumed(assumed: &BTreeSet<String>, remarks: &mut Vec<String>) {
    remarks.extend(assumed.iter().map(|entry| {
        format!(
            "{entry} is not in the snapshot, and what is known names it: it is listed by its \
             name, and what leads it elsewhere is not known; add it to the snapshot"
        )
    }));
}

/// Remarks on objects of Istio's that matter in the namespace and are not read.
pub(super) fn of_unread(mesh: &Mesh, namespace: &str, remarks: &mut Vec<String>) {
    remarks.extend(
        mesh.unread_for(namespace)
            .map(|u| format!("{} {}/{} is not read: {}", u.kind, u.namespace, u.name, u.effect())),
    );
}

/// Remarks on the pods of other workloads that the group's selector matches.
pub(super) fn of_group(g: &Group, remarks: &mut Vec<String>) {
    if g.bystanders.is_empty() || g.selector.is_none() {
        return;
    }
    let all: Vec<String> = g.bystanders.iter().map(ToString::to_string).collect();
    remarks.push(format!(
        "its selector also meets pods of {}: they get this Sidecar too, and what they call is not \
         known",
        all.join(", ")
    ));
}

/// Remarks on calls without a route that become plain TCP for the proxy.
pub(super) fn of_telemetry(
    proof: &Minimal,
    calls: &[ScopeCall],
    policy: TrafficMode,
    remarks: &mut Vec<String>,
) {
    let mut by_port: BTreeMap<u16, BTreeSet<&str>> = BTreeMap::new();
    for call in proof.become_tcp.iter().filter_map(|i| calls.get(*i)) {
        by_port.entry(call.port).or_default().insert(&call.host);
    }
    for (port, hosts) in by_port {
        let first = hosts.first().copied().unwrap_or_default();
        let others = match hosts.len() {
            1 => String::new(),
            n => format!(" and {} more", n - 1),
        };
        let change = match policy {
            TrafficMode::RegistryOnly => "the refusal is a reset in place of a response 502",
            TrafficMode::AllowAny | TrafficMode::AllowAnyDynamicDns => {
                "the answer is the same, without HTTP's access log and metrics"
            }
        };
        remarks.push(format!(
            "{first}:{port}{others} become plain TCP for the proxy, which handles them as HTTP \
             while any HTTP Service has port {port}: {change} (--keep-http-passthrough keeps it)"
        ));
    }
}

/// Remarks on a list that is empty, or wider than the hosts of the calls.
pub(super) fn of_proof(proof: &Minimal, remarks: &mut Vec<String>) {
    if proof.hosts == [SILENT] {
        remarks.push(
            "~/*: nothing is known that it calls in the mesh, so it gets no Service at all: a \
             call that comes later passes its proxy as one to the outside, or is refused where \
             the policy is REGISTRY_ONLY"
                .to_owned(),
        );
    }
    match proof.widening {
        Widening::None => {}
        Widening::Scan => remarks.push(format!(
            "{FORCE_SCAN} matches nothing: it makes istiod scan its Services, because the look-up \
             of exact hosts takes one of several entries or addresses that a call needs"
        )),
        Widening::Port => remarks.push(
            "exact hosts of the calls alone change a route: a host that shares a port with one is \
             kept too"
                .to_owned(),
        ),
        Widening::Everything => remarks.push(
            "*/*: no narrower list keeps every call as it is; run `sidecarta explain` to see which \
             call stands against it"
                .to_owned(),
        ),
    }
}
