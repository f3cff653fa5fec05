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
const LOOKAHEAD_FRAMES: usize = 32;

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
    /// Which source [`SourceCounters::current`] is of.
    source: u32,
    current: CaptureCounters,
    /// Of the other sources, by source.
    others: Vec<CaptureCounters>,
}

impl SourceCounters {
    /// Counts for this source from here on.
    #[inline(always)]
    fn select(&mut self, source: u32) {
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
        std::mem::swap(&mut self.others[self.source as usize], &mut self.current);
        std::mem::swap(&mut self.others[source as usize], &mut self.current);
        self.source = source;
    }

    fn of(&self, source: u32) -> Option<&CaptureCounters> {
        if source == self.source { Some(&self.current) } else { self.others.get(source as usize) }
    }
}

impl Meter {
    /// A meter with nothing seen yet.
    pub fn new(config: FlowConfig, listening: ListeningPorts) -> Self {
        Self {
            answers: DnsAnswers::new(config.max_answers),
            interfaces: InterfaceTable::new(config.max_interfaces),
            table: FlowTable::new(config, listening),
            questions: DnsQuestions::default(),
            owners: InterfaceOwners::default(),
            counters: SourceCounters::default(),
            live: config.live,
        }
    }

    /// Replaces what is known to listen; flows told already keep their orientation.
    pub fn set_listening(&mut self, listening: ListeningPorts) {
        self.table.set_listening(listening, &self.answers);
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
        let mut all = self.counters.current.clone();
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
        let mut skimmed = self.skimmed(frame);
        if let Some(skimmed) = &mut skimmed {
            skimmed.slot = self.table.likely_slot(skimmed.hash);
        }
        self.take(frame, skimmed.as_ref(), sink);
    }

    /// Takes all frames of a batch in. Faster than one by one where there are many flows: the
    /// processor fetches those of several frames from memory at the same time.
    pub fn batch(&mut self, batch: &FrameBatch, sink: &mut impl FnMut(Observation)) {
        let mut ahead: [Option<SkimmedPacket>; LOOKAHEAD_FRAMES] =
            [const { None }; LOOKAHEAD_FRAMES];
        for start in (0..batch.len()).step_by(LOOKAHEAD_FRAMES) {
            let frames = || (start..start + LOOKAHEAD_FRAMES).map_while(|i| batch.get(i));
            for (place, frame) in ahead.iter_mut().zip(frames()) {
                *place = self.skimmed(&frame);
            }
            // Each of these loops does nothing but fetch, so that all of its fetches are under way
            // at once.
            for skimmed in ahead.iter_mut().flatten() {
                skimmed.slot = self.table.likely_slot(skimmed.hash);
            }
            let near = ahead
                .iter()
                .flatten()
                .filter_map(|g| g.slot)
                .fold(0, |sum, slot| sum ^ self.table.prefetch(slot));
            std::hint::black_box(near);
            for (skimmed, frame) in ahead.iter().zip(frames()) {
                self.take(&frame, skimmed.as_ref(), sink);
            }
        }
    }

    #[inline(always)]
    fn skimmed(&self, frame: &Frame<'_>) -> Option<SkimmedPacket> {
        let skim = skim(frame)?;
        Some(SkimmedPacket { hash: self.table.hash(&skim.key), skim, slot: None })
    }

    #[inline(always)]
    fn take(
        &mut self,
        frame: &Frame<'_>,
        skimmed: Option<&SkimmedPacket>,
        sink: &mut impl FnMut(Observation),
    ) {
        if !self.live {
            self.counters.select(frame.interface.source);
        }
        self.counters.current.packets += 1;
        self.counters.current.bytes += frame.data.len() as u64;
        // Only live frames tell which way they pass, and only those are judged.
        if frame.direction == Direction::Unknown
            && let Some(SkimmedPacket { skim, hash, slot: Some(slot) }) = skimmed
            && self.count_packet(frame, skim, *hash, *slot)
        {
            return;
        }
        if frame.direction != Direction::Unknown
            && let Some(skimmed) = skimmed
            && self.take_live(frame, skimmed)
        {
            return;
        }
        self.decode(frame, sink);
    }

    /// Takes in a packet that can change no connection; false where it may.
    #[inline(always)]
    fn count_packet(&mut self, frame: &Frame<'_>, skim: &Skim, hash: u64, slot: u32) -> bool {
        let (time, interface) = (frame.time, frame.interface);
        let Some(repeated) = self.table.count_packet(skim, hash, slot, time, interface) else {
            return false;
        };
        self.counters.current.used += 1;
        self.counters.current.repeated_sightings += u64::from(repeated);
        let lost = self.interfaces.count(interface, time, &skim.key, skim.from_low, skim.hops);
        self.counters.current.evicted_interfaces += u64::from(lost);
        true
    }

    /// The same of a live packet, which may also be none of a connection's own, or forged.
    fn take_live(&mut self, frame: &Frame<'_>, skimmed: &SkimmedPacket) -> bool {
        let SkimmedPacket { skim, hash, slot } = skimmed;
        let from = skim.key.address(skim.from_low);
        match frame.direction {
            Direction::Sent if self.owners.sees_sending(from, frame.time) => {
                self.counters.current.used += 1;
                self.counters.current.repeated_sightings += 1;
                let (id, time) = (frame.interface, frame.time);
                let lost = self.interfaces.count(id, time, &skim.key, skim.from_low, skim.hops);
                self.counters.current.evicted_interfaces += u64::from(lost);
                true
            }
            // In full: what it may be taken for where it arrives is to be known.
            Direction::Received if !self.owners.may_send(frame.interface.index, from) => false,
            _ => slot.is_some_and(|slot| self.count_packet(frame, skim, *hash, slot)),
        }
    }

    fn decode(&mut self, frame: &Frame<'_>, sink: &mut impl FnMut(Observation)) {
        match decode(frame) {
            Ok(segment) => self.segment(&segment, sink),
            Err(skip) => {
                let c = &mut self.counters.current;
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
        self.counters.current.used += 1;
        let judgement = self.owners.judge(s.interface.index, s.direction, s.from.ip(), s.time);
        if judgement == Judgement::Forged {
            self.counters.current.forged_source += 1;
            let lost = self.interfaces.count_forged(s.interface, s.time);
            self.counters.current.evicted_interfaces += u64::from(lost);
            return self.table.forged(s, &mut self.counters.current, sink);
        }
        let (key, from_low) = FlowKey::of(s.from, s.to, s.transport);
        let lost = self.interfaces.count(s.interface, s.time, &key, from_low, s.hops);
        self.counters.current.evicted_interfaces += u64::from(lost);
        if judgement == Judgement::Elsewhere {
            self.counters.current.repeated_sightings += 1;
            if s.tcp.syn && s.tcp.ack {
                self.table.accepted(s);
            }
            return;
        }
        self.table.segment(s, (&self.answers, &self.owners), &mut self.counters.current, sink);
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
            self.counters.current.bad_dns += 1;
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
        let outcome = self.questions.insert(client.port(), id, lookup, ttl, must_be_asked);
        let QuestionOutcome { answered, expired, unasked } = outcome;
        self.counters.current.unasked_answers += unasked;
        expired.into_iter().for_each(|l| sink(Observation::Lookup(l)));
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
        self.counters.current.evicted_answers +=
            u64::from(self.answers.add(client, address, name, ttl));
    }

    /// Tells the questions whose answers were not seen; those asked after `until` may still be
    /// answered.
    fn report_unanswered(&mut self, until: Nanos, sink: &mut impl FnMut(Observation)) {
        let (open, unasked) = self.questions.take(until);
        self.counters.current.unasked_answers += unasked;
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

    fn report_interfaces(&mut self, sink: &mut impl FnMut(Observation)) {
        for span in self.interfaces.report() {
            sink(Observation::Interface(self.complete(span)));
        }
    }

    /// Tells connections that were never told, as soon as nothing more is to be learned of them
    /// soon: their names are known, they are over, or they are `patience` old; and hosts that later
    /// requests on told ones ask for, at once. Needs [`FlowConfig::live`]. `now`: packet time reached.
    pub fn report_fresh(
        &mut self,
        now: Nanos,
        patience: Nanos,
        sink: &mut impl FnMut(Observation),
    ) {
        self.report_fresh_some(now, patience, usize::MAX, sink);
    }

    /// The same of about `limit` connections; the others are told the next time.
    pub fn report_fresh_some(
        &mut self,
        now: Nanos,
        patience: Nanos,
        limit: usize,
        sink: &mut impl FnMut(Observation),
    ) {
        self.table.expire_until(now, &mut self.counters.current, sink);
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
    pub fn report_changed(&mut self, now: Nanos, sink: &mut impl FnMut(Observation)) {
        self.table.expire_until(now, &mut self.counters.current, sink);
        self.table.report(Some(now), &self.answers, sink);
        self.report_unanswered(now.saturating_sub(questions::PATIENCE_NANOS), sink);
        self.report_interfaces(sink);
    }

    /// The same of about `limit` connections, beginning `from` 0; then from what it gave, until it
    /// gives nothing, and all is told.
    pub fn report_changed_some(
        &mut self,
        now: Nanos,
        from: u32,
        limit: usize,
        sink: &mut impl FnMut(Observation),
    ) -> Option<u32> {
        self.table.expire_until(now, &mut self.counters.current, sink);
        let next = self.table.report_some(now, (from, limit), &self.answers, sink);
        if next.is_none() {
            self.report_unanswered(now.saturating_sub(questions::PATIENCE_NANOS), sink);
            self.report_interfaces(sink);
        }
        next
    }

    /// The input has ended: tells everything.
    pub fn finish(&mut self, sink: &mut impl FnMut(Observation)) {
        self.counters.current.incomplete_head += self.table.unfinished();
        self.table.report(None, &self.answers, sink);
        self.report_unanswered(Nanos::MAX, sink);
        self.report_interfaces(sink);
    }
}
