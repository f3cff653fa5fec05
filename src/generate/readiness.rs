//! Whether enough is known of a workload to write its Sidecar.
//!
//! Owns the estimate and the thresholds. Must never hide the figures behind a verdict, nor estimate
//! from too few connections.

use serde::Serialize;

use super::learned::Learned;
use crate::model::{Destination, Watch, WatchTotals, WorkloadId};

/// Below this number of connections no chance is estimated: after three connections to one host the
/// next one may go anywhere.
pub const LEAST_CONNECTIONS: u64 = 30;

/// A workload with fewer connections is ready when it was watched this many times as long.
const QUIET_FACTOR: u64 = 7;

/// Completed runs that a CronJob needs: each run may take another path through its program.
const LEAST_RUNS: u64 = 3;

/// Whether the start of one of its pods must have been watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartRule {
    /// One pod must have been watched from its start: a workload may call only then.
    MustBeSeen,
    /// Somebody knows what it calls when it starts.
    #[default]
    MayBeUnseen,
}

/// What a workload must reach before a Sidecar is written for it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Thresholds {
    /// Whether a start must have been watched.
    pub start: StartRule,
    /// Least time that its pods were watched, in nanoseconds. With 0 no start is asked for either.
    pub min_coverage: u64,
    /// Least confidence that the next connection is of a dependency already known, 0 to 1.
    pub min_confidence: f64,
}

impl Thresholds {
    /// What a careful person asks for: a day, and a start.
    pub const CAREFUL: Self =
        Self { start: StartRule::MustBeSeen, min_coverage: DAY, min_confidence: 0.95 };
}

/// Nanoseconds of a day.
const DAY: u64 = 86_400_000_000_000;

/// Completed runs of a Job or a CronJob, and how many are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Runs {
    /// Runs that were watched from their start to their end.
    pub completed: u64,
    /// Runs that are asked for.
    pub least: u64,
}

/// How much is known of a workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Readiness {
    /// Time during which one of its pods was watched, in nanoseconds.
    pub watched: u64,
    /// Time between the first and the last span of a pod in which it was not watched, in
    /// nanoseconds. Time in which packets of its interface were lost counts as not watched.
    pub unwatched: u64,
    /// How many such gaps there are.
    pub gaps: u64,
    /// Packets and observations of its interfaces that were lost.
    pub lost: u64,
    /// Whether one of its pods was watched from its start.
    pub start_seen: bool,
    /// The longest time without a gap from a pod's start, in nanoseconds.
    pub from_start: u64,
    /// Connections to anything but the mesh's own machinery.
    pub connections: u64,
    /// Dependencies seen in a single connection.
    pub seen_once: u64,
    /// The estimated chance that the next connection is of a dependency already known. `None` from
    /// fewer connections than [`LEAST_CONNECTIONS`].
    pub confidence: Option<f64>,
    /// Connections beyond the share of a pod. They are counted and not listed one by one.
    #[serde(skip_serializing_if = "is_zero")]
    pub folded: u64,
    /// Runs of a Job or CronJob.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runs: Option<Runs>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Readiness {
    /// The readiness of a workload that keeps running.
    pub fn of(learned: &Learned) -> Self {
        let (mut connections, mut seen_once) = (0u64, 0u64);
        for d in learned
            .dependencies
            .iter()
            .chain(&learned.past)
            .filter(|d| !matches!(d.key.destination, Destination::Infrastructure { .. }))
        {
            connections = connections.saturating_add(d.tally.connections);
            seen_once += u64::from(d.tally.connections == 1);
        }
        let watches = &learned.watches;
        let totals = WatchTotals::of(watches);
        let mut out = Self {
            watched: totals.spans.total(),
            unwatched: totals.gaps.total(),
            gaps: totals.gaps.0.len() as u64,
            lost: totals.lost,
            start_seen: totals.from_start > 0,
            from_start: totals.longest_from_start,
            connections,
            seen_once,
            folded: watches.iter().fold(0, |n, w| n.saturating_add(w.folded.connections())),
            ..Self::default()
        };
        out.confidence = out.chance_that_next_is_new().map(|new| 1.0 - new);
        out
    }

    /// The readiness of a workload of this kind. A workload that runs to an end is judged by its
    /// completed runs; `is_running` says whether a pod that was watched still runs.
    pub fn of_kind(learned: &Learned, kind: &str, is_running: impl Fn(&Watch) -> bool) -> Self {
        let least = match kind {
            "CronJob" | "CronWorkflow" => LEAST_RUNS,
            "Job" | "Workflow" => 1,
            _ => return Self::of(learned),
        };
        let done = learned.watches.iter().filter(|w| w.from_start() && !is_running(w));
        Self { runs: Some(Runs { completed: done.count() as u64, least }), ..Self::of(learned) }
    }

    /// Good-Turing: the chance that the next observation is of a kind not seen yet is about (kinds
    /// seen once) / (observations). `None` from too few.
    pub fn chance_that_next_is_new(&self) -> Option<f64> {
        (self.connections >= LEAST_CONNECTIONS)
            .then(|| self.seen_once as f64 / self.connections as f64)
    }

    /// Why this is not enough, as a sentence; `None` when it is enough.
    pub fn lacks(&self, least: &Thresholds) -> Option<String> {
        if self.folded > 0 {
            return Some(format!(
                "not ready: {} connections went beyond what an agent takes of one pod, and are not \
                 known one by one: the list is incomplete; declare what it calls with --calls, and \
                 pass --include-unready --include-incomplete",
                self.folded
            ));
        }
        let seconds = |n: u64| format!("{} s", n / 1_000_000_000);
        let asks = least.min_coverage > 0;
        let quiet = match self.runs {
            Some(Runs { completed, least: runs }) if asks => {
                if completed < runs {
                    return Some(format!(
                        "not ready: {completed} completed runs were watched from their start, of \
                         the {runs} asked for"
                    ));
                }
                true
            }
            _ if self.watched < least.min_coverage => {
                let lost = match self.lost {
                    0 => String::new(),
                    n => format!("; the time in which {n} packets were lost does not count"),
                };
                return Some(format!(
                    "not ready: watched for {} of the {} asked for{lost}",
                    seconds(self.watched),
                    seconds(least.min_coverage)
                ));
            }
            _ if asks && !self.start_seen && least.start == StartRule::MustBeSeen => {
                return Some(
                    "not ready: no pod was watched from its start, so what it calls only then is \
                     not known: restart it, or pass --allow-unseen-start"
                        .to_owned(),
                );
            }
            // Only a pod that was watched from its start is known to be silent.
            _ if self.connections == 0 && self.from_start < least.min_coverage => {
                return Some(format!(
                    "not ready: no connection was seen, and of no pod the first {} were watched: \
                     it may have called before",
                    seconds(least.min_coverage)
                ));
            }
            _ => self.connections == 0 || self.watched / QUIET_FACTOR >= least.min_coverage.max(1),
        };
        match self.confidence {
            Some(c) if c < least.min_confidence => Some(format!(
                "not ready: {} of {} connections were the only one of their dependency, so the \
                 next one is known with a chance of {:.2}, below the {:.2} asked for",
                self.seen_once, self.connections, c, least.min_confidence
            )),
            None if least.min_confidence > 0.0 && !quiet => Some(format!(
                "not ready: {} connections are too few for an estimate ({LEAST_CONNECTIONS}); so \
                 quiet a workload is ready when it was watched {QUIET_FACTOR} times as long",
                self.connections
            )),
            _ => None,
        }
    }
}

/// The command that restarts the pods of a workload; `None` where no controller starts them again.
pub fn restart_command(id: &WorkloadId) -> Option<String> {
    let WorkloadId { namespace, kind, name } = id;
    match kind.as_str() {
        "Deployment" | "StatefulSet" | "DaemonSet" => {
            let kind = kind.to_lowercase();
            Some(format!("kubectl rollout restart {kind}/{name} -n {namespace}"))
        }
        // The plugin of Argo Rollouts.
        "Rollout" => Some(format!("kubectl argo rollouts restart {name} -n {namespace}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAREFUL: Thresholds = Thresholds::CAREFUL;

    fn readiness(watched: u64, from_start: u64, connections: u64) -> Readiness {
        let start_seen = true;
        let mut out =
            Readiness { watched, start_seen, from_start, connections, ..Readiness::default() };
        out.confidence = out.chance_that_next_is_new().map(|new| 1.0 - new);
        out
    }

    #[test]
    fn silence_and_few_connections_are_not_enough() {
        assert_eq!(readiness(DAY, 0, 100).lacks(&CAREFUL), None);
        let few = readiness(DAY, 0, 3);
        assert_eq!(few.confidence, None);
        assert!(few.lacks(&CAREFUL).is_some_and(|why| why.contains("too few")));
        assert_eq!(readiness(7 * DAY, 0, 3).lacks(&CAREFUL), None);
        assert!(readiness(7 * DAY, DAY - 1, 0).lacks(&CAREFUL).is_some());
        assert_eq!(readiness(DAY, DAY, 0).lacks(&CAREFUL), None);
        assert!(readiness(DAY - 1, 0, 100).lacks(&CAREFUL).is_some());
    }

    #[test]
    fn a_start_that_nobody_saw_is_not_enough() {
        let unseen = Readiness { start_seen: false, ..readiness(9 * DAY, 0, 100) };
        assert!(unseen.lacks(&CAREFUL).is_some_and(|why| why.contains("from its start")));
        let known = Thresholds { start: StartRule::MayBeUnseen, ..CAREFUL };
        assert_eq!(unseen.lacks(&known), None);
    }

    #[test]
    fn runs_to_an_end_count_for_jobs() {
        let of = |completed| Readiness {
            runs: Some(Runs { completed, least: 3 }),
            ..readiness(60, 60, 5)
        };
        assert!(of(2).lacks(&CAREFUL).is_some_and(|why| why.contains("2 completed runs")));
        assert_eq!(of(3).lacks(&CAREFUL), None);
    }
}
