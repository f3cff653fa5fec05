//! Which entries a call's route may depend on.
//!
//! Owns the reverse search from a treatment to `namespace/host`. Must never decide what is needed:
//! `minimal` does.

use std::collections::BTreeSet;

use super::demand::Demand;
use crate::mesh::host::{is_wildcard, matches};
use crate::mesh::{Registry, ServiceResolution};
use crate::scope::{RouteKind, ScopeCall, ScopedService, Treatment};

impl Demand<'_, '_> {
    /// Entries that a call's route may depend on, whether they are needed or not.
    pub(super) fn entries_of(&self, call: &ScopeCall) -> BTreeSet<String> {
        let calling = self.instances.iter().filter(|i| i.calls);
        let treatments: Vec<Treatment> =
            calling.map(|i| self.full.treat(&i.client(), call)).collect();
        let mut out = BTreeSet::new();
        self.candidates(call, &treatments.iter().collect::<Vec<_>>(), &mut out);
        out
    }

    /// Adds to `out` the entries that a call's route may depend on. `wants` are its treatments with
    /// all hosts imported.
    pub(super) fn candidates(
        &self,
        call: &ScopeCall,
        wants: &[&Treatment],
        out: &mut BTreeSet<String>,
    ) {
        let full = self.full;
        let mesh = full.mesh;
        for want in wants.iter().filter(|w| !w.is_unrouted()) {
            let taken_by = want.taken_by.map(|s| &mesh.services()[s as usize]);
            let backing = want.backing.iter().flatten().map(|&s| &mesh.services()[s as usize]);
            out.extend(backing.map(|s| s.entry()));
            let http = want.kind == RouteKind::Http;
            let mut served = false;
            for s in full.listeners.iter().flat_map(|l| l.index_named(mesh, call.port, &call.host))
            {
                served = true;
                out.insert(s.service.entry());
                let alias = s.aliases.iter().find(|(_, h)| *h == call.host);
                out.extend(alias.map(|(_, h)| format!("{}/{h}", s.service.namespace)));
            }
            // A TCP listener belongs to the Service that it was made for. For HTTP the virtual host
            // decides, whichever Service opened the port.
            if let Some(s) = taken_by.filter(|_| !http) {
                out.insert(s.entry());
            } else if http && !served {
                out.extend(self.opener(call.port));
            }
            for v in want
                .steps
                .iter()
                .filter_map(|s| s.virtual_service)
                .map(|v| &mesh.virtual_services()[v as usize])
            {
                let names =
                    std::iter::once(call.host.as_str()).chain(taken_by.map(|s| s.host.as_str()));
                for name in names {
                    for host in v.hosts.iter().filter(|h| matches(h, name)) {
                        // An exact host within a wildcard imports the VirtualService and no Service
                        // beside.
                        let host = if is_wildcard(host) { name } else { host };
                        out.insert(format!("{}/{host}", v.namespace));
                    }
                }
            }
        }
    }

    /// The cheapest Service that opens a port for HTTP. A VirtualService whose host is no Service
    /// has a route only if such a Service is listed.
    fn opener(&self, port: u16) -> Option<String> {
        let full = self.full;
        let labels = self.labels()?;
        let all = full.listeners.iter().flat_map(|l| &l.services);
        let opening = all.filter(|s| s.service.resolution != ServiceResolution::Alias);
        let opening = opening.filter(|s| s.port(port).is_some_and(|p| p.protocol.is_http()));
        let cost = |s: &&ScopedService<'_>| {
            let size = full.size_of(s, labels);
            (
                size.clusters,
                size.endpoints,
                s.service.registry == Registry::External,
                s.service.entry(),
            )
        };
        opening.min_by_key(cost).map(|s| s.service.entry())
    }
}
