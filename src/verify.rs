//! What of an agent's batch counts: its pods are held against those of the cluster, its times
//! against a clock, its counters against the names that this program knows.
//!
//! Owns these rules. Pure: a batch, a view of the cluster and a time in, a batch out. Must never
//! take the workload, the labels, the selector or the data plane of a pod from a batch where the
//! cluster knows the pod, and never leave a line out without counting it.
//!
//! A line is one connection edge, one name asked for, or one watched interface. Of each line:
//!
//! | its pod | what happens |
//! |---|---|
//! | known, on the batch's node | it counts, for the pod as the cluster knows it |
//! | known, on another node | it is refused ([`counter::LINES_ELSEWHERE`]) |
//! | not known | it is kept apart ([`Checked::unknown`]) until the cluster knows the pod |

mod names;

use crate::cluster::{Cluster, Pod};
use crate::model::{Merge, Span, Spans, Tally, Time, counter, sums};
use crate::observed::{AskedName, Edge, Observed, WatchedInterface};

const SECOND: i64 = 1_000_000_000;
/// How far clocks of nodes may be ahead of the one that a batch is held against, in nanoseconds:
/// five minutes, what Kerberos allows as well (RFC 4120, section 5.9.1).
pub const SKEW: i64 = 300 * SECOND;
/// A connection may be this much older than its pod's start, in nanoseconds: where nobody looked
/// when an address changed hands, the start is that of the first container, and init containers
/// call before it.
const EARLY: i64 = 3_600 * SECOND;
/// Nothing was seen of a pod before there was Kubernetes: 2014-06-06, its first commit.
const KUBERNETES: Time = Time(1_402_012_800 * SECOND);
/// A pod without a UID is the one of its name whose start differs by no more than this, in
/// nanoseconds: both sides may move a start to where the address changed hands.
const SAME_START: u64 = 60 * SECOND as u64;
/// More connections, look-ups or packets than this do not fit into a line: sums stay far from what
/// 64 bits hold.
const MAX_COUNT: u64 = u32::MAX as u64;

/// Counters that only checking sets. No batch can.
pub const COUNTED: [&str; 8] = [
    counter::LINES_ELSEWHERE,
    counter::IMPOSSIBLE,
    counter::CORRECTED,
    counter::UNVERIFIED,
    counter::CONFIRMED,
    counter::EXPIRED,
    counter::DROPPED,
    counter::UNKNOWN,
];

/// What a batch is held against besides the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The latest time that anything can have been seen at.
    pub now: Time,
    /// Pods must be on the batch's node. Without it, the node is a mere claim and says nothing.
    pub nodes: bool,
}

/// The latest time that can be true now.
pub fn latest(now: Time) -> Time {
    Time(now.0.saturating_add(SKEW))
}

impl Rules {
    /// For a batch that was written to a file: what it tells happened before it was made, as long
    /// as that is not in the future itself.
    pub fn of_file(batch: &Observed, now: Time) -> Self {
        let made = (batch.made > KUBERNETES && batch.made < now).then_some(batch.made);
        Self { now: made.unwrap_or(now), nodes: true }
    }
}

/// A batch, checked.
#[derive(Debug)]
pub struct Checked {
    /// What counts, of pods as the cluster knows them. Its counters tell what was refused.
    pub batch: Observed,
    /// What was told of pods that the cluster does not know, with neither counters nor spans of its
    /// own; `None` where that is nothing.
    pub unknown: Option<Observed>,
}

/// Which pod a batch speaks of.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its UID; empty where it is not told.
    pub uid: &'a str,
    /// When it started; [`Time::MIN`] where that is not told.
    pub start: Time,
    /// Its node; empty where it is not told.
    pub node: &'a str,
}

impl<'a> From<&'a Pod> for Claim<'a> {
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
pub enum Standing<'a> {
    /// It is this one, and the batch may speak of it.
    Known(&'a Pod),
    /// It runs on another node.
    Elsewhere,
    /// The cluster does not know it, or not yet on which node it runs.
    Unknown,
}

/// How the cluster sees a pod that a batch of this node speaks of.
///
/// A pod is told from others by its UID. Where one side has none (batches of old agents, snapshots
/// that lack it) the name and the start of the pod decide.
pub fn standing<'a>(
    claim: Claim<'_>,
    node: &str,
    cluster: &'a Cluster,
    rules: &Rules,
) -> Standing<'a> {
    let named = cluster.pods_named(claim.namespace, claim.name);
    // The same pod is there twice where its addresses have changed.
    let same = named.iter().filter(|k| !claim.uid.is_empty() && *k.uid == *claim.uid);
    let found = same.max_by_key(|k| k.end).or_else(|| {
        let untold = |k: &&Pod| claim.uid.is_empty() || k.uid.is_empty();
        let apart = |k: &Pod| match (k.start, claim.start) {
            (Time::MIN, _) | (_, Time::MIN) => 0,
            (a, b) => a.since(b).max(b.since(a)),
        };
        let near = named.iter().filter(untold).filter(|k| apart(k) <= SAME_START);
        near.min_by_key(|k| (apart(k), std::cmp::Reverse(k.end)))
    });
    match found {
        Some(pod) if !rules.nodes || *pod.node == *node => Standing::Known(pod),
        // A snapshot may not say where its pods run. A live pod without a node has no address yet,
        // and whoever speaks of it may not be the one to do so.
        Some(pod) if pod.node.is_empty() && !pod.addresses.is_empty() => Standing::Known(pod),
        Some(pod) if pod.node.is_empty() => Standing::Unknown,
        Some(_) => Standing::Elsewhere,
        None if rules.nodes && !claim.node.is_empty() && claim.node != node => Standing::Elsewhere,
        None => Standing::Unknown,
    }
}

/// Checks a batch.
pub fn check(batch: Observed, cluster: &Cluster, rules: &Rules) -> Checked {
    let Observed { id, node, made, spans, counters, mut pods, edges, asked, watching } = batch;
    let mut counts = Counts { counters: names::folded(counters), elsewhere: 0, unknown: 0 };
    let claimed = pods.clone();
    let standings: Vec<Kept> = pods
        .iter_mut()
        .map(|pod| match standing(Claim::from(&*pod), &node, cluster, rules) {
            Standing::Known(known) => {
                pod.clone_from(known);
                Kept::Known(known.start)
            }
            Standing::Elsewhere => Kept::No,
            Standing::Unknown => Kept::Apart,
        })
        .collect();
    let within = Within { rules, standings: &standings };
    let (edges, apart_edges) = within.sort(edges, &mut counts);
    let (asked, apart_asked) = within.sort(asked, &mut counts);
    let (watching, apart_watching) = within.sort(watching, &mut counts);
    let clock = Bounds { from: KUBERNETES, low: KUBERNETES, now: rules.now };
    let unknown = Observed {
        id: id.clone(),
        node: node.clone(),
        made: made.min(rules.now),
        spans: Spans::default(),
        counters: Default::default(),
        pods: claimed,
        edges: apart_edges,
        asked: apart_asked,
        watching: apart_watching,
    };
    let (spans, corrected) = clock.spans(spans);
    counts.corrected(corrected);
    let batch = Observed {
        id,
        node,
        made: made.min(rules.now),
        spans,
        counters: counts.all(),
        pods,
        edges,
        asked,
        watching,
    };
    Checked { batch, unknown: (!unknown.is_empty()).then(|| only_named(unknown)) }
}

/// Leaves out pods that nothing is told of.
fn only_named(mut batch: Observed) -> Observed {
    let mut places: Vec<Option<u32>> = vec![None; batch.pods.len()];
    let mut named = Vec::new();
    let pods = std::mem::take(&mut batch.pods);
    let edges = batch.edges.iter_mut().map(|e| &mut e.pod);
    let asked = batch.asked.iter_mut().map(|a| &mut a.pod);
    for at in edges.chain(asked).chain(batch.watching.iter_mut().map(|w| &mut w.pod)) {
        let place = &mut places[*at as usize];
        *at = *place.get_or_insert_with(|| {
            named.push(pods[*at as usize].clone());
            (named.len() - 1) as u32
        });
    }
    batch.pods = named;
    batch
}

/// What becomes of the lines about a pod.
#[derive(Clone, Copy)]
enum Kept {
    /// They count; the pod started then.
    Known(Time),
    /// They are kept apart.
    Apart,
    /// They are refused.
    No,
}

/// What was done with lines.
struct Counts {
    counters: std::collections::BTreeMap<String, u64>,
    elsewhere: u64,
    unknown: u64,
}

impl Counts {
    fn add(&mut self, name: &str, n: u64) {
        sums::add(&mut self.counters, name, n);
    }

    fn corrected(&mut self, corrected: bool) {
        self.add(counter::CORRECTED, u64::from(corrected));
    }

    fn all(mut self) -> std::collections::BTreeMap<String, u64> {
        self.add(counter::LINES_ELSEWHERE, self.elsewhere);
        self.add(counter::UNVERIFIED, self.unknown);
        self.counters
    }
}

/// A line of a batch.
trait Line {
    fn pod(&self) -> u32;

    /// Brings its times and counts within bounds. Whether it has changed; `None` where it cannot be
    /// true at all.
    fn bound(&mut self, bounds: &Bounds) -> Option<bool>;
}

/// Checks lines.
struct Within<'a> {
    rules: &'a Rules,
    standings: &'a [Kept],
}

impl Within<'_> {
    /// The lines that count, and those that are kept apart.
    fn sort<L: Line>(&self, mut lines: Vec<L>, counts: &mut Counts) -> (Vec<L>, Vec<L>) {
        let mut apart = Vec::new();
        let mut take = |mut line: L| {
            let start = match self.standings.get(line.pod() as usize) {
                Some(Kept::Known(start)) => Some(*start),
                Some(Kept::Apart) => None,
                Some(Kept::No) | None => {
                    counts.elsewhere += 1;
                    return None;
                }
            };
            match line.bound(&Bounds::of(start.unwrap_or(Time::MIN), self.rules.now)) {
                Some(corrected) => counts.corrected(corrected),
                None => {
                    counts.add(counter::IMPOSSIBLE, 1);
                    return None;
                }
            }
            if start.is_none() {
                counts.unknown += 1;
                apart.push(line);
                return None;
            }
            Some(line)
        };
        let mut counted = Vec::with_capacity(lines.len());
        lines.drain(..).for_each(|line| counted.extend(take(line)));
        (counted, apart)
    }
}

/// When something can have been seen.
struct Bounds {
    /// When a pod can have been watched at the earliest.
    from: Time,
    /// When it can have called at the earliest.
    low: Time,
    /// Now.
    now: Time,
}

impl Bounds {
    /// Of a pod that started then; [`Time::MIN`] where that is not known.
    fn of(start: Time, now: Time) -> Self {
        let from = start.max(KUBERNETES).min(now);
        let early = Time(start.0.saturating_sub(EARLY));
        Self { from, low: early.max(KUBERNETES).min(now), now }
    }

    /// Moves a time to one that can be true. Whether it was moved.
    fn time(&self, time: &mut Time) -> bool {
        let before = *time;
        if *time > latest(self.now) {
            *time = self.now;
        } else if *time < self.low {
            *time = self.from;
        }
        *time != before
    }

    /// What of these spans can be true, and whether that is less than all of them. A span may begin
    /// a little before the pod's start without a word: the start has whole seconds.
    fn spans(&self, spans: Spans) -> (Spans, bool) {
        let late = |time: Time| time > latest(self.now);
        let mut corrected = false;
        let mut out = Spans::default();
        for span in spans.0 {
            corrected |= late(span.to) || span.from < self.low || span.to < span.from;
            let from = span.from.max(self.from);
            let to = if late(span.to) { self.now.max(from) } else { span.to };
            if from <= to && !late(from) {
                out.0.push(Span { from, to });
            }
        }
        out.merge(&Spans::default());
        (out, corrected)
    }
}

fn bounded(count: &mut u64) -> bool {
    let most = (*count).min(MAX_COUNT);
    std::mem::replace(count, most) != most
}

impl Line for Edge {
    fn pod(&self) -> u32 {
        self.pod
    }

    fn bound(&mut self, bounds: &Bounds) -> Option<bool> {
        if !self.openings.is_sorted() || self.last_began() > self.last {
            return None;
        }
        let bounded = bounded(&mut self.connections);
        let most = self.connections;
        // What more is told of some of them than there are is none of theirs.
        let parts = [&mut self.midway, &mut self.guessed, &mut self.unanswered];
        let many = parts.map(|n| std::mem::replace(n, (*n).min(most)) > most).contains(&true);
        let openings = self.openings.iter_mut().map(|o| &mut o.began);
        let times = openings.chain([&mut self.last]);
        let moved = times.fold(false, |moved, time| moved | bounds.time(time));
        self.openings.sort_unstable();
        self.openings.dedup();
        self.last = self.last.max(self.last_began());
        Some(moved | many | bounded)
    }
}

impl Line for AskedName {
    fn pod(&self) -> u32 {
        self.pod
    }

    fn bound(&mut self, bounds: &Bounds) -> Option<bool> {
        let Tally { connections, first_seen, last_seen } = &mut self.tally;
        if first_seen > last_seen {
            return None;
        }
        let moved = bounds.time(first_seen) | bounds.time(last_seen);
        *last_seen = (*last_seen).max(*first_seen);
        Some(moved | bounded(connections))
    }
}

impl Line for WatchedInterface {
    fn pod(&self) -> u32 {
        self.pod
    }

    fn bound(&mut self, bounds: &Bounds) -> Option<bool> {
        let (spans, corrected) = bounds.spans(std::mem::take(&mut self.spans));
        self.spans = spans;
        // That it was watched at no time would still count as watched; that calls were folded
        // counts for itself.
        let says_something = !self.spans.0.is_empty() || !self.folded.is_empty();
        says_something.then(|| corrected | bounded(&mut self.packets))
    }
}

#[cfg(test)]
mod tests;
