//! One connection while it is followed.
//!
//! Owns what a segment changes in a flow: orientation, answer, names and end. Must never search the
//! flow table or decide when a flow expires.

mod names;
mod report;

use std::net::SocketAddr;

use super::head;
use super::hot::HotFlow;
use super::key::FlowKey;
use super::later_hosts::LaterHosts;
use super::pending::PendingHead;
use crate::decode::Segment;
use crate::frame::Direction;
use crate::observation::{ConnectionNames, Content, DnsName, Nanos, Orientation, Transport};

/// What only some connections have, and never both at a time.
#[derive(Debug)]
enum FlowExtra {
    Pending(PendingHead),
    LaterHosts(LaterHosts),
}

/// What the flow table has room for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TableRoom {
    /// Another head may be joined.
    pub head: bool,
    /// Another later host may be remembered.
    pub host: bool,
}

/// A fact about the low end and the high end of a [`FlowKey`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PerEnd {
    pub low: bool,
    pub high: bool,
}

/// The fields of a flow that only some packets need. The others are in [`HotFlow`].
#[derive(Debug)]
pub(crate) struct FlowEntry {
    /// The initiator is the low end of the key.
    initiator_is_low: bool,
    pub orientation: Orientation,
    pub from_start: bool,
    pub answered: bool,
    pub refused: bool,
    pub closed: bool,
    /// Its own names cannot change any more. Later requests may still name later hosts.
    pub names_final: bool,
    /// It is a translated duplicate of another connection, and is never reported.
    pub translated_duplicate: bool,
    pub reported: bool,
    /// Ends that are behind an interface that the connection was seen on, where directions are
    /// recorded.
    behind: PerEnd,
    /// Ends that were seen to send on an interface that they are behind.
    seen_sending: PerEnd,
    /// Ends behind interfaces that show all that they send. If such an end was not seen to send,
    /// then another pod sent with its address, or it sends under another address.
    watched_sending: PerEnd,
    /// A segment of it was forged, and its initiator was not seen to send. It is not reported.
    pub forged: bool,
    /// It began with a forged segment.
    pub began_forged: bool,
    responder_spoke: bool,
    tries: u8,
    /// Initial sequence number of the initiator.
    pub isn: Option<u32>,
    pub first: Nanos,
    /// Packets since the last report, beyond those in [`HotFlow::packets`].
    earlier: u64,
    content: Content,
    names: Option<Box<ConnectionNames>>,
    extra: Option<Box<FlowExtra>>,
    /// Stamp of its valid entry in the expiry queues.
    pub stamp: u32,
}

/// What a segment changed, as far as the flow table counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FlowChange {
    /// Joining a head began.
    pub head_began: bool,
    /// Joining a head ended.
    pub head_ended: bool,
    /// A head ended before it was whole.
    pub head_incomplete: bool,
    /// A head began that is not joined, because there is no room.
    pub head_dropped: bool,
    /// The packet was seen before on another interface.
    pub repeated: bool,
    /// A request named a new later host.
    pub new_host: bool,
    /// A request named a new later host, and there is no room for it.
    pub host_dropped: bool,
}

const _: () = assert!(size_of::<Option<FlowEntry>>() == 64, "a cache line of its own");

impl FlowEntry {
    pub(super) fn new(
        key: &FlowKey,
        initiator: SocketAddr,
        orientation: Orientation,
        first: Nanos,
    ) -> Self {
        Self {
            initiator_is_low: initiator == key.low_end(),
            orientation,
            from_start: false,
            answered: false,
            refused: false,
            closed: false,
            names_final: false,
            translated_duplicate: false,
            reported: false,
            behind: PerEnd::default(),
            seen_sending: PerEnd::default(),
            watched_sending: PerEnd::default(),
            forged: false,
            began_forged: false,
            responder_spoke: false,
            tries: 0,
            isn: None,
            first,
            earlier: 0,
            content: Content::Unknown,
            names: None,
            extra: None,
            stamp: 0,
        }
    }

    pub(super) fn set_names(&mut self, names: ConnectionNames) {
        if names != ConnectionNames::default() {
            self.names = Some(Box::new(names));
        }
    }

    pub(super) fn set_dns(&mut self, dns: Vec<DnsName>) {
        self.names.get_or_insert_default().dns = dns;
    }

    /// Sets the initiator, after listening ports were learned.
    pub(super) fn orient(&mut self, key: &FlowKey, initiator: SocketAddr, names: ConnectionNames) {
        let is_low = initiator == key.low_end();
        // Then all packets so far came from the end that is now the responder.
        self.answered |= self.initiator_is_low != is_low;
        self.initiator_is_low = is_low;
        self.orientation = Orientation::ListeningPort;
        self.names = None;
        self.set_names(names);
    }

    /// Records which end is behind the interface that a segment was seen on.
    pub(super) fn record_interface(&mut self, hot: &mut HotFlow, s: &Segment<'_>) {
        let behind = match s.direction {
            Direction::Unknown => return,
            Direction::Received => s.from,
            Direction::Sent => s.to,
        };
        // A reset shows nothing: an end sends it also to refuse segments that another pod forged.
        let sent = s.direction == Direction::Received && !s.tcp.rst;
        let is_low = behind == hot.key.low_end();
        if is_low {
            self.behind.low = true;
            self.seen_sending.low |= sent;
        } else {
            self.behind.high = true;
            self.seen_sending.high |= sent;
        }
        // The initiator is behind the interface that received it, so it sent it itself.
        let is_initiator = is_low == self.initiator_is_low;
        self.forged &= !(sent && is_initiator);
        if is_initiator {
            // Packets are counted on the interface of the initiator.
            hot.interface = s.interface;
        }
    }

    /// Sets which ends are behind interfaces that show all that they send.
    pub(super) fn set_watched_sending(&mut self, watched_sending: PerEnd) {
        self.watched_sending = watched_sending;
    }

    /// Whether the initiator would have been seen to send, and was not.
    pub(super) fn is_initiator_unseen(&self) -> bool {
        let visible = self.of_initiator(self.behind) || self.of_initiator(self.watched_sending);
        visible && !self.of_initiator(self.seen_sending)
    }

    fn of_initiator(&self, ends: PerEnd) -> bool {
        if self.initiator_is_low { ends.low } else { ends.high }
    }

    /// Whether the initiator was seen to send.
    pub(super) fn is_initiator_seen(&self) -> bool {
        self.of_initiator(self.seen_sending)
    }

    /// Marks it as answered, where this segment accepts the initiator's SYN.
    pub(super) fn accepted(&mut self, key: &FlowKey, s: &Segment<'_>) {
        let answers = self.isn == Some(s.tcp.ack_number.wrapping_sub(1));
        self.answered |= self.is_initiator(key, s.to) && answers;
    }

    fn is_initiator(&self, key: &FlowKey, end: SocketAddr) -> bool {
        (end == key.low_end()) == self.initiator_is_low
    }

    /// Whether it was seen only where it arrives: the initiator is behind none of the interfaces.
    pub(super) fn only_arrives(&self) -> bool {
        (self.behind.low || self.behind.high) && !self.of_initiator(self.behind)
    }

    /// Whether the agent at the initiator's end reports it. Where it arrives, its destination may
    /// have been translated, and only the SYN shows that. A guessed initiator is no reason not to
    /// report.
    pub(super) fn is_left_to_caller(&self) -> bool {
        !self.from_start && self.orientation < Orientation::Guessed && self.only_arrives()
    }

    /// Applies a segment.
    pub(super) fn apply(
        &mut self,
        hot: &mut HotFlow,
        s: &Segment<'_>,
        room: TableRoom,
    ) -> FlowChange {
        if hot.packets == u32::MAX {
            self.earlier += u64::from(std::mem::take(&mut hot.packets));
        }
        self.record_interface(hot, s);
        let mut change =
            FlowChange { repeated: hot.count(s.time, s.interface), ..FlowChange::default() };
        self.first = self.first.min(s.time);
        let tcp = s.transport == Transport::Tcp;
        let from_low = s.from == hot.key.low_end();
        if tcp && s.tcp.syn {
            // What was read of it came from another interface. Its head follows its SYN.
            if !self.from_start && !self.has_host() {
                (self.names_final, self.tries) = (false, 0);
            }
            self.from_start = true;
            self.orientation = Orientation::Handshake;
            if s.tcp.ack {
                self.initiator_is_low = !from_low;
                self.isn.get_or_insert(s.tcp.ack_number.wrapping_sub(1));
            } else {
                self.initiator_is_low = from_low;
                self.isn = Some(s.tcp.seq);
            }
        }
        let by_initiator = from_low == self.initiator_is_low;
        if !by_initiator {
            self.answered = true;
            if s.tcp.rst && !self.responder_spoke {
                self.refused = true;
            }
            self.responder_spoke |= !s.payload.is_empty();
        } else if tcp && s.tcp.ack && !s.tcp.rst {
            // Where only this direction is visible, an acknowledgment shows that the responder
            // answered.
            self.answered = true;
        }
        if tcp && (s.tcp.fin || s.tcp.rst) {
            self.closed = true;
        }
        // A connection joined in the middle of a long body may have counted as nameless before.
        if hot.requests && self.content == Content::Unknown && head::later(s.payload).is_some() {
            self.names_final = false;
        }
        if !s.payload.is_empty() && !self.names_final {
            self.read_payload(hot, s, by_initiator, room.head, &mut change);
        } else if hot.requests && by_initiator && !self.translated_duplicate {
            self.take_later_request(hot, s, room.host, &mut change);
        }
        hot.counts_only = self.names_final
            && self.answered
            && !self.only_arrives()
            && !self.is_initiator_unseen();
        change
    }

    /// Whether a head named a host.
    fn has_host(&self) -> bool {
        self.names.as_ref().is_some_and(|n| n.sni.is_some() || n.authority.is_some())
    }

    /// Whether a segment of the initiator is the first one with payload.
    fn is_begun_by(&self, s: &Segment<'_>) -> bool {
        self.isn.is_some_and(|isn| s.tcp.seq == isn.wrapping_add(1))
    }

    /// Initiator and responder, in this order.
    pub(super) fn ends(&self, key: &FlowKey) -> (SocketAddr, SocketAddr) {
        let (low, high) = (key.low_end(), key.high_end());
        if self.initiator_is_low { (low, high) } else { (high, low) }
    }

    pub(super) fn is_joining(&self) -> bool {
        matches!(self.extra.as_deref(), Some(FlowExtra::Pending(_)))
    }

    /// Later hosts that it remembers.
    pub(super) fn later_host_count(&self) -> usize {
        if let Some(FlowExtra::LaterHosts(later_hosts)) = self.extra.as_deref() {
            later_hosts.len()
        } else {
            0
        }
    }

    /// Shifts all times by `step`, but not beyond `now`. See [`super::table::FlowTable::rebase`].
    pub(super) fn rebase(&mut self, now: Nanos, step: Nanos) {
        self.first = self.first.saturating_add(step).min(now);
        if let Some(FlowExtra::LaterHosts(later_hosts)) = self.extra.as_deref_mut() {
            later_hosts.rebase(now, step);
        }
    }
}
