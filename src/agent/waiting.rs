//! Attributes each observation to the pod that sent its packets. An observation whose pod is not
//! known yet waits until the watch of pods may have delivered the pod.
//!
//! Owns the queue of waiting observations, and the counters of those without a pod. Must never
//! guess, and never let the queue grow without bound.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;

use sidecarta_capture::observation::{Connection, InterfaceId, InterfaceSpan, Lookup, Observation};

use crate::attribute::{
    Attribution, SenderPod, WatchedPod, attribute, connection_sender, is_reported_here,
    lookup_sender, watched_pod,
};
use crate::cluster::{Cluster, Pod};
use crate::model::{Time, counter};
use crate::observed::{Gatherer, protocol};

/// Bytes of all waiting observations, approximately: enough for a burst of connections of pods that
/// have just started.
const TOTAL_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of those seen on one interface, while `TOTAL_BYTES` is not reached.
const MAX_INTERFACE_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of those seen on one interface that are always accepted, whatever waits of others.
const MIN_INTERFACE_BYTES: usize = 32 * 1024;

/// Attributes observations, and queues those whose pod is not known yet.
#[derive(Debug)]
pub struct WaitingObservations {
    patience_nanos: i64,
    /// If given, only calls of this node's pods are sent.
    node: Option<String>,
    /// Each with the packet time at which it stops waiting.
    queue: VecDeque<(i64, Observation)>,
    /// Bytes that wait, by the interface that they were seen on.
    interface_bytes: HashMap<InterfaceId, usize>,
    total_bytes: usize,
}

/// The interface that an observation was seen on, and the bytes that it takes, approximately.
fn size(observation: &Observation) -> (InterfaceId, usize) {
    let text = |s: &Option<String>| s.as_ref().map_or(0, String::len);
    let plain = std::mem::size_of::<(i64, Observation)>();
    match observation {
        Observation::Connection(c) => {
            let dns = c.names.dns.iter().map(|d| 56 + d.question.len() + text(&d.canonical));
            let alpn = c.names.alpn.iter().map(|a| 24 + a.len());
            let names = text(&c.names.sni) + text(&c.names.authority);
            (c.interface, plain + names + dns.chain(alpn).sum::<usize>())
        }
        Observation::Lookup(l) => {
            let names = l.question.len() + text(&l.canonical);
            (l.interface, plain + names + 17 * l.addresses.len())
        }
        Observation::Interface(s) => (s.interface, plain),
    }
}

/// What has become of an observation.
enum Verdict {
    /// It was gathered or counted.
    Done,
    /// Its pod is not known. If it stays unknown, the observation is counted under this name.
    Wait(&'static str),
}

impl WaitingObservations {
    /// `patience`: how long an observation of an unknown address may wait. `node`: if given, only
    /// calls of this node's pods are sent.
    pub fn new(patience: std::time::Duration, node: Option<String>) -> Self {
        Self {
            patience_nanos: i64::try_from(patience.as_nanos()).unwrap_or(i64::MAX),
            node,
            queue: VecDeque::new(),
            interface_bytes: HashMap::new(),
            total_bytes: 0,
        }
    }

    /// How many observations wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Adds, for each source address, the connections beyond the address's share: the capture layer
    /// has counted but not reported them.
    pub fn overflow(
        &mut self,
        now: i64,
        over: &BTreeMap<IpAddr, u64>,
        cluster: &Cluster,
        out: &mut Gatherer,
    ) {
        for (address, n) in over {
            match attribute(cluster, *address, Time(now)) {
                Attribution::Pod(pod) if self.is_own(pod) => out.overflow(pod, *n),
                _ => out.count(counter::WAITING_OVERFLOW, *n),
            }
        }
    }

    /// Attributes the new observations and again those that wait, and gathers what can be
    /// attributed. `synced`: the watch has listed all pods; until then nothing stops waiting, as
    /// the patience counts from there. `last`: nothing waits any longer.
    pub fn take(
        &mut self,
        now: i64,
        new: Vec<Observation>,
        cluster: &Cluster,
        synced: bool,
        last: bool,
        out: &mut Gatherer,
    ) {
        let waited = std::mem::take(&mut self.queue);
        self.interface_bytes.clear();
        self.total_bytes = 0;
        let due = now.saturating_add(self.patience_nanos);
        for (until, observation) in waited.into_iter().chain(new.into_iter().map(|o| (due, o))) {
            let Verdict::Wait(name) = self.attribute(&observation, cluster, out) else { continue };
            // `min`: after the clock was set back, an observation must not wait for ever.
            let until = if synced { until.min(due) } else { due };
            if !last && now < until && self.has_room(&observation) {
                self.queue.push_back((until, observation));
                continue;
            }
            let counts = match &observation {
                Observation::Connection(c) => u64::from(c.is_new),
                Observation::Lookup(_) => 1,
                Observation::Interface(_) => continue,
            };
            if !last && now < until {
                out.count(counter::WAITING_OVERFLOW, counts);
            }
            out.count(name, counts);
        }
    }

    /// Whether the observation may wait. If so, its bytes are added to the sums.
    fn has_room(&mut self, observation: &Observation) -> bool {
        let (interface, bytes) = size(observation);
        let of_interface = self.interface_bytes.entry(interface).or_default();
        let after = *of_interface + bytes;
        let has_room = after <= MIN_INTERFACE_BYTES
            || after <= MAX_INTERFACE_BYTES && self.total_bytes + bytes <= TOTAL_BYTES;
        if has_room {
            *of_interface = after;
            self.total_bytes += bytes;
        }
        has_room
    }

    /// Whether this agent sends the calls of the pod.
    fn is_own(&self, pod: &Pod) -> bool {
        is_reported_here(pod, self.node.as_deref())
    }

    fn attribute(
        &self,
        observation: &Observation,
        cluster: &Cluster,
        out: &mut Gatherer,
    ) -> Verdict {
        match observation {
            Observation::Connection(c) => self.connection(c, cluster, out),
            Observation::Lookup(l) => self.lookup(l, cluster, out),
            Observation::Interface(s) => self.interface(s, cluster, out),
        }
    }

    fn connection(&self, c: &Connection, cluster: &Cluster, out: &mut Gatherer) -> Verdict {
        match connection_sender(cluster, c, self.node.as_deref()) {
            SenderPod::Pod(pod) => {
                let to = (c.responder.ip(), c.responder.port());
                out.connection(pod, c, || {
                    cluster.steady(pod, to, protocol(c.transport), Time(c.first))
                });
            }
            SenderPod::Other(name) => out.count(name, u64::from(c.is_new)),
            SenderPod::Unknown(name) => return Verdict::Wait(name),
        }
        Verdict::Done
    }

    fn lookup(&self, l: &Lookup, cluster: &Cluster, out: &mut Gatherer) -> Verdict {
        match lookup_sender(cluster, l, self.node.as_deref()) {
            SenderPod::Pod(pod) => {
                out.lookup(pod, l);
            }
            SenderPod::Other(name) => out.count(name, 1),
            SenderPod::Unknown(name) => return Verdict::Wait(name),
        }
        Verdict::Done
    }

    fn interface(&self, s: &InterfaceSpan, cluster: &Cluster, out: &mut Gatherer) -> Verdict {
        match watched_pod(cluster, s) {
            WatchedPod::Pod(pod) if self.is_own(pod) => out.watch(pod, s),
            WatchedPod::Pod(_) => {}
            // The owner may become known with more packets, or when the watch has delivered the
            // pod. The collector reports the interface's span again then.
            WatchedPod::OneConversation(..) | WatchedPod::NoPod => return Verdict::Wait(""),
        }
        Verdict::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::tests::connection;

    /// A connection from an address without a known pod, seen on this interface.
    fn unknown(index: u32, n: u32) -> Observation {
        let mut c = connection(40_000, 80, 5);
        c.initiator = (IpAddr::from(n.to_be_bytes()), 40_000).into();
        c.interface.index = index;
        Observation::Connection(c)
    }

    #[test]
    fn a_flood_on_one_interface_leaves_room_for_other_interfaces() {
        let mut waiting = WaitingObservations::new(std::time::Duration::from_secs(5), None);
        let mut out = Gatherer::new("n1", "boot");
        let cluster = Cluster::default();
        let mut take = |waiting: &mut WaitingObservations, all: Vec<Observation>| {
            waiting.take(1, all, &cluster, true, false, &mut out);
        };
        for flood in 10..20 {
            let all = (0..40_000).map(|n| unknown(flood, 0x0b00_0000 + n)).collect();
            take(&mut waiting, all);
        }
        let before = waiting.len();
        assert!(
            waiting.total_bytes <= TOTAL_BYTES + 20 * MIN_INTERFACE_BYTES,
            "{}",
            waiting.total_bytes
        );
        take(&mut waiting, (0..50).map(|n| unknown(1, 0x0a00_0000 + n)).collect());
        assert_eq!(waiting.len(), before + 50, "the quiet interface has its room");
        let lost = out.totals()[counter::WAITING_OVERFLOW];
        assert_eq!(lost, 400_000 - before as u64, "observations without room are counted");
    }
}
