//! SYNs seen lately, to find the two sightings of one: before and after kube-proxy translated its
//! destination.
//!
//! Owns their number. Must never look at flows.

use std::net::SocketAddr;

use foldhash::HashMap;

use crate::observation::Nanos;

/// Two sightings of one SYN, before and after translation, are microseconds apart; a second is safe
/// and no port is reused so fast with the same sequence number.
pub(super) const WINDOW: i64 = 1_000_000_000;
/// SYNs of a generation.
const MAX: usize = 16_384;

/// Where a SYN goes, and when it was seen.
pub(super) type SynSighting = (SocketAddr, Nanos);

/// By sender and sequence number, in two generations: the older one is forgotten whole when the
/// younger one is full or of another second, so that a SYN is remembered as long as as many others
/// follow, and nothing is ever searched for what is too old.
#[derive(Debug, Default)]
pub(super) struct RecentSyns {
    young: HashMap<(SocketAddr, u32), SynSighting>,
    old: HashMap<(SocketAddr, u32), SynSighting>,
    since: Nanos,
}

impl RecentSyns {
    /// What is known of a SYN: this sighting, where it is the first.
    pub(super) fn note(
        &mut self,
        from: SocketAddr,
        sequence: u32,
        sighting: SynSighting,
    ) -> &mut SynSighting {
        let (_, time) = sighting;
        if self.young.len() >= MAX || time.saturating_sub(self.since) > WINDOW {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
            self.since = time;
        }
        let key = (from, sequence);
        let before = self.old.get(&key).copied();
        self.young.entry(key).or_insert(before.unwrap_or(sighting))
    }

    /// See [`super::table::FlowTable::rebase`].
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
        *syns.note(
            SocketAddr::from(([10, 0, 0, 1], 40_000)),
            n,
            (SocketAddr::from(([10, 0, 0, 2], port)), time),
        )
    }

    #[test]
    fn a_syn_is_known_for_as_many_that_follow_and_no_longer_than_two_windows() {
        let mut syns = RecentSyns::default();
        let first = seen(&mut syns, 0, 80, 5);
        for n in 1..MAX as u32 {
            seen(&mut syns, n, 80, 6);
            assert_eq!(seen(&mut syns, n, 8080, 7), (SocketAddr::from(([10, 0, 0, 2], 80)), 6));
        }
        // The next one begins another generation; the one before is still known.
        seen(&mut syns, MAX as u32, 80, 8);
        assert_eq!(seen(&mut syns, 0, 8080, 9), first);
        for n in 1..2 * MAX as u32 {
            seen(&mut syns, MAX as u32 + n, 80, 10);
        }
        assert!(syns.young.len() <= MAX && syns.old.len() <= MAX);
        assert_eq!(seen(&mut syns, 1, 8080, 11).1, 11, "as if it had never been seen");
        seen(&mut syns, 7, 80, 11 + WINDOW + 1);
        seen(&mut syns, 7, 80, 11 + 2 * (WINDOW + 1));
        assert_eq!(syns.young.len() + syns.old.len(), 2);
    }

    #[test]
    fn a_clock_that_is_set_moves_them() {
        let mut syns = RecentSyns::default();
        seen(&mut syns, 1, 80, 10 * WINDOW);
        syns.rebase(2 * WINDOW, -8 * WINDOW);
        assert_eq!(seen(&mut syns, 1, 8080, 2 * WINDOW).1, 2 * WINDOW);
    }
}
