//! Learns from captures. It attributes and gathers as an agent does, and learns as a recorder does.
//!
//! Owns what differs for captures: they may show what other captures showed before; the clock may
//! be wrong in all of a capture; and the cluster will never know more of an address. Must never
//! count a connection twice.

use std::collections::{BTreeMap, BTreeSet};

use sidecarta_capture::observation::{Connection, InterfaceSpan, Lookup, Observation};

use super::share::{CountedIn, Share, for_call, of_call, of_lookup};
use super::source_batch::{ResolvedEdge, SourceBatch, SourceKind, asked_host};
use super::{Earlier, ResolutionObserver};
use crate::attribute::{SenderPod, WatchedPod, connection_sender, lookup_sender, watched_pod};
use crate::cluster::{Cluster, Pod};
use crate::model::{Batch, BatchId, LedgerEntry, Span, Tally, Time, counter, sums};
use crate::observed::{self, Budget, Edge, Gatherer, protocol};
use crate::resolve::resolve;

/// Observations of the far future that are buffered. If the clock of a capture is wrong, all of its
/// times are.
const MAX_LATE: usize = 65_536;

/// What was read of one capture so far.
#[derive(Debug)]
struct CaptureProgress {
    gathered: Gatherer,
    /// Number of new connections.
    connections: u64,
    /// What was counted, each with the line in which it is counted.
    counted: Vec<(LedgerEntry, CountedIn)>,
    /// What this capture adds to what was counted before.
    more: SourceBatch,
    /// What the ledger records of it.
    recorded: Vec<LedgerEntry>,
    /// Number of what was counted before, by the names of counters.
    before: BTreeMap<&'static str, u64>,
    /// It adds to what was learned before.
    is_new: bool,
    /// Number of connections that stay counted for another dependency.
    elsewhere: u64,
}

impl Default for CaptureProgress {
    fn default() -> Self {
        Self {
            gathered: Gatherer::new("", "").within(Budget::UNBOUNDED),
            connections: 0,
            counted: Vec::new(),
            more: SourceBatch::of(SourceKind::Capture),
            recorded: Vec::new(),
            before: BTreeMap::new(),
            is_new: false,
            elsewhere: 0,
        }
    }
}

impl CaptureProgress {
    fn count(&mut self, name: &str, n: u64) {
        self.gathered.count(name, n);
    }

    fn count_before(&mut self, name: &'static str, n: u64) {
        if n > 0 {
            *self.before.entry(name).or_default() += n;
        }
    }

    /// Adds a connection or a lookup that was counted before.
    fn add_share(&mut self, share: &Share, now: LedgerEntry) {
        self.elsewhere += u64::from(share.elsewhere);
        self.is_new |= share.is_new;
        if share.is_recorded {
            self.recorded.push(now);
        }
    }
}

/// What was learned from a capture, with what the ledger needs to count it once.
#[derive(Debug)]
pub struct LearnedCapture {
    /// The records that it adds.
    pub batch: Batch,
    /// What was counted, for the ledger.
    pub counted: Vec<LedgerEntry>,
    /// Number of what was in it and was counted before, by name as in
    /// [`Source::counters`](crate::model::Source::counters).
    pub before: BTreeMap<String, u64>,
    /// It adds to what was learned before.
    pub is_new: bool,
    /// Number of connections of which an earlier capture showed less. They stay counted for the
    /// dependency that it showed. The one that this capture shows is learned without counting them.
    pub elsewhere: u64,
}

/// Learns from captures, with one snapshot of the cluster.
#[derive(Debug)]
pub struct CaptureLearner<'a> {
    cluster: &'a Cluster,
    earlier: Earlier<'a>,
    shown: BTreeMap<u32, CaptureProgress>,
    notes: BTreeSet<String>,
    /// The latest time that a packet can have.
    limit: Time,
    /// The latest time of a packet that was within that limit.
    newest: Time,
    /// Observations beyond the limit, buffered until all others are observed.
    late: Vec<Observation>,
}

impl<'a> CaptureLearner<'a> {
    /// Counts nothing that is in `earlier`, and accepts no time after `limit`. A packet from the
    /// far future would make everything before it look stale. It counts as of the newest time
    /// within the limit that is observed; if there is none, it is not learned.
    pub fn new(cluster: &'a Cluster, earlier: Earlier<'a>, limit: Time) -> Self {
        Self {
            cluster,
            earlier,
            shown: BTreeMap::new(),
            notes: BTreeSet::new(),
            limit,
            newest: Time::MIN,
            late: Vec::new(),
        }
    }

    /// Adds one observation.
    pub fn observe(&mut self, observation: Observation) {
        let (source, first, last) = match &observation {
            Observation::Connection(c) => (c.interface.source, c.first, c.last),
            Observation::Lookup(l) => (l.interface.source, l.time, l.time),
            Observation::Interface(s) => (s.interface.source, s.first, s.last),
        };
        for time in [Time(first), Time(last)].into_iter().filter(|t| *t <= self.limit) {
            self.newest = self.newest.max(time);
        }
        if Time(first.max(last)) <= self.limit {
            self.add(&observation);
        } else if self.late.len() < MAX_LATE {
            self.late.push(observation);
        } else {
            self.of(source).count(counter::UNDATED, 1);
        }
    }

    fn of(&mut self, source: u32) -> &mut CaptureProgress {
        self.shown.entry(source).or_default()
    }

    /// Adds the observations of the far future, after all others.
    fn add_late(&mut self) {
        let (limit, newest) = (self.limit, self.newest);
        for mut observation in std::mem::take(&mut self.late) {
            let (source, times) = match &mut observation {
                Observation::Connection(c) => {
                    (c.interface.source, [Some(&mut c.first), Some(&mut c.last)])
                }
                Observation::Lookup(l) => (l.interface.source, [Some(&mut l.time), None]),
                Observation::Interface(s) => {
                    (s.interface.source, [Some(&mut s.first), Some(&mut s.last)])
                }
            };
            if newest == Time::MIN {
                self.of(source).count(counter::UNDATED, 1);
                continue;
            }
            times.into_iter().flatten().filter(|t| **t > limit.0).for_each(|t| *t = newest.0);
            self.of(source).count(counter::CORRECTED, 1);
            self.add(&observation);
        }
    }

    fn add(&mut self, observation: &Observation) {
        match observation {
            Observation::Connection(c) => self.connection(c),
            Observation::Lookup(l) => self.lookup(l),
            Observation::Interface(s) => self.interface(s),
        }
    }

    /// What could not be decided, as sorted sentences.
    pub fn notes(&self) -> impl Iterator<Item = &str> {
        self.notes.iter().map(String::as_str)
    }

    fn connection(&mut self, c: &Connection) {
        let (cluster, n) = (self.cluster, u64::from(c.is_new));
        let owner = connection_sender(cluster, c, None);
        let shown = self.shown.entry(c.interface.source).or_default();
        let now = of_call(c, &self.earlier.limits);
        if c.is_new
            && self.earlier.mentions(&now)
            && shown.learn_again(cluster, c, owner, &self.earlier)
        {
            return;
        }
        shown.connections += n;
        let counted_in = match owner {
            SenderPod::Pod(pod) => {
                let to = (c.responder.ip(), c.responder.port());
                let steady = || cluster.steady(pod, to, protocol(c.transport), Time(c.first));
                shown.gathered.connection(pod, c, steady).map(|i| CountedIn::Edge(i as u32))
            }
            SenderPod::Other(name) | SenderPod::Unknown(name) => {
                shown.count(name, n);
                if is_strange(cluster, c) {
                    shown.count(counter::STRANGE, n);
                }
                Some(CountedIn::Nobody)
            }
        };
        if c.is_new {
            shown.counted.extend(counted_in.map(|counted_in| (now, counted_in)));
            shown.is_new = true;
        }
    }

    fn lookup(&mut self, l: &Lookup) {
        let cluster = self.cluster;
        let shown = self.shown.entry(l.interface.source).or_default();
        let owner = lookup_sender(cluster, l, None);
        let now = of_lookup(l);
        if let SenderPod::Pod(pod) = owner
            && self.earlier.mentions(&now)
            && shown.learn_lookup_again(cluster, pod, l, &self.earlier)
        {
            return;
        }
        shown.count(counter::LOOKUPS, 1);
        match owner {
            SenderPod::Pod(pod) => {
                if let Some(i) = shown.gathered.lookup(pod, l) {
                    shown.counted.push((now, CountedIn::Asked(i as u32)));
                    shown.is_new = true;
                }
            }
            SenderPod::Other(name) | SenderPod::Unknown(name) => shown.count(name, 1),
        }
    }

    fn interface(&mut self, s: &InterfaceSpan) {
        let shown = self.shown.entry(s.interface.source).or_default();
        shown.gathered.covered(Span { from: Time(s.first), to: Time(s.last) });
        match watched_pod(self.cluster, s) {
            WatchedPod::Pod(pod) => {
                shown.gathered.count(counter::FORGED, s.forged);
                shown.gathered.watch(pod, s);
            }
            WatchedPod::OneConversation(a, b) => {
                self.notes.insert(format!(
                    "one interface showed nothing but a conversation of {}/{} with {}/{}: it may \
                     be either pod's, so neither counts as watched",
                    a.workload.namespace, a.name, b.workload.namespace, b.name
                ));
            }
            WatchedPod::NoPod => {}
        }
    }

    /// What was learned from a capture. `counters` are those of the capture layer.
    pub fn take(
        &mut self,
        source: u32,
        id: BatchId,
        label: &str,
        mut counters: BTreeMap<String, u64>,
    ) -> LearnedCapture {
        self.add_late();
        let mut shown = self.shown.remove(&source).unwrap_or_default();
        let gathered = shown.gathered.drain();
        let mut resolved = Resolved::default();
        let mut learned = shown.more;
        learned.learn(self.cluster, &gathered, &mut resolved);
        let all = shown.counted.into_iter().filter_map(|(now, of)| resolved.complete(now, of));
        let mut counted: Vec<LedgerEntry> = all.chain(shown.recorded).collect();
        counted.sort_unstable();
        let connections = (counter::CONNECTIONS.to_owned(), shown.connections);
        sums::merge(&mut counters, &gathered.counters);
        sums::merge(&mut counters, &BTreeMap::from([connections]));
        LearnedCapture {
            batch: learned.into_batch(id, label, gathered.spans, counters),
            counted,
            before: shown.before.into_iter().map(|(name, n)| (name.to_owned(), n)).collect(),
            is_new: shown.is_new,
            elsewhere: shown.elsewhere,
        }
    }
}

/// Whether the cluster has neither end of a connection.
fn is_strange(cluster: &Cluster, c: &Connection) -> bool {
    !cluster.has_address(c.initiator.ip()) && !cluster.has_address(c.responder.ip())
}

impl CaptureProgress {
    /// Learns what is new of a connection that was counted before; false if it was not counted.
    fn learn_again(
        &mut self,
        cluster: &Cluster,
        c: &Connection,
        owner: SenderPod<'_>,
        earlier: &Earlier<'_>,
    ) -> bool {
        let call = observed::call(c).to_call();
        let resolved = match owner {
            SenderPod::Pod(pod) => Some((pod, resolve(cluster, pod, &call, Time(c.first)))),
            SenderPod::Other(_) | SenderPod::Unknown(_) => None,
        };
        let to = resolved.as_ref().map(|(pod, resolution)| (&pod.workload, resolution));
        let now = for_call(of_call(c, &earlier.limits), to).asking(call.authority.as_deref());
        let Some(share) = earlier.share(&now) else { return false };
        self.add_share(&share, now);
        self.count_before(counter::CONNECTIONS, 1);
        match owner {
            SenderPod::Pod(_) => self.count_before(counter::LEARNED, 1),
            SenderPod::Other(name) | SenderPod::Unknown(name) => {
                self.count_before(name, 1);
                self.count_before(counter::STRANGE, u64::from(is_strange(cluster, c)));
            }
        }
        let mut edge = Edge::of(0, call, &observed::begun(c));
        self.count_before(counter::MIDWAY, edge.midway);
        self.count_before(counter::GUESSED, edge.guessed);
        (edge.connections, edge.midway, edge.guessed, edge.unanswered) = (0, 0, 0, 0);
        match resolved {
            Some((pod, resolution)) if share.is_useful => {
                self.more.add_resolved(pod, &edge, share.facets, resolution);
            }
            Some((pod, _)) => self.more.add_workload(pod, edge.last),
            None => {}
        }
        true
    }

    /// The same for a lookup.
    fn learn_lookup_again(
        &mut self,
        cluster: &Cluster,
        pod: &Pod,
        l: &Lookup,
        earlier: &Earlier<'_>,
    ) -> bool {
        let answered = !l.addresses.is_empty();
        let Some(host) = asked_host(cluster, pod, &l.question, answered) else { return false };
        let now = of_lookup(l).for_host(&pod.workload, &host);
        let Some(share) = earlier.share(&now) else { return false };
        self.add_share(&share, now);
        self.count_before(counter::LOOKUPS, 1);
        self.more.add_lookup(pod, host, Tally::new(0, Time(l.time), Time(l.time)));
        true
    }
}

/// What the edges and lookups of a batch were resolved to, by their index.
#[derive(Debug, Default)]
struct Resolved {
    edges: Vec<LedgerEntry>,
    asked: BTreeMap<u32, LedgerEntry>,
}

impl ResolutionObserver for Resolved {
    fn edge(&mut self, _: usize, pod: &Pod, edge: &Edge, resolved: &[ResolvedEdge<'_>]) {
        let to = resolved.first().map(|part| (&pod.workload, &part.resolution));
        self.edges.push(for_call(LedgerEntry::NOTHING, to).asking(edge.call.authority.as_deref()));
    }

    fn asked(&mut self, i: usize, pod: &Pod, host: &str) {
        self.asked.insert(i as u32, LedgerEntry::NOTHING.for_host(&pod.workload, host));
    }
}

impl Resolved {
    /// What was counted, with what it was counted for; `None` for a lookup outside the
    /// mesh.
    fn complete(&self, now: LedgerEntry, of: CountedIn) -> Option<LedgerEntry> {
        let to = match of {
            CountedIn::Nobody => return Some(now),
            CountedIn::Edge(i) => self.edges.get(i as usize)?,
            CountedIn::Asked(i) => self.asked.get(&i)?,
        };
        Some(LedgerEntry { to: to.to, host: to.host, facets: to.facets, ..now })
    }
}
