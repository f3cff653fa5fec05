//! Frames in, observations out: composes decoding, names and the flow table.
//!
//! Owns the counters and the totals of interfaces. Must never block, read a clock, or drop a frame
//! without counting why.

mod questions;

use std::net::IpAddr;
use std::sync::Arc;

use crate::decode::{Segment, Skip, decode};
use crate::dns;
use crate::flow::answers::DnsAnswers;
use crate::flow::key::FlowKey;
use crate::flow::table::FlowTable;
pub use crate::flow::{FlowConfig, ListeningPorts};
use crate::frame::{Direction, Frame, FrameBatch};
use crate::interfaces::InterfaceTable;
use crate::loss::CaptureCounters;
use crate::observation::{
    DnsName, InterfaceId, InterfaceSpan, Lookup, Nanos, Observation, OwnerEvidence, Transport,
};
use crate::owners::{InterfaceOwners, Judgement, PodGroups};
use crate::skim::{Skim, skim};
use questions::{DnsQuestions, QuestionOutcome};

/// Frames whose flows are looked for before the first of them is taken in.
const AHEAD: usize = 32;

/// A plain packet.
struct SkimmedPacket {
    skim: Skim,
    /// Of its key.
    hash: u64,
    /// Where its flow probably is.
    slot: Option<u32>,
}

/// Turns frames into observations. Memory is bounded by [`FlowConfig`], whatever the input.
pub struct Meter {
    table: FlowTable,
    answers: DnsAnswers,
    questions: DnsQuestions,
    interfaces: InterfaceTable,
    owners: InterfaceOwners,
    counters: SourceCounters,
    live: bool,
}

/// Counters of each source: what a frame changes is counted for the source that it came from. A
/// source that does not end has interfaces without number, and one set of counters.
#[derive(Default)]
struct SourceCounters {
    /// Which source [`SourceCounters::now`] is of.
    source: u32,
    now: CaptureCounters,
    /// Of the other sources, by source.
    others: Vec<CaptureCounters>,
}

impl SourceCounters {
    /// Counts for this source from here on.
    #[inline(always)]
    fn turn_to(&mut self, source: u32) {
        if source != self.source {
            self.swap(source);
        }
    }

    #[cold]
    fn swap(&mut self, source: u32) {
        let last = source.max(self.source) as usize;
        if self.others.len() <= last {
            self.others.resize(last + 1, CaptureCounters::default());
        }
        std::mem::swap(&mut self.others[self.source as usize], &mut self.now);
        std::mem::swap(&mut self.others[source as usize], &mut self.now);
        self.source = source;
    }

    fn of(&self, source: u32) -> Option<&CaptureCounters> {
        if source == self.source { Some(&self.now) } else { self.others.get(source as usize) }
    }
}

impl Meter {
    /// A meter with nothing seen yet.
    pub fn new(config: FlowConfig, known: ListeningPorts) -> Self {
        Self {
            answers: DnsAnswers::new(config.max_answers),
            interfaces: InterfaceTable::new(config.max_interfaces),
            table: FlowTable::new(config, known),
            questions: DnsQuestions::default(),
            owners: InterfaceOwners::default(),
            counters: SourceCounters::default(),
            live: config.live,
        }
    }

    /// Replaces what is known to listen; flows told already keep their orientation.
    pub fn set_known(&mut self, known: ListeningPorts) {
        self.table.set_known(known, &self.answers);
    }

    /// From this time on, all that the pod behind a live interface sends is read on it, and which
    /// way its frames pass is told.
    pub fn watch(&mut self, index: u32, since: Nanos) {
        self.owners.watch(index, since);
    }

    /// The other end of a live interface is gone; what is still read of it is its own.
    pub fn release(&mut self, index: u32) {
        self.owners.release(index);
    }

    /// What the node tells now of the addresses behind a live interface.
    pub fn set_evidence(&mut self, index: u32, evidence: Vec<(IpAddr, OwnerEvidence)>) {
        self.owners.set_evidence(index, evidence);
    }

    /// Which addresses are one pod's, of those that may be behind live interfaces.
    pub fn set_pods(&mut self, pods: &[Arc<[IpAddr]>]) {
        let each = |pod: &Arc<[IpAddr]>| {
            let pod = Arc::clone(pod);
            (0..pod.len()).map(move |i| (pod[i], Arc::clone(&pod))).collect::<Vec<_>>()
        };
        self.owners.set_groups(pods.iter().flat_map(each).collect::<PodGroups>());
    }

    /// What was seen and lost so far, of all sources.
    pub fn counters(&self) -> CaptureCounters {
        let mut all = self.counters.now.clone();
        // That of the present source is empty there.
        self.counters.others.iter().for_each(|c| all.add(c));
        all
    }

    /// What was seen and lost so far in the frames of one source. Without [`FlowConfig::live`] only:
    /// with it all is counted for source 0.
    pub fn counters_of(&self, source: u32) -> CaptureCounters {
        self.counters.of(source).cloned().unwrap_or_default()
    }

    /// Takes a frame in.
    pub fn frame(&mut self, frame: &Frame<'_>, sink: &mut impl FnMut(Observation)) {
        let mut glance = self.glance(frame);
        if let Some(glance) = &mut glance {
            glance.slot = self.table.likely(glance.hash);
        }
        self.take(frame, glance.as_ref(), sink);
    }

    /// Takes all frames of a batch in. Faster than one by one where there are many flows: the
    /// processor fetches those of several frames from memory at the same time.
    pub fn batch(&mut self, batch: &FrameBatch, sink: &mut impl FnMut(Observation)) {
        let mut ahead: [Option<SkimmedPacket>; AHEAD] = [const { None }; AHEAD];
        for start in (0..batch.len()).step_by(AHEAD) {
            let frames = || (start..start + AHEAD).map_while(|i| batch.get(i));
            for (place, frame) in ahead.iter_mut().zip(frames()) {
                *place = self.glance(&frame);
            }
            // Each of these loops does nothing but fetch, so that all of its fetches are under way
            // at once.
            for glance in ahead.iter_mut().flatten() {
                glance.slot = self.table.likely(glance.hash);
            }
            let near = ahead
                .iter()
                .flatten()
                .filter_map(|g| g.slot)
                .fold(0, |sum, slot| sum ^ self.table.touch(slot));
            std::hint::black_box(near);
            for (glance, frame) in ahead.iter().zip(frames()) {
                self.take(&frame, glance.as_ref(), sink);
            }
        }
    }

    #[inline(always)]
    fn glance(&self, frame: &Frame<'_>) -> Option<SkimmedPacket> {
        let skim = skim(frame)?;
        Some(SkimmedPacket { hash: self.table.hash(&skim.key), skim, slot: None })
    }

    #[inline(always)]
    fn take(
        &mut self,
        frame: &Frame<'_>,
        glance: Option<&SkimmedPacket>,
        sink: &mut impl FnMut(Observation),
    ) {
        if !self.live {
            self.counters.turn_to(frame.interface.source);
        }
        self.counters.now.packets += 1;
        self.counters.now.bytes += frame.data.len() as u64;
        // Only live frames tell which way they pass, and only those are judged.
        if frame.direction == Direction::Unknown
            && let Some(SkimmedPacket { skim, hash, slot: Some(slot) }) = glance
            && self.bump(frame, skim, *hash, *slot)
        {
            return;
        }
        if frame.direction != Direction::Unknown
            && let Some(glance) = glance
            && self.judged(frame, glance)
        {
            return;
        }
        self.decode(frame, sink);
    }

    /// Takes in a packet that can change no connection; false where it may.
    #[inline(always)]
    fn bump(&mut self, frame: &Frame<'_>, skim: &Skim, hash: u64, slot: u32) -> bool {
        let (time, interface) = (frame.time, frame.interface);
        let Some(repeated) = self.table.bump(skim, hash, slot, time, interface) else {
            return false;
        };
        self.counters.now.used += 1;
        self.counters.now.repeated_sightings += u64::from(repeated);
        let lost = self.interfaces.count(interface, time, &skim.key, skim.from_low, skim.hops);
        self.counters.now.evicted_interfaces += u64::from(lost);
        true
    }

    /// The same of a live packet, which may also be none of a connection's own, or forged.
    fn judged(&mut self, frame: &Frame<'_>, glance: &SkimmedPacket) -> bool {
        let SkimmedPacket { skim, hash, slot } = glance;
        let from = skim.key.address(skim.from_low);
        match frame.direction {
            Direction::Sent if self.owners.is_heard(from, frame.time) => {
                self.counters.now.used += 1;
                self.counters.now.repeated_sightings += 1;
                let (id, time) = (frame.interface, frame.time);
                let lost = self.interfaces.count(id, time, &skim.key, skim.from_low, skim.hops);
                self.counters.now.evicted_interfaces += u64::from(lost);
                true
            }
            // In full: what it may be taken for where it arrives is to be known.
            Direction::Received if !self.owners.may_send(frame.interface.index, from) => false,
            _ => slot.is_some_and(|slot| self.bump(frame, skim, *hash, slot)),
        }
    }

    fn decode(&mut self, frame: &Frame<'_>, sink: &mut impl FnMut(Observation)) {
        match decode(frame) {
            Ok(segment) => self.segment(&segment, sink),
            Err(skip) => {
                let c = &mut self.counters.now;
                *match skip {
                    Skip::NotIp => &mut c.not_ip,
                    Skip::OtherTransport => &mut c.other_transport,
                    Skip::LaterFragment => &mut c.later_fragments,
                    Skip::BadLink => &mut c.bad_link,
                    Skip::BadNetwork => &mut c.bad_network,
                    Skip::BadTransport => &mut c.bad_transport,
                    Skip::UnknownLinkType => &mut c.unknown_link_type,
                    Skip::NotUnicast => &mut c.not_unicast,
                } += 1;
            }
        }
    }

    fn segment(&mut self, s: &Segment<'_>, sink: &mut impl FnMut(Observation)) {
        self.counters.now.used += 1;
        let judgement = self.owners.judge(s.interface.index, s.direction, s.from.ip(), s.time);
        if judgement == Judgement::Forged {
            self.counters.now.forged_source += 1;
            let lost = self.interfaces.count_forged(s.interface, s.time);
            self.counters.now.evicted_interfaces += u64::from(lost);
            return self.table.forged(s, &mut self.counters.now, sink);
        }
        let (key, from_low) = FlowKey::of(s.from, s.to, s.transport);
        let lost = self.interfaces.count(s.interface, s.time, &key, from_low, s.hops);
        self.counters.now.evicted_interfaces += u64::from(lost);
        if judgement == Judgement::Elsewhere {
            self.counters.now.repeated_sightings += 1;
            if s.tcp.syn && s.tcp.ack {
                self.table.accepted(s);
            }
            return;
        }
        self.table.segment(s, (&self.answers, &self.owners), &mut self.counters.now, sink);
        if s.is_dns() && !s.payload.is_empty() {
            match s.transport {
                Transport::Udp => self.dns(s, s.payload, sink),
                Transport::Tcp => dns::stream(s.payload).for_each(|m| self.dns(s, m, sink)),
                Transport::Sctp => {}
            }
        }
    }

    fn dns(&mut self, s: &Segment<'_>, bytes: &[u8], sink: &mut impl FnMut(Observation)) {
        let Some(message) = dns::message(bytes) else {
            self.counters.now.bad_dns += 1;
            return;
        };
        let response = message.response;
        let (client, server) = if response { (s.to, s.from) } else { (s.from, s.to) };
        let lookup = Lookup {
            interface: s.interface,
            client: client.ip(),
            server,
            time: s.time,
            question: message.question,
            canonical: message.canonical,
            addresses: message.addresses,
            rcode: response.then_some(message.rcode),
        };
        // Captures may begin behind the question, or hold one side only; nothing else is asked of
        // them. On a node, anybody can send an answer to whom they like.
        let must_be_asked = s.direction != Direction::Unknown;
        let (id, ttl) = (message.id, message.ttl);
        let heard = self.questions.hear(client.port(), id, lookup, ttl, must_be_asked);
        let QuestionOutcome { answered, told, unasked } = heard;
        self.counters.now.unasked_answers += unasked;
        told.into_iter().for_each(|l| sink(Observation::Lookup(l)));
        if let Some((lookup, ttl)) = answered {
            for &address in &lookup.addresses {
                self.remember(lookup.client, address, &lookup, ttl);
            }
            sink(Observation::Lookup(lookup));
        }
    }

    fn remember(&mut self, client: IpAddr, address: IpAddr, lookup: &Lookup, ttl: u32) {
        let name = DnsName {
            question: lookup.question.clone(),
            canonical: lookup.canonical.clone(),
            answered: lookup.time,
        };
        self.counters.now.evicted_answers +=
            u64::from(self.answers.add(client, address, name, ttl));
    }

    /// Tells the questions whose answers were not seen; those asked after `until` may still be
    /// answered.
    fn tell_unanswered(&mut self, until: Nanos, sink: &mut impl FnMut(Observation)) {
        let (open, unasked) = self.questions.take(until);
        self.counters.now.unasked_answers += unasked;
        open.into_iter().for_each(|l| sink(Observation::Lookup(l)));
    }

    /// What is known of an interface besides its totals.
    fn complete(&mut self, mut span: InterfaceSpan) -> InterfaceSpan {
        let index = span.interface.index;
        span.owner = self.owners.owner(index);
        if let Some((forged, claimed)) = self.owners.take_forged(index) {
            (span.forged, span.claimed) = (forged, claimed);
        }
        span
    }

    fn tell_interfaces(&mut self, sink: &mut impl FnMut(Observation)) {
        for span in self.interfaces.report() {
            sink(Observation::Interface(self.complete(span)));
        }
    }

    /// Tells connections that were never told, as soon as nothing more is to be learned of them
    /// soon: their names are known, they are over, or they are `patience` old; and hosts that later
    /// requests on told ones ask for, at once. Needs [`FlowConfig::live`]. `now`: packet time reached.
    pub fn fresh(&mut self, now: Nanos, patience: Nanos, sink: &mut impl FnMut(Observation)) {
        self.fresh_some(now, patience, usize::MAX, sink);
    }

    /// The same of about `limit` connections; the others are told the next time.
    pub fn fresh_some(
        &mut self,
        now: Nanos,
        patience: Nanos,
        limit: usize,
        sink: &mut impl FnMut(Observation),
    ) {
        self.table.expire_until(now, &mut self.counters.now, sink);
        self.table.report_fresh(now, (patience, limit), &self.answers, sink);
    }

    /// The clock that stamps packets was set by `step` nanoseconds, and shows `now`.
    pub fn rebase(&mut self, now: Nanos, step: Nanos) {
        self.table.rebase(now, step);
        self.answers.shift(step);
        self.questions.shift(step);
        self.owners.rebase(now, step);
    }

    /// An interface is gone: its totals are told a last time.
    pub fn forget(&mut self, id: InterfaceId, sink: &mut impl FnMut(Observation)) {
        if let Some(span) = self.interfaces.forget(id) {
            sink(Observation::Interface(self.complete(span)));
        }
        self.owners.forget(id.index);
    }

    /// Tells all connections that changed since they were last told; for a source that does not
    /// end. `now`: packet time reached.
    pub fn harvest(&mut self, now: Nanos, sink: &mut impl FnMut(Observation)) {
        self.table.expire_until(now, &mut self.counters.now, sink);
        self.table.report(Some(now), &self.answers, sink);
        self.tell_unanswered(now.saturating_sub(questions::PATIENCE), sink);
        self.tell_interfaces(sink);
    }

    /// The same of about `limit` connections, beginning `from` 0; then from what it gave, until it
    /// gives nothing, and all is told.
    pub fn harvest_some(
        &mut self,
        now: Nanos,
        from: u32,
        limit: usize,
        sink: &mut impl FnMut(Observation),
    ) -> Option<u32> {
        self.table.expire_until(now, &mut self.counters.now, sink);
        let next = self.table.report_some(now, (from, limit), &self.answers, sink);
        if next.is_none() {
            self.tell_unanswered(now.saturating_sub(questions::PATIENCE), sink);
            self.tell_interfaces(sink);
        }
        next
    }

    /// The input has ended: tells everything.
    pub fn finish(&mut self, sink: &mut impl FnMut(Observation)) {
        self.counters.now.incomplete_head += self.table.unfinished();
        self.table.report(None, &self.answers, sink);
        self.tell_unanswered(Nanos::MAX, sink);
        self.tell_interfaces(sink);
    }
}
