//! The JSON of commands and of the recorder's API.
//!
//! Owns the shape of this JSON. Must never decide anything.

mod coverage;
mod mesh;
mod unverified;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::generate::Learned;
use crate::generate::readiness::{Readiness, Thresholds, restart_command};
use crate::model::{
    Alert, AlertKind, Baseline, DataPlane, Dependency, Destination, Evidence, Grade, OwnedBy,
    Protocol, Source, Tally, Time, Watch, WorkloadId,
};
use crate::records::{Decided, Records};
use crate::store::LISTED;

pub(crate) use coverage::Coverage;
use coverage::WatchedPods;
pub(crate) use mesh::MeshStatus;
pub(crate) use unverified::NodeUnverified;

/// A dependency in JSON. Evidence is a list, the strongest grade first.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ShownDependency<'a> {
    workload: &'a WorkloadId,
    destination: &'a Destination,
    port: u16,
    protocol: Protocol,
    connections: u64,
    first_seen: Time,
    last_seen: Time,
    evidence: Vec<ShownEvidence<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope_miss: Option<Tally>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    addressed: &'a BTreeMap<String, Tally>,
    midway: u64,
    guessed: u64,
    unanswered: u64,
}

#[derive(Debug, Serialize)]
struct ShownEvidence<'a> {
    grade: Grade,
    description: &'static str,
    #[serde(flatten)]
    evidence: &'a Evidence,
}

impl<'a> From<&'a Dependency> for ShownDependency<'a> {
    fn from(d: &'a Dependency) -> Self {
        Self {
            workload: &d.key.workload,
            destination: &d.key.destination,
            port: d.key.port,
            protocol: d.key.protocol,
            connections: d.tally.connections,
            first_seen: d.tally.first_seen,
            last_seen: d.tally.last_seen,
            evidence: d
                .evidence
                .iter()
                .map(|(grade, evidence)| ShownEvidence {
                    grade: *grade,
                    description: grade.describe(),
                    evidence,
                })
                .collect(),
            scope_miss: d.scope_miss,
            addressed: &d.addressed,
            midway: d.midway,
            guessed: d.guessed,
            unanswered: d.unanswered,
        }
    }
}

/// A summary of all records.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StatusReport {
    pub workloads: Vec<WorkloadStatus>,
    pub sources: Vec<Source>,
    /// Unverified lines: those about pods that the API server does not know, by node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unverified: Vec<NodeUnverified>,
    /// Why a part of the store is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
    /// Hosts that were looked up and that proxies probably refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blocked_calls: Vec<ShownBlockedCall>,
}

/// A summary of the records of one workload.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WorkloadStatus {
    pub workload: WorkloadId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_plane: Option<DataPlane>,
    pub watched: WatchedPods,
    pub connections: u64,
    pub midway: u64,
    pub guessed: u64,
    pub dependencies: BTreeMap<&'static str, u64>,
    pub evidence: BTreeMap<Grade, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chance_that_next_is_new: Option<f64>,
    /// Absent if the workload has no baseline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted: Option<AcceptedStatus>,
    /// The workload has no baseline, though its namespace or everything was accepted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub not_accepted: bool,
    pub scope_misses: Vec<ShownScopeMiss>,
    pub unknown: Vec<String>,
    /// Absent where enough is known to write its Sidecar, and where it can have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_ready: Option<NotReady>,
}

/// Why not enough is known of a workload, by the thresholds that `generate` has by default.
#[derive(Debug, Serialize)]
pub(crate) struct NotReady {
    pub reason: String,
    /// The command that lets a start be watched, where none was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<String>,
}

/// A summary of a workload's baseline.
#[derive(Debug, Serialize)]
pub(crate) struct AcceptedStatus {
    pub when: Time,
    /// Who accepted it; absent if that was not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    pub dependencies: u64,
}

impl From<&Baseline> for AcceptedStatus {
    fn from(baseline: &Baseline) -> Self {
        Self {
            when: baseline.accepted,
            by: baseline.by.clone(),
            dependencies: baseline.dependencies.len() as u64,
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct ShownScopeMiss {
    pub destination: Destination,
    pub port: u16,
    #[serde(flatten)]
    pub tally: Tally,
}

/// A host that a workload looked up and never reached.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ShownBlockedCall {
    pub workload: WorkloadId,
    pub destination: Destination,
    pub lookups: u64,
    pub first_seen: Time,
    pub last_seen: Time,
}

impl StatusReport {
    /// Summarizes all records.
    pub fn of(mut records: Records) -> Self {
        let sources = std::mem::take(&mut records.sources);
        let unverified = std::mem::take(&mut records.unverified);
        let unverified = NodeUnverified::of(&unverified, records.namespace.as_deref());
        let missing = records.missing.as_ref().map(ToString::to_string);
        let decided = std::mem::take(&mut records.decided);
        let planes: BTreeMap<WorkloadId, DataPlane> =
            records.workloads.iter().map(|w| (w.id.clone(), w.data_plane)).collect();
        let newest = records.watches.iter().filter_map(|w| Some(w.watched().0.last()?.to)).max();
        let mut known = records.into_known();
        for id in planes.keys() {
            known.entry(id.clone()).or_default();
        }
        let workloads = known.iter().map(|(id, known)| {
            status(id, planes.get(id).copied(), known, &decided, newest.unwrap_or(Time::MIN))
        });
        let workloads = workloads.collect();
        Self { workloads, sources, unverified, missing, blocked_calls: Vec::new() }
    }

    /// Adds the calls that proxies probably refused, from the alerts about them.
    pub fn add_blocked_calls(&mut self, alerts: Vec<Alert>) {
        let blocked = alerts.into_iter().filter(|alert| alert.kind == AlertKind::BlockedCall);
        let shown = blocked.filter_map(|alert| {
            Some(ShownBlockedCall {
                destination: alert.destination?,
                workload: alert.workload,
                lookups: alert.connections,
                first_seen: alert.first_seen,
                last_seen: alert.last_seen,
            })
        });
        self.blocked_calls.extend(shown);
    }
}

/// How much is known of a workload. `newest`: when the store's last packet was seen.
fn readiness(id: &WorkloadId, known: &Learned, newest: Time) -> Readiness {
    /// A pod that was watched until less than this before the newest packet may still run, in
    /// nanoseconds.
    const RUNS: u64 = 60_000_000_000;
    let is_running =
        |watch: &Watch| watch.watched().0.last().is_some_and(|span| newest.since(span.to) < RUNS);
    Readiness::of_kind(known, &id.kind, is_running)
}

/// Why not enough is known of a workload to write its Sidecar.
fn not_ready(
    id: &WorkloadId,
    data_plane: Option<DataPlane>,
    readiness: &Readiness,
) -> Option<NotReady> {
    if data_plane.is_some_and(|plane| plane.why_no_sidecar().is_some()) {
        return None;
    }
    let reason = readiness.lacks(&Thresholds::CAREFUL)?;
    let restart = (!readiness.start_seen && readiness.runs.is_none()).then(|| restart_command(id));
    Some(NotReady { reason, restart: restart.flatten() })
}

/// Summarizes the records of one workload. `newest`: when the store's last packet was seen.
fn status(
    id: &WorkloadId,
    data_plane: Option<DataPlane>,
    known: &Learned,
    decided: &Decided,
    newest: Time,
) -> WorkloadStatus {
    let mut dependencies: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut evidence: BTreeMap<Grade, u64> = BTreeMap::new();
    let (mut scope_misses, mut unknown) = (Vec::new(), Vec::new());
    let (mut connections, mut midway, mut guessed) = (0, 0, 0);
    for d in &known.dependencies {
        *dependencies.entry(d.key.destination.kind()).or_default() += 1;
        connections = d.tally.connections.saturating_add(connections);
        midway = d.midway.saturating_add(midway);
        guessed = d.guessed.saturating_add(guessed);
        for (grade, e) in &d.evidence {
            let sum = evidence.entry(*grade).or_default();
            *sum = sum.saturating_add(e.tally.connections);
        }
        if let Some(tally) = d.scope_miss {
            scope_misses.push(ShownScopeMiss {
                destination: d.key.destination.clone(),
                port: d.key.port,
                tally,
            });
        }
        match &d.key.destination {
            Destination::Ambiguous { .. } => {
                unknown.push(format!(
                    "{} connections: one of {}",
                    d.tally.connections, d.key.destination
                ));
            }
            Destination::Unresolved { why, .. } => unknown.push(format!(
                "{} connections to {}:{}: {why}",
                d.tally.connections, d.key.destination, d.key.port
            )),
            Destination::Others { why, .. } => unknown.push(format!(
                "{} connections to {}: more destinations than the {LISTED} that are listed one by \
                 one{}",
                d.tally.connections,
                d.key.destination,
                why.map(|why| format!("; {why}")).unwrap_or_default()
            )),
            _ => {}
        }
    }
    if known.watches.is_empty() {
        unknown.push("none of its pods was watched on its own interface".to_owned());
    }
    unknown.extend(incomplete(&known.watches));
    let readiness = readiness(id, known, newest);
    WorkloadStatus {
        workload: id.clone(),
        data_plane,
        watched: WatchedPods::of(&known.watches),
        connections,
        midway,
        guessed,
        dependencies,
        evidence,
        chance_that_next_is_new: readiness.chance_that_next_is_new(),
        accepted: decided.baseline(id).map(AcceptedStatus::from),
        not_accepted: decided.is_new(id),
        scope_misses,
        unknown,
        not_ready: not_ready(id, data_plane, &readiness),
    }
}

/// Why the watches of a workload show less than they seem to, one sentence for each reason.
fn incomplete(watches: &[Watch]) -> Vec<String> {
    let mut out = Vec::new();
    for w in watches {
        let own = &w.ownership;
        if own.forged > 0 {
            let claimed: Vec<String> = own.claimed.iter().map(ToString::to_string).collect();
            let as_whom = if claimed.is_empty() {
                String::new()
            } else {
                format!(", such as {}", claimed.join(", "))
            };
            out.push(format!(
                "forged-source: its pod {} sent {} packets with addresses that are not its \
                 own{as_whom}; nothing was learned from them",
                w.pod, own.forged
            ));
        }
        if w.lost > 0 {
            out.push(format!(
                "lost: {} packets or observations of the interface of its pod {}; that time does \
                 not count as watched",
                w.lost, w.pod
            ));
        }
        if own.owner == Some(OwnedBy::Packets) {
            out.push(format!(
                "owner: packets: that the interface of its pod {} is its own is known by its \
                 packets alone, as the node has no route or neighbour for it",
                w.pod
            ));
        }
        if w.folded.connections() > 0 {
            out.push(format!(
                "its pod {} called more than an agent takes of one pod: {}; what it calls is not \
                 known in full",
                w.pod,
                w.folded.describe()
            ));
        }
        if w.folded.names > 0 {
            out.push(format!(
                "its pod {} asked the DNS for more names than an agent takes of one pod: {} are \
                 not known",
                w.pod, w.folded.names
            ));
        }
    }
    out
}

/// An alert in JSON, with its identity and its text.
#[derive(Debug, Serialize)]
pub(crate) struct ShownAlert<'a> {
    id: String,
    text: String,
    #[serde(flatten)]
    alert: &'a Alert,
}

impl<'a> From<&'a Alert> for ShownAlert<'a> {
    fn from(alert: &'a Alert) -> Self {
        Self { id: alert.id(), text: alert.text(), alert }
    }
}
