//! The cluster's DNS domain, as the objects of a snapshot say it.
//!
//! Owns which objects say it, and which of them decides. Must never take a default where an object
//! says it.

use std::collections::{BTreeMap, BTreeSet};

use super::versions::ParsedObject;
use crate::cluster::dns_domain;
use crate::cluster::objects::AnyObject;

/// What the objects of a snapshot say of the domain.
#[derive(Debug, Default)]
pub(super) struct Domains {
    /// For each domain, the number of proxies and of pods of istiod that are started with it.
    pods: BTreeMap<String, u64>,
    /// For each domain in a host of a VirtualService, name and namespace of the Services.
    hosts: BTreeMap<String, BTreeSet<(String, String)>>,
    /// Name and namespace of each Service.
    services: BTreeSet<(String, String)>,
}

impl Domains {
    /// Adds what an object says.
    pub fn add(&mut self, object: &ParsedObject) {
        let ParsedObject::Known(known) = object else { return };
        match &**known {
            AnyObject::Pod(pod) => {
                if let Some(domain) = dns_domain(pod) {
                    *self.pods.entry(domain).or_default() += 1;
                }
            }
            AnyObject::Service(s) => {
                self.services.insert((s.metadata.name.clone(), s.metadata.namespace.clone()));
            }
            AnyObject::VirtualService(v) => {
                for host in v.hosts() {
                    let Some((service, domain)) = host.split_once(".svc.") else { continue };
                    let Some((name, namespace)) = service.split_once('.') else { continue };
                    let service = (name.to_owned(), namespace.to_owned());
                    self.hosts.entry(domain.to_ascii_lowercase()).or_default().insert(service);
                }
            }
            _ => {}
        }
    }

    /// The domain: the one that was asked for, else that of most proxies, else the one in the hosts
    /// of VirtualServices for known Services. Objects that contradict it become problems.
    pub fn decide(self, asked: Option<String>, problems: &mut Vec<String>) -> Option<String> {
        let by_pods = self.pods.iter().max_by_key(|(_, n)| **n).map(|(domain, _)| domain.clone());
        let by_hosts = || {
            let known =
                |of: &BTreeSet<(String, String)>| of.iter().any(|s| self.services.contains(s));
            let mut found = self.hosts.iter().filter(|(_, of)| known(of)).map(|(d, _)| d);
            // If there are several, one of them is that of another cluster.
            found.next().filter(|_| found.next().is_none()).cloned()
        };
        let domain = asked.clone().or(by_pods).or_else(by_hosts);
        let decided = domain.as_deref().unwrap_or("cluster.local");
        for (other, n) in self.pods.iter().filter(|(other, _)| *other != decided) {
            problems.push(match &asked {
                Some(_) => format!(
                    "--cluster-domain is {decided}, and the proxies of {n} pods run with {other}: \
                     where {other} is right, hosts below {decided} match nothing"
                ),
                None => format!(
                    "the proxies of {n} pods run with the DNS domain {other}, those of more pods \
                     with {decided}, which is taken; pass --cluster-domain where that is wrong"
                ),
            });
        }
        domain
    }
}
