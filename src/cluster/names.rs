//! From a name as an application or a packet spells it to a host of the mesh.
//!
//! Owns the search path and the order of what a name can mean. Must never choose among several
//! entries.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Cluster, ClusterService, EntryHost};
use crate::model::valid;

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameTarget<'a> {
    /// A Service; `via` is the ExternalName Service's host that led there, where one did.
    Service {
        /// The Service (never an ExternalName Service).
        service: &'a ClusterService,
        /// Host of the alias.
        via: Option<&'a str>,
    },
    /// Hosts of ServiceEntries, at least one.
    Entry(BTreeSet<&'a EntryHost>),
    /// Neither.
    Unknown,
}

/// ExternalName Services may point at each other. The DNS gives up after a few steps as well.
const MAX_ALIASES: usize = 8;

impl Cluster {
    /// What a host name stands for when a pod of `namespace` uses it: fully qualified, or completed
    /// by the search path (`NAMESPACE.svc.DOMAIN`, `svc.DOMAIN`, `DOMAIN`), or the name of a pod
    /// below a headless Service.
    pub fn named(&self, name: &str, namespace: &str) -> NameTarget<'_> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let candidates = self.spellings(&name, namespace);
        for host in &candidates {
            if let Some(service) = self.service(host) {
                return self.follow(service);
            }
        }
        for host in &candidates {
            // `web-0.web.data.svc.cluster.local`: the pod of a headless Service.
            if let Some(service) = host.split_once('.').and_then(|(_, rest)| self.service(rest)) {
                return self.follow(service);
            }
        }
        let entries = self.entries_named(&name);
        if entries.is_empty() { NameTarget::Unknown } else { NameTarget::Entry(entries) }
    }

    /// ServiceEntry hosts that a name falls under: the exact ones, else those of the longest
    /// wildcard.
    pub fn entries_named(&self, name: &str) -> BTreeSet<&EntryHost> {
        if let Some(exact) = self.entries_listed(name) {
            return exact;
        }
        let mut rest = name;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(found) = self.entries_listed(&format!("*.{parent}")) {
                return found;
            }
            rest = parent;
        }
        BTreeSet::new()
    }

    /// What the DNS of the cluster answers for the name of a Service: its own addresses, of a
    /// headless one those of its endpoints.
    pub(super) fn addresses_named(&self, name: &str, namespace: &str) -> BTreeSet<IpAddr> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let NameTarget::Service { service, .. } = self.named(&name, namespace) else {
            return BTreeSet::new();
        };
        let own: BTreeSet<IpAddr> = self.cluster_ips_of(&service.host).into_iter().collect();
        if !own.is_empty() {
            return own;
        }
        let Some(&index) = self.services_by_host.get(&service.host) else { return own };
        let behind = self.endpoints.iter().filter(|(_, b)| b.iter().any(|b| b.service == index));
        behind.map(|((address, ..), _)| *address).collect()
    }

    /// The host of the Service that a full name is of, or of a pod below a headless one, where the
    /// cluster has no such Service. The name must be below `svc.DOMAIN` (the DNS specification of
    /// Kubernetes).
    pub fn missing_service(&self, name: &str) -> Option<String> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let below = name.strip_suffix(self.domain())?.strip_suffix(".svc.")?;
        let (rest, namespace) = below.rsplit_once('.')?;
        let service = rest.rsplit_once('.').map_or(rest, |(_, last)| last);
        let is_named = valid::object_name(service).is_ok() && valid::namespace(namespace).is_ok();
        let host = format!("{service}.{namespace}.svc.{}", self.domain());
        (is_named && self.service(&host).is_none()).then_some(host)
    }

    fn follow<'a>(&'a self, service: &'a ClusterService) -> NameTarget<'a> {
        let mut at = service;
        for _ in 0..MAX_ALIASES {
            let Some(target) = &at.external_name else {
                let via = (at.host != service.host).then_some(service.host.as_str());
                return NameTarget::Service { service: at, via };
            };
            match self.service(target) {
                Some(next) => at = next,
                None => {
                    let entries = self.entries_named(target);
                    return if entries.is_empty() {
                        NameTarget::Unknown
                    } else {
                        NameTarget::Entry(entries)
                    };
                }
            }
        }
        NameTarget::Unknown
    }
}
