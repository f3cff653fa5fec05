//! Coverage in JSON: what was watched, pod by pod, and what was lost, source by source.
//!
//! Owns the shape of this JSON. Must never attribute a loss to a workload, unless its interface
//! lost it: a lost packet shows no workload.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::model::{Source, Spans, Time, Watch, WatchTotals, Workload, WorkloadId};

/// How long and how completely the pods of a workload were watched.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WatchedPods {
    pub pods: u64,
    pub pods_from_start: u64,
    pub nanoseconds: u64,
    pub spans: Spans,
    /// Time between the first and the last span of a pod in which it was not watched.
    pub gap_nanoseconds: u64,
    pub gaps: u64,
    pub packets: u64,
    /// Packets and observations of its interfaces that were lost.
    pub lost: u64,
}

impl WatchedPods {
    /// Sums up the watches of one workload's pods.
    pub(super) fn of(watches: &[Watch]) -> Self {
        let WatchTotals { spans, gaps, packets, lost, from_start, .. } = WatchTotals::of(watches);
        Self {
            pods: watches.len() as u64,
            pods_from_start: from_start,
            nanoseconds: spans.total(),
            spans,
            gap_nanoseconds: gaps.total(),
            gaps: gaps.0.len() as u64,
            packets,
            lost,
        }
    }
}

/// What was watched, pod by pod, and what was lost, source by source.
#[derive(Debug, Serialize)]
pub(crate) struct Coverage {
    pub workloads: Vec<WorkloadCoverage>,
    /// Losses of a whole source, an agent or a capture.
    pub sources: Vec<SourceCoverage>,
}

#[derive(Debug, Serialize)]
pub(crate) struct WorkloadCoverage {
    pub workload: WorkloadId,
    /// The sum of all pods, as `status` shows it.
    pub watched: WatchedPods,
    /// Sorted by name.
    pub pods: Vec<PodCoverage>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodCoverage {
    pub pod: String,
    /// When the pod started, if known.
    pub started: Option<Time>,
    pub from_start: bool,
    pub nanoseconds: u64,
    pub spans: Spans,
    pub packets: u64,
    /// Packets and observations of its interface that were lost.
    pub lost: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct SourceCoverage {
    pub source: String,
    pub label: String,
    pub spans: Spans,
    /// The losses by cause; empty if nothing was lost.
    pub lost: BTreeMap<String, u64>,
}

impl Coverage {
    /// The coverage of all workloads, watched or not, and of all sources.
    pub fn of(workloads: Vec<Workload>, watches: Vec<Watch>, sources: Vec<Source>) -> Self {
        let mut known: BTreeMap<WorkloadId, Vec<Watch>> =
            workloads.into_iter().map(|w| (w.id, Vec::new())).collect();
        for watch in watches {
            known.entry(watch.workload.clone()).or_default().push(watch);
        }
        let workloads = known.into_iter().map(|(workload, watches)| WorkloadCoverage {
            workload,
            watched: WatchedPods::of(&watches),
            pods: watches.into_iter().map(PodCoverage::from).collect(),
        });
        let sources = sources.into_iter().map(|s| SourceCoverage {
            lost: s.losses().map(|(cause, n)| (cause.to_owned(), n)).collect(),
            source: s.source,
            label: s.label,
            spans: s.spans,
        });
        Self { workloads: workloads.collect(), sources: sources.collect() }
    }
}

impl From<Watch> for PodCoverage {
    fn from(watch: Watch) -> Self {
        let spans = watch.watched();
        Self {
            started: watch.started,
            from_start: watch.from_start(),
            nanoseconds: spans.total(),
            pod: watch.pod,
            spans,
            packets: watch.packets,
            lost: watch.lost,
        }
    }
}
