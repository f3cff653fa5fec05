//! Whose an observation is, at the time of its packets; what nobody is known for yet waits for the
//! watch to tell.
//!
//! Owns that waiting, and the counters of what is nobody's. Must never guess, and never let what
//! waits grow without bound.

use std::collections::VecDeque;

use sidecarta_capture::observation::{
    Connection, InterfaceSpan, Lookup, Observation, Orientation, Transport,
};

use crate::attribute::{Attribution, Watched, attribute, watched};
use crate::cluster::{Cluster, Pod};
use crate::learn::counter;
use crate::model::Time;
use crate::observed::Gatherer;

/// Observations that wait at once: a burst of connections of pods that have just started.
const MAX_WAITING: usize = 65_536;

/// Names of the counters of attribution besides those of [`counter`].
pub mod lost {
    /// Waited for longer than allowed, or was one too many.
    pub const OVERFLOW: &str = "waiting-overflow";
}

/// Attributes observations.
#[derive(Debug)]
pub struct Waiting {
    /// How long the watch may lag, in nanoseconds.
    patience: i64,
    /// Only pods of this node are this agent's.
    node: Option<String>,
    queue: VecDeque<(i64, Observation)>,
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
        let due = now.saturating_add(self.patience);
        for (until, observation) in waited.into_iter().chain(new.into_iter().map(|o| (due, o))) {
            let Verdict::Wait(name) = self.attribute(&observation, cluster, out) else { continue };
            // A clock that was set back must not make it wait for ever.
            let until = if synced { until.min(due) } else { due };
            if !last && now < until && self.queue.len() < MAX_WAITING {
                self.queue.push_back((until, observation));
                continue;
            }
            let counts = match &observation {
                Observation::Connection(c) => u64::from(c.is_new),
                Observation::Lookup(_) => 1,
                Observation::Interface(_) => continue,
            };
            if !last && now < until {
                out.count(lost::OVERFLOW, counts);
            }
            out.count(name, counts);
        }
    }

    fn mine(&self, pod: &Pod) -> bool {
        self.node.as_ref().is_none_or(|n| **n == *pod.node || pod.node.is_empty())
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
        let counts = u64::from(c.is_new);
        let from_elsewhere = || match attribute(cluster, c.responder.ip(), Time(c.first)) {
            Attribution::Pod(_) => counter::ELSEWHERE,
            _ => counter::UNATTRIBUTED,
        };
        let name = match attribute(cluster, c.initiator.ip(), Time(c.first)) {
            Attribution::Pod(pod) if !self.mine(pod) => counter::ELSEWHERE,
            Attribution::Pod(pod) => {
                if c.transport == Transport::Tcp && !c.from_start {
                    out.count(counter::MIDWAY, counts);
                }
                if c.orientation == Orientation::Guessed {
                    out.count(counter::GUESSED, counts);
                }
                out.connection(pod, c);
                counter::LEARNED
            }
            Attribution::Node => counter::FROM_NODE,
            Attribution::Contested => return Verdict::Wait(counter::CONTESTED),
            // Whoever calls a pod of this node from another one is told of by the agent there.
            Attribution::UnknownPod | Attribution::Outside if self.node.is_some() => {
                return Verdict::Wait(from_elsewhere());
            }
            Attribution::UnknownPod => return Verdict::Wait(counter::UNATTRIBUTED),
            Attribution::Outside => return Verdict::Wait(counter::FROM_OUTSIDE),
        };
        out.count(name, counts);
        Verdict::Done
    }

    fn lookup(&self, l: &Lookup, cluster: &Cluster, out: &mut Gatherer) -> Verdict {
        match attribute(cluster, l.client, Time(l.time)) {
            Attribution::Pod(pod) if self.mine(pod) => out.lookup(pod, l),
            Attribution::Pod(_) | Attribution::Node => {}
            _ => return Verdict::Wait(counter::LOOKUPS_UNATTRIBUTED),
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
