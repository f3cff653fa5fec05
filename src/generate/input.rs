//! What generation works on, and how it is asked to work.
//!
//! Owns the types. Must never change what is in them.

use std::collections::BTreeMap;

use super::demand::UnroutedHttp;
use super::group::GroupBy;
use super::learned::{Learned, NOTHING};
use super::readiness::{Readiness, Thresholds};
use crate::cluster::Cluster;
use crate::mesh::Meshes;
use crate::model::{Time, Watch, WorkloadId};

/// How to generate.
#[derive(Clone, Debug, Default)]
pub struct GenerateOptions {
    /// Which workloads share a Sidecar.
    pub group_by: GroupBy,
    /// Write a default Sidecar for each namespace as well, with the hosts of all its workloads.
    pub namespace_default: bool,
    /// What a workload must reach before a Sidecar is written for it.
    pub least: Thresholds,
    /// Write Sidecars of workloads that do not reach it, too.
    pub include_unready: bool,
    /// Write Sidecars of workloads with gaps, too: some of their calls may not be kept.
    pub include_incomplete: bool,
    /// Replace Sidecars that Sidecarta did not write.
    pub adopt: bool,
    /// Whether calls without a route must stay HTTP for their proxies.
    pub unrouted_http: UnroutedHttp,
    /// Compute what only explanations and forecasts show: the calls and the sizes of the scopes,
    /// of unready workloads as well.
    pub detail: bool,
}

/// All that generation works on.
#[derive(Clone, Copy)]
pub struct GenerateInput<'a> {
    /// The workloads, and which pod has which address.
    pub cluster: &'a Cluster,
    /// Istio's configuration as each revision of istiod holds it.
    pub meshes: &'a Meshes,
    /// What was learned, by workload.
    pub learned: &'a BTreeMap<WorkloadId, Learned>,
    /// How to generate.
    pub options: &'a GenerateOptions,
}

impl<'a> GenerateInput<'a> {
    /// What was learned of a workload; nothing if it is not there.
    pub(super) fn learned_of(&self, id: &WorkloadId) -> &'a Learned {
        self.learned.get(id).unwrap_or(&NOTHING)
    }

    /// How much is known of a workload.
    pub(super) fn readiness_of(&self, id: &WorkloadId) -> Readiness {
        let is_running = |watch: &Watch| {
            let pods_of_name = self.cluster.pods_named(&id.namespace, &watch.pod);
            pods_of_name.iter().any(|p| p.end == Time::MAX)
        };
        Readiness::of_kind(self.learned_of(id), &id.kind, is_running)
    }
}
