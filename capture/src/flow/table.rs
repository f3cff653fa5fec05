//! The bounded table of flows, with expiry on packet time.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;

use super::answers::DnsAnswers;
use super::entry::{FlowEntry, TableRoom};
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

/// Interfaces are read one after the other, each of them late by as much as the kernel holds
/// packets back. So long it is open which of two sightings came first.
const LATE: i64 = 300_000_000;

/// Flows that begin with a forged segment and are remembered at once, so that they are not told
/// where they arrive.
const MAX_FORGED: usize = 8_192;

/// Flows that room is reserved for at once, at most.
const EXPECTED: usize = 1 << 17;

/// Slot and stamp of an entry that is due at a time, in three classes so that each queue is nearly
/// sorted by time.
type ExpiryQueue = VecDeque<(Nanos, u32, u32)>;

pub(crate) struct FlowTable {
    config: FlowConfig,
    known: ListeningPorts,
    slots: FlowSlots,
    closed: ExpiryQueue,
    short: ExpiryQueue,
    long: ExpiryQueue,
    syns: RecentSyns,
    heads: usize,
    /// Flows that began with a forged segment.
    forged: usize,
    /// Hosts of later requests that are remembered.
    further: usize,
    /// Flows not told yet, with the time of their first packet as it was noted, and told ones with
    /// a further host that is not; only where they are asked for.
    fresh: VecDeque<(u32, Nanos)>,
    /// Latest packet time: time that steps back expires nothing.
    high_water: Nanos,
    /// The last one given to an entry of a queue. None is given twice: a slot may be another flow's
    /// by the time that an entry comes to the front.
    stamp: u32,
}

impl FlowTable {
    pub(crate) fn new(config: FlowConfig, known: ListeningPorts) -> Self {
        Self {
            slots: FlowSlots::new(config.max_flows.min(EXPECTED)),
            config,
            known,
            closed: ExpiryQueue::new(),
            short: ExpiryQueue::new(),
            long: ExpiryQueue::new(),
            syns: RecentSyns::default(),
            heads: 0,
            forged: 0,
            further: 0,
            fresh: VecDeque::new(),
            high_water: Nanos::MIN,
            stamp: 0,
        }
    }

    /// Also for flows that were not told yet, and for which nothing better was known.
    pub(crate) fn set_known(&mut self, known: ListeningPorts, answers: &DnsAnswers) {
        self.known = known;
        for &(slot, _) in &self.fresh {
            let Some((hot, entry)) = self
                .slots
                .get(slot)
                .filter(|(_, e)| !e.told && e.orientation == Orientation::Guessed)
            else {
                continue;
            };
            let (from, to) = entry.ends(&hot.key);
            let Some(initiator) = self.listened(from, to) else { continue };
            let responder = if initiator == from { to } else { from };
            let dns = answers.names(initiator.ip(), responder.ip(), entry.first);
            if let Some((_, entry)) = self.slots.get_mut(slot) {
                entry.orient(initiator, ConnectionNames { dns, ..ConnectionNames::default() });
            }
        }
    }

    /// Hash of a key.
    #[inline]
    pub(crate) fn hash(&self, key: &FlowKey) -> u64 {
        self.slots.hash(key)
    }

    /// The slot that is probably that of the flow of this hash.
    #[inline]
    pub(crate) fn likely(&self, hash: u64) -> Option<u32> {
        self.slots.likely(hash)
    }

    /// Brings a flow near.
    #[inline]
    pub(crate) fn touch(&self, slot: u32) -> u32 {
        self.slots.touch(slot)
    }

    /// Counts a packet of a settled flow; `None` where the flow is unknown or may still change, or
    /// a further request may begin: the caller decodes in full. Else whether it was seen before on
    /// another interface.
    #[inline]
    pub(crate) fn bump(
        &mut self,
        skim: &Skim,
        hash: u64,
        likely: u32,
        time: Nanos,
        interface: InterfaceId,
    ) -> Option<bool> {
        let slot = if self.slots.hot(likely).key == skim.key {
            likely
        } else {
            self.slots.find(hash, &skim.key)?
        };
        let hot = self.slots.hot(slot);
        if !hot.settled
            || hot.packets == u32::MAX
            || hot.requests && REQUESTS.contains(&skim.begins)
        {
            return None;
        }
        self.high_water = self.high_water.max(time);
        Some(hot.count(time, interface))
    }

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
            // Where a forged SYN arrives it is none of another connection.
            if reused(entry, s) && !(entry.forged && s.direction != Direction::Received) {
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
            host: self.further < self.config.max_further,
        };
        let Some((hot, entry)) = self.slots.get_mut(slot) else { return };
        let (was_closed, was_joining) = (entry.closed, entry.joining());
        let kept_back =
            |hot: &HotFlow, entry: &FlowEntry| entry.forged || entry.is_unheard(&hot.key);
        let was_kept_back = kept_back(hot, entry);
        let nameable = s.is_dns() || !self.config.live && !entry.settled;
        counters.cut_payload += u64::from(s.cut && nameable);
        let change = entry.take(hot, s, room);
        let (twin, told) = (entry.twin, entry.told);
        if self.config.live && !told && was_kept_back && !kept_back(hot, entry) {
            self.fresh.push_back((slot, s.time));
        }
        let closed_now = entry.closed && !was_closed;
        counters.repeated_sightings += u64::from(change.repeated || twin);
        counters.incomplete_head += u64::from(change.head_incomplete && !twin);
        counters.evicted_heads += u64::from(change.head_dropped && !twin);
        counters.dropped_authorities += u64::from(change.further_dropped);
        if change.head_began {
            self.heads += 1;
        }
        if change.further {
            self.further += 1;
            if self.config.live && told {
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

    /// Takes in a segment that a pod sent with the address of another. The same segment may be seen
    /// where it arrives, which looks genuine: what is only seen so is never told.
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
            if let Some((hot, entry)) = self.slots.get_mut(slot)
                && !entry.is_heard(&hot.key)
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
            self.is_twin(s);
        }
        let mut entry = FlowEntry::new(s.from, Orientation::Guessed, s.time);
        (entry.forged, entry.began_forged) = (true, true);
        entry.isn = (s.transport == Transport::Tcp && s.tcp.syn && !s.tcp.ack).then_some(s.tcp.seq);
        self.forged += 1;
        let slot = self.slots.insert(hash, HotFlow::new(key, s.time, s.interface), entry);
        self.schedule(slot);
    }

    /// The answer to a SYN, seen where it arrives.
    pub(crate) fn accepted(&mut self, s: &Segment<'_>) {
        let (key, _) = FlowKey::of(s.from, s.to, s.transport);
        if let Some(slot) = self.slots.find(self.slots.hash(&key), &key)
            && let Some((_, entry)) = self.slots.get_mut(slot)
        {
            entry.accepted(s);
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
        let mut entry = FlowEntry::new(initiator, orientation, s.time);
        entry.twin = opens && self.is_twin(s);
        let responder = if initiator == s.from { s.to } else { s.from };
        let dns = answers.names(initiator.ip(), responder.ip(), s.time);
        entry.set_names(ConnectionNames { dns, ..ConnectionNames::default() });
        let mut hot = HotFlow::new(key, s.time, s.interface);
        if s.direction != Direction::Unknown {
            let hearable = |low| owners.is_heard(key.address(low), s.time);
            entry.set_hearable((hearable(true), hearable(false)));
        }
        entry.place(&mut hot, s);
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
        if let Some(initiator) = self.listened(s.from, s.to) {
            return (initiator, Orientation::ListeningPort);
        }
        let initiator = if s.from.port() < s.to.port() && s.transport != Transport::Udp {
            s.to
        } else {
            s.from
        };
        (initiator, Orientation::Guessed)
    }

    /// The initiator, where exactly one side is known to listen.
    fn listened(&self, from: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        let sides = |listens: &dyn Fn(SocketAddr) -> bool| match (listens(from), listens(to)) {
            (false, true) => Some(from),
            (true, false) => Some(to),
            _ => None,
        };
        let sockets: &HashSet<_> = &self.known.sockets;
        sides(&|a| sockets.contains(&(a.ip(), a.port())))
            .or_else(|| sides(&|a| self.known.ports.contains(&a.port())))
    }

    /// Whether this SYN is one that was seen just before, now on its way to where kube-proxy
    /// translated its destination. Where that way was seen first, what was taken for the original
    /// becomes the twin.
    fn is_twin(&mut self, s: &Segment<'_>) -> bool {
        let known = self.syns.note(s.from, s.tcp.seq, (s.to, s.time));
        if s.time.saturating_sub(known.1).abs() > syns::WINDOW {
            *known = (s.to, s.time);
            return false;
        }
        if known.0 == s.to {
            known.1 = known.1.min(s.time);
            return false;
        }
        if known.1 <= s.time {
            return true;
        }
        let (translated, _) = std::mem::replace(known, (s.to, s.time));
        let (key, _) = FlowKey::of(s.from, translated, s.transport);
        if let Some(slot) = self.slots.find(self.slots.hash(&key), &key)
            && let Some((_, entry)) = self.slots.get_mut(slot)
            && !entry.told
        {
            entry.twin = true;
        }
        false
    }

    fn deadline(&self, slot: u32) -> Option<(Nanos, ExpiryClass)> {
        let (hot, entry) = self.slots.get(slot)?;
        // Where a call arrives, its end is not kept.
        let (idle, class) = if entry.closed
            || entry.forged
            || entry.arrives(&hot.key)
            || self.config.live && entry.twin
        {
            (self.config.linger, ExpiryClass::Closed)
        } else if !entry.answered || hot.key.transport() != Transport::Tcp {
            (self.config.idle_short, ExpiryClass::Short)
        } else {
            (self.config.idle_established, ExpiryClass::Long)
        };
        Some((hot.last.saturating_add(idle), class))
    }

    fn schedule(&mut self, slot: u32) {
        let Some((due, class)) = self.deadline(slot) else { return };
        self.stamp = self.stamp.wrapping_add(1);
        let stamp = self.stamp;
        let Some((_, entry)) = self.slots.get_mut(slot) else { return };
        entry.stamp = stamp;
        self.queue(class).push_back((due, slot, stamp));
        self.tidy(class);
    }

    /// Takes entries out of a queue whose flows are gone or have another entry. Those in front go
    /// by themselves, but behind one that is not due yet there may be any number.
    fn tidy(&mut self, class: ExpiryClass) {
        /// Entries beyond those that flows need before it is worth looking.
        const SPARE: usize = 1_024;
        if self.queue(class).len() <= 2 * self.config.max_flows + SPARE {
            return;
        }
        let mut queue = std::mem::take(self.queue(class));
        queue.retain(|(_, slot, stamp)| self.entry(*slot).is_some_and(|e| e.stamp == *stamp));
        *self.queue(class) = queue;
    }

    fn queue(&mut self, class: ExpiryClass) -> &mut ExpiryQueue {
        match class {
            ExpiryClass::Closed => &mut self.closed,
            ExpiryClass::Short => &mut self.short,
            ExpiryClass::Long => &mut self.long,
        }
    }

    fn expire(&mut self, counters: &mut CaptureCounters, sink: &mut impl FnMut(Observation)) {
        for class in [ExpiryClass::Closed, ExpiryClass::Short, ExpiryClass::Long] {
            while let Some(&(due, slot, stamp)) = self.queue(class).front() {
                let valid = self.entry(slot).is_some_and(|e| e.stamp == stamp);
                if valid && due > self.high_water {
                    break;
                }
                self.queue(class).pop_front();
                if !valid {
                    continue;
                }
                // Packets since it was queued may have moved its deadline.
                if self.deadline(slot).is_some_and(|(due, _)| due > self.high_water) {
                    self.schedule(slot);
                } else {
                    self.remove(slot, counters, sink);
                }
            }
        }
    }

    /// Makes room: the flow that is due first goes, closed ones before others.
    fn evict(&mut self, counters: &mut CaptureCounters, sink: &mut impl FnMut(Observation)) {
        /// An active flow may stand at the head of its queue: it is queued anew this often before
        /// one goes all the same.
        const PATIENCE: usize = 16;
        let mut tried = 0;
        for class in [ExpiryClass::Closed, ExpiryClass::Short, ExpiryClass::Long] {
            while let Some((due, slot, stamp)) = self.queue(class).pop_front() {
                if self.entry(slot).is_none_or(|e| e.stamp != stamp) {
                    continue;
                }
                tried += 1;
                let over = class == ExpiryClass::Closed;
                if self.deadline(slot).is_some_and(|(now, _)| now > due) && tried < PATIENCE {
                    self.schedule(slot);
                    continue;
                }
                counters.evicted_flows += u64::from(!over);
                return self.remove(slot, counters, sink);
            }
        }
    }

    fn remove(
        &mut self,
        slot: u32,
        counters: &mut CaptureCounters,
        sink: &mut impl FnMut(Observation),
    ) {
        let Some((mut hot, mut entry)) = self.slots.remove(slot) else { return };
        if entry.joining() {
            self.heads -= 1;
            counters.incomplete_head += 1;
        }
        self.further -= entry.further();
        self.forged -= usize::from(entry.began_forged);
        let arrives = entry.is_others(&hot.key) || entry.is_unheard(&hot.key);
        counters.arriving += u64::from(arrives && !entry.told && !entry.twin && !entry.forged);
        entry.report(&mut hot, sink);
    }

    /// Tells all that changed, in an order that does not depend on hashes. `until`: the packet time
    /// reached, where more is to come.
    pub(crate) fn report(
        &mut self,
        until: Option<Nanos>,
        answers: &DnsAnswers,
        sink: &mut impl FnMut(Observation),
    ) {
        let mut order: Vec<(Nanos, u32)> =
            self.slots.iter().map(|(slot, entry)| (entry.first, slot)).collect();
        let ends = |slot| {
            self.slots.get(slot).map(|(hot, entry)| (entry.ends(&hot.key), hot.key.transport()))
        };
        order.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| ends(a.1).cmp(&ends(b.1))));
        for (_, slot) in order {
            self.report_one(slot, until, answers, sink);
        }
    }

    /// The same of about so many flows, from this slot on, in no order that means anything. The
    /// slot to go on from, where there are more.
    pub(crate) fn report_some(
        &mut self,
        now: Nanos,
        (from, limit): (u32, usize),
        answers: &DnsAnswers,
        sink: &mut impl FnMut(Observation),
    ) -> Option<u32> {
        let mut told = 0;
        for slot in from..self.slots.end() {
            if told >= limit {
                return Some(slot);
            }
            self.report_one(slot, Some(now), answers, &mut |o| {
                told += 1;
                sink(o);
            });
        }
        None
    }

    fn report_one(
        &mut self,
        slot: u32,
        until: Option<Nanos>,
        answers: &DnsAnswers,
        sink: &mut impl FnMut(Observation),
    ) {
        let live = self.config.live;
        self.name(slot, answers);
        if let Some((hot, entry)) = self.slots.get_mut(slot)
            && !(live
                && until.is_some_and(|now| !entry.told && now.saturating_sub(entry.first) < LATE))
        {
            entry.report(hot, sink);
        }
    }

    /// Tells the flows that were never told and can be told in full: whose names can change no
    /// more, or which are `patience` old. Of those told before, the further hosts. About `limit` of
    /// them at once.
    pub(crate) fn report_fresh(
        &mut self,
        now: Nanos,
        (patience, limit): (Nanos, usize),
        answers: &DnsAnswers,
        sink: &mut impl FnMut(Observation),
    ) {
        let mut told = 0;
        for _ in 0..self.fresh.len() {
            if told >= limit {
                return;
            }
            let mut sink = |o| {
                told += 1;
                sink(o);
            };
            let Some((slot, noted)) = self.fresh.pop_front() else { return };
            self.name(slot, answers);
            let Some((hot, entry)) = self.slots.get_mut(slot) else { continue };
            // The slot may have become another's, which is noted by itself.
            if entry.told || entry.twin || entry.forged {
                entry.report_further(hot, true, &mut sink);
                continue;
            }
            let age = now.saturating_sub(noted);
            if age < LATE || !(entry.settled || entry.closed || age >= patience) {
                self.fresh.push_back((slot, noted));
                continue;
            }
            entry.report(hot, &mut sink);
        }
    }

    /// The answer that named the responder may have been read after the connection that followed
    /// it: on another interface.
    fn name(&mut self, slot: u32, answers: &DnsAnswers) {
        let Some((hot, entry)) =
            self.slots.get(slot).filter(|(_, entry)| self.config.live && !entry.told)
        else {
            return;
        };
        let (initiator, responder) = entry.ends(&hot.key);
        let dns = answers.names(initiator.ip(), responder.ip(), entry.first);
        if let Some((_, entry)) = self.slots.get_mut(slot).filter(|_| !dns.is_empty()) {
            entry.set_dns(dns);
        }
    }

    /// The clock was set by `step`: packet times go on from here, and what was due by the old clock
    /// is due anew. What was not told yet is told by the new clock.
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
        self.fresh.iter_mut().for_each(|(_, noted)| *noted = noted.saturating_add(step).min(now));
        self.syns.rebase(now, step);
    }

    pub(crate) fn expire_until(
        &mut self,
        now: Nanos,
        counters: &mut CaptureCounters,
        sink: &mut impl FnMut(Observation),
    ) {
        self.high_water = self.high_water.max(now);
        self.expire(counters, sink);
    }

    /// Heads that were never completed.
    pub(crate) fn unfinished(&self) -> u64 {
        self.heads as u64
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExpiryClass {
    Closed,
    Short,
    Long,
}

/// Whether this SYN is of an earlier connection on the same ports, from an interface that is read
/// later.
fn is_past(entry: &FlowEntry, s: &Segment<'_>) -> bool {
    entry.isn.is_some_and(|isn| isn != s.tcp.seq) && s.time < entry.first
}

/// Whether this SYN opens another connection on the same ports.
fn reused(entry: &FlowEntry, s: &Segment<'_>) -> bool {
    match entry.isn {
        Some(isn) => isn != s.tcp.seq,
        // Joined midway: a SYN ends it for certain, unless it is its own, from an interface that is
        // read later.
        None => s.time > entry.first,
    }
}
