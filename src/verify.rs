//! What of an agent's batch counts: its pods are compared with those of the cluster, its times with
//! a clock, its counters with the names that this program knows.
//!
//! Owns these rules. Pure: a batch, a view of the cluster and a time in, a batch out. Must never
//! take the workload, the labels, the selector or the data plane of a pod from a batch where the
//! cluster knows the pod, and never leave a line out without counting it.
//!
//! A line is one edge, one name asked for, or one watched interface. Its pod decides:
//!
//! | its pod | what happens |
//! |---|---|
//! | known, on the batch's node | it counts, for the pod as the cluster knows it |
//! | known, on another node | it is refused ([`counter::LINES_ELSEWHERE`]) |
//! | not known | it is unverified ([`CheckedBatch::unverified`]) until the cluster knows the pod |

mod line;
mod names;
mod rules;
mod standing;
mod time;

use std::collections::BTreeMap;

use crate::cluster::Cluster;
use crate::model::{Spans, Time, counter, sums};
use crate::observed::Observed;
use line::PodLine;
use time::TimeBounds;

pub use rules::{CheckRules, NodeIdentity};
pub use standing::{PodClaim, PodStanding, pod_standing};
pub use time::latest;

/// Counters that only checking sets. A batch cannot carry them.
pub const CHECK_COUNTERS: [&str; 8] = [
    counter::LINES_ELSEWHERE,
    counter::IMPOSSIBLE,
    counter::CORRECTED,
    counter::UNVERIFIED,
    counter::CONFIRMED,
    counter::EXPIRED,
    counter::DROPPED,
    counter::UNKNOWN,
];

/// A batch, checked.
#[derive(Debug)]
pub struct CheckedBatch {
    /// What counts, for the pods as the cluster knows them. Its counters say what was refused.
    pub batch: Observed,
    /// The lines about pods that the cluster does not know, with neither counters nor spans of the
    /// batch's own; `None` where there are none.
    pub unverified: Option<Observed>,
}

/// Checks a batch, line by line.
pub fn check(batch: Observed, cluster: &Cluster, rules: &CheckRules) -> CheckedBatch {
    let Observed { id, node, made, spans, counters, mut pods, edges, asked, watching } = batch;
    let claimed = pods.clone();
    let mut fates = Vec::with_capacity(pods.len());
    for pod in &mut pods {
        let fate = match pod_standing(PodClaim::from(&*pod), &node, cluster, rules) {
            PodStanding::Known(known) => {
                pod.clone_from(known);
                LineFate::Counts(known.start)
            }
            PodStanding::Elsewhere => LineFate::Refused,
            PodStanding::Unknown => LineFate::Unverified,
        };
        fates.push(fate);
    }
    let mut counts = CheckCounts { counters: names::folded(counters), elsewhere: 0, unverified: 0 };
    let sorter = LineSorter { now: rules.now, fates: &fates };
    let (edges, unverified_edges) = sorter.sort(edges, &mut counts);
    let (asked, unverified_asked) = sorter.sort(asked, &mut counts);
    let (watching, unverified_watching) = sorter.sort(watching, &mut counts);
    let (spans, corrected) = TimeBounds::of_node(rules.now).correct_spans(spans);
    counts.add_corrected(corrected);
    let made = made.min(rules.now);
    let unverified = Observed {
        id: id.clone(),
        node: node.clone(),
        made,
        spans: Spans::default(),
        counters: BTreeMap::new(),
        pods: claimed,
        edges: unverified_edges,
        asked: unverified_asked,
        watching: unverified_watching,
    };
    let counters = counts.all();
    let batch = Observed { id, node, made, spans, counters, pods, edges, asked, watching };
    let unverified = (!unverified.is_empty()).then(|| without_unnamed_pods(unverified));
    CheckedBatch { batch, unverified }
}

/// Leaves out the pods that no line is about.
fn without_unnamed_pods(mut batch: Observed) -> Observed {
    let pods = std::mem::take(&mut batch.pods);
    let mut new_positions: Vec<Option<u32>> = vec![None; pods.len()];
    let mut named = Vec::new();
    let of_edges = batch.edges.iter_mut().map(|edge| &mut edge.pod);
    let of_asked = batch.asked.iter_mut().map(|asked| &mut asked.pod);
    let of_watching = batch.watching.iter_mut().map(|watching| &mut watching.pod);
    for position in of_edges.chain(of_asked).chain(of_watching) {
        let old = *position as usize;
        *position = *new_positions[old].get_or_insert_with(|| {
            named.push(pods[old].clone());
            (named.len() - 1) as u32
        });
    }
    batch.pods = named;
    batch
}

/// What becomes of the lines about a pod.
#[derive(Clone, Copy)]
enum LineFate {
    /// They count; the pod started at this time.
    Counts(Time),
    Unverified,
    Refused,
}

/// What was done with lines.
struct CheckCounts {
    counters: BTreeMap<String, u64>,
    elsewhere: u64,
    unverified: u64,
}

impl CheckCounts {
    fn add(&mut self, name: &str, n: u64) {
        sums::add(&mut self.counters, name, n);
    }

    fn add_corrected(&mut self, corrected: bool) {
        self.add(counter::CORRECTED, u64::from(corrected));
    }

    fn all(mut self) -> BTreeMap<String, u64> {
        self.add(counter::LINES_ELSEWHERE, self.elsewhere);
        self.add(counter::UNVERIFIED, self.unverified);
        self.counters
    }
}

/// Sorts lines by what becomes of them.
struct LineSorter<'a> {
    now: Time,
    /// By the position of the pod.
    fates: &'a [LineFate],
}

impl LineSorter<'_> {
    /// The lines that count, and those that are unverified.
    fn sort<L: PodLine>(&self, lines: Vec<L>, counts: &mut CheckCounts) -> (Vec<L>, Vec<L>) {
        let mut counted = Vec::with_capacity(lines.len());
        let mut unverified = Vec::new();
        for mut line in lines {
            let start = match self.fates.get(line.pod() as usize) {
                Some(LineFate::Counts(start)) => Some(*start),
                Some(LineFate::Unverified) => None,
                Some(LineFate::Refused) | None => {
                    counts.elsewhere += 1;
                    continue;
                }
            };
            let bounds = TimeBounds::of_pod(start.unwrap_or(Time::MIN), self.now);
            let Some(corrected) = line.correct(&bounds) else {
                counts.add(counter::IMPOSSIBLE, 1);
                continue;
            };
            counts.add_corrected(corrected);
            if start.is_some() {
                counted.push(line);
            } else {
                counts.unverified += 1;
                unverified.push(line);
            }
        }
        (counted, unverified)
    }
}

#[cfg(test)]
mod tests;
