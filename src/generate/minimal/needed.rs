//! Hosts that are needed for a plain reason, so that no scope must be computed to prove it.
//!
//! Owns the two reasons. Must never name a host that could be left out.

use std::collections::BTreeSet;

use foldhash::HashMap;

use super::Search;
use crate::mesh::host::{is_wildcard, matches, subset_of};

impl Search<'_, '_> {
    /// Entries that are needed, each with the index of a call that needs it. There are two reasons.
    /// A call's route ends in the host's Service, and nothing else would bring that Service in: the
    /// route would lack its Envoy cluster. Or a step of the route is a rule of a VirtualService
    /// that no other entry imports.
    pub(super) fn directly_needed(&self, hosts: &[String]) -> HashMap<String, usize> {
        let mut needed = HashMap::default();
        add_only_services(self, hosts, &mut needed);
        // A listener with a port may import the VirtualService as well.
        if self.demand.bound.is_empty() {
            add_only_rules(self, hosts, &mut needed);
        }
        needed
    }
}

/// Adds the hosts of Services that a call needs and that only one entry brings in.
fn add_only_services(
    search: &Search<'_, '_>,
    hosts: &[String],
    needed: &mut HashMap<String, usize>,
) {
    let egress = search.egress(hosts);
    let scope = search.scope(&egress);
    let rules = scope.listeners.iter().flat_map(|l| &l.virtual_services);
    let by_rules: BTreeSet<&str> =
        rules.flat_map(|v| v.destinations(scope.namespace).into_keys()).collect();
    let mut times_listed: HashMap<&str, u32> = HashMap::default();
    let mut wildcards: Vec<&str> = Vec::new();
    let carried = search.demand.bound.iter().flat_map(|e| &e.hosts);
    for (_, host) in hosts.iter().chain(carried).filter_map(|h| h.split_once('/')) {
        if is_wildcard(host) {
            wildcards.push(host);
        } else {
            *times_listed.entry(host).or_default() += 1;
        }
    }
    let services = search.mesh().services();
    for (i, (_, treatments)) in search.calls_with_treatments().enumerate() {
        let backing = treatments.iter().flat_map(|t| t.backing.iter().flatten());
        for service in backing.map(|&s| &services[s as usize]) {
            let host = service.host.as_str();
            let is_only_entry = times_listed.get(host) == Some(&1)
                && !by_rules.contains(host)
                && !wildcards.iter().any(|w| subset_of(host, w));
            if is_only_entry {
                needed.entry(service.entry()).or_insert(i);
            }
        }
    }
}

/// Adds the entries that alone import a VirtualService of a call's route.
fn add_only_rules(search: &Search<'_, '_>, hosts: &[String], needed: &mut HashMap<String, usize>) {
    let mut by_namespace: HashMap<&str, Vec<(&String, &str)>> = HashMap::default();
    for entry in hosts {
        let Some((namespace, host)) = entry.split_once('/') else { continue };
        by_namespace.entry(namespace).or_default().push((entry, host));
    }
    let virtual_services = search.mesh().virtual_services();
    for (i, (_, treatments)) in search.calls_with_treatments().enumerate() {
        let steps = treatments.iter().flat_map(|t| &t.steps);
        for rule in steps.filter_map(|s| s.virtual_service) {
            let rule = &virtual_services[rule as usize];
            let namespaces = [rule.namespace.as_str(), "*", "."];
            let near = namespaces.iter().filter_map(|n| by_namespace.get(n)).flatten();
            let imports = |host: &str| rule.hosts.iter().any(|h| matches(h, host));
            let mut importing = near.filter(|(_, host)| imports(host));
            if let (Some((entry, _)), None) = (importing.next(), importing.next()) {
                needed.entry((*entry).clone()).or_insert(i);
            }
        }
    }
}
