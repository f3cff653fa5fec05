//! The result of generation for one group of workloads.
//!
//! Owns the types. Must never decide what is in them.

use std::collections::{BTreeMap, BTreeSet};

use super::calls::PlannedCall;
use super::implied::ImpliedHost;
use super::learned::Gap;
use super::manifest::Manifest;
use super::minimal::Minimal;
use super::readiness::Readiness;
use super::withheld::Withheld;
use crate::model::WorkloadId;
use crate::scope::Treatment;
use crate::scope::clusters::ProxySize;

/// A call that a Sidecar keeps.
#[derive(Clone, Debug)]
pub struct KeptCall {
    /// The caller.
    pub workload: WorkloadId,
    /// The call, and where it comes from.
    pub planned: PlannedCall,
    /// Its treatment. It is the same with all hosts imported and under the Sidecar.
    pub treatment: Treatment,
    /// Egress hosts that its route may depend on.
    pub hosts: BTreeSet<String>,
}

/// What generation says of one workload or group.
#[derive(Clone, Debug)]
pub struct GroupOutcome {
    /// Members of the group.
    pub workloads: Vec<WorkloadId>,
    /// The Sidecar, where one is written.
    pub manifest: Option<Manifest>,
    /// Why no Sidecar is written.
    pub withheld: Option<Withheld>,
    /// What no list of hosts is sure to keep.
    pub gaps: Vec<Gap>,
    /// Sentences for the reviewer: ambiguity, gaps in coverage, calls that no host covers.
    pub remarks: Vec<String>,
    /// The proof of the list of hosts.
    pub proof: Option<Minimal>,
    /// The calls that the Sidecar keeps; with
    /// [`GenerateOptions::detail`](super::GenerateOptions::detail) only.
    pub calls: Vec<KeptCall>,
    /// Hosts that the proxy itself sends to.
    pub implied: Vec<ImpliedHost>,
    /// Hosts that could have been addressed and were not, each with the reason.
    pub rejected: BTreeMap<String, String>,
    /// How much is known of each member.
    pub readiness: BTreeMap<WorkloadId, Readiness>,
    /// The size of the scope with all hosts imported; with `detail` only.
    pub before: ProxySize,
    /// The size of the scope under the Sidecar that applies today; with `detail` only.
    pub today: ProxySize,
}

impl GroupOutcome {
    pub(super) fn new(workloads: Vec<WorkloadId>, withheld: Option<Withheld>) -> Self {
        Self {
            workloads,
            manifest: None,
            withheld,
            gaps: Vec::new(),
            remarks: Vec::new(),
            proof: None,
            calls: Vec::new(),
            implied: Vec::new(),
            rejected: BTreeMap::new(),
            readiness: BTreeMap::new(),
            before: ProxySize::default(),
            today: ProxySize::default(),
        }
    }
}
