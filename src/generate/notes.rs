//! What a reviewer must know beside the hosts: words for ambiguity, gaps and calls that no host
//! covers.

use super::known::Known;
use crate::model::{Dependency, Destination, Protocol, valid};

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

/// Of what was learned.
pub(super) fn of_dependencies(known: &Known, notes: &mut Vec<String>) {
    for d in &known.past {
        let (to, port, n) = (&d.key.destination, d.key.port, d.tally.connections);
        notes.push(format!(
            "{n} connections to {to}:{port} went past the proxy, by a port or range that its pods exclude: no host does anything \
             for them"
        ));
    }
    // Envoy captures TCP only.
    for d in known.dependencies.iter().filter(|d| d.key.protocol == Protocol::Tcp) {
        let (port, n, to) = (d.key.port, d.tally.connections, &d.key.destination);
        match to {
            Destination::Service(_) | Destination::Infrastructure { .. } => {}
            Destination::Ambiguous { .. } => {
                notes.push(format!("{n} connections went to one of {to}: nothing on the wire told which, so all are listed"))
            }
            Destination::External { namespace: Some(_), .. } => {}
            Destination::External { .. } => {
                notes.push(format!("{to}:{port} is outside the mesh and no ServiceEntry holds it: there is no host to list"));
            }
            Destination::Pod { .. } => {
                notes.push(format!("{n} connections called pods of {to} directly on port {port}: no host covers a pod address"))
            }
            Destination::Others { why: None, .. } => notes.push(format!(
                "{n} connections went to {to}: more hosts outside the mesh than are listed one by one; a ServiceEntry that \
                 was made for one of them since is not looked for"
            )),
            Destination::Others { why: Some(why), .. } => notes.push(format!(
                "{n} connections to {to} could not be resolved ({why})"
            )),
            Destination::Unresolved { why, .. } => notes
                .push(format!("{n} connections to {to}:{port} could not be resolved ({why})")),
        }
        let named = match to {
            Destination::External { host, namespace: Some(_), .. } => host.as_ref(),
            _ => None,
        };
        for name in
            named.into_iter().chain(d.addressed.keys()).filter(|n| !valid::is_wildcard_host(n))
        {
            notes.push(format!(
                "{name} was named on the wire and is no valid host name: it is never listed, and what is listed keeps its route"
            ));
        }
        if let Some(missed) = d.scope_miss {
            notes.push(format!(
                "scope miss: {} connections reached {to}:{port} at the Service's own address, outside the mesh",
                missed.connections
            ));
        }
    }
}
