//! Unverified lines: those about pods that the view does not know. They are stored until it does,
//! or are given up.
//!
//! Owns how much is stored, for how long, and for which node. Each node has a share of its own, so
//! that no node can take the room of another. Must never drop a line without counting it, nor learn
//! one whose pod the view does not know.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::resolve::check_counts;
use crate::cluster::{self, Cluster};
use crate::learn::{self, Union};
use crate::model::{
    Batch, BatchId, Record, Source, Spans, Time, UnverifiedAmount, UnverifiedBatch, counter, sums,
};
use crate::observed::{self, Observed, Reader};
use crate::store::{Store, StoreError, UnverifiedChanges};
use crate::verify::{CheckRules, CheckedBatch, PodClaim, PodStanding, check, pod_standing};

/// Bytes of text that are stored for one node.
const MAX_OF_NODE: u64 = 16 * 1024 * 1024;
/// Bytes that the lines of a batch count for at least: what they take besides their text.
const MIN_OF_BATCH: u64 = 4 * 1024;
/// Bytes of text that are stored for all nodes.
const MAX_IN_ALL: u64 = 128 * 1024 * 1024;
/// Namespaces that a summary has by name.
const MAX_NAMESPACES: usize = 16;
/// Bytes of the longest name of a namespace (a DNS label, RFC 1123).
const MAX_NAME: usize = 63;
/// Batches whose lines are checked again together.
const CHECKED_TOGETHER: usize = 16;
/// Where the view is not up to date, lines are stored this many times longer.
const PATIENCE_FACTOR: u32 = 7;

/// The unverified lines that are stored.
#[derive(Default)]
pub(super) struct UnverifiedLines {
    batches: BTreeMap<BatchId, UnverifiedPods>,
    /// The cluster that all of them were checked against.
    checked_against: Weak<Cluster>,
    /// Nothing is merged before: the disk was full.
    pub not_before: Option<Instant>,
}

/// The unverified lines of a batch.
struct UnverifiedPods {
    summary: UnverifiedBatch,
    pods: Vec<UnverifiedPod>,
}

/// A pod that unverified lines are about.
struct UnverifiedPod {
    namespace: Box<str>,
    name: Arc<str>,
    uid: Arc<str>,
    start: Time,
    node: Arc<str>,
}

impl From<cluster::Pod> for UnverifiedPod {
    fn from(pod: cluster::Pod) -> Self {
        Self {
            namespace: pod.workload.namespace.into(),
            name: pod.name,
            uid: pod.uid,
            start: pod.start,
            node: pod.node,
        }
    }
}

impl UnverifiedPod {
    fn claim(&self) -> PodClaim<'_> {
        let Self { namespace, name, uid, start, node } = self;
        PodClaim { namespace, name, uid, start: *start, node }
    }
}

/// Changes that have yet to be written.
#[derive(Default)]
pub(super) struct UnverifiedPlan {
    /// Changes of the rows.
    pub stored: UnverifiedChanges,
    /// What else is to be merged in the same write: what was learned, and counters of lines that
    /// are given up.
    pub learned: Union,
    /// What is counted when it is written, by the names of
    /// [`CHECK_COUNTERS`](crate::verify::CHECK_COUNTERS).
    pub counted: BTreeMap<&'static str, u64>,
    new: Vec<UnverifiedPods>,
}

impl UnverifiedPlan {
    pub fn is_empty(&self) -> bool {
        self.stored.is_empty() && self.learned.is_empty()
    }

    fn store(&mut self, summary: UnverifiedBatch, packed: Vec<u8>, batch: Observed) {
        self.new.push(UnverifiedPods { summary: summary.clone(), pods: pods(batch) });
        self.stored.put.push((summary, packed));
    }

    /// Removes the lines of a batch, and counts them under this name.
    fn give_up(&mut self, summary: &UnverifiedBatch, name: &'static str) {
        self.count(summary, name);
        self.stored.remove.insert(summary.id.clone());
    }

    /// Counts lines that are given up, for their source as well.
    fn count(&mut self, summary: &UnverifiedBatch, name: &'static str) {
        let lines = summary.amount(None).lines;
        *self.counted.entry(name).or_default() += lines;
        let source = Source {
            source: summary.id.source.clone(),
            label: summary.node.clone(),
            spans: Spans::default(),
            counters: BTreeMap::from([(name.to_owned(), lines)]),
        };
        self.learned.add(Batch { id: summary.id.clone(), records: vec![Record::Source(source)] });
    }
}

impl UnverifiedLines {
    /// Those that an earlier run has stored.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn read(store: &Store) -> Result<Self, StoreError> {
        let mut batches = BTreeMap::new();
        for summary in store.unverified()? {
            let batch = unpack(&store.read_unverified(&summary.id)?);
            if batch.is_none() {
                tracing::error!(
                    batch = %summary.id,
                    "the unverified lines of a batch cannot be read: they are lost, and counted \
                     when they expire"
                );
            }
            let pods = batch.map(pods).unwrap_or_default();
            batches.insert(summary.id.clone(), UnverifiedPods { summary, pods });
        }
        Ok(Self { batches, ..Self::default() })
    }

    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// A summary for each batch.
    pub fn summaries(&self) -> Vec<UnverifiedBatch> {
        self.batches.values().map(|batch| batch.summary.clone()).collect()
    }

    /// Plans to store lines. Where there is no room for them, the oldest lines of the same node are
    /// given up, or of the node that has most.
    ///
    /// # Errors
    /// When they cannot be packed.
    pub fn add(
        &self,
        new: Vec<Observed>,
        now: Time,
        plan: &mut UnverifiedPlan,
    ) -> Result<(), String> {
        for batch in new {
            let (summary, packed) = pack(&batch, now)?;
            if self.make_room(&summary, plan) {
                plan.store(summary, packed, batch);
            } else {
                plan.count(&summary, counter::DROPPED);
            }
        }
        Ok(())
    }

    /// Gives up lines until there is room for those of this batch. Returns whether there is.
    fn make_room(&self, new: &UnverifiedBatch, plan: &mut UnverifiedPlan) -> bool {
        if new.bytes > MAX_OF_NODE {
            return false;
        }
        loop {
            let removed = &plan.stored.remove;
            let stored = self.batches.values().map(|batch| &batch.summary);
            let stored = stored.filter(|summary| !removed.contains(&summary.id));
            let all: Vec<&UnverifiedBatch> =
                stored.chain(plan.new.iter().map(|batch| &batch.summary)).collect();
            let Some(node) = full_node(new, &all) else { return true };
            let of_node = all.iter().filter(|summary| summary.node == node);
            let oldest = of_node.min_by_key(|summary| (summary.since, &summary.id));
            // The plan would write lines of its own batches all the same.
            let Some(oldest) = oldest.filter(|oldest| self.batches.contains_key(&oldest.id)) else {
                return false;
            };
            let oldest: UnverifiedBatch = (*oldest).clone();
            plan.give_up(&oldest, counter::DROPPED);
        }
    }

    /// Checks lines again whose pods the cluster knows by now: they are learned, or refused. Some
    /// batches in each call. `None`: there is none left to check against this cluster.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn confirm(
        &mut self,
        store: &Store,
        cluster: &Arc<Cluster>,
        rules: &CheckRules,
    ) -> Result<Option<UnverifiedPlan>, String> {
        if std::ptr::eq(self.checked_against.as_ptr(), Arc::as_ptr(cluster)) {
            return Ok(None);
        }
        let is_decided = |batch: &&UnverifiedPods| {
            let node = &batch.summary.node;
            let standing = |pod: &UnverifiedPod| pod_standing(pod.claim(), node, cluster, rules);
            batch.pods.iter().any(|pod| standing(pod) != PodStanding::Unknown)
        };
        let decided = self.batches.values().filter(is_decided);
        let some: Vec<&UnverifiedPods> = decided.take(CHECKED_TOGETHER).collect();
        if some.is_empty() {
            self.checked_against = Arc::downgrade(cluster);
            return Ok(None);
        }
        let mut plan = UnverifiedPlan::default();
        for UnverifiedPods { summary, .. } in some {
            let bytes = store.read_unverified(&summary.id).map_err(|e| e.to_string())?;
            let Some(batch) = unpack(&bytes) else {
                plan.give_up(summary, counter::DROPPED);
                continue;
            };
            plan.stored.remove.insert(summary.id.clone());
            let CheckedBatch { mut batch, unverified } = check(batch, cluster, rules);
            // These were counted when they came.
            batch.counters.remove(counter::UNVERIFIED);
            let learned = (batch.edges.len() + batch.asked.len() + batch.watching.len()) as u64;
            if learned > 0 {
                batch.counters.insert(counter::CONFIRMED.to_owned(), learned);
            }
            sums::merge(&mut plan.counted, &check_counts(&batch));
            plan.learned.add(learn::batch(cluster, &batch));
            if let Some(rest) = unverified {
                let (summary, packed) = pack(&rest, summary.since)?;
                plan.store(summary, packed, rest);
            }
        }
        Ok(Some(plan))
    }

    /// Plans to give up lines that nobody has confirmed for this time. `is_current`: the view is up
    /// to date.
    pub fn expire(&self, now: Time, after: Duration, is_current: bool) -> UnverifiedPlan {
        let after = if is_current { after } else { after.saturating_mul(PATIENCE_FACTOR) };
        let after = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        let mut plan = UnverifiedPlan::default();
        for UnverifiedPods { summary, .. } in self.batches.values() {
            if now.since(summary.since) >= after {
                plan.give_up(summary, counter::EXPIRED);
            }
        }
        plan
    }

    /// Takes note that the changes of a plan are on the disk.
    pub fn written(&mut self, plan: UnverifiedPlan) {
        let UnverifiedPlan { stored, new, .. } = plan;
        for id in &stored.remove {
            self.batches.remove(id);
        }
        if !new.is_empty() {
            // Their pods may have come to the cluster meanwhile.
            self.checked_against = Weak::new();
        }
        self.batches.extend(new.into_iter().map(|batch| (batch.summary.id.clone(), batch)));
    }
}

/// The node that must give up lines before the new ones have room: their own node where it has used
/// up its share, or the one that has most where all nodes together have too much. `None`: there is
/// room.
fn full_node(new: &UnverifiedBatch, all: &[&UnverifiedBatch]) -> Option<String> {
    let mut bytes_of: BTreeMap<&str, u64> = BTreeMap::from([(new.node.as_str(), new.bytes)]);
    for summary in all {
        *bytes_of.entry(&summary.node).or_default() += summary.bytes;
    }
    if bytes_of.get(new.node.as_str()).is_some_and(|own| *own > MAX_OF_NODE) {
        return Some(new.node.clone());
    }
    let is_full = bytes_of.values().sum::<u64>() > MAX_IN_ALL;
    let most = bytes_of.iter().max_by_key(|(_, bytes)| **bytes);
    most.filter(|_| is_full).map(|(node, _)| (*node).to_owned())
}

/// Lines as they are stored, with their summary.
fn pack(batch: &Observed, since: Time) -> Result<(UnverifiedBatch, Vec<u8>), String> {
    let mut text = Vec::new();
    observed::write(batch, &mut text).map_err(|e| e.to_string())?;
    let summary = UnverifiedBatch {
        id: batch.id.clone(),
        node: batch.node.clone(),
        since,
        bytes: MIN_OF_BATCH.max(text.len() as u64),
        namespaces: namespaces(batch),
    };
    let packed = zstd::encode_all(text.as_slice(), 1).map_err(|e| e.to_string())?;
    Ok((summary, packed))
}

/// Reads [`pack`] back; `None` where it is damaged.
fn unpack(bytes: &[u8]) -> Option<Observed> {
    let text = zstd::decode_all(bytes).ok()?;
    Reader::new(text.as_slice()).next()?.ok()
}

/// How many pods and lines there are of each namespace. Namespaces beyond a number of them, and
/// impossible names, are together under the empty name.
fn namespaces(batch: &Observed) -> BTreeMap<String, UnverifiedAmount> {
    let mut lines: Vec<u64> = vec![0; batch.pods.len()];
    let of_edges = batch.edges.iter().map(|edge| edge.pod);
    let of_asked = batch.asked.iter().map(|asked| asked.pod);
    let of_watching = batch.watching.iter().map(|watching| watching.pod);
    for pod in of_edges.chain(of_asked).chain(of_watching) {
        if let Some(n) = lines.get_mut(pod as usize) {
            *n += 1;
        }
    }
    let mut out: BTreeMap<String, UnverifiedAmount> = BTreeMap::new();
    for (pod, lines) in batch.pods.iter().zip(lines) {
        let mut namespace = pod.workload.namespace.as_str();
        let is_full = out.len() >= MAX_NAMESPACES && !out.contains_key(namespace);
        if is_full || namespace.len() > MAX_NAME {
            namespace = "";
        }
        let amount = out.entry(namespace.to_owned()).or_default();
        amount.pods += 1;
        amount.lines += lines;
    }
    out
}

fn pods(batch: Observed) -> Vec<UnverifiedPod> {
    batch.pods.into_iter().map(UnverifiedPod::from).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test that cannot go on should say where
mod tests {
    use super::*;

    fn summary(node: &str, sequence: u64, bytes: u64) -> UnverifiedBatch {
        UnverifiedBatch {
            id: BatchId { source: format!("agent:{node}:b"), sequence },
            node: node.to_owned(),
            since: Time(i64::try_from(sequence).unwrap()),
            bytes,
            namespaces: [("shop".to_owned(), UnverifiedAmount { pods: 1, lines: 3 })].into(),
        }
    }

    fn stored(all: impl IntoIterator<Item = UnverifiedBatch>) -> UnverifiedLines {
        let batch = |summary: UnverifiedBatch| {
            (summary.id.clone(), UnverifiedPods { summary, pods: Vec::new() })
        };
        let batches = all.into_iter().map(batch).collect();
        UnverifiedLines { batches, ..UnverifiedLines::default() }
    }

    #[test]
    fn a_node_within_its_share_takes_no_room_from_others() {
        let half = MAX_OF_NODE / 2;
        let stored = stored([summary("a", 1, half), summary("a", 2, half), summary("b", 1, 9)]);
        let mut plan = UnverifiedPlan::default();
        assert!(stored.make_room(&summary("b", 2, MAX_OF_NODE - 9), &mut plan));
        assert!(plan.is_empty());
    }

    #[test]
    fn a_node_beyond_its_share_gives_up_its_oldest_lines() {
        let half = MAX_OF_NODE / 2;
        let stored = stored([summary("a", 1, half), summary("a", 2, half), summary("b", 1, 9)]);
        let mut plan = UnverifiedPlan::default();
        assert!(stored.make_room(&summary("a", 3, MIN_OF_BATCH), &mut plan));
        let removed: Vec<&BatchId> = plan.stored.remove.iter().collect();
        assert_eq!(removed, [&summary("a", 1, 0).id]);
        assert_eq!(plan.counted, [(counter::DROPPED, 3)].into());
        assert_eq!(plan.learned.len(), 1, "the loss is counted for its source");
    }

    #[test]
    fn lines_that_are_more_than_a_share_have_no_room() {
        let new = summary("a", 4, MAX_OF_NODE + 1);
        assert!(!stored([]).make_room(&new, &mut UnverifiedPlan::default()));
    }

    #[test]
    fn where_all_is_full_the_node_with_most_makes_room() {
        let full = MAX_IN_ALL / MAX_OF_NODE;
        let nodes = (0..full - 1).map(|n| summary(&format!("n{n}"), 1, MAX_OF_NODE - 1));
        let half = MAX_OF_NODE / 2;
        let stored = stored(nodes.chain([summary("most", 1, half), summary("most", 2, half)]));
        let mut plan = UnverifiedPlan::default();
        assert!(stored.make_room(&summary("new", 1, MAX_OF_NODE / 4), &mut plan));
        let removed: Vec<&BatchId> = plan.stored.remove.iter().collect();
        assert_eq!(removed, [&summary("most", 1, 0).id]);
    }

    #[test]
    fn the_summary_of_many_namespaces_is_short_and_counts_all_lines() {
        let mut batch = crate::observed::Gatherer::new("n1", "b");
        let connection = crate::observed::tests::connection(40_000, 80, 1);
        for n in 0..100 {
            let mut pod = crate::observed::tests::pod(&format!("p{n}"));
            pod.workload.namespace = format!("{n:03}").repeat(if n == 0 { 40 } else { 1 });
            batch.connection(&pod, &connection, || crate::model::Span::ALWAYS);
        }
        let found = namespaces(&batch.take(Time(9)).unwrap());
        assert!(found.len() <= MAX_NAMESPACES + 1, "{found:?}");
        assert!(found.keys().all(|name| name.len() <= MAX_NAME), "{found:?}");
        assert_eq!(found.values().map(|amount| amount.lines).sum::<u64>(), 100);
    }
}
