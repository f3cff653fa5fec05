//! One connection while it is followed.
//!
//! Owns what a segment changes in a flow: orientation, answer, names and end. Must never search the
//! flow table or decide when a flow expires.

mod report;

use std::net::SocketAddr;

use super::head::{self, MAX_HEAD, PayloadStart};
use super::hot::HotFlow;
use super::key::FlowKey;
use super::later_hosts::{Added, LaterHosts};
use crate::decode::Segment;
use crate::frame::Direction;
use crate::observation::{ConnectionNames, Content, DnsName, Nanos, Orientation, Transport};

/// Segments of an initiator in which a head of any kind is searched. After them the connection
/// counts as nameless, and only requests are searched. A connection joined midway may begin with
/// the rest of a body.
const MAX_TRIES: u8 = 32;

/// A head whose segments are being joined.
#[derive(Debug)]
struct PendingHead {
    content: Content,
    bytes: Vec<u8>,
    /// Sequence number of the byte that comes next.
    next: u32,
}

/// State of joining a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JoinState {
    /// More segments may belong to it.
    Open,
    /// It was read to its end.
    Whole,
    /// It ends before its end was read.
    Incomplete,
}

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
        !self.from_start && self.orientation != Orientation::Guessed && self.only_arrives()
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

    fn read_payload(
        &mut self,
        hot: &mut HotFlow,
        s: &Segment<'_>,
        by_initiator: bool,
        may_join: bool,
        change: &mut FlowChange,
    ) {
        if s.transport != Transport::Tcp {
            self.names_final = true;
            return;
        }
        let is_oriented = self.orientation <= Orientation::Request;
        if is_oriented && !by_initiator {
            return;
        }
        if let Some(FlowExtra::Pending(pending)) = self.extra.as_deref_mut() {
            if by_initiator {
                let state = pending.join(s, self.names.get_or_insert_default());
                if state != JoinState::Open {
                    change.head_ended = true;
                    change.head_incomplete = state == JoinState::Incomplete;
                    hot.requests &= !head::opens_tunnel(&pending.bytes);
                    self.extra = None;
                    self.names_final = true;
                }
            }
            return;
        }
        match head::begins(s.payload) {
            PayloadStart::Head(content) => {
                if !is_oriented {
                    // The initiator is the end that sends a request or a ClientHello.
                    self.initiator_is_low = s.from == hot.key.low_end();
                    self.orientation = Orientation::Request;
                }
                self.begin_head(content, hot, s, may_join, change);
            }
            PayloadStart::TlsRecords => {
                self.content = Content::Tls;
                // Rings are read one after the other: the ClientHello of a connection whose SYN was
                // seen may be in the ring of another interface, which is read later.
                self.tries += 1;
                let hello_may_follow = self.isn.is_some() && !self.is_begun_by(s);
                self.names_final = !hello_may_follow || self.tries >= MAX_TRIES;
            }
            PayloadStart::Nothing => {
                self.tries += 1;
                if by_initiator && self.is_begun_by(s) {
                    self.content = Content::Other;
                    self.names_final = true;
                }
                if self.tries >= MAX_TRIES {
                    self.names_final = true;
                    hot.requests = true;
                }
            }
        }
    }

    /// Reads the first segment of a head, and begins to join the head where it is not whole.
    fn begin_head(
        &mut self,
        content: Content,
        hot: &mut HotFlow,
        s: &Segment<'_>,
        may_join: bool,
        change: &mut FlowChange,
    ) {
        self.content = content;
        hot.requests = content == Content::Http1 && !head::opens_tunnel(s.payload);
        let whole = head::read(content, s.payload, self.names.get_or_insert_default());
        self.names_final = whole || s.cut || !may_join;
        if whole {
            return;
        }
        if s.cut {
            change.head_incomplete = true;
        } else if !may_join {
            change.head_dropped = true;
        } else {
            change.head_began = true;
            let bytes = s.payload[..s.payload.len().min(MAX_HEAD)].to_vec();
            let next = s.tcp.seq.wrapping_add(s.payload.len() as u32);
            self.extra = Some(Box::new(FlowExtra::Pending(PendingHead { content, bytes, next })));
        }
    }

    /// Reads a segment that may begin with a later request.
    fn take_later_request(
        &mut self,
        hot: &mut HotFlow,
        s: &Segment<'_>,
        may_add: bool,
        change: &mut FlowChange,
    ) {
        let Some(head) = head::later(s.payload) else { return };
        hot.requests = !head::opens_tunnel(s.payload);
        let Some(authority) = head.authority else {
            // A retransmission of a joined head's first segment loses nothing.
            change.head_incomplete = !head.complete && !change.repeated && !self.is_begun_by(s);
            return;
        };
        if self.names.as_ref().is_some_and(|n| n.authority.as_ref() == Some(&authority)) {
            return;
        }
        let extra = self
            .extra
            .get_or_insert_with(|| Box::new(FlowExtra::LaterHosts(LaterHosts::default())));
        if let FlowExtra::LaterHosts(later_hosts) = extra.as_mut() {
            let added = later_hosts.add(authority, s.time, may_add);
            change.new_host = added == Added::New;
            change.host_dropped = added == Added::Dropped && !change.repeated;
        }
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

impl PendingHead {
    /// Appends a segment, and reads the head again.
    fn join(&mut self, s: &Segment<'_>, names: &mut ConnectionNames) -> JoinState {
        // Bytes of this segment that are there already: retransmissions overlap.
        let overlap = self.next.wrapping_sub(s.tcp.seq);
        let Some(new) = s.payload.get(overlap as usize..).filter(|n| !n.is_empty()) else {
            // A retransmission, or a gap. A gap ends the head, as the lost segment may never come.
            let is_gap = (overlap as i32) < 0;
            return if is_gap { JoinState::Incomplete } else { JoinState::Open };
        };
        let room = MAX_HEAD - self.bytes.len();
        self.bytes.extend_from_slice(&new[..new.len().min(room)]);
        self.next = s.tcp.seq.wrapping_add(s.payload.len() as u32);
        if head::read(self.content, &self.bytes, names) {
            return JoinState::Whole;
        }
        if s.cut || self.bytes.len() >= MAX_HEAD { JoinState::Incomplete } else { JoinState::Open }
    }
}
