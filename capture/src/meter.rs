//! Frames in, observations out: composes decoding, names and the flow table.
//!
//! Owns the counters, and the path of a frame through the other modules. Must never block, read a
//! clock, or drop a frame without counting why.

mod counters;
mod questions;
mod report;

use std::net::{IpAddr, SocketAddr};
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
use crate::observation::{DnsName, Lookup, Nanos, Observation, OwnerEvidence, Transport};
use crate::owners::{InterfaceOwners, Judgement, PodGroups};
use crate::skim::{Skim, skim};
use counters::SourceCounters;
use questions::{DnsQuestions, QuestionOutcome};

/// Frames whose flows are found before the first of them is processed.
const LOOKAHEAD_FRAMES: usize = 32;

/// A plain packet that the fast path has read.
struct SkimmedPacket {
    skim: Skim,
    /// Hash of its key.
    hash: u64,
    /// Slot in which its flow probably is.
    slot: Option<u32>,
}

/// Converts frames to observations. [`FlowConfig`] bounds the memory, whatever the input.
pub struct Meter {
    table: FlowTable,
    answers: DnsAnswers,
    questions: DnsQuestions,
    interfaces: InterfaceTable,
    owners: InterfaceOwners,
    counters: SourceCounters,
    live: bool,
}

impl Meter {
    /// A meter that has seen no frame.
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

    /// Replaces the listening ports. The orientation of flows that were reported stays as it is.
    pub fn set_listening(&mut self, listening: ListeningPorts) {
        self.table.set_listening(listening, &self.answers);
    }

    /// Declares that from packet time `since` on, all frames of the pod behind a live interface are
    /// read on it, with their direction. `index` is the kernel's index of the interface.
    pub fn watch(&mut self, index: u32, since: Nanos) {
        self.owners.watch(index, since);
    }

    /// Declares that the other end of a live interface is gone. Frames that are still read on it
    /// are its pod's.
    pub fn release(&mut self, index: u32) {
        self.owners.release(index);
    }

    /// Replaces the node's evidence of the addresses behind a live interface.
    pub fn set_evidence(&mut self, index: u32, evidence: Vec<(IpAddr, OwnerEvidence)>) {
        self.owners.set_evidence(index, evidence);
    }

    /// Replaces the addresses of the pods that may be behind live interfaces, pod by pod.
    pub fn set_pods(&mut self, pods: &[Arc<[IpAddr]>]) {
        let mut groups = PodGroups::default();
        for pod in pods {
            groups.extend(pod.iter().map(|address| (*address, Arc::clone(pod))));
        }
        self.owners.set_groups(groups);
    }

    /// Counters of all sources together.
    pub fn counters(&self) -> CaptureCounters {
        self.counters.sum()
    }

    /// Counters of one source. With [`FlowConfig::live`], all frames are counted for source 0.
    pub fn counters_of(&self, source: u32) -> CaptureCounters {
        self.counters.of(source).cloned().unwrap_or_default()
    }

    /// Processes one frame. Observations that it completes go to `sink`.
    pub fn frame(&mut self, frame: &Frame<'_>, sink: &mut impl FnMut(Observation)) {
        let mut skimmed = self.skim(frame);
        if let Some(skimmed) = &mut skimmed {
            skimmed.slot = self.table.likely_slot(skimmed.hash);
        }
        self.process(frame, skimmed.as_ref(), sink);
    }

    /// Processes all frames of a batch. Where there are many flows, this is faster than one by one:
    /// the processor fetches the flows of several frames from memory at the same time.
    pub fn batch(&mut self, batch: &FrameBatch, sink: &mut impl FnMut(Observation)) {
        let mut ahead: [Option<SkimmedPacket>; LOOKAHEAD_FRAMES] =
            [const { None }; LOOKAHEAD_FRAMES];
        for start in (0..batch.len()).step_by(LOOKAHEAD_FRAMES) {
            let frames = || (start..start + LOOKAHEAD_FRAMES).map_while(|i| batch.get(i));
            for (skimmed, frame) in ahead.iter_mut().zip(frames()) {
                *skimmed = self.skim(&frame);
            }
            // From here on each loop only fetches, so that the processor makes all fetches of a
            // loop at the same time.
            for skimmed in ahead.iter_mut().flatten() {
                skimmed.slot = self.table.likely_slot(skimmed.hash);
            }
            self.table
                .prefetch(ahead.iter().flatten().filter_map(|s| Some((s.slot?, s.skim.is_plain))));
            for (skimmed, frame) in ahead.iter().zip(frames()) {
                self.process(&frame, skimmed.as_ref(), sink);
            }
        }
    }

    #[inline(always)]
    fn skim(&self, frame: &Frame<'_>) -> Option<SkimmedPacket> {
        let skim = skim(frame)?;
        Some(SkimmedPacket { hash: self.table.hash(&skim.key), skim, slot: None })
    }

    #[inline(always)]
    fn process(
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
        // Only live frames have a direction, and only they are judged.
        if frame.direction == Direction::Unknown
            && let Some(SkimmedPacket { skim, hash, slot: Some(slot) }) = skimmed
            && skim.is_plain
            && self.count_packet(frame, skim, *hash, *slot)
        {
            return;
        }
        if frame.direction != Direction::Unknown
            && let Some(skimmed) = skimmed
            && skimmed.skim.is_plain
            && self.count_live_packet(frame, skimmed)
        {
            return;
        }
        self.decode(frame, sink);
    }

    /// Counts a packet that cannot change its connection. False where it may change it.
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

    /// Same as [`Meter::count_packet`], for a live packet, which may also be a repeated sighting or
    /// forged.
    fn count_live_packet(&mut self, frame: &Frame<'_>, skimmed: &SkimmedPacket) -> bool {
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
            // Forged packets are decoded in full, so that they are recognised where they arrive.
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
                    Skip::Encrypted => &mut c.encrypted,
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
        // A tunnel's interface is of the node, whoever's packets it carries.
        let (from, to) = match s.tunnel {
            None => (s.from, s.to),
            Some((from, to)) => (SocketAddr::new(from, 0), SocketAddr::new(to, 0)),
        };
        self.counters.current.unwrapped += u64::from(s.tunnel.is_some());
        let (key, from_low) = FlowKey::of(from, to, s.transport);
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
        // A capture may begin after the question, or contain one direction only. On a node, any pod
        // can send an answer to any other, so that the question must have been seen.
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
}
