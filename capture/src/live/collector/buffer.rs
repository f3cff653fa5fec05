//! Buffered observations, until the receiver takes them.
//!
//! Owns their number. Where there are too many, observations of the interface with the most are
//! dropped, and counted by initiator. Must never let one interface push out the observations of
//! another.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use crate::observation::{InterfaceId, Observation};

/// Observations buffered, at most. They take some 3 MB. New connections alone fill that in a tenth
/// of a second.
pub(super) const MAX: usize = 8_192;
/// Observations sent at a time, at most.
pub(super) const CHUNK: usize = 2_048;
/// Initiators whose dropped connections are counted one by one.
const MAX_COUNTED: usize = 1_024;

/// Observations that wait for the receiver.
#[derive(Debug, Default)]
pub(super) struct ObservationBuffer {
    all: Vec<Observation>,
    /// Number of connections that were dropped, by initiator.
    over: BTreeMap<IpAddr, u64>,
    /// Number of other observations that were dropped.
    pub unheard: u64,
    /// Number of observations that were dropped since the last report of their interface.
    unheard_of: HashMap<InterfaceId, u64>,
}

/// Puts totals of interfaces into `spans`, and other observations into the buffer.
pub(super) fn separate_spans(
    observation: Observation,
    buffer: &mut ObservationBuffer,
    spans: &mut Vec<Observation>,
) {
    match observation {
        Observation::Interface(_) => spans.push(observation),
        _ => buffer.push(observation),
    }
}

impl ObservationBuffer {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// How many observations that can wait may be added, so that there is room for others.
    pub(super) fn room(&self) -> usize {
        (MAX / 2).saturating_sub(self.all.len())
    }

    pub(super) fn push(&mut self, observation: Observation) {
        if self.all.len() >= MAX {
            self.make_room();
        }
        self.all.push(observation);
    }

    /// Takes the observations to send next, the oldest first.
    pub(super) fn take(&mut self) -> (Vec<Observation>, BTreeMap<IpAddr, u64>) {
        let rest = self.all.split_off(self.all.len().min(CHUNK));
        (std::mem::replace(&mut self.all, rest), std::mem::take(&mut self.over))
    }

    /// How many observations of an interface were dropped since this was asked last.
    pub(super) fn take_unheard(&mut self, interface: InterfaceId) -> u64 {
        self.unheard_of.remove(&interface).unwrap_or(0)
    }

    /// Puts back observations that could not be sent.
    pub(super) fn put_back(
        &mut self,
        mut observations: Vec<Observation>,
        over: BTreeMap<IpAddr, u64>,
    ) {
        observations.append(&mut self.all);
        self.all = observations;
        for (address, n) in over {
            *self.over.entry(address).or_default() += n;
        }
    }

    /// Drops the older half of the observations of the interface with the most.
    fn make_room(&mut self) {
        let mut counts: HashMap<InterfaceId, usize> = HashMap::new();
        for id in self.all.iter().filter_map(interface) {
            *counts.entry(id).or_default() += 1;
        }
        let Some((most, n)) = counts.into_iter().max_by_key(|(id, n)| (*n, *id)) else { return };
        let mut drop = n.div_ceil(2);
        *self.unheard_of.entry(most).or_default() += drop as u64;
        let (over, unheard) = (&mut self.over, &mut self.unheard);
        self.all.retain(|o| {
            if drop == 0 || interface(o) != Some(most) {
                return true;
            }
            drop -= 1;
            match o {
                Observation::Connection(c)
                    if c.is_new
                        && (over.len() < MAX_COUNTED || over.contains_key(&c.initiator.ip())) =>
                {
                    *over.entry(c.initiator.ip()).or_default() += 1;
                }
                _ => *unheard += 1,
            }
            false
        });
    }
}

/// Interface of an observation. `None` for totals, which are never dropped, and of which there is
/// one for each interface.
fn interface(observation: &Observation) -> Option<InterfaceId> {
    match observation {
        Observation::Connection(c) => Some(c.interface),
        Observation::Lookup(l) => Some(l.interface),
        Observation::Interface(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::Lookup;

    fn lookup(index: u32, time: i64) -> Observation {
        Observation::Lookup(Lookup {
            interface: InterfaceId { source: 0, index },
            client: IpAddr::from([10, 0, 0, 1]),
            server: ([10, 0, 0, 2], 53).into(),
            time,
            question: "a".to_owned(),
            canonical: None,
            addresses: Vec::new(),
            rcode: None,
        })
    }

    #[test]
    fn a_busy_interface_pushes_out_only_its_own_observations() {
        let mut buffer = ObservationBuffer::default();
        (0..100).for_each(|n| buffer.push(lookup(1, n)));
        (0..100_000).for_each(|n| buffer.push(lookup(2, n)));
        assert!(buffer.len() <= MAX);
        let (mut quiet, mut latest, mut seen) = (0, 0, 0);
        while buffer.len() > 0 {
            let (some, _) = buffer.take();
            assert!(some.len() <= CHUNK);
            seen += some.len() as u64;
            for o in some {
                let Observation::Lookup(l) = o else { panic!() };
                quiet += u32::from(l.interface.index == 1);
                latest = latest.max(l.time);
            }
        }
        assert_eq!((quiet, latest), (100, 99_999));
        assert_eq!(buffer.unheard + seen, 100_100, "dropped observations are counted");
    }

    #[test]
    fn observations_that_were_put_back_are_taken_first() {
        let mut buffer = ObservationBuffer::default();
        (0..5_000).for_each(|n| buffer.push(lookup(1, n)));
        let (some, over) = buffer.take();
        buffer.put_back(some, over);
        let (some, _) = buffer.take();
        let Some(Observation::Lookup(first)) = some.first() else { panic!() };
        assert_eq!(first.time, 0);
    }
}
