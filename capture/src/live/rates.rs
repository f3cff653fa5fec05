//! How much of an interface was read in a while: its datagrams, and its ring.
//!
//! Owns what follows from that: whether datagrams are sampled, and whether a ring is larger than
//! needed. Must never change an interface.

use std::time::Duration;

use super::filter::DatagramRule;
use crate::layout::protocol::UDP;
use crate::layout::{ethernet, ipv4, ipv6};

/// For how long a larger ring must not have been needed before it is given back.
const SHRINK_AFTER: Duration = Duration::from_secs(300);
/// A ring is large enough where the packets of a tick take at most one part in this many of it.
const SHRINK_SHARE: u64 = 4;

/// Datagrams of a pod in a second, from which on they are sampled. A hundred pods that send as many
/// cost the agent a few hundredths of a core.
const FLOOD: f64 = 200.0;
/// Datagrams of a pod in a second, below which all are read again.
const CALM: f64 = 50.0;
/// How long it must have been calm.
const CALM_FOR: Duration = Duration::from_secs(10);

/// The datagrams of an interface.
#[derive(Debug, Default)]
pub(super) struct DatagramRate {
    /// Read since the last tick.
    pub read: u32,
    /// For how long it was calm.
    calm: Duration,
}

/// Whether a frame is a datagram: of those that the filter passes in bulk, without VLAN tags and
/// extension headers.
pub(super) fn is_datagram(frame: &[u8]) -> bool {
    let protocol = match frame.get(ethernet::HEADER).map(|first| first >> 4) {
        Some(4) => ethernet::HEADER + ipv4::PROTOCOL,
        Some(6) => ethernet::HEADER + ipv6::NEXT_HEADER,
        _ => return false,
    };
    frame.get(protocol) == Some(&UDP)
}

impl DatagramRate {
    /// The rule that follows from the datagrams of a tick. `sample`: how many stand behind one that
    /// was read, where they are sampled.
    pub(super) fn next_rule(
        &mut self,
        now: DatagramRule,
        sample: u32,
        tick: Duration,
    ) -> DatagramRule {
        let behind_one = if now == DatagramRule::Sampled { sample.max(1) } else { 1 };
        let read = std::mem::take(&mut self.read);
        let per_second = f64::from(read) * f64::from(behind_one) / tick.as_secs_f64();
        self.calm = if per_second < CALM { self.calm + tick } else { Duration::ZERO };
        match now {
            DatagramRule::All if per_second > FLOOD => DatagramRule::Sampled,
            DatagramRule::Sampled if self.calm >= CALM_FOR => DatagramRule::All,
            _ => now,
        }
    }
}

/// How much of a ring is used.
#[derive(Debug, Default)]
pub(super) struct RingUse {
    /// Bytes of packets read since the last tick.
    pub read_bytes: u64,
    /// For how long the packets of each tick would have fitted a ring of the configured size.
    calm: Duration,
}

impl RingUse {
    /// Ends a tick. Returns whether a ring of `configured` bytes would have been enough for a
    /// while.
    pub(super) fn fits(&mut self, configured: u32, tick: Duration) -> bool {
        let read = std::mem::take(&mut self.read_bytes);
        let is_calm = read * SHRINK_SHARE <= u64::from(configured);
        self.calm = if is_calm { self.calm + tick } else { Duration::ZERO };
        self.calm >= SHRINK_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(500);

    #[test]
    fn a_flood_is_sampled_until_it_was_calm_for_a_while() {
        let mut rate = DatagramRate::default();
        let mut rule = DatagramRule::All;
        let mut tick = |read: u32| {
            rate.read = read;
            rule = rate.next_rule(rule, 32, TICK);
            rule
        };
        assert_eq!(tick(100), DatagramRule::All);
        assert_eq!(tick(101), DatagramRule::Sampled);
        // One in half a second stands for 64 in a second.
        assert!((0..20).all(|_| tick(1) == DatagramRule::Sampled));
        assert!((0..19).all(|_| tick(0) == DatagramRule::Sampled));
        assert_eq!(tick(0), DatagramRule::All);
    }

    #[test]
    fn datagrams_are_told_by_their_headers() {
        let frame = |ether: [u8; 2], packet: &[u8]| [&[0; 12], &ether[..], packet].concat();
        let mut v4 = [0u8; 28];
        (v4[0], v4[9]) = (0x45, 17);
        let mut v6 = [0u8; 48];
        (v6[0], v6[6]) = (0x60, 17);
        assert!(is_datagram(&frame([8, 0], &v4)) && is_datagram(&frame([0x86, 0xdd], &v6)));
        v4[9] = 6;
        assert!(!is_datagram(&frame([8, 0], &v4)) && !is_datagram(&[]));
    }

    #[test]
    fn a_ring_that_was_not_needed_for_a_while_is_larger_than_it_must_be() {
        let mut ring = RingUse::default();
        let mut tick = |read_bytes| {
            ring.read_bytes = read_bytes;
            ring.fits(128 * 1024, SHRINK_AFTER / 4)
        };
        assert!(!(0..3).any(|_| tick(32 * 1024)));
        assert!(!tick(32 * 1024 + 1), "a quarter of it and more: it counts anew");
        assert!(!(0..3).any(|_| tick(0)));
        assert!(tick(0));
    }
}
