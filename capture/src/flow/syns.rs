//! Recent SYNs. They show that two SYNs are one, seen before and after kube-proxy translated its
//! destination.
//!
//! Owns how many SYNs are remembered, and for how long. Must never read a flow.

use std::net::SocketAddr;

use foldhash::HashMap;

use crate::observation::Nanos;

/// Two sightings of one SYN, before and after translation, are microseconds apart. A second is
/// safe: no port is reused with the same sequence number within a second.
pub(super) const WINDOW_NANOS: i64 = 1_000_000_000;
/// SYNs that one generation remembers, at most.
const MAX_IN_GENERATION: usize = 16_384;

/// Destination of a SYN, and its packet time.
pub(super) type SynSighting = (SocketAddr, Nanos);

/// Sightings by sender and sequence number, in two generations. When the younger generation is
/// full, or a second old, it replaces the older one, which is dropped whole. So nothing has to
/// search for old SYNs, and a SYN is remembered while as many others follow.
#[derive(Debug, Default)]
pub(super) struct RecentSyns {
    young: HashMap<(SocketAddr, u32), SynSighting>,
    old: HashMap<(SocketAddr, u32), SynSighting>,
    since: Nanos,
}

impl RecentSyns {
    /// Adds a sighting of a SYN, and returns the sighting that is remembered: the first one.
    pub(super) fn insert(
        &mut self,
        from: SocketAddr,
        sequence: u32,
        sighting: SynSighting,
    ) -> &mut SynSighting {
        let (_, time) = sighting;
        if self.young.len() >= MAX_IN_GENERATION || time.saturating_sub(self.since) > WINDOW_NANOS {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
            self.since = time;
        }
        let key = (from, sequence);
        let before = self.old.get(&key).copied();
        self.young.entry(key).or_insert(before.unwrap_or(sighting))
    }

    /// Shifts all times by `step`, but not beyond `now`. See [`super::table::FlowTable::rebase`].
    pub(super) fn rebase(&mut self, now: Nanos, step: Nanos) {
        let shift = |time: &mut Nanos| *time = time.saturating_add(step).min(now);
        self.young.values_mut().chain(self.old.values_mut()).for_each(|(_, time)| shift(time));
        shift(&mut self.since);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(syns: &mut RecentSyns, n: u32, port: u16, time: Nanos) -> SynSighting {
        *syns.insert(
            SocketAddr::from(([10, 0, 0, 1], 40_000)),
            n,
            (SocketAddr::from(([10, 0, 0, 2], port)), time),
        )
    }

    #[test]
    fn the_first_sighting_of_a_syn_is_returned_while_its_generation_is_not_dropped() {
        let mut syns = RecentSyns::default();
        let first = seen(&mut syns, 0, 80, 5);
        for n in 1..MAX_IN_GENERATION as u32 {
            seen(&mut syns, n, 80, 6);
            assert_eq!(seen(&mut syns, n, 8080, 7), (SocketAddr::from(([10, 0, 0, 2], 80)), 6));
        }
        // The next one begins another generation. The one before is still there.
        seen(&mut syns, MAX_IN_GENERATION as u32, 80, 8);
        assert_eq!(seen(&mut syns, 0, 8080, 9), first);
        for n in 1..2 * MAX_IN_GENERATION as u32 {
            seen(&mut syns, MAX_IN_GENERATION as u32 + n, 80, 10);
        }
        assert!(syns.young.len() <= MAX_IN_GENERATION && syns.old.len() <= MAX_IN_GENERATION);
        assert_eq!(seen(&mut syns, 1, 8080, 11).1, 11, "as if it had never been seen");
        seen(&mut syns, 7, 80, 11 + WINDOW_NANOS + 1);
        seen(&mut syns, 7, 80, 11 + 2 * (WINDOW_NANOS + 1));
        assert_eq!(syns.young.len() + syns.old.len(), 2);
    }

    #[test]
    fn setting_the_clock_shifts_all_sightings() {
        let mut syns = RecentSyns::default();
        seen(&mut syns, 1, 80, 10 * WINDOW_NANOS);
        syns.rebase(2 * WINDOW_NANOS, -8 * WINDOW_NANOS);
        assert_eq!(seen(&mut syns, 1, 8080, 2 * WINDOW_NANOS).1, 2 * WINDOW_NANOS);
    }
}
