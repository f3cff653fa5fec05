//! Owners of live interfaces, and frames that their pods cannot have sent.
//!
//! Owns the tie between an interface and the addresses behind it. The tie comes from the node's
//! routes and neighbours, and from the addresses that belong to one pod. Only where the node has no
//! evidence it comes from packets, and is marked so. Must never let a frame change a tie that comes
//! from the node's evidence.

use std::net::IpAddr;
use std::sync::Arc;

use foldhash::HashMap;

use crate::frame::Direction;
use crate::observation::{InterfaceOwner, Nanos, OwnerEvidence};

/// Addresses claimed by forged frames that are remembered per interface, as examples.
const MAX_CLAIMED: usize = 4;

/// Lead in packets from which on packets tie no other interface to the address.
const SURE_LEAD: u32 = 8;

/// Whether a frame is evidence of what it claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// Nothing speaks against its addresses.
    Fine,
    /// The pod behind the interface sent it with an address that is not its own.
    Forged,
    /// It arrives from an address behind another watched interface, which shows the frame as well.
    /// By itself it is no evidence, since any pod on the node may have sent it.
    Elsewhere,
}

/// All addresses of a pod, by each of its addresses.
pub(crate) type PodGroups = HashMap<IpAddr, Arc<[IpAddr]>>;

/// An address that packets alone tie to an interface.
#[derive(Clone, Copy, Debug)]
struct PacketCandidate {
    address: IpAddr,
    /// Packets with it, minus packets with another address.
    lead: u32,
}

/// The tie between one interface and the addresses behind it.
#[derive(Debug, Default)]
struct InterfaceTie {
    /// Packet time since when all frames that its pod sends are seen.
    since: Nanos,
    /// The node's evidence.
    evidence: Vec<(IpAddr, OwnerEvidence)>,
    /// Evidence of packets, for IPv4 and IPv6. Used where the node has none for the family.
    candidates: [Option<PacketCandidate>; 2],
    /// Addresses that its pod may send from.
    allowed: Vec<IpAddr>,
    /// The cluster lists all addresses of the pod.
    complete: bool,
    by: Option<OwnerEvidence>,
    /// Its other end is gone, so that other interfaces may have its addresses.
    released: bool,
    forged: u64,
    claimed: Vec<IpAddr>,
}

/// Ties of all watched interfaces, by the kernel's index.
#[derive(Debug, Default)]
pub(crate) struct InterfaceOwners {
    ties: HashMap<u32, InterfaceTie>,
    holders: HashMap<IpAddr, u32>,
    groups: PodGroups,
}

fn family(address: IpAddr) -> usize {
    usize::from(address.is_ipv6())
}

impl InterfaceOwners {
    /// Declares that from packet time `since` on, all frames that the pod behind an interface sends
    /// are read.
    pub(crate) fn watch(&mut self, index: u32, since: Nanos) {
        let tie = self.ties.entry(index).or_default();
        (tie.since, tie.released) = (since, false);
        self.decide(index);
    }

    /// Declares that the other end of an interface is gone. Another interface may have its
    /// addresses at once. Frames that are still read on it are its pod's.
    pub(crate) fn release(&mut self, index: u32) {
        if let Some(tie) = self.ties.get_mut(&index) {
            tie.released = true;
        }
        self.holders.retain(|_, i| *i != index);
    }

    /// Removes an interface.
    pub(crate) fn forget(&mut self, index: u32) {
        self.ties.remove(&index);
        self.holders.retain(|_, i| *i != index);
    }

    /// Replaces the node's evidence of an interface.
    pub(crate) fn set_evidence(&mut self, index: u32, evidence: Vec<(IpAddr, OwnerEvidence)>) {
        let Some(tie) = self.ties.get_mut(&index) else { return };
        if tie.evidence != evidence {
            tie.evidence = evidence;
            self.decide(index);
        }
    }

    /// Replaces the addresses of the cluster's pods.
    pub(crate) fn set_groups(&mut self, groups: PodGroups) {
        self.groups = groups;
        let mut all: Vec<u32> = self.ties.keys().copied().collect();
        all.sort_unstable();
        all.into_iter().for_each(|i| self.decide(i));
    }

    /// Adapts all times, after the clock was set by `step` nanoseconds to `now`.
    pub(crate) fn rebase(&mut self, now: Nanos, step: Nanos) {
        for tie in self.ties.values_mut() {
            tie.since = tie.since.saturating_add(step).min(now);
        }
    }

    /// Decides anew from which addresses the pod behind an interface may send.
    fn decide(&mut self, index: u32) {
        let Some(tie) = self.ties.get_mut(&index) else { return };
        // All routes are valid: the node itself sends packets for these addresses there. An answer
        // to the node's ARP may be a lie, so it is weaker than having sent first.
        let holders = &self.holders;
        let candidates = tie.candidates;
        let lies = |(address, by): &(IpAddr, OwnerEvidence)| {
            let sure = candidates[family(*address)].filter(|c| c.lead >= SURE_LEAD);
            *by == OwnerEvidence::Neighbour
                && (sure.is_some_and(|c| c.address != *address)
                    || holders.get(address).is_some_and(|i| *i != index))
        };
        tie.evidence.retain(|e| !lies(e));
        let mut own: Vec<IpAddr> = tie.evidence.iter().map(|(a, _)| *a).collect();
        let mut by = tie.evidence.iter().map(|(_, by)| *by).max();
        for candidate in tie.candidates.iter().flatten() {
            let covered = own.iter().any(|a| family(*a) == family(candidate.address));
            if !covered {
                own.push(candidate.address);
                by = by.or(Some(OwnerEvidence::Packets));
            }
        }
        let group = own.iter().find_map(|a| self.groups.get(a));
        tie.complete = group.is_some();
        if let Some(group) = group {
            // Routes may lead more addresses to a pod than the cluster lists.
            let routes = tie.evidence.iter().filter(|(_, by)| *by == OwnerEvidence::Route);
            own = routes.map(|(a, _)| *a).chain(group.iter().copied()).collect();
        }
        own.sort_unstable();
        own.dedup();
        tie.by = by;
        tie.allowed = own;
        self.holders.retain(|_, i| *i != index);
        let strong = by.is_some_and(|b| b > OwnerEvidence::Packets);
        if self.ties[&index].released {
            return;
        }
        for address in self.ties[&index].allowed.clone() {
            if strong || !self.holders.contains_key(&address) {
                self.holders.insert(address, index);
            }
        }
    }

    /// Judges a frame by its sender and the interface that it was seen on.
    #[inline]
    pub(crate) fn judge(
        &mut self,
        index: u32,
        direction: Direction,
        from: IpAddr,
        time: Nanos,
    ) -> Judgement {
        match direction {
            Direction::Unknown => Judgement::Fine,
            Direction::Sent if self.sees_sending(from, time) => Judgement::Elsewhere,
            Direction::Sent => Judgement::Fine,
            Direction::Received => self.judge_sent(index, from),
        }
    }

    /// Whether all frames that this address sends at this packet time are seen on its own
    /// interface.
    #[inline]
    pub(crate) fn sees_sending(&self, address: IpAddr, time: Nanos) -> bool {
        let tie = self.holders.get(&address).and_then(|index| self.ties.get(index));
        tie.is_some_and(|t| t.since <= time)
    }

    /// Whether the pod behind an interface may send from this address. True where no pod is behind
    /// the interface.
    #[inline]
    pub(crate) fn may_send(&self, index: u32, from: IpAddr) -> bool {
        self.ties.get(&index).is_none_or(|tie| tie.allowed.contains(&from))
    }

    fn judge_sent(&mut self, index: u32, from: IpAddr) -> Judgement {
        let Some(tie) = self.ties.get_mut(&index) else { return Judgement::Fine };
        if tie.allowed.contains(&from) {
            if tie.by == Some(OwnerEvidence::Packets)
                && let Some(c) = &mut tie.candidates[family(from)]
            {
                c.lead = c.lead.saturating_add(u32::from(c.address == from));
            }
            return Judgement::Fine;
        }
        if self.tie_by_packet(index, from) {
            self.decide(index);
            return Judgement::Fine;
        }
        if let Some(tie) = self.ties.get_mut(&index) {
            tie.forged += 1;
            if tie.claimed.len() < MAX_CLAIMED && !tie.claimed.contains(&from) {
                tie.claimed.push(from);
            }
        }
        Judgement::Forged
    }

    /// Counts a packet as evidence, where there is nothing better. True where it ties the interface
    /// to the address.
    fn tie_by_packet(&mut self, index: u32, from: IpAddr) -> bool {
        let holder = self.holders.get(&from).filter(|i| **i != index);
        // Another interface has the address: by the node's evidence, or because it sent first.
        let other = holder.and_then(|i| self.ties.get(i));
        let leads =
            |t: &InterfaceTie| t.candidates[family(from)].is_some_and(|c| c.lead >= SURE_LEAD);
        let strongly = other.is_some_and(|t| t.by > Some(OwnerEvidence::Packets) || leads(t));
        let other = other.is_some();
        let grouped = |a: &IpAddr| self.groups.contains_key(a);
        let is_pod_address = grouped(&from);
        let Some(tie) = self.ties.get_mut(&index) else { return false };
        let before = tie.candidates[family(from)];
        // A pod that begins with one forged packet is tied to another pod's address, until its
        // later packets correct that. Two packets are enough to be that pod, since interfaces are
        // not read in the order of time.
        let open = !tie.complete
            || tie.by == Some(OwnerEvidence::Packets)
                && is_pod_address
                && before.is_some_and(|c| c.lead <= 1);
        if strongly || !open || tie.evidence.iter().any(|(a, _)| family(*a) == family(from)) {
            return false;
        }
        let replace = match before {
            // A few packets of another interface may have claimed this address. Both are accepted
            // then, since nothing shows which of them is forged.
            None => true,
            Some(_) if other => false,
            Some(c) if c.lead <= 1 => true,
            // The address of a pod of the cluster is preferred to an unknown one.
            Some(c) => is_pod_address && !self.groups.contains_key(&c.address),
        };
        let candidate = &mut tie.candidates[family(from)];
        match candidate {
            _ if replace => *candidate = Some(PacketCandidate { address: from, lead: 1 }),
            Some(c) => c.lead = c.lead.saturating_sub(1),
            None => {}
        }
        replace
    }

    /// The owner of an interface.
    pub(crate) fn owner(&self, index: u32) -> Option<InterfaceOwner> {
        let tie = self.ties.get(&index)?;
        Some(InterfaceOwner { addresses: tie.allowed.clone(), by: tie.by? })
    }

    /// Number of forged frames of an interface since the last call, with addresses that they
    /// claimed. `None` where it is no live interface.
    pub(crate) fn take_forged(&mut self, index: u32) -> Option<(u64, Vec<IpAddr>)> {
        let tie = self.ties.get_mut(&index)?;
        Some((std::mem::take(&mut tie.forged), std::mem::take(&mut tie.claimed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "10.0.0.1";
    const OTHER: &str = "10.0.0.2";
    const FAR: &str = "10.9.9.9";

    fn ip(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    fn owners(evidence: &[(u32, &str, OwnerEvidence)]) -> InterfaceOwners {
        let mut owners = InterfaceOwners::default();
        for index in [1, 2] {
            owners.watch(index, 0);
            let of = evidence.iter().filter(|(i, ..)| *i == index);
            owners.set_evidence(index, of.map(|(_, a, by)| (ip(a), *by)).collect());
        }
        owners
    }

    fn sends(owners: &mut InterfaceOwners, index: u32, from: &str) -> bool {
        owners.judge(index, Direction::Received, ip(from), 5) == Judgement::Fine
    }

    #[test]
    fn only_the_address_of_a_route_or_neighbour_may_send() {
        for by in [OwnerEvidence::Route, OwnerEvidence::Neighbour] {
            let mut owners = owners(&[(1, OWN, by), (2, OTHER, by)]);
            assert!(sends(&mut owners, 1, OWN));
            for _ in 0..1_000 {
                assert!(!sends(&mut owners, 1, OTHER) && !sends(&mut owners, 1, FAR));
            }
            assert!(sends(&mut owners, 1, OWN) && sends(&mut owners, 2, OTHER));
            assert_eq!(owners.take_forged(1), Some((2_000, vec![ip(OTHER), ip(FAR)])));
            assert_eq!(owners.take_forged(1), Some((0, vec![])));
            assert_eq!(owners.owner(1), Some(InterfaceOwner { addresses: vec![ip(OWN)], by }));
        }
    }

    #[test]
    fn all_addresses_of_one_pod_may_send_and_no_other_of_any_family() {
        let mut owners = owners(&[(1, OWN, OwnerEvidence::Neighbour)]);
        assert!(sends(&mut owners, 1, "fd00::1"), "there is no evidence of its IPv6 address yet");
        let group: Arc<[IpAddr]> = [ip(OWN), ip("fd00::a")].into();
        owners.set_groups(group.iter().map(|a| (*a, Arc::clone(&group))).collect());
        assert!(sends(&mut owners, 1, "fd00::a"));
        assert!(!sends(&mut owners, 1, "fd00::1") && !sends(&mut owners, 1, "fd00::b"));
    }

    #[test]
    fn packets_tie_without_evidence_of_the_node_and_a_foreign_packet_changes_nothing() {
        let mut owners = owners(&[]);
        assert!(sends(&mut owners, 2, OTHER));
        assert!((0..10).all(|_| sends(&mut owners, 1, OWN)));
        assert!(!sends(&mut owners, 1, OTHER) && !sends(&mut owners, 1, FAR));
        assert!(sends(&mut owners, 1, OWN));
        let owner = InterfaceOwner { addresses: vec![ip(OWN)], by: OwnerEvidence::Packets };
        assert_eq!(owners.owner(1), Some(owner));
        // The interface that sent first has the address, however often another claims it.
        (0..1_000).for_each(|_| assert!(!sends(&mut owners, 1, OTHER)));
        assert!(sends(&mut owners, 2, OTHER));
    }

    #[test]
    fn a_forged_first_packet_is_corrected_by_later_packets() {
        let mut owners = owners(&[]);
        assert!(sends(&mut owners, 1, FAR));
        assert!((0..5).any(|_| sends(&mut owners, 1, OWN)));
        assert_eq!(owners.owner(1).unwrap().addresses, [ip(OWN)]);
        assert!((0..5).all(|_| sends(&mut owners, 1, OWN)));
        assert!(!sends(&mut owners, 1, FAR));
    }

    #[test]
    fn a_first_packet_with_another_pods_address_is_corrected_by_later_packets() {
        let mut owners = owners(&[]);
        let groups = [OWN, OTHER].map(|a| (ip(a), Arc::from([ip(a)])));
        owners.set_groups(groups.into_iter().collect());
        assert!(sends(&mut owners, 1, OTHER));
        assert!((0..5).any(|_| sends(&mut owners, 1, OWN)));
        assert_eq!(owners.owner(1).unwrap().addresses, [ip(OWN)]);
        assert!(sends(&mut owners, 2, OTHER) && !sends(&mut owners, 1, OTHER));
    }

    #[test]
    fn two_packets_tie_a_pod_before_another_pod_was_read() {
        let mut owners = owners(&[]);
        let groups = [OWN, OTHER].map(|a| (ip(a), Arc::from([ip(a)])));
        owners.set_groups(groups.into_iter().collect());
        assert!(sends(&mut owners, 1, OWN) && sends(&mut owners, 1, OWN));
        assert!((0..100).all(|_| !sends(&mut owners, 1, OTHER)));
        assert!(sends(&mut owners, 2, OTHER) && sends(&mut owners, 1, OWN));
    }

    #[test]
    fn a_frame_that_arrives_from_a_watched_address_is_no_evidence() {
        let mut owners = owners(&[(2, OTHER, OwnerEvidence::Route)]);
        owners.watch(2, 100);
        let arrives = |owners: &mut InterfaceOwners, from, time| {
            owners.judge(1, Direction::Sent, ip(from), time)
        };
        assert_eq!(arrives(&mut owners, OTHER, 99), Judgement::Fine, "it was not watched yet");
        assert_eq!(arrives(&mut owners, OTHER, 100), Judgement::Elsewhere);
        assert_eq!(arrives(&mut owners, FAR, 100), Judgement::Fine);
        owners.release(2);
        assert_eq!(arrives(&mut owners, OTHER, 100), Judgement::Fine);
        assert!(sends(&mut owners, 2, OTHER), "its last frames are its own");
    }

    #[test]
    fn another_interface_may_have_an_address_once_its_interface_is_gone() {
        let mut owners = owners(&[]);
        assert!((0..20).all(|_| sends(&mut owners, 2, OTHER)));
        assert!(sends(&mut owners, 1, FAR), "its first packet is forged");
        owners.release(2);
        owners.watch(3, 0);
        assert!(sends(&mut owners, 3, OTHER) && sends(&mut owners, 2, OTHER));
        owners.forget(2);
        assert!(owners.sees_sending(ip(OTHER), 5), "the new interface has it");
    }
}
