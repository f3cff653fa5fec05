//! Totals per interface, and the addresses that its packets have in common.
//!
//! Owns the rule by which packets alone show the owner of an interface: one address is at an end of
//! nearly all of them. A few foreign packets, which a pod can forge, do not change that. Must never
//! read ports or payload.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::flow::key::FlowKey;
use crate::observation::{CommonAddress, InterfaceId, InterfaceSpan, Nanos};

/// One packet in this many may lack the common address of an interface.
const FOREIGN_ONE_IN: u64 = 20;
/// Addresses that are counted at a time, per family. An address at an end of more than two packets
/// in five is among them (Misra and Gries, "Finding repeated elements", 1982).
const MAX_CANDIDATES: usize = 4;
/// After so many packets without an address that half of them have, the search ends.
const TRIAL_PACKETS: u64 = 1_000;

/// An address that may be common to the packets of an interface.
#[derive(Clone, Copy, Debug)]
struct CommonCandidate {
    common: CommonAddress,
    /// Packets with it at an end, since it is counted.
    hits: u64,
    /// Packets without it until it is dropped.
    credit: u64,
}

/// The addresses of one family at the ends of an interface's packets.
#[derive(Debug, Default)]
struct EndAddresses {
    packets: u64,
    candidates: Vec<CommonCandidate>,
    /// The search for a common address has ended without one.
    abandoned: bool,
}

impl EndAddresses {
    #[inline]
    fn count(&mut self, from: IpAddr, to: IpAddr, hops: u8) {
        self.packets += 1;
        if self.abandoned {
            return;
        }
        let (mut found_from, mut found_to) = (false, from == to);
        for c in &mut self.candidates {
            let sent = c.common.address == from;
            let received = c.common.address == to;
            if !sent && !received {
                continue;
            }
            found_from |= sent;
            found_to |= received;
            c.hits += 1;
            c.credit += 1;
            if sent {
                count_hops(&mut c.common, hops);
            }
        }
        if !found_from {
            self.follow(from, Some(hops));
        }
        if !found_to {
            self.follow(to, None);
        }
        if self.packets == TRIAL_PACKETS {
            self.abandoned = self.candidates.iter().all(|c| c.hits < TRIAL_PACKETS / 2);
        }
    }

    /// Adds a candidate. `sent`: TTL or hop limit of the packet, where the address sent it.
    fn follow(&mut self, address: IpAddr, sent: Option<u8>) {
        if self.candidates.len() < MAX_CANDIDATES {
            let mut common = CommonAddress { address, unrouted: 0, routed: 0 };
            if let Some(hops) = sent {
                count_hops(&mut common, hops);
            }
            self.candidates.push(CommonCandidate { common, hits: 1, credit: 1 });
            return;
        }
        self.candidates.iter_mut().for_each(|c| c.credit -= 1);
        self.candidates.retain(|c| c.credit > 0);
    }

    /// The common addresses, and the number of packets with none of them.
    fn common(&self) -> (Vec<CommonAddress>, u64) {
        let most = self.candidates.iter().map(|c| c.hits).max().unwrap_or(0);
        let foreign = self.packets - most;
        if most == 0 || foreign * FOREIGN_ONE_IN > self.packets {
            return (Vec::new(), 0);
        }
        let all = self.candidates.iter().filter(|c| c.hits == most);
        (all.map(|c| c.common).collect(), foreign)
    }
}

/// Counts a packet as routed or not. Initial values of the operating systems in use: Linux and
/// macOS 64, Windows 128, network devices 255.
fn count_hops(common: &mut CommonAddress, hops: u8) {
    if matches!(hops, 64 | 128 | 255) {
        common.unrouted += 1;
    } else {
        common.routed += 1;
    }
}

#[derive(Debug)]
struct InterfaceTotals {
    id: InterfaceId,
    first: Nanos,
    last: Nanos,
    packets: u64,
    /// End addresses of IPv4, then of IPv6.
    ends: [EndAddresses; 2],
}

impl InterfaceTotals {
    fn span(&self) -> InterfaceSpan {
        let (common_v4, foreign_v4) = self.ends[0].common();
        let (common_v6, foreign_v6) = self.ends[1].common();
        InterfaceSpan {
            interface: self.id,
            first: self.first,
            last: self.last,
            packets: self.packets,
            lost: 0,
            common_v4,
            common_v6,
            owner: None,
            forged: foreign_v4 + foreign_v6,
            claimed: Vec::new(),
        }
    }
}

/// Totals of all interfaces, of a bounded number.
#[derive(Debug)]
pub(crate) struct InterfaceTable {
    index_of: HashMap<InterfaceId, u32>,
    all: Vec<InterfaceTotals>,
    /// The interface counted last. In a capture of one interface it is always this one.
    recent: Option<(InterfaceId, u32)>,
    limit: usize,
}

impl InterfaceTable {
    pub(crate) fn new(limit: usize) -> Self {
        Self { index_of: HashMap::new(), all: Vec::new(), recent: None, limit }
    }

    /// Counts a packet. True where its interface is one too many.
    pub(crate) fn count(
        &mut self,
        id: InterfaceId,
        time: Nanos,
        key: &FlowKey,
        from_low: bool,
        hops: u8,
    ) -> bool {
        let Some(interface) = self.count_packet(id, time) else { return true };
        let (from, to) = (key.address(from_low), key.address(!from_low));
        interface.ends[usize::from(key.is_v6())].count(from, to, hops);
        false
    }

    /// Counts a packet that is no evidence of the owner. True where its interface is one too many.
    pub(crate) fn count_forged(&mut self, id: InterfaceId, time: Nanos) -> bool {
        self.count_packet(id, time).is_none()
    }

    fn count_packet(&mut self, id: InterfaceId, time: Nanos) -> Option<&mut InterfaceTotals> {
        let at = match self.recent {
            Some((recent, at)) if recent == id => at as usize,
            _ => {
                let at = self.find(id, time)?;
                self.recent = Some((id, at as u32));
                at
            }
        };
        let interface = &mut self.all[at];
        interface.first = interface.first.min(time);
        interface.last = interface.last.max(time);
        interface.packets += 1;
        Some(interface)
    }

    fn find(&mut self, id: InterfaceId, time: Nanos) -> Option<usize> {
        if let Some(&at) = self.index_of.get(&id) {
            return Some(at as usize);
        }
        if self.all.len() >= self.limit {
            return None;
        }
        self.index_of.insert(id, self.all.len() as u32);
        let ends = Default::default();
        self.all.push(InterfaceTotals { id, first: time, last: time, packets: 0, ends });
        Some(self.all.len() - 1)
    }

    /// Removes an interface, and returns its totals.
    pub(crate) fn forget(&mut self, id: InterfaceId) -> Option<InterfaceSpan> {
        let at = self.index_of.remove(&id)? as usize;
        self.recent = None;
        let gone = self.all.swap_remove(at);
        if let Some(moved) = self.all.get(at) {
            self.index_of.insert(moved.id, at as u32);
        }
        Some(gone.span())
    }

    /// All totals, sorted by interface.
    pub(crate) fn report(&self) -> Vec<InterfaceSpan> {
        let mut all: Vec<InterfaceSpan> = self.all.iter().map(InterfaceTotals::span).collect();
        all.sort_by_key(|s| s.interface);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn ends(packets: &[(u8, u8)]) -> EndAddresses {
        let mut ends = EndAddresses::default();
        packets.iter().for_each(|(from, to)| ends.count(ip(*from), ip(*to), 64));
        ends
    }

    fn common(packets: &[(u8, u8)]) -> (Vec<IpAddr>, u64) {
        let (all, foreign) = ends(packets).common();
        (all.into_iter().map(|c| c.address).collect(), foreign)
    }

    #[test]
    fn one_conversation_has_two_common_addresses_and_a_second_one_decides() {
        assert_eq!(common(&[(1, 2), (2, 1)]), (vec![ip(1), ip(2)], 0));
        assert_eq!(common(&[(1, 2), (2, 1), (1, 3)]), (vec![ip(1)], 0));
        assert!(common(&[(1, 2), (3, 4)]).0.is_empty());
    }

    #[test]
    fn a_foreign_packet_at_any_position_changes_nothing() {
        let own: Vec<(u8, u8)> = (0..60).map(|n| (1, 10 + n % 7)).collect();
        for at in [0, 1, 30, 60] {
            let mut packets = own.clone();
            packets.insert(at, (200, 201));
            assert_eq!(common(&packets), (vec![ip(1)], 1), "foreign packet {at}");
        }
    }

    #[test]
    fn an_interface_with_packets_of_many_pods_has_no_common_address() {
        let mixed: Vec<(u8, u8)> =
            (0..3_000).map(|n| ((n % 5) as u8, 100 + (n % 7) as u8)).collect();
        assert!(common(&mixed).0.is_empty());
    }

    #[test]
    fn an_address_in_nine_of_ten_packets_is_not_common() {
        let two: Vec<(u8, u8)> =
            (0..1_000).map(|n| if n % 10 == 0 { (2, 9) } else { (1, 8) }).collect();
        assert!(common(&two).0.is_empty());
    }
}
