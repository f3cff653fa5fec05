//! The reverse search: from the host where a connection ended to the hosts that lead there.
//!
//! Owns what names and lookups say for or against each VirtualService and each ExternalName Service
//! that leads to a host. Must never drop a possible call without saying so.

use std::collections::BTreeSet;

use super::ending::Ending;
use super::expand::{Expander, OUTSIDE, has_port};
use super::{Origin, Planner, wire_addresses};
use crate::generate::names::full_name;
use crate::mesh::host::{is_wildcard, matches};
use crate::model::{Dependency, Grade};
use crate::scope::{CallProtocol, RouteStep, ScopeCall, Treatment};

impl Planner<'_, '_> {
    /// Adds the calls of the host where a dependency ended, and those of the hosts that lead there.
    pub(super) fn add_behind(&mut self, ending: Ending<'_>, looked_up: &BTreeSet<&str>) {
        let host = ending.host;
        let named = self.names_used(&ending);
        let mut leading: BTreeSet<String> = BTreeSet::new();
        for name in &named {
            if self.add_leading(ending, name, Origin::Addressed) {
                leading.insert(name.clone());
            }
        }
        let routing = self.hosts_routed_to(&ending);
        let service = self.expander.full.service(host);
        let aliases: Vec<String> =
            service.iter().flat_map(|s| s.aliases.iter()).map(|(_, a)| a.clone()).collect();
        // Lookups show which name was used only if one of the names that lead here was looked up.
        // A name may have been looked up before the capture began.
        let was_used = |name: &str| looked_up.iter().any(|l| *l == name || matches(l, name));
        let lookups_decide =
            was_used(host) || routing.iter().chain(&aliases).any(|name| was_used(name));
        let evidence = NameEvidence { named: &named, looked_up, lookups_decide };
        for other in routing {
            self.add_routed(ending, other, &evidence, &mut leading);
        }
        for alias in aliases.into_iter().filter(|a| !named.contains(a)) {
            self.add_alias(ending, alias, &evidence, &mut leading);
        }
        // Its own name counts unless the lookups show that only others were used.
        if looked_up.contains(host) || !lookups_decide || leading.is_empty() {
            self.add_seen(ending.index, ending.dependency, host, ending.port());
        } else {
            let by: Vec<&str> = leading.iter().map(String::as_str).collect();
            let why = format!("never looked up: it was reached through {}", by.join(", "));
            self.plan.rejected.insert(host.to_owned(), why);
        }
    }

    /// Names on the wire by which the application addressed the dependency, without its own.
    fn names_used(&self, ending: &Ending<'_>) -> Vec<String> {
        let namespace = self.expander.client.namespace;
        let addressed = ending.dependency.addressed.keys();
        let full = addressed.map(|name| full_name(self.mesh(), name, namespace));
        full.filter(|name| name != ending.host).collect()
    }

    /// Other hosts of the VirtualServices that send traffic to the host and port.
    fn hosts_routed_to(&self, ending: &Ending<'_>) -> BTreeSet<String> {
        let Expander { full, client } = self.expander;
        let port = ending.port();
        let rules = full.listeners.iter().flat_map(|l| &l.virtual_services);
        let routing = rules.filter(|v| {
            let destinations = v.destinations(client.namespace);
            let ports = destinations.get(ending.host);
            ports.is_some_and(|ports| ports.contains(&None) || ports.contains(&Some(port)))
        });
        let hosts = routing.flat_map(|v| &v.hosts);
        hosts.filter(|h| *h != ending.host).cloned().collect()
    }

    /// Adds the calls of a host that a VirtualService leads to the ending, where they may have been
    /// made.
    fn add_routed(
        &mut self,
        ending: Ending<'_>,
        other: String,
        evidence: &NameEvidence<'_>,
        leading: &mut BTreeSet<String>,
    ) {
        let (host, port) = (ending.host, ending.port());
        if is_wildcard(&other) {
            let on_wire = evidence.named.iter().map(String::as_str);
            let used = evidence.looked_up.iter().copied().chain(on_wire);
            for name in used.filter(|n| matches(n, &other) && *n != host) {
                if self.add_leading(ending, name, Origin::Addressed) {
                    leading.insert(name.to_owned());
                }
            }
        } else if evidence.looked_up.contains(other.as_str()) {
            if self.add_leading(ending, &other, Origin::Addressed) {
                leading.insert(other);
            }
        } else if evidence.lookups_decide {
            let why =
                format!("a VirtualService leads it to {host}, but the workload never looked it up");
            self.plan.rejected.insert(other, why);
        } else if !evidence.named.contains(&other)
            && self.add_leading(ending, &other, Origin::Possible)
        {
            self.plan.remarks.push(format!(
                "{other} leads to {host}:{port} by a VirtualService, and no look-up was seen that \
                 tells which of the two was addressed: both are kept"
            ));
        }
    }

    /// Adds the calls of an ExternalName Service that leads to the ending, where they may have been
    /// made. Only its lookup is ever on the wire.
    fn add_alias(
        &mut self,
        ending: Ending<'_>,
        alias: String,
        evidence: &NameEvidence<'_>,
        leading: &mut BTreeSet<String>,
    ) {
        let host = ending.host;
        if evidence.looked_up.contains(alias.as_str())
            && self.add_leading(ending, &alias, Origin::Addressed)
        {
            leading.insert(alias);
        } else if !evidence.lookups_decide && self.add_leading(ending, &alias, Origin::Possible) {
            self.plan.remarks.push(format!(
                "{alias} is an alias of {host}, and no look-up was seen that tells which of the \
                 two was addressed: both are kept"
            ));
        } else {
            let why = format!("an alias of {host} that was never looked up");
            self.plan.rejected.insert(alias, why);
        }
    }

    /// Adds the calls of a host that was itself seen called.
    pub(super) fn add_seen(&mut self, index: usize, d: &Dependency, host: &str, port: u16) {
        let has_sni = d.evidence.contains_key(&Grade::Sni);
        let protocol = has_sni.then_some(CallProtocol::Tls);
        let mut calls = self.expander.calls(host, port, protocol, None);
        // Where a DestinationRule begins TLS, the server name is the proxy's, and the application
        // speaks the protocol of the port.
        if has_sni && self.mesh().services_of(host).any(|s| has_port(s, port)) {
            calls.extend(self.expander.calls(host, port, None, None));
        }
        // A headless Service and an entry without an address have no address of their own. The
        // packets show which addresses were called.
        let anywhere: Vec<ScopeCall> =
            calls.iter().filter(|c| c.address == OUTSIDE).cloned().collect();
        for address in wire_addresses(d) {
            calls.extend(anywhere.iter().map(|c| ScopeCall { address, ..c.clone() }));
        }
        for call in calls {
            self.add(call, Origin::Learned, Some(index));
        }
    }

    /// Adds the calls of another host that end where the dependency ended; whether there are any.
    fn add_leading(&mut self, ending: Ending<'_>, other: &str, origin: Origin) -> bool {
        let port = ending.port();
        let mut ports = self.expander.ports(other);
        if ports.is_empty() {
            ports.insert(port);
        }
        let ends_there = |t: &Treatment| {
            let mut clusters = t.steps.iter().flat_map(RouteStep::all_clusters);
            clusters.any(|c| c.host == ending.host && c.port == port)
        };
        let Expander { full, client } = self.expander;
        let mut any = false;
        for port in ports {
            for call in self.expander.calls(other, port, None, None) {
                if ends_there(&full.treat(&client, &call)) {
                    self.add(call, origin, Some(ending.index));
                    any = true;
                }
            }
        }
        any
    }
}

/// What is known of the names that the application used.
struct NameEvidence<'a> {
    /// Names on the wire.
    named: &'a [String],
    looked_up: &'a BTreeSet<&'a str>,
    /// The lookups show which of the names that lead to the host were used.
    lookups_decide: bool,
}
