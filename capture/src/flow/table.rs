//! The flow table: all connections that are followed.
//!
//! Owns their number, and what a segment means for the table. Must never grow beyond its limits, or
//! read a clock.

mod expiry;
mod queue;
mod report;

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::answers::DnsAnswers;
use super::entry::{FlowEntry, PerEnd, TableRoom};
use super::hot::HotFlow;
use super::key::FlowKey;
use super::slots::FlowSlots;
use super::syns::{self, RecentSyns};
use super::{FlowConfig, ListeningPorts};
use crate::decode::Segment;
use crate::dns;
use crate::frame::Direction;
use crate::http::REQUESTS;
use crate::loss::CaptureCounters;
use crate::observation::{
    ConnectionNames, InterfaceId, Nanos, Observation, Orientation, Transport,
};
use crate::owners::InterfaceOwners;
use crate::skim::Skim;
use queue::ExpiryQueue;

/// Flows that begin with a forged segment and are remembered at a time, so that they are not
/// reported where they arrive.
const MAX_FORGED: usize = 8_192;

/// Flows for which address space is reserved at the beginning, at most.
const MAX_RESERVED: usize = 1 << 17;

/// All connections that are followed.
pub(crate) struct FlowTable {
    config: FlowConfig,
    listening: ListeningPorts,
    slots: FlowSlots,
    closed: ExpiryQueue,
    short: ExpiryQueue,
    long: ExpiryQueue,
    syns: RecentSyns,
    /// Heads that are being joined.
    heads: usize,
    /// Flows that began with a forged segment.
    forged: usize,
    /// Later hosts that are remembered, over all flows.
    later_hosts: usize,
    /// Slots of new flows, with the packet time of their first packet, and of reported flows with a
    /// new later host. Only for a source that does not end.
    fresh: VecDeque<(u32, Nanos)>,
    /// Latest packet time. Packet time that goes back expires nothing.
    high_water: Nanos,
    /// The last stamp of an entry of the expiry queues. None is used twice: when an entry comes to
    /// the front, its slot may be another flow's.
    stamp: u32,
}

impl FlowTable {
    pub(crate) fn new(config: FlowConfig, listening: ListeningPorts) -> Self {
        Self {
            slots: FlowSlots::new(config.max_flows.min(MAX_RESERVED)),
            config,
            listening,
            closed: ExpiryQueue::default(),
            short: ExpiryQueue::default(),
            long: ExpiryQueue::default(),
            syns: RecentSyns::default(),
            heads: 0,
            forged: 0,
            later_hosts: 0,
            fresh: VecDeque::new(),
            high_water: Nanos::MIN,
            stamp: 0,
        }
    }

    /// Replaces the listening ports. Also re-orients flows that were not reported yet and whose
    /// initiator was only a guess.
    pub(crate) fn set_listening(&mut self, listening: ListeningPorts, answers: &DnsAnswers) {
        self.listening = listening;
        for &(slot, _) in &self.fresh {
            let Some((hot, entry)) = self
                .slots
                .get(slot)
                .filter(|(_, e)| !e.reported && e.orientation >= Orientation::Guessed)
            else {
                continue;
            };
            let (from, to) = entry.ends(&hot.key);
            let Some(initiator) = self.listening_initiator(from, to) else { continue };
            let responder = if initiator == from { to } else { from };
            let dns = answers.names(initiator.ip(), responder.ip(), entry.first);
            if let Some((hot, entry)) = self.slots.get_mut(slot) {
                let names = ConnectionNames { dns, ..ConnectionNames::default() };
                entry.orient(&hot.key, initiator, names);
            }
        }
    }

    /// Hash of a key.
    #[inline]
    pub(crate) fn hash(&self, key: &FlowKey) -> u64 {
        self.slots.hash(key)
    }

    /// Slot of a flow whose hash is probably this one.
    #[inline]
    pub(crate) fn likely_slot(&self, hash: u64) -> Option<u32> {
        self.slots.likely_slot(hash)
    }

    /// Fetches the cache lines of flows before they are needed: of each its slot, and whether the
    /// packet is one that the fast path may count.
    #[inline]
    pub(crate) fn prefetch(&self, packets: impl Iterator<Item = (u32, bool)> + Clone) {
        self.slots.prefetch(packets);
    }

    /// Counts a packet that can change only counts. `None` where the flow is not found or may
    /// change, or where a later request may begin: then the caller decodes in full. Otherwise,
    /// whether it is a repeated sighting.
    #[inline]
    pub(crate) fn count_packet(
        &mut self,
        skim: &Skim,
        hash: u64,
        likely_slot: u32,
        time: Nanos,
        interface: InterfaceId,
    ) -> Option<bool> {
        let slot = if self.slots.hot(likely_slot).key == skim.key {
            likely_slot
        } else {
            self.slots.find(hash, &skim.key)?
        };
        let hot = self.slots.hot(slot);
        if !hot.counts_only
            || hot.packets == u32::MAX
            || hot.requests && REQUESTS.contains(&skim.begins)
        {
            return None;
        }
        self.high_water = self.high_water.max(time);
        Some(hot.count(time, interface))
    }

    /// Applies a segment to its flow, which it may begin.
    pub(crate) fn segment(
        &mut self,
        s: &Segment<'_>,
        (answers, owners): (&DnsAnswers, &InterfaceOwners),
        counters: &mut CaptureCounters,
        sink: &mut impl FnMut(Observation),
    ) {
        self.high_water = self.high_water.max(s.time);
        self.expire(counters, sink);
        let (key, _) = FlowKey::of(s.from, s.to, s.transport);
        let hash = self.slots.hash(&key);
        let opens = s.transport == Transport::Tcp && s.tcp.syn && !s.tcp.ack;
        let mut slot = self.slots.find(hash, &key);
        if let Some((old, entry)) =
            slot.filter(|_| opens).and_then(|old| Some((old, self.entry(old)?)))
        {
            if is_past(entry, s) {
                counters.repeated_sightings += 1;
                return;
            }
            // A forged SYN opens no other connection where it arrives.
            if is_reused(entry, s) && !(entry.forged && s.direction != Direction::Received) {
                self.remove(old, counters, sink);
                slot = None;
            }
        }
        let slot = match slot {
            Some(slot) => slot,
            None => self.insert(hash, key, s, opens, (answers, owners), counters, sink),
        };
        let room = TableRoom {
            head: self.heads < self.config.max_heads,
            host: self.later_hosts < self.config.max_later_hosts,
        };
        let Some((hot, entry)) = self.slots.get_mut(slot) else { return };
        let (was_closed, was_joining) = (entry.closed, entry.is_joining());
        let withheld = |entry: &FlowEntry| entry.forged || entry.is_initiator_unseen();
        let was_withheld = withheld(entry);
        let nameable = s.is_dns() || !self.config.live && !entry.names_final;
        counters.cut_payload += u64::from(s.cut && nameable);
        let change = entry.apply(hot, s, room);
        let (translated_duplicate, reported) = (entry.translated_duplicate, entry.reported);
        if self.config.live && !reported && was_withheld && !withheld(entry) {
            self.fresh.push_back((slot, s.time));
        }
        let closed_now = entry.closed && !was_closed;
        counters.repeated_sightings += u64::from(change.repeated || translated_duplicate);
        counters.incomplete_head += u64::from(change.head_incomplete && !translated_duplicate);
        counters.evicted_heads += u64::from(change.head_dropped && !translated_duplicate);
        counters.dropped_authorities += u64::from(change.host_dropped);
        if change.head_began {
            self.heads += 1;
        }
        if change.new_host {
            self.later_hosts += 1;
            if self.config.live && reported {
                self.fresh.push_back((slot, s.time));
            }
        }
        if was_joining && change.head_ended {
            self.heads -= 1;
        }
        if closed_now {
            self.schedule(slot);
        }
    }

    fn entry(&self, slot: u32) -> Option<&FlowEntry> {
        self.slots.get(slot).map(|(_, entry)| entry)
    }

    /// Records a segment that a pod sent with an address that is not its own. Where the same
    /// segment arrives, it looks genuine. A connection that was seen only so is never reported.
    pub(crate) fn forged(
        &mut self,
        s: &Segment<'_>,
        counters: &mut CaptureCounters,
        sink: &mut impl FnMut(Observation),
    ) {
        self.high_water = self.high_water.max(s.time);
        self.expire(counters, sink);
        let (key, _) = FlowKey::of(s.from, s.to, s.transport);
        let hash = self.slots.hash(&key);
        if let Some(slot) = self.slots.find(hash, &key) {
            if let Some((_, entry)) = self.slots.get_mut(slot)
                && !entry.is_initiator_seen()
            {
                entry.forged = true;
            }
            return;
        }
        if self.forged >= MAX_FORGED {
            return;
        }
        if self.slots.len() >= self.config.max_flows.max(1) {
            self.evict(counters, sink);
        }
        if s.transport == Transport::Tcp && s.tcp.syn && !s.tcp.ack {
            self.is_translated_duplicate(s);
        }
        let mut entry = FlowEntry::new(&key, s.from, Orientation::Guessed, s.time);
        (entry.forged, entry.began_forged) = (true, true);
        entry.isn = (s.transport == Transport::Tcp && s.tcp.syn && !s.tcp.ack).then_some(s.tcp.seq);
        self.forged += 1;
        let slot = self.slots.insert(hash, HotFlow::new(key, s.time, s.interface), entry);
        self.schedule(slot);
    }

    /// Marks a connection as answered. The segment is the answer to its SYN, seen where it arrives.
    pub(crate) fn accepted(&mut self, s: &Segment<'_>) {
        let (key, _) = FlowKey::of(s.from, s.to, s.transport);
        if let Some(slot) = self.slots.find(self.slots.hash(&key), &key)
            && let Some((hot, entry)) = self.slots.get_mut(slot)
        {
            entry.accepted(&hot.key, s);
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn insert(
        &mut self,
        hash: u64,
        key: FlowKey,
        s: &Segment<'_>,
        opens: bool,
        (answers, owners): (&DnsAnswers, &InterfaceOwners),
        counters: &mut CaptureCounters,
        sink: &mut impl FnMut(Observation),
    ) -> u32 {
        if self.slots.len() >= self.config.max_flows.max(1) {
            self.evict(counters, sink);
        }
        let (initiator, orientation) = self.orient(s);
        let mut entry = FlowEntry::new(&key, initiator, orientation, s.time);
        entry.translated_duplicate = opens && self.is_translated_duplicate(s);
        let responder = if initiator == s.from { s.to } else { s.from };
        let dns = answers.names(initiator.ip(), responder.ip(), s.time);
        entry.set_names(ConnectionNames { dns, ..ConnectionNames::default() });
        let mut hot = HotFlow::new(key, s.time, s.interface);
        if s.direction != Direction::Unknown {
            let watched = |end: SocketAddr| owners.sees_sending(end.ip(), s.time);
            let (low, high) = (watched(key.low_end()), watched(key.high_end()));
            entry.set_watched_sending(PerEnd { low, high });
        }
        entry.record_interface(&mut hot, s);
        let slot = self.slots.insert(hash, hot, entry);
        self.schedule(slot);
        if self.config.live {
            self.fresh.push_back((slot, s.time));
        }
        slot
    }

    fn orient(&self, s: &Segment<'_>) -> (SocketAddr, Orientation) {
        if s.transport == Transport::Tcp && s.tcp.syn {
            let initiator = if s.tcp.ack { s.to } else { s.from };
            return (initiator, Orientation::Handshake);
        }
        if s.transport == Transport::Udp
            && (s.from.port() == dns::PORT) != (s.to.port() == dns::PORT)
        {
            let initiator = if s.to.port() == dns::PORT { s.from } else { s.to };
            return (initiator, Orientation::Request);
        }
        if let Some(initiator) = self.listening_initiator(s.from, s.to) {
            return (initiator, Orientation::ListeningPort);
        }
        if s.transport == Transport::Udp {
            return guess_of_datagram(s.from, s.to);
        }
        let initiator = if s.from.port() < s.to.port() { s.to } else { s.from };
        (initiator, Orientation::Guessed)
    }

    /// The initiator, where something listens on exactly one side.
    fn listening_initiator(&self, from: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        let caller = |from_listens: bool, to_listens: bool| match (from_listens, to_listens) {
            (false, true) => Some(from),
            (true, false) => Some(to),
            _ => None,
        };
        let is_socket = |a: SocketAddr| self.listening.sockets.contains(&(a.ip(), a.port()));
        let is_port = |a: SocketAddr| self.listening.ports.contains(&a.port());
        caller(is_socket(from), is_socket(to)).or_else(|| caller(is_port(from), is_port(to)))
    }

    /// Whether this SYN was seen shortly before, and kube-proxy has translated its destination
    /// since. If the translated sighting was read first, the flow that it began becomes the
    /// translated duplicate.
    fn is_translated_duplicate(&mut self, s: &Segment<'_>) -> bool {
        let sighting = self.syns.insert(s.from, s.tcp.seq, (s.to, s.time));
        let (destination, time) = *sighting;
        if s.time.saturating_sub(time).abs() > syns::WINDOW_NANOS {
            *sighting = (s.to, s.time);
            return false;
        }
        if destination == s.to {
            sighting.1 = time.min(s.time);
            return false;
        }
        if time <= s.time {
            return true;
        }
        *sighting = (s.to, s.time);
        let translated = destination;
        let (key, _) = FlowKey::of(s.from, translated, s.transport);
        if let Some(slot) = self.slots.find(self.slots.hash(&key), &key)
            && let Some((_, entry)) = self.slots.get_mut(slot)
            && !entry.reported
        {
            entry.translated_duplicate = true;
        }
        false
    }

    /// Adapts all times, after the clock was set by `step` nanoseconds. Packet time continues from
    /// `now`, and all deadlines are computed anew. Flows that were not reported yet are reported
    /// with times of the new clock.
    pub(crate) fn rebase(&mut self, now: Nanos, step: Nanos) {
        self.high_water = now;
        let all: Vec<u32> = self.slots.iter().map(|(slot, _)| slot).collect();
        [&mut self.closed, &mut self.short, &mut self.long]
            .into_iter()
            .for_each(ExpiryQueue::clear);
        for slot in all {
            if let Some((hot, entry)) = self.slots.get_mut(slot) {
                hot.last = now;
                entry.rebase(now, step);
            }
            self.schedule(slot);
        }
        self.fresh.iter_mut().for_each(|(_, since)| *since = since.saturating_add(step).min(now));
        self.syns.rebase(now, step);
    }

    /// Heads that are still being joined.
    pub(crate) fn unfinished(&self) -> u64 {
        self.heads as u64
    }
}

/// The first ephemeral port: that of Linux (`net.ipv4.ip_local_port_range`). A client's port is
/// ephemeral, unless it has bound one.
const EPHEMERAL: u16 = 32_768;

/// Who calls, by the ports of a datagram. Any datagram of a flow may be the first that is seen, so
/// its sender says nothing.
fn guess_of_datagram(from: SocketAddr, to: SocketAddr) -> (SocketAddr, Orientation) {
    let is_ephemeral = |end: SocketAddr| end.port() >= EPHEMERAL;
    match (is_ephemeral(from), is_ephemeral(to)) {
        (true, false) => (from, Orientation::Guessed),
        (false, true) => (to, Orientation::Guessed),
        _ => (from, Orientation::Undecided),
    }
}

/// Whether this SYN belongs to an earlier connection on the same ports, and its interface was read
/// later.
fn is_past(entry: &FlowEntry, s: &Segment<'_>) -> bool {
    entry.isn.is_some_and(|isn| isn != s.tcp.seq) && s.time < entry.first
}

/// Whether this SYN opens another connection on the same ports.
fn is_reused(entry: &FlowEntry, s: &Segment<'_>) -> bool {
    match entry.isn {
        Some(isn) => isn != s.tcp.seq,
        // A SYN ends a connection joined midway, unless it is its own SYN from an interface that
        // was read later.
        None => s.time > entry.first,
    }
}
