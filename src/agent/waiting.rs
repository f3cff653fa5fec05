//! Whose an observation is, at the time of its packets; what nobody is known for yet waits for the
//! watch to tell.
//!
//! Owns that waiting, and the counters of what is nobody's. Must never guess, and never let what
//! waits grow without bound.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;

use sidecarta_capture::observation::{Connection, InterfaceId, InterfaceSpan, Lookup, Observation};

use crate::attribute::{Attribution, Watched, Whose, asker, attribute, caller, is_told, watched};
use crate::cluster::{Cluster, Pod};
use crate::model::{Time, counter};
use crate::observed::{Gatherer, protocol};

/// Bytes of observations that wait at once, about: a burst of connections of pods that have just
/// started.
const TOTAL: usize = 16 * 1024 * 1024;
/// Bytes of those seen on one interface, while there is room for all.
const SHARE: usize = 4 * 1024 * 1024;
/// Bytes of those seen on one interface in any case, whatever comes on others.
const LEAST: usize = 32 * 1024;

/// Attributes observations.
#[derive(Debug)]
pub struct Waiting {
    /// How long the watch may lag, in nanoseconds.
    patience: i64,
    /// Only pods of this node are this agent's.
    node: Option<String>,
    queue: VecDeque<(i64, Observation)>,
    /// Bytes that wait, by the interface that they were seen on.
    bytes: HashMap<InterfaceId, usize>,
    total: usize,
}

/// Bytes that an observation takes, about, and the interface that it was seen on.
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

enum Verdict {
    Done,
    Wait(&'static str),
}

impl Waiting {
    /// With the time for which an unknown address may wait, and the node whose pods are told of,
    /// where it matters.
    pub fn new(patience: std::time::Duration, node: Option<String>) -> Self {
        Self {
            patience: i64::try_from(patience.as_nanos()).unwrap_or(i64::MAX),
            node,
            queue: VecDeque::new(),
            bytes: HashMap::new(),
            total: 0,
        }
    }

    /// Observations that wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Takes in how many connections of each address were too many to be looked at one by one.
    pub fn overflow(
        &mut self,
        now: i64,
        over: &BTreeMap<IpAddr, u64>,
        cluster: &Cluster,
        out: &mut Gatherer,
    ) {
        for (address, n) in over {
            match attribute(cluster, *address, Time(now)) {
                Attribution::Pod(pod) if self.mine(pod) => out.overflow(pod, *n),
                _ => out.count(counter::WAITING_OVERFLOW, *n),
            }
        }
    }

    /// Takes new observations in, and those again that wait. `synced`: the watch has told of all
    /// that is there; before, its lag says nothing. `last`: nothing waits any longer.
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
        self.bytes.clear();
        self.total = 0;
        let due = now.saturating_add(self.patience);
        for (until, observation) in waited.into_iter().chain(new.into_iter().map(|o| (due, o))) {
            let Verdict::Wait(name) = self.attribute(&observation, cluster, out) else { continue };
            // A clock that was set back must not make it wait for ever.
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

    /// Whether one more may wait, beside what waits of its interface and of others.
    fn has_room(&mut self, observation: &Observation) -> bool {
        let (interface, bytes) = size(observation);
        let of = self.bytes.entry(interface).or_default();
        let room = *of + bytes <= LEAST || *of + bytes <= SHARE && self.total + bytes <= TOTAL;
        if room {
            *of += bytes;
            self.total += bytes;
        }
        room
    }

    fn mine(&self, pod: &Pod) -> bool {
        is_told(pod, self.node.as_deref())
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
        match caller(cluster, c, self.node.as_deref()) {
            Whose::Pod(pod) => {
                let to = (c.responder.ip(), c.responder.port());
                out.connection(pod, c, || {
                    cluster.steady(pod, to, protocol(c.transport), Time(c.first))
                });
            }
            Whose::Other(name) => out.count(name, u64::from(c.is_new)),
            Whose::Unknown(name) => return Verdict::Wait(name),
        }
        Verdict::Done
    }

    fn lookup(&self, l: &Lookup, cluster: &Cluster, out: &mut Gatherer) -> Verdict {
        match asker(cluster, l, self.node.as_deref()) {
            Whose::Pod(pod) => {
                out.lookup(pod, l);
            }
            Whose::Other(name) => out.count(name, 1),
            Whose::Unknown(name) => return Verdict::Wait(name),
        }
        Verdict::Done
    }

    fn interface(&self, s: &InterfaceSpan, cluster: &Cluster, out: &mut Gatherer) -> Verdict {
        match watched(cluster, s) {
            Watched::Pod(pod) if self.mine(pod) => out.watch(pod, s),
            Watched::Pod(_) => {}
            // Whose it is may be known when it has shown more, or when the watch has told; its span
            // is told again then.
            Watched::OneConversation(..) | Watched::NoPod => return Verdict::Wait(""),
        }
        Verdict::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::tests::connection;

    /// From an address that nobody knows yet, seen on an interface.
    fn unknown(index: u32, n: u32) -> Observation {
        let mut c = connection(40_000, 80, 5);
        c.initiator = (IpAddr::from(n.to_be_bytes()), 40_000).into();
        c.interface.index = index;
        Observation::Connection(c)
    }

    #[test]
    fn who_floods_an_interface_takes_no_room_of_others() {
        let mut waiting = Waiting::new(std::time::Duration::from_secs(5), None);
        let mut out = Gatherer::new("n1", "boot");
        let cluster = Cluster::default();
        let mut take = |waiting: &mut Waiting, all: Vec<Observation>| {
            waiting.take(1, all, &cluster, true, false, &mut out);
        };
        for flood in 10..20 {
            let all = (0..40_000).map(|n| unknown(flood, 0x0b00_0000 + n)).collect();
            take(&mut waiting, all);
        }
        let before = waiting.len();
        assert!(waiting.total <= TOTAL + 20 * LEAST, "{}", waiting.total);
        take(&mut waiting, (0..50).map(|n| unknown(1, 0x0a00_0000 + n)).collect());
        assert_eq!(waiting.len(), before + 50, "the quiet interface has its room");
        let lost = out.totals()[counter::WAITING_OVERFLOW];
        assert_eq!(lost, 400_000 - before as u64, "what had none is counted");
    }
}
