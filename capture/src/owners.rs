//! Whose a live interface is, and which frames on it cannot be its pod's.
//!
//! Owns the tie between an interface and the addresses behind it. It rests on what the node knows
//! (routes, neighbours) and on which addresses belong to one pod; only where the node tells nothing
//! it rests on the packets, and says so. Must never let a frame change a tie that rests on the
//! node's knowledge.

use std::net::IpAddr;
use std::sync::Arc;

use foldhash::HashMap;

use crate::frame::Direction;
use crate::observation::{InterfaceOwner, Nanos, OwnerEvidence};

/// Claimed addresses of forged frames that are remembered per interface, as examples.
const MAX_CLAIMED: usize = 4;

/// Packets from an address alone, after which no other interface is tied to it by packets.
const SURE_LEAD: u32 = 8;

/// What is to be done with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// It may be what it says.
    Fine,
    /// The pod behind the interface sent it with an address that is not its own.
    Forged,
    /// It arrives from an address behind another watched interface, which shows it as well: it is
    /// no evidence by itself, for anybody on the node may have sent it.
    Elsewhere,
}

/// Addresses of one pod, by each of them.
pub(crate) type PodGroups = HashMap<IpAddr, Arc<[IpAddr]>>;

/// An address that packets alone tie to an interface.
#[derive(Clone, Copy, Debug)]
struct PacketCandidate {
    address: IpAddr,
    /// How many more packets had it than had another one.
    lead: u32,
}

#[derive(Debug, Default)]
struct InterfaceTie {
    /// Since when all that its pod sends is seen.
    since: Nanos,
    /// What the node tells.
    evidence: Vec<(IpAddr, OwnerEvidence)>,
    /// What packets tell, for IPv4 and IPv6; used where the node tells nothing of a family.
    candidates: [Option<PacketCandidate>; 2],
    /// Addresses that its pod may send from.
    allowed: Vec<IpAddr>,
    /// They are all that the pod has: the cluster says so.
    complete: bool,
    by: Option<OwnerEvidence>,
    /// It is gone, and holds no address against others.
    released: bool,
    forged: u64,
    claimed: Vec<IpAddr>,
}

/// Ties of all watched interfaces.
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
    /// From this time on, all that the pod behind an interface sends is read.
    pub(crate) fn watch(&mut self, index: u32, since: Nanos) {
        let tie = self.ties.entry(index).or_default();
        (tie.since, tie.released) = (since, false);
        self.decide(index);
    }

    /// The other end of an interface is gone: its addresses may be another's at once. What is still
    /// read of it is its own.
    pub(crate) fn release(&mut self, index: u32) {
        if let Some(tie) = self.ties.get_mut(&index) {
            tie.released = true;
        }
        self.holders.retain(|_, i| *i != index);
    }

    /// An interface is gone.
    pub(crate) fn forget(&mut self, index: u32) {
        self.ties.remove(&index);
        self.holders.retain(|_, i| *i != index);
    }

    /// What the node tells of an interface now, in place of what it told before.
    pub(crate) fn set_evidence(&mut self, index: u32, evidence: Vec<(IpAddr, OwnerEvidence)>) {
        let Some(tie) = self.ties.get_mut(&index) else { return };
        if tie.evidence != evidence {
            tie.evidence = evidence;
            self.decide(index);
        }
    }

    /// Which addresses belong together, as the cluster tells.
    pub(crate) fn set_groups(&mut self, groups: PodGroups) {
        self.groups = groups;
        let mut all: Vec<u32> = self.ties.keys().copied().collect();
        all.sort_unstable();
        all.into_iter().for_each(|i| self.decide(i));
    }

    /// The clock was set by this much.
    pub(crate) fn rebase(&mut self, now: Nanos, step: Nanos) {
        for tie in self.ties.values_mut() {
            tie.since = tie.since.saturating_add(step).min(now);
        }
    }

    /// Computes anew from which addresses the pod behind an interface may send.
    fn decide(&mut self, index: u32) {
        let Some(tie) = self.ties.get_mut(&index) else { return };
        // All routes count: the node itself sends there what is for these addresses. Whatever
        // answers to the node's ARP may lie, so that it counts for less than having spoken first.
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
            // Routes may lead more addresses to a pod than the cluster tells of.
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

    /// Judges a frame by the interface that it was seen on and its sender.
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
            Direction::Received => self.sent(index, from),
        }
    }

    /// Whether all that this address sent at that time was seen on an interface of its own.
    #[inline]
    pub(crate) fn sees_sending(&self, address: IpAddr, time: Nanos) -> bool {
        let tie = self.holders.get(&address).and_then(|index| self.ties.get(index));
        tie.is_some_and(|t| t.since <= time)
    }

    /// Whether the pod behind an interface is known to send from this address, or no pod is behind
    /// it.
    #[inline]
    pub(crate) fn may_send(&self, index: u32, from: IpAddr) -> bool {
        self.ties.get(&index).is_none_or(|tie| tie.allowed.contains(&from))
    }

    fn sent(&mut self, index: u32, from: IpAddr) -> Judgement {
        let Some(tie) = self.ties.get_mut(&index) else { return Judgement::Fine };
        if tie.allowed.contains(&from) {
            if tie.by == Some(OwnerEvidence::Packets)
                && let Some(c) = &mut tie.candidates[family(from)]
            {
                c.lead = c.lead.saturating_add(u32::from(c.address == from));
            }
            return Judgement::Fine;
        }
        if self.claims(index, from) {
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

    /// Whether an interface is tied to an address by this packet, for nothing better is known.
    fn claims(&mut self, index: u32, from: IpAddr) -> bool {
        let holder = self.holders.get(&from).filter(|i| **i != index);
        // Another interface holds it: by the node's knowledge, or as it spoke first.
        let other = holder.and_then(|i| self.ties.get(i));
        let leads =
            |t: &InterfaceTie| t.candidates[family(from)].is_some_and(|c| c.lead >= SURE_LEAD);
        let strongly = other.is_some_and(|t| t.by > Some(OwnerEvidence::Packets) || leads(t));
        let other = other.is_some();
        let grouped = |a: &IpAddr| self.groups.contains_key(a);
        let is_pod_address = grouped(&from);
        let Some(tie) = self.ties.get_mut(&index) else { return false };
        let before = tie.candidates[family(from)];
        // A pod whose one packet was a lie is tied to another pod: it is known by what it goes on
        // with. Two make it that pod, for interfaces are not read in the order of time.
        let open = !tie.complete
            || tie.by == Some(OwnerEvidence::Packets)
                && is_pod_address
                && before.is_some_and(|c| c.lead <= 1);
        if strongly || !open || tie.evidence.iter().any(|(a, _)| family(*a) == family(from)) {
            return false;
        }
        let replace = match before {
            // Whoever has spoken as nobody else may be the one that another interface has claimed to
            // be in a few packets: both are heard then, as nothing tells which of them lies.
            None => true,
            Some(_) if other => false,
            Some(c) if c.lead <= 1 => true,
            // A pod of the cluster rather than an address that nobody knows.
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

    /// Whose an interface is.
    pub(crate) fn owner(&self, index: u32) -> Option<InterfaceOwner> {
        let tie = self.ties.get(&index)?;
        Some(InterfaceOwner { addresses: tie.allowed.clone(), by: tie.by? })
    }

    /// Forged frames of an interface since they were last taken, with addresses that they claimed.
    /// `None` of what is no live interface.
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
    fn behind_a_route_only_its_address_speaks() {
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
    fn the_addresses_of_one_pod_speak_together_and_no_other_of_any_family() {
        let mut owners = owners(&[(1, OWN, OwnerEvidence::Neighbour)]);
        assert!(sends(&mut owners, 1, "fd00::1"), "nothing is known of its IPv6 yet");
        let group: Arc<[IpAddr]> = [ip(OWN), ip("fd00::a")].into();
        owners.set_groups(group.iter().map(|a| (*a, Arc::clone(&group))).collect());
        assert!(sends(&mut owners, 1, "fd00::a"));
        assert!(!sends(&mut owners, 1, "fd00::1") && !sends(&mut owners, 1, "fd00::b"));
    }

    #[test]
    fn packets_tie_where_the_node_tells_nothing_and_one_foreign_packet_changes_nothing() {
        let mut owners = owners(&[]);
        assert!(sends(&mut owners, 2, OTHER));
        assert!((0..10).all(|_| sends(&mut owners, 1, OWN)));
        assert!(!sends(&mut owners, 1, OTHER) && !sends(&mut owners, 1, FAR));
        assert!(sends(&mut owners, 1, OWN));
        let owner = InterfaceOwner { addresses: vec![ip(OWN)], by: OwnerEvidence::Packets };
        assert_eq!(owners.owner(1), Some(owner));
        // Who spoke first keeps its address, however often another claims it.
        (0..1_000).for_each(|_| assert!(!sends(&mut owners, 1, OTHER)));
        assert!(sends(&mut owners, 2, OTHER));
    }

    #[test]
    fn a_pod_that_begins_with_a_lie_is_known_by_what_it_sends_most() {
        let mut owners = owners(&[]);
        assert!(sends(&mut owners, 1, FAR));
        assert!((0..5).any(|_| sends(&mut owners, 1, OWN)));
        assert_eq!(owners.owner(1).unwrap().addresses, [ip(OWN)]);
        assert!((0..5).all(|_| sends(&mut owners, 1, OWN)));
        assert!(!sends(&mut owners, 1, FAR));
    }

    #[test]
    fn a_pod_that_begins_as_another_pod_is_known_by_what_it_goes_on_with() {
        let mut owners = owners(&[]);
        let groups = [OWN, OTHER].map(|a| (ip(a), Arc::from([ip(a)])));
        owners.set_groups(groups.into_iter().collect());
        assert!(sends(&mut owners, 1, OTHER));
        assert!((0..5).any(|_| sends(&mut owners, 1, OWN)));
        assert_eq!(owners.owner(1).unwrap().addresses, [ip(OWN)]);
        assert!(sends(&mut owners, 2, OTHER) && !sends(&mut owners, 1, OTHER));
    }

    #[test]
    fn a_pod_that_has_spoken_twice_is_no_other_pod_though_that_one_was_not_read_yet() {
        let mut owners = owners(&[]);
        let groups = [OWN, OTHER].map(|a| (ip(a), Arc::from([ip(a)])));
        owners.set_groups(groups.into_iter().collect());
        assert!(sends(&mut owners, 1, OWN) && sends(&mut owners, 1, OWN));
        assert!((0..100).all(|_| !sends(&mut owners, 1, OTHER)));
        assert!(sends(&mut owners, 2, OTHER) && sends(&mut owners, 1, OWN));
    }

    #[test]
    fn what_arrives_from_an_address_that_is_watched_is_no_evidence() {
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
        assert!(sends(&mut owners, 2, OTHER), "what is read of it at last is its own");
    }

    #[test]
    fn an_address_may_be_anothers_as_soon_as_its_interface_is_gone() {
        let mut owners = owners(&[]);
        assert!((0..20).all(|_| sends(&mut owners, 2, OTHER)));
        assert!(sends(&mut owners, 1, FAR), "it begins as nobody");
        owners.release(2);
        owners.watch(3, 0);
        assert!(sends(&mut owners, 3, OTHER) && sends(&mut owners, 2, OTHER));
        owners.forget(2);
        assert!(owners.sees_sending(ip(OTHER), 5), "the new one holds it");
    }
}
