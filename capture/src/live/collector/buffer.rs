//! Observations until somebody takes them.
//!
//! Owns their number. What is too much is taken from the interface that shows most, and counted by
//! whose it was. Must never let one interface push out what another one has shown.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use crate::observation::{InterfaceId, Observation};

/// Observations buffer at most: some 3 MB, which come in a tenth of a second where nothing but new
/// connections happens.
pub(super) const MAX: usize = 8_192;
/// Observations that are handed on at once, at most.
pub(super) const CHUNK: usize = 2_048;
/// Addresses whose connections are counted apart.
const MAX_COUNTED: usize = 1_024;

/// Observations buffer.
#[derive(Debug, Default)]
pub(super) struct ObservationBuffer {
    all: Vec<Observation>,
    /// Connections that were too many, by who opened them.
    over: BTreeMap<IpAddr, u64>,
    /// What else was too much.
    pub unheard: u64,
}

impl ObservationBuffer {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// How many more may be told of what can wait, so that there is room for what cannot.
    pub(super) fn room(&self) -> usize {
        (MAX / 2).saturating_sub(self.all.len())
    }

    pub(super) fn push(&mut self, observation: Observation) {
        if self.all.len() >= MAX {
            self.make_room();
        }
        self.all.push(observation);
    }

    /// What is handed on next, the oldest first.
    pub(super) fn take(&mut self) -> (Vec<Observation>, BTreeMap<IpAddr, u64>) {
        let rest = self.all.split_off(self.all.len().min(CHUNK));
        (std::mem::replace(&mut self.all, rest), std::mem::take(&mut self.over))
    }

    /// Takes back what nobody took.
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

    /// Drops the older half of what the interface with the most has shown.
    fn make_room(&mut self) {
        let mut counts: HashMap<InterfaceId, usize> = HashMap::new();
        for id in self.all.iter().filter_map(interface) {
            *counts.entry(id).or_default() += 1;
        }
        let Some((most, n)) = counts.into_iter().max_by_key(|(id, n)| (*n, *id)) else { return };
        let mut drop = n.div_ceil(2);
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

/// Where it was seen; `None` of what is never dropped, of which there is one an interface.
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
    fn a_loud_interface_pushes_out_its_own() {
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
        assert_eq!(buffer.unheard + seen, 100_100, "what is not there is counted");
    }

    #[test]
    fn what_nobody_took_comes_first_again() {
        let mut buffer = ObservationBuffer::default();
        (0..5_000).for_each(|n| buffer.push(lookup(1, n)));
        let (some, over) = buffer.take();
        buffer.put_back(some, over);
        let (some, _) = buffer.take();
        let Some(Observation::Lookup(first)) = some.first() else { panic!() };
        assert_eq!(first.time, 0);
    }
}
