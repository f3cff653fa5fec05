//! How many datagrams of a pod are read.
//!
//! Nothing marks the first datagram to a destination, so all that a pod sends are read. A pod that
//! floods would fill its ring with them; of its datagrams the kernel passes a sample.
//!
//! Owns when that changes. Must never change the rule of an interface because of another one.

use std::time::Duration;

use super::Collector;
use crate::layout::protocol::UDP;
use crate::layout::{ethernet, ipv4, ipv6};
use crate::live::filter::DatagramRule;

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
    fn next_rule(&mut self, now: DatagramRule, sample: u32, tick: Duration) -> DatagramRule {
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

impl Collector {
    /// Changes the rules of interfaces whose pods began or ended to flood. `tick`: the time since
    /// the last call.
    pub(super) fn limit_datagrams(&mut self, tick: Duration) {
        let settings = &self.config.handle;
        if settings.sample <= 1 {
            return;
        }
        for w in self.watched.values_mut().filter(|w| w.of_pod) {
            let Some(handle) = &mut w.handle else { continue };
            let rule = w.datagrams.next_rule(handle.datagrams(), settings.sample, tick);
            if rule == handle.datagrams() {
                continue;
            }
            match handle.set_datagrams(rule, settings) {
                Ok(()) => tracing::info!(interface = %w.name, datagrams = ?rule, "filter changed"),
                Err(error) => {
                    tracing::warn!(interface = %w.name, %error, "its filter cannot be changed");
                }
            }
        }
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
}
