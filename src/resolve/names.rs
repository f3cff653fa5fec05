//! What the names of a call stand for.
//!
//! Owns reading names on the connection and of lookups. Must never decide where the call went.

use std::net::IpAddr;

use super::resolution::CallResolution;
use crate::cluster::{Cluster, EntryHost, NameTarget, Pod};
use crate::model::{Grade, valid};
use crate::observed::Call;

/// Istio's server name of a cluster: `outbound_.PORT_.SUBSET_.HOST` (`BuildDNSSrvSubsetKey`,
/// `pilot/pkg/model/service.go`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IstioSni<'a> {
    /// The Service's port.
    pub port: u16,
    /// Subset of a DestinationRule, where one was chosen.
    pub subset: Option<&'a str>,
    /// The Service's host.
    pub host: &'a str,
}

/// Reads Istio's server name; `None` for any other.
pub fn parse_istio_sni(name: &str) -> Option<IstioSni<'_>> {
    let rest = name.strip_prefix("outbound_.")?;
    let (port, rest) = rest.split_once("_.")?;
    let (subset, host) = rest.split_once("_.")?;
    let port = port.parse().ok()?;
    (!host.is_empty()).then_some(IstioSni {
        port,
        subset: Some(subset).filter(|s| !s.is_empty()),
        host,
    })
}

/// A name of a call that stands for a Service.
#[derive(Clone, Debug)]
pub(super) struct Clue {
    pub grade: Grade,
    /// The name as packets have it.
    pub name: String,
    /// Host of the Service.
    pub host: String,
    /// Host of the ExternalName Service that led to the Service.
    pub via: Option<String>,
    /// Port behind the name (HTTP authority).
    pub port: Option<u16>,
}

impl Clue {
    /// Whether the name can be for this port. A name without a port fits any.
    pub fn port_fits(&self, port: u16) -> bool {
        self.port.is_none_or(|p| p == port)
    }
}

/// A name of a call that stands for no Service.
#[derive(Clone, Debug)]
pub(super) struct ExternalClue<'a> {
    pub grade: Grade,
    pub name: String,
    pub entry: Option<&'a EntryHost>,
    /// Port behind the name (HTTP authority).
    pub port: Option<u16>,
}

impl ExternalClue<'_> {
    /// Whether the name is on the connection itself, and not in an earlier answer of the DNS.
    pub fn is_strong(&self) -> bool {
        is_strong(self.grade)
    }
}

/// Whether a name of this grade is on the connection itself.
pub(super) fn is_strong(grade: Grade) -> bool {
    matches!(grade, Grade::Sni | Grade::HttpAuthority)
}

/// All that the names of a call say.
#[derive(Clone, Debug, Default)]
pub(super) struct Clues<'a> {
    pub services: Vec<Clue>,
    pub externals: Vec<ExternalClue<'a>>,
    /// The full form of a name with one label that stands for nothing known: it is short for a
    /// Service of the pod's own namespace.
    short: Option<String>,
    /// The HTTP authority if it is an address, with its port (80 if it has none).
    pub authority_address: Option<(IpAddr, u16)>,
}

impl<'a> Clues<'a> {
    /// Reads the names of a call that `pod` began.
    pub fn read(cluster: &'a Cluster, pod: &Pod, call: &Call) -> Self {
        let mut clues = Self::default();
        if let Some(sni) = &call.sni {
            clues.add(cluster, pod, Grade::Sni, sni, None);
        }
        if let Some(authority) = &call.authority {
            let (host, port) = split_authority(authority);
            match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
                Ok(address) => {
                    clues.authority_address = Some((address, port.unwrap_or(80)));
                    // A Service called by its own address: Envoy does not change the authority.
                    for service in cluster.services_at(address) {
                        clues.services.push(Clue {
                            grade: Grade::HttpAuthority,
                            name: authority.clone(),
                            host: service.host.clone(),
                            via: None,
                            port: Some(port.unwrap_or(80)),
                        });
                    }
                }
                Err(_) => {
                    clues.add(cluster, pod, Grade::HttpAuthority, host, Some(port.unwrap_or(80)))
                }
            }
        }
        for question in &call.dns {
            clues.add(cluster, pod, Grade::DnsAnswer, question, None);
        }
        clues
    }

    fn add(
        &mut self,
        cluster: &'a Cluster,
        pod: &Pod,
        grade: Grade,
        name: &str,
        port: Option<u16>,
    ) {
        match cluster.named(name, &pod.workload.namespace) {
            NameTarget::Service { service, via } => self.services.push(Clue {
                grade,
                name: name.to_owned(),
                host: service.host.clone(),
                via: via.map(str::to_owned),
                port,
            }),
            NameTarget::Entry(entries) => {
                // If several entries have the host, that of the pod's own namespace counts, else
                // the first by name.
                let own = entries
                    .iter()
                    .find(|e| e.namespace == pod.workload.namespace)
                    .or(entries.first());
                self.externals.push(ExternalClue {
                    grade,
                    name: name.to_owned(),
                    entry: own.copied(),
                    port,
                });
            }
            NameTarget::Unknown if name.contains('.') && name.parse::<IpAddr>().is_err() => {
                self.externals.push(ExternalClue {
                    grade,
                    name: name.to_owned(),
                    entry: None,
                    port,
                });
            }
            NameTarget::Unknown => {
                let domain = cluster.domain();
                if is_strong(grade) && name != "localhost" && valid::namespace(name).is_ok() {
                    self.short = Some(format!("{name}.{}.svc.{domain}", pod.workload.namespace));
                }
            }
        }
    }

    /// The clues on the connection itself.
    pub fn strong(&self) -> Self {
        let mut clues = self.clone();
        clues.services.retain(|c| is_strong(c.grade));
        clues.externals.retain(ExternalClue::is_strong);
        clues
    }

    /// Mesh hosts that the application named.
    pub fn mesh_hosts(&self) -> Vec<&String> {
        let of_services = self.services.iter().flat_map(|c| std::iter::once(&c.host).chain(&c.via));
        let of_entries = self.externals.iter().filter(|c| c.entry.is_some()).map(|c| &c.name);
        of_services.chain(of_entries).collect()
    }

    /// Adds the grades of every name that stands for this host.
    pub fn supporting(&self, host: &str, mut resolution: CallResolution) -> CallResolution {
        for clue in self.services.iter().filter(|c| c.host == host) {
            resolution = resolution.graded(clue.grade, Some(&clue.name));
        }
        for clue in self.externals.iter().filter(|c| c.entry.is_some_and(|e| e.host == host)) {
            resolution = resolution.graded(clue.grade, Some(&clue.name));
        }
        resolution
    }

    /// The host of the cluster that a name means and that the cluster does not have, if there is
    /// one.
    ///
    /// `in_cluster` says that the address is one of the cluster: then a name of one or two labels
    /// may be short for a Service, if its namespace is known. `is_vacant` says that nobody has the
    /// address any more: then the namespace may have been deleted as well.
    pub fn unknown_mesh_host(
        &self,
        cluster: &Cluster,
        in_cluster: bool,
        is_vacant: bool,
    ) -> Option<String> {
        let suffix = format!(".svc.{}", cluster.domain());
        let names = self.externals.iter().filter(|c| c.entry.is_none()).map(|c| c.name.as_str());
        let found = names.map(|n| n.trim_end_matches('.')).find_map(|name| {
            if name.ends_with(&suffix) {
                return Some(name.to_owned());
            }
            let short = name.strip_suffix(".svc").unwrap_or(name);
            let (service, namespace) = short.split_once('.')?;
            let is_short = in_cluster
                && !service.is_empty()
                && !namespace.contains('.')
                && (short != name || is_vacant || cluster.has_namespace(namespace));
            is_short.then(|| format!("{short}{suffix}"))
        });
        found.or_else(|| self.short.clone().filter(|_| in_cluster))
    }
}

/// Splits `host:port`; a bare IPv6 address in brackets keeps its brackets.
fn split_authority(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (authority, None),
        },
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn istio_server_names_have_port_subset_and_host() {
        let sni = parse_istio_sni("outbound_.9080_._.reviews.bookinfo.svc.cluster.local").unwrap();
        assert_eq!(
            sni,
            IstioSni { port: 9080, subset: None, host: "reviews.bookinfo.svc.cluster.local" }
        );
        let sni = parse_istio_sni("outbound_.80_.v2_.api.example.com").unwrap();
        assert_eq!((sni.port, sni.subset, sni.host), (80, Some("v2"), "api.example.com"));
        for other in ["api.example.com", "outbound_.x_._.h", "outbound_.80_._.", "outbound_.80_"] {
            assert_eq!(parse_istio_sni(other), None, "{other}");
        }
    }

    #[test]
    fn an_authority_is_split_into_host_and_port() {
        assert_eq!(split_authority("reviews:9080"), ("reviews", Some(9080)));
        assert_eq!(split_authority("reviews"), ("reviews", None));
        assert_eq!(split_authority("[fd00::1]:80"), ("[fd00::1]", Some(80)));
        assert_eq!(split_authority("fd00::1"), ("fd00::1", None));
    }
}
