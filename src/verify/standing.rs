//! Which pod of the cluster a batch speaks of, and whether the batch may speak of it.
//!
//! Owns the rules by which a pod of a batch is found in the cluster. Must never read a line.

use std::cmp::Reverse;

use super::rules::{CheckRules, NodeIdentity};
use super::time::SECOND;
use crate::cluster::{Cluster, Pod};
use crate::model::Time;

/// A pod without a UID is the one of its name whose start differs by no more than this, in
/// nanoseconds: both sides may move a start to where the address changed hands.
const SAME_START: u64 = 60 * SECOND as u64;

/// The pod that a batch speaks of, as the batch describes it.
#[derive(Clone, Copy, Debug)]
pub struct PodClaim<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its UID; empty where the batch has none.
    pub uid: &'a str,
    /// When it started; [`Time::MIN`] where the batch does not say.
    pub start: Time,
    /// Its node; empty where the batch does not say.
    pub node: &'a str,
}

impl<'a> From<&'a Pod> for PodClaim<'a> {
    fn from(pod: &'a Pod) -> Self {
        Self {
            namespace: &pod.workload.namespace,
            name: &pod.name,
            uid: &pod.uid,
            start: pod.start,
            node: &pod.node,
        }
    }
}

/// How the cluster sees a pod that a batch speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodStanding<'a> {
    /// It is this one, and the batch may speak of it.
    Known(&'a Pod),
    /// It runs on another node.
    Elsewhere,
    /// The cluster does not know the pod, or does not know its node yet.
    Unknown,
}

/// How the cluster sees a pod that a batch of this node speaks of.
///
/// A UID identifies a pod. Where one side has none (batches of old agents, snapshots without UIDs),
/// the name and the start of the pod decide.
pub fn pod_standing<'a>(
    claim: PodClaim<'_>,
    node: &str,
    cluster: &'a Cluster,
    rules: &CheckRules,
) -> PodStanding<'a> {
    let proven = rules.node == NodeIdentity::Proven;
    match find(claim, cluster.pods_named(claim.namespace, claim.name)) {
        Some(pod) if !proven || *pod.node == *node => PodStanding::Known(pod),
        // A snapshot may not say where its pods run. A live pod without a node has no address yet,
        // and another agent may be the one that watches it.
        Some(pod) if pod.node.is_empty() && !pod.addresses.is_empty() => PodStanding::Known(pod),
        Some(pod) if pod.node.is_empty() => PodStanding::Unknown,
        Some(_) => PodStanding::Elsewhere,
        None if proven && !claim.node.is_empty() && claim.node != node => PodStanding::Elsewhere,
        None => PodStanding::Unknown,
    }
}

/// The claimed pod among those of its name: by UID, else by start.
fn find<'a>(claim: PodClaim<'_>, named: &'a [Pod]) -> Option<&'a Pod> {
    // A pod whose addresses have changed is there several times.
    let same_uid = named.iter().filter(|pod| !claim.uid.is_empty() && *pod.uid == *claim.uid);
    if let Some(pod) = same_uid.max_by_key(|pod| pod.end) {
        return Some(pod);
    }
    let distance = |pod: &Pod| match (pod.start, claim.start) {
        (Time::MIN, _) | (_, Time::MIN) => 0,
        (a, b) => a.since(b).max(b.since(a)),
    };
    let without_uid = named.iter().filter(|pod| claim.uid.is_empty() || pod.uid.is_empty());
    let near = without_uid.filter(|pod| distance(pod) <= SAME_START);
    near.min_by_key(|pod| (distance(pod), Reverse(pod.end)))
}
