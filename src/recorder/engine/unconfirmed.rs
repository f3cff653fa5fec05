//! Lines about pods that the view does not know: kept apart until it does, or given up.
//!
//! Owns how much is kept, for how long, and of whom. What a node brings has a share of its own, so
//! that no node can take the room of another. Must never let a line go without counting it, nor
//! learn one whose pod the view does not know.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::learn::{self, Union};
use crate::model::{
    Batch, BatchId, Record, Source, Spans, Time, UnverifiedAmount, UnverifiedBatch, counter,
};
use crate::observed::{self, Observed, Reader};
use crate::store::{Apart, Store, StoreError};
use crate::verify::{self, Checked, Claim, Rules, Standing, check, standing};

/// Bytes of text that are kept of one node.
const OF_NODE: u64 = 16 * 1024 * 1024;
/// Bytes that a part counts for at least: what it takes besides its text.
const LEAST: u64 = 4 * 1024;
/// Bytes of text that are kept in all.
const IN_ALL: u64 = 128 * 1024 * 1024;
/// Namespaces that a part is told by.
const NAMESPACES: usize = 16;
/// Longest name of a namespace (a DNS label, RFC 1123).
const NAME: usize = 63;
/// Parts that are looked at again at once.
const SOME: usize = 16;
/// Where the view is not up to date, nothing expires before this many times its time.
const ANYWAY: u32 = 7;

/// What is kept apart.
#[derive(Default)]
pub(super) struct Unconfirmed {
    parts: BTreeMap<BatchId, Part>,
    /// The cluster that all of it was held against.
    against: Weak<Cluster>,
    /// The disk was full: nothing is tried before.
    pub not_before: Option<Instant>,
}

/// What is kept apart of a batch.
struct Part {
    told: UnverifiedBatch,
    pods: Vec<Pod>,
}

/// A pod that a part speaks of.
struct Pod {
    namespace: Box<str>,
    name: Arc<str>,
    uid: Arc<str>,
    start: Time,
    node: Arc<str>,
}

impl Pod {
    fn claim(&self) -> Claim<'_> {
        let Self { namespace, name, uid, start, node } = self;
        Claim { namespace, name, uid, start: *start, node }
    }
}

/// Changes that have yet to be written.
#[derive(Default)]
pub(super) struct Plan {
    /// Of the store.
    pub apart: Apart,
    /// What else is to be merged in the same write: what was learned, and what was given up.
    pub taught: Union,
    /// What is counted when it is written, by the names of [`verify::COUNTED`].
    pub counted: BTreeMap<&'static str, u64>,
    new: Vec<Part>,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.apart.is_empty() && self.taught.is_empty()
    }

    fn put(&mut self, told: UnverifiedBatch, packed: Vec<u8>, batch: Observed) {
        self.new.push(Part { told: told.clone(), pods: pods(batch) });
        self.apart.put.push((told, packed));
    }

    /// Counts lines of a batch.
    fn count(&mut self, told: &UnverifiedBatch, name: &'static str) {
        let lines = told.amount(None).lines;
        *self.counted.entry(name).or_default() += lines;
        let source = Source {
            source: told.id.source.clone(),
            label: told.node.clone(),
            spans: Spans::default(),
            counters: BTreeMap::from([(name.to_owned(), lines)]),
        };
        self.taught.add(Batch { id: told.id.clone(), records: vec![Record::Source(source)] });
    }
}

impl Unconfirmed {
    /// What an earlier run has kept apart.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn read(store: &Store) -> Result<Self, StoreError> {
        let mut parts = BTreeMap::new();
        for told in store.unverified()? {
            let batch = unpacked(&store.read_unverified(&told.id)?);
            if batch.is_none() {
                tracing::error!(batch = %told.id, "what is kept apart of a batch cannot be read; it is lost, and counted when it expires");
            }
            let pods = batch.map(pods).unwrap_or_default();
            parts.insert(told.id.clone(), Part { told, pods });
        }
        Ok(Self { parts, ..Self::default() })
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// What there is, in short.
    pub fn told(&self) -> Vec<UnverifiedBatch> {
        self.parts.values().map(|p| p.told.clone()).collect()
    }

    /// Keeps what was told of unknown pods apart, and gives up what there is no room for: the
    /// oldest of the same node, or of the node that has most.
    ///
    /// # Errors
    /// When it cannot be packed.
    pub fn keep(&self, new: Vec<Observed>, now: Time, plan: &mut Plan) -> Result<(), String> {
        for batch in new {
            let (told, packed) = packed(&batch, now)?;
            if self.make_room(&told, plan) {
                plan.put(told, packed, batch);
            } else {
                plan.count(&told, counter::DROPPED);
            }
        }
        Ok(())
    }

    /// Whether there is room for a part, when what is in its way is given up.
    fn make_room(&self, part: &UnverifiedBatch, plan: &mut Plan) -> bool {
        if part.bytes > OF_NODE {
            return false;
        }
        loop {
            let kept = self.parts.values().filter(|p| !plan.apart.remove.contains(&p.told.id));
            let all: Vec<&UnverifiedBatch> =
                kept.map(|p| &p.told).chain(plan.new.iter().map(|p| &p.told)).collect();
            let mut of: BTreeMap<&str, u64> = BTreeMap::from([(part.node.as_str(), part.bytes)]);
            all.iter().for_each(|t| *of.entry(&t.node).or_default() += t.bytes);
            let own = of.get(part.node.as_str()).copied().unwrap_or(0);
            let most = of.iter().max_by_key(|(_, n)| **n).map_or(part.node.as_str(), |(n, _)| *n);
            let node = match (own > OF_NODE, of.values().sum::<u64>() > IN_ALL) {
                (false, false) => return true,
                (true, _) => part.node.as_str(),
                _ => most,
            };
            let oldest = all.iter().filter(|t| t.node == node).min_by_key(|t| (t.since, &t.id));
            // What came in this very round is written already as far as the plan goes.
            let Some(oldest) = oldest.filter(|t| self.parts.contains_key(&t.id)) else {
                return false;
            };
            let oldest: UnverifiedBatch = (*oldest).clone();
            plan.count(&oldest, counter::DROPPED);
            plan.apart.remove.insert(oldest.id);
        }
    }

    /// Learns what is told of pods that the cluster knows by now, or refuses it; some of it where
    /// it is much. `None` where nothing is left to be looked at.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn confirm(
        &mut self,
        store: &Store,
        cluster: &Arc<Cluster>,
        rules: &Rules,
    ) -> Result<Option<Plan>, String> {
        if std::ptr::eq(self.against.as_ptr(), Arc::as_ptr(cluster)) {
            return Ok(None);
        }
        let decided = |p: &&Part| {
            let known = |pod: &Pod| {
                standing(pod.claim(), &p.told.node, cluster, rules) != Standing::Unknown
            };
            p.pods.iter().any(known)
        };
        let some: Vec<&Part> = self.parts.values().filter(decided).take(SOME).collect();
        if some.is_empty() {
            self.against = Arc::downgrade(cluster);
            return Ok(None);
        }
        let mut plan = Plan::default();
        for part in some {
            let id = &part.told.id;
            plan.apart.remove.insert(id.clone());
            let bytes = store.read_unverified(id).map_err(|e| e.to_string())?;
            let Some(batch) = unpacked(&bytes) else {
                plan.count(&part.told, counter::DROPPED);
                continue;
            };
            let Checked { mut batch, unknown } = check(batch, cluster, rules);
            // They were counted when they came.
            batch.counters.remove(counter::UNVERIFIED);
            let learned = (batch.edges.len() + batch.asked.len() + batch.watching.len()) as u64;
            if learned > 0 {
                batch.counters.insert(counter::CONFIRMED.to_owned(), learned);
            }
            for name in verify::COUNTED {
                if let Some(n) = batch.counters.get(name) {
                    *plan.counted.entry(name).or_default() += n;
                }
            }
            plan.taught.add(learn::batch(cluster, &batch));
            if let Some(rest) = unknown {
                let (told, packed) = packed(&rest, part.told.since)?;
                plan.put(told, packed, rest);
            }
        }
        Ok(Some(plan))
    }

    /// Gives up what nobody has confirmed for so long.
    pub fn expire(&self, now: Time, after: Duration, known: bool) -> Plan {
        let after = if known { after } else { after.saturating_mul(ANYWAY) };
        let after = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        let mut plan = Plan::default();
        for part in self.parts.values().filter(|p| now.since(p.told.since) >= after) {
            plan.count(&part.told, counter::EXPIRED);
            plan.apart.remove.insert(part.told.id.clone());
        }
        plan
    }

    /// The changes of a plan are on the disk.
    pub fn written(&mut self, plan: Plan) {
        let Plan { apart, new, .. } = plan;
        apart.remove.iter().for_each(|id| drop(self.parts.remove(id)));
        if !new.is_empty() {
            // The cluster may have come to know them meanwhile.
            self.against = Weak::new();
        }
        self.parts.extend(new.into_iter().map(|p| (p.told.id.clone(), p)));
    }
}

/// What is kept apart in short, and packed.
fn packed(batch: &Observed, since: Time) -> Result<(UnverifiedBatch, Vec<u8>), String> {
    let mut text = Vec::new();
    observed::write(batch, &mut text).map_err(|e| e.to_string())?;
    let told = UnverifiedBatch {
        id: batch.id.clone(),
        node: batch.node.clone(),
        since,
        bytes: LEAST.max(text.len() as u64),
        namespaces: namespaces(batch),
    };
    let packed = zstd::encode_all(text.as_slice(), 1).map_err(|e| e.to_string())?;
    Ok((told, packed))
}

/// The reverse; `None` where it is damaged.
fn unpacked(bytes: &[u8]) -> Option<Observed> {
    let text = zstd::decode_all(bytes).ok()?;
    Reader::new(text.as_slice()).next()?.ok()
}

/// How much is told of pods of which namespace.
fn namespaces(batch: &Observed) -> BTreeMap<String, UnverifiedAmount> {
    let mut lines: Vec<u64> = vec![0; batch.pods.len()];
    let named = batch.edges.iter().map(|e| e.pod).chain(batch.asked.iter().map(|a| a.pod));
    for pod in named.chain(batch.watching.iter().map(|w| w.pod)) {
        if let Some(n) = lines.get_mut(pod as usize) {
            *n += 1;
        }
    }
    let mut out: BTreeMap<String, UnverifiedAmount> = BTreeMap::new();
    for (pod, lines) in batch.pods.iter().zip(lines) {
        let mut namespace = pod.workload.namespace.as_str();
        let full = out.len() >= NAMESPACES && !out.contains_key(namespace);
        if full || namespace.len() > NAME {
            namespace = "";
        }
        let amount = out.entry(namespace.to_owned()).or_default();
        amount.pods += 1;
        amount.lines += lines;
    }
    out
}

fn pods(batch: Observed) -> Vec<Pod> {
    let pods = batch.pods.into_iter().map(|p| Pod {
        namespace: p.workload.namespace.into(),
        name: p.name,
        uid: p.uid,
        start: p.start,
        node: p.node,
    });
    pods.collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test that cannot go on should say where
mod tests {
    use super::*;

    fn told(node: &str, sequence: u64, bytes: u64) -> UnverifiedBatch {
        UnverifiedBatch {
            id: BatchId { source: format!("agent:{node}:b"), sequence },
            node: node.to_owned(),
            since: Time(i64::try_from(sequence).unwrap()),
            bytes,
            namespaces: [("shop".to_owned(), UnverifiedAmount { pods: 1, lines: 3 })].into(),
        }
    }

    fn kept(all: impl IntoIterator<Item = UnverifiedBatch>) -> Unconfirmed {
        let part = |told: UnverifiedBatch| (told.id.clone(), Part { told, pods: Vec::new() });
        Unconfirmed { parts: all.into_iter().map(part).collect(), ..Unconfirmed::default() }
    }

    #[test]
    fn a_node_takes_its_own_room_and_the_oldest_goes_first() {
        let kept = kept([told("a", 1, OF_NODE / 2), told("a", 2, OF_NODE / 2), told("b", 1, 9)]);
        let mut plan = Plan::default();
        assert!(kept.make_room(&told("b", 2, OF_NODE - 9), &mut plan));
        assert!(plan.is_empty());
        assert!(kept.make_room(&told("a", 3, LEAST), &mut plan));
        let gone: Vec<&BatchId> = plan.apart.remove.iter().collect();
        assert_eq!(gone, [&told("a", 1, 0).id]);
        assert_eq!(plan.counted, [(counter::DROPPED, 3)].into());
        assert_eq!(plan.taught.len(), 1, "it is counted for its source");
        assert!(!kept.make_room(&told("a", 4, OF_NODE + 1), &mut Plan::default()));
    }

    #[test]
    fn where_all_is_full_the_node_with_most_makes_room() {
        let full = IN_ALL / OF_NODE;
        let nodes = (0..full - 1).map(|n| told(&format!("n{n}"), 1, OF_NODE - 1));
        let kept = kept(nodes.chain([told("most", 1, OF_NODE / 2), told("most", 2, OF_NODE / 2)]));
        let mut plan = Plan::default();
        assert!(kept.make_room(&told("new", 1, OF_NODE / 4), &mut plan));
        let gone: Vec<&BatchId> = plan.apart.remove.iter().collect();
        assert_eq!(gone, [&told("most", 1, 0).id]);
    }

    #[test]
    fn what_is_told_of_many_namespaces_is_told_in_short() {
        let mut batch = crate::observed::Gatherer::new("n1", "b");
        let connection = crate::observed::tests::connection(40_000, 80, 1);
        for n in 0..100 {
            let mut pod = crate::observed::tests::pod(&format!("p{n}"));
            pod.workload.namespace = format!("{n:03}").repeat(if n == 0 { 40 } else { 1 });
            batch.connection(&pod, &connection, || crate::model::Span::ALWAYS);
        }
        let told = namespaces(&batch.take(Time(9)).unwrap());
        assert!(told.len() <= NAMESPACES + 1 && told.keys().all(|n| n.len() <= NAME), "{told:?}");
        assert_eq!(told.values().map(|a| a.lines).sum::<u64>(), 100);
    }
}
