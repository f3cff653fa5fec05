//! From the objects of all files to the indexes of `cluster` and of `mesh`.
//!
//! Owns that both get the same objects. Must never read a text.

use std::collections::BTreeSet;

use super::domain::Domains;
use super::report::Report;
use super::versions::Versions;
use crate::cluster::{self, Cluster};
use crate::mesh::{self, Meshes, UnreadObject};
use crate::parallel::both;

/// A snapshot in both its forms.
#[derive(Debug)]
pub struct Snapshot {
    /// Which pod, node or Service has which address when.
    pub cluster: Cluster,
    /// Istio's configuration as each revision of istiod has it.
    pub meshes: Meshes,
    /// What was read, and what not.
    pub report: Report,
}

/// Collects objects for both forms.
#[derive(Debug, Default)]
pub struct Builders {
    pub(super) versions: Versions,
    /// Digests of the objects that were read: the same text twice is one object.
    pub(super) seen: BTreeSet<u64>,
    /// The DNS domain that was asked for; `None`: as the objects say.
    domain: Option<String>,
    pub(super) domains: Domains,
    /// Objects that the mesh does not read, and that could matter.
    pub(super) unread: Vec<UnreadObject>,
    /// The mesh is left empty.
    addresses_only: bool,
}

impl Builders {
    /// For resolving addresses only.
    pub fn addresses(domain: Option<&str>) -> Self {
        Self { addresses_only: true, ..Self::both(domain) }
    }

    /// For resolving addresses and for scoping.
    pub fn both(domain: Option<&str>) -> Self {
        let domain = domain.map(|d| d.trim_matches('.').to_owned());
        Self { domain, ..Self::default() }
    }

    /// Both forms of what was read so far.
    pub fn build(self, mut report: Report) -> Snapshot {
        let domain = self.domains.decide(self.domain, &mut report.problems);
        let (mut cluster, mut mesh) =
            (cluster::ClusterBuilder::default(), mesh::MeshBuilder::default());
        if let Some(domain) = &domain {
            (cluster, mesh) = (cluster.domain(domain), mesh.domain(domain));
        }
        self.unread.into_iter().for_each(|object| mesh.add_unread(object));
        let mesh_or_none = (!self.addresses_only).then_some(&mut mesh);
        self.versions.feed(&mut cluster, mesh_or_none, &mut report.problems);
        let ((meshes, remarks), (cluster, problems)) =
            both(|| mesh.build_all(), || cluster.build());
        report.problems.extend(problems);
        report.remarks.extend(remarks);
        let has_api_server = cluster.services().iter().any(|s| s.name == "kubernetes");
        if !has_api_server {
            report.only_namespaces =
                cluster.services().iter().map(|s| s.namespace.clone()).collect();
        }
        Snapshot { cluster, meshes, report }
    }
}
