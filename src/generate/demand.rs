//! What a list of hosts must leave as it is.
//!
//! Owns the types. Must never decide which host is listed.

use std::collections::BTreeMap;

use crate::mesh::{Egress, MeshPod, Sidecar};
use crate::scope::{Client, Scope, ScopeCall};

/// A pod that the Sidecar selects.
#[derive(Clone, Debug)]
pub struct Instance<'m> {
    /// The pod.
    pub pod: &'m MeshPod,
    address: Option<String>,
    /// The pod makes the calls. Of any other pod only the incoming requests matter.
    pub calls: bool,
}

impl<'m> Instance<'m> {
    /// Describes a pod; `calls` says whether it makes the calls.
    pub fn new(pod: &'m MeshPod, calls: bool) -> Self {
        Self { pod, address: pod.addresses.first().map(ToString::to_string), calls }
    }

    /// The pod as a client of `scope`.
    pub fn client(&self) -> Client<'_> {
        Client {
            namespace: &self.pod.namespace,
            labels: &self.pod.labels,
            address: self.address.as_deref(),
        }
    }
}

/// Whether calls without a route must stay HTTP for the proxy where they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnroutedHttp {
    /// They may become plain TCP: the same answer, with other telemetry.
    #[default]
    MayBecomeTcp,
    /// They stay HTTP. The list gets a host that makes the proxy listen for HTTP.
    Stays,
}

/// What a list of hosts must leave as it is.
#[derive(Debug)]
pub struct Demand<'a, 'm> {
    /// The baseline scope, with all hosts imported.
    pub full: &'a Scope<'m>,
    /// Egress listeners with a port, carried over.
    pub bound: &'a [Egress],
    /// The Sidecar whose settings are carried over.
    pub carried: Option<&'m Sidecar>,
    /// Pods that the Sidecar selects.
    pub instances: &'a [Instance<'m>],
    /// Calls that must be kept.
    pub calls: &'a [ScopeCall],
    /// Hosts and ports that the proxy itself sends to.
    pub implied: &'a [(String, u16)],
    /// Entries that are listed whatever the proof says.
    pub assumed: &'a [String],
    /// Whether calls without a route must stay HTTP.
    pub unrouted_http: UnroutedHttp,
}

impl Demand<'_, '_> {
    /// Labels of the pod for which sizes are computed.
    pub(super) fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.instances.first().map(|i| &*i.pod.labels)
    }
}
