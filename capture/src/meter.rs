//! Frames in, observations out: composes decoding, names and the flow table.
//!
//! Owns the counters and the totals of interfaces. Must never block, read a clock, or drop a frame
//! without counting why.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::decode::{Segment, Skip, decode};
use crate::dns;
use crate::flow::answers::Answers;
use crate::flow::key::FlowKey;
use crate::flow::table::Table;
pub use crate::flow::{Config, KnownPorts};
use crate::frame::{Batch, Frame};
use crate::interfaces::Interfaces;
use crate::loss::Counters;
use crate::observation::{DnsName, InterfaceId, Lookup, Nanos, Observation, Transport};
use crate::skim::{Skim, skim};

/// Open DNS questions remembered. A client asks a handful at a time.
const MAX_QUESTIONS: usize = 8_192;

/// Frames whose flows are looked for before the first of them is taken in.
const AHEAD: usize = 32;

/// A plain packet.
struct Glance {
    skim: Skim,
    /// Of its key.
    hash: u64,
    /// Where its flow probably is.
    slot: Option<u32>,
}

/// Who asked what: client, its port, message identifier.
type Asked = (std::net::SocketAddr, u16, String);

/// Turns frames into observations. Memory is bounded by [`Config`], whatever the input.
pub struct Meter {
    table: Table,
    answers: Answers,
    questions: HashMap<Asked, Question>,
    interfaces: Interfaces,
    counters: PerSource,
    live: bool,
}

/// Counters of each source: what a frame changes is counted for the source that it came from. A
/// source that does not end has interfaces without number, and one set of counters.
#[derive(Default)]
struct PerSource {
    /// Which source [`PerSource::now`] is of.
    source: u32,
    now: Counters,
    /// Of the other sources, by source.
    others: Vec<Counters>,
}

impl PerSource {
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
            self.others.resize(last + 1, Counters::default());
        }
        std::mem::swap(&mut self.others[self.source as usize], &mut self.now);
        std::mem::swap(&mut self.others[source as usize], &mut self.now);
        self.source = source;
    }

    fn of(&self, source: u32) -> Option<&Counters> {
        if source == self.source { Some(&self.now) } else { self.others.get(source as usize) }
    }
}

struct Question {
    lookup: Lookup,
    answered: bool,
}

impl Meter {
    /// A meter with nothing seen yet.
    pub fn new(config: Config, known: KnownPorts) -> Self {
        Self {
            answers: Answers::new(config.max_answers),
            interfaces: Interfaces::new(config.max_interfaces),
            table: Table::new(config, known),
            questions: HashMap::new(),
            counters: PerSource::default(),
            live: config.live,
        }
    }

    /// Replaces what is known to listen; flows told already keep their orientation.
    pub fn set_known(&mut self, known: KnownPorts) {
        self.table.set_known(known, &self.answers);
    }

    /// What was seen and lost so far, of all sources.
    pub fn counters(&self) -> Counters {
        let mut all = self.counters.now.clone();
        // That of the present source is empty there.
        self.counters.others.iter().for_each(|c| all.add(c));
        all
    }

    /// What was seen and lost so far in the frames of one source. Without [`Config::live`] only:
    /// with it all is counted for source 0.
    pub fn counters_of(&self, source: u32) -> Counters {
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
    pub fn batch(&mut self, batch: &Batch, sink: &mut impl FnMut(Observation)) {
        let mut ahead: [Option<Glance>; AHEAD] = [const { None }; AHEAD];
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
    fn glance(&self, frame: &Frame<'_>) -> Option<Glance> {
        let skim = skim(frame)?;
        Some(Glance { hash: self.table.hash(&skim.key), skim, slot: None })
    }

    #[inline(always)]
    fn take(
        &mut self,
        frame: &Frame<'_>,
        glance: Option<&Glance>,
        sink: &mut impl FnMut(Observation),
    ) {
        if !self.live {
            self.counters.turn_to(frame.interface.source);
        }
        self.counters.now.packets += 1;
        self.counters.now.bytes += frame.data.len() as u64;
        if let Some(Glance { skim, hash, slot: Some(slot) }) = glance
            && let Some(repeated) = self.table.bump(skim, *hash, *slot, frame.time, frame.interface)
        {
            self.counters.now.used += 1;
            self.counters.now.repeated_sightings += u64::from(repeated);
            let lost = self.interfaces.count(
                frame.interface,
                frame.time,
                &skim.key,
                skim.from_low,
                skim.hops,
            );
            self.counters.now.evicted_interfaces += u64::from(lost);
            return;
        }
        self.decode(frame, sink);
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
        let (key, from_low) = FlowKey::of(s.from, s.to, s.transport);
        let lost = self.interfaces.count(s.interface, s.time, &key, from_low, s.hops);
        self.counters.now.evicted_interfaces += u64::from(lost);
        self.table.segment(s, &self.answers, &mut self.counters.now, sink);
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
        let (client, server) = if message.response { (s.to, s.from) } else { (s.from, s.to) };
        let asked = (client, message.id, message.question.clone());
        let answered = message.response;
        if answered && self.questions.get(&asked).is_some_and(|q| q.answered) {
            // The same answer on another interface.
            return;
        }
        if !answered && self.questions.contains_key(&asked) {
            return;
        }
        if self.questions.len() >= MAX_QUESTIONS {
            self.tell_unanswered(sink);
        }
        let lookup = Lookup {
            interface: s.interface,
            client: client.ip(),
            server,
            time: s.time,
            question: message.question,
            canonical: message.canonical,
            addresses: message.addresses,
            rcode: answered.then_some(message.rcode),
        };
        if answered {
            for &address in &lookup.addresses {
                self.remember(client.ip(), address, &lookup, message.ttl);
            }
            sink(Observation::Lookup(lookup.clone()));
        }
        self.questions.insert(asked, Question { lookup, answered });
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

    /// Tells the questions whose answers were not seen, and forgets all.
    fn tell_unanswered(&mut self, sink: &mut impl FnMut(Observation)) {
        let open = self.questions.drain().map(|(_, q)| q).filter(|q| !q.answered);
        let mut open: Vec<Lookup> = open.map(|q| q.lookup).collect();
        open.sort_by(|a, b| (a.time, a.client, &a.question).cmp(&(b.time, b.client, &b.question)));
        open.into_iter().for_each(|l| sink(Observation::Lookup(l)));
    }

    /// Tells connections that were never told, as soon as nothing more is to be learned of them
    /// soon: their names are known, they are over, or they are `patience` old; and hosts that later
    /// requests on told ones ask for, at once. Needs [`Config::live`]. `now`: packet time reached.
    pub fn fresh(&mut self, now: Nanos, patience: Nanos, sink: &mut impl FnMut(Observation)) {
        self.table.expire_until(now, &mut self.counters.now, sink);
        self.table.report_fresh(now, patience, &self.answers, sink);
    }

    /// The clock that stamps packets was set by `step` nanoseconds, and shows `now`.
    pub fn rebase(&mut self, now: Nanos, step: Nanos) {
        self.table.rebase(now, step);
        self.answers.shift(step);
    }

    /// An interface is gone: its totals are told a last time.
    pub fn forget(&mut self, id: InterfaceId, sink: &mut impl FnMut(Observation)) {
        self.interfaces.forget(id, sink);
    }

    /// Tells all connections that changed since they were last told; for a source that does not
    /// end. `now`: packet time reached.
    pub fn harvest(&mut self, now: Nanos, sink: &mut impl FnMut(Observation)) {
        self.table.expire_until(now, &mut self.counters.now, sink);
        self.table.report(Some(now), &self.answers, sink);
        self.tell_unanswered(sink);
        self.interfaces.report(sink);
    }

    /// The input has ended: tells everything.
    pub fn finish(&mut self, sink: &mut impl FnMut(Observation)) {
        self.counters.now.incomplete_head += self.table.unfinished();
        self.table.report(None, &self.answers, sink);
        self.tell_unanswered(sink);
        self.interfaces.report(sink);
    }
}
