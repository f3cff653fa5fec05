//! Where a connection went, as far as it is known. Ambiguity and ignorance are values here, not
//! absences.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::WorkloadId;

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServicePort {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
    /// Fully qualified host, for example `reviews.bookinfo.svc.cluster.local`.
    pub host: String,
    /// The Service's port (not the target port).
    pub port: u16,
}

/// What a connection to the mesh's own machinery was for. Not a dependency of a Sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Infrastructure {
    /// The control plane (istiod): the proxy reaches it through its bootstrap configuration.
    ControlPlane,
    /// Health, readiness and metrics ports of a proxy (15020, 15021, 15090).
    ProxyPort,
    /// The proxy's own listeners and HBONE (15001, 15004, 15006, 15008, 15053).
    MeshInternal,
    /// DNS over UDP: Envoy does not capture it.
    Dns,
}

impl fmt::Display for Infrastructure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ControlPlane => "control plane",
            Self::ProxyPort => "proxy health and metrics",
            Self::MeshInternal => "mesh internal port",
            Self::Dns => "DNS",
        })
    }
}

/// Why a destination could not be resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unresolved {
    /// The address lies in the cluster's pod range and no known pod had it at that time.
    NoPodThen,
    /// Several live pods claimed the address at that time.
    SeveralPods,
    /// The address lies in the cluster's Service range and no known Service has it.
    NoService,
    /// A Service has the address, but not the port.
    NoServicePort,
    /// The name on the wire (SNI) is a mesh host that the snapshot does not know.
    UnknownMeshHost,
    /// The ports of datagrams do not show which side calls.
    Undirected,
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoPodThen => "no known pod had this pod address at that time",
            Self::SeveralPods => "several pods claim this address at that time",
            Self::NoService => "no known Service has this Service address",
            Self::NoServicePort => "the Service at this address has no such port",
            Self::Undirected => "the ports of the datagrams do not show which side calls",
            Self::UnknownMeshHost => "the mesh host named on the wire is not in the snapshot",
        })
    }
}

/// Where a connection went.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Destination {
    /// A port of one Service.
    Service(ServicePort),
    /// Several Services stand behind the address, and nothing on the wire shows which was called.
    Ambiguous {
        /// Usually at least two; one where it stood behind the address before or after, and nobody
        /// knows whether it did then.
        candidates: BTreeSet<ServicePort>,
    },
    /// Outside the cluster, or a host that a ServiceEntry brings into the mesh.
    External {
        /// Host name, where one is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// Address, where no host name is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<IpAddr>,
        /// Namespace of the ServiceEntry that lists the host.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
        /// Name of the ServiceEntry that lists the host.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// The host as the ServiceEntry lists it (`*.wikipedia.org`), where it differs from `host`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        entry_host: Option<String>,
    },
    /// A pod called directly, outside any Service.
    Pod {
        /// Namespace of the pod's workload.
        namespace: String,
        /// Kind of the pod's workload.
        kind: String,
        /// Name of the pod's workload.
        name: String,
    },
    /// The mesh's own machinery; not a dependency of a Sidecar.
    Infrastructure {
        /// What for.
        what: Infrastructure,
        /// Namespace of the Service, where it is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
        /// Name of the Service, where it is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// Not known, and why.
    Unresolved {
        /// The address called.
        address: IpAddr,
        /// The mesh host named on the wire, where one was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// The reason.
        why: Unresolved,
    },
    /// Several destinations, of those that a workload has beyond the number that is listed one by
    /// one (`store::fold`): outside the mesh, or not resolved. None of a ServiceEntry is among
    /// them. Also all datagrams of a workload of which nothing shows who calls.
    Others {
        /// The domain that they are hosts of; absent where they are addresses, or of many domains.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        domain: Option<String>,
        /// Why they could not be resolved; absent where they are outside the mesh.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<Unresolved>,
    },
}

impl Destination {
    /// A pod's workload as a destination.
    pub fn pod(id: WorkloadId) -> Self {
        Self::Pod { namespace: id.namespace, kind: id.kind, name: id.name }
    }

    /// Whether people accept it or not. They decide neither on the mesh's own calls, nor on
    /// datagrams that may be answers.
    pub fn is_decidable(&self) -> bool {
        !matches!(
            self,
            Self::Infrastructure { .. } | Self::Others { why: Some(Unresolved::Undirected), .. }
        )
    }

    /// The word for its kind, as in JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Service(_) => "service",
            Self::Ambiguous { .. } => "ambiguous",
            Self::External { .. } => "external",
            Self::Pod { .. } => "pod",
            Self::Infrastructure { .. } => "infrastructure",
            Self::Unresolved { .. } => "unresolved",
            Self::Others { .. } => "others",
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(s) => write!(f, "{}/{}", s.namespace, s.name),
            Self::Ambiguous { candidates } => {
                for (i, c) in candidates.iter().enumerate() {
                    if i > 0 {
                        f.write_str(" | ")?;
                    }
                    write!(f, "{}/{}:{}", c.namespace, c.name, c.port)?;
                }
                if candidates.len() == 1 { f.write_str(" | unknown") } else { Ok(()) }
            }
            Self::External { host: Some(host), .. } => f.write_str(host),
            Self::External { address: Some(a), .. } => write!(f, "{a}"),
            Self::External { .. } => f.write_str("(external)"),
            Self::Pod { namespace, name, .. } => write!(f, "{namespace}/{name}"),
            Self::Infrastructure { what, namespace: Some(ns), name: Some(n) } => {
                write!(f, "{ns}/{n} ({what})")
            }
            Self::Infrastructure { what, .. } => write!(f, "({what})"),
            Self::Unresolved { host: Some(host), address, .. } => write!(f, "{host} at {address}"),
            Self::Unresolved { address, .. } => write!(f, "{address}"),
            Self::Others { domain: Some(domain), .. } => write!(f, "(others of {domain})"),
            Self::Others { why: Some(Unresolved::Undirected), .. } => {
                f.write_str("(datagrams, either way)")
            }
            Self::Others { why: Some(_), .. } => f.write_str("(others, not resolved)"),
            Self::Others { .. } => f.write_str("(others outside)"),
        }
    }
}
