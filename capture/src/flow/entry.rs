//! One connection while it is followed.

use std::net::SocketAddr;

use super::head::{self, MAX_HEAD, PayloadStart};
use super::hot::HotFlow;
use super::key::FlowKey;
use super::later_hosts::{Added, LaterHosts};
use crate::decode::Segment;
use crate::frame::Direction;
use crate::observation::{
    Connection, ConnectionNames, Content, DnsName, Nanos, Observation, Orientation, Transport,
};

/// Segments of an initiator that are searched for a name of any kind before the connection counts
/// as nameless, and only requests are looked for: a connection joined midway may begin with the
/// rest of a body.
const MAX_TRIES: u8 = 32;

/// A head being joined.
#[derive(Debug)]
struct PendingHead {
    content: Content,
    bytes: Vec<u8>,
    next: u32,
}

/// What only some connections have, and never both at a time.
#[derive(Debug)]
enum FlowExtra {
    Pending(PendingHead),
    LaterHosts(LaterHosts),
}

/// What there is room for in the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TableRoom {
    /// Another head may be joined.
    pub head: bool,
    /// Another host of later requests may be remembered.
    pub host: bool,
}

#[derive(Debug)]
pub(crate) struct FlowEntry {
    pub initiator: SocketAddr,
    pub orientation: Orientation,
    pub from_start: bool,
    pub answered: bool,
    pub refused: bool,
    pub closed: bool,
    /// Its own names can change no more: the fast path may count its packets, but for later
    /// requests.
    pub settled: bool,
    /// A translated twin of another connection, on a capture of all interfaces: never told.
    pub twin: bool,
    pub told: bool,
    /// Ends of the connection (low, high) that are behind an interface it was seen on, where
    /// directions are known.
    behind: (bool, bool),
    /// Ends that were seen to send on an interface that they are behind.
    heard: (bool, bool),
    /// Ends behind interfaces that show all that they send. What such an end was not heard to send,
    /// others have sent in its name, or it reaches where it goes under another address.
    hearable: (bool, bool),
    /// A segment of it was forged, and its initiator was not heard: not to be told.
    pub forged: bool,
    /// It began with a forged segment.
    pub began_forged: bool,
    responder_spoke: bool,
    tries: u8,
    /// Initial sequence number of the initiator.
    pub isn: Option<u32>,
    pub first: Nanos,
    /// Packets since it was last told, beyond those that [`HotFlow::packets`] has room for.
    earlier: u64,
    content: Content,
    names: Option<Box<ConnectionNames>>,
    extra: Option<Box<FlowExtra>>,
    /// Which entry of the expiry queues is the valid one.
    pub stamp: u32,
}

/// What a segment changed that the table must know of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FlowChange {
    /// A head began to be joined.
    pub head_began: bool,
    /// A joined head is done with.
    pub head_ended: bool,
    /// It ended without being whole.
    pub head_incomplete: bool,
    /// A head began that is not joined, for want of room.
    pub head_dropped: bool,
    /// The packet was seen before on another interface.
    pub repeated: bool,
    /// A host was asked for that was not before.
    pub further: bool,
    /// The same, and there is no room for it.
    pub further_dropped: bool,
}

impl FlowEntry {
    pub(super) fn new(initiator: SocketAddr, orientation: Orientation, first: Nanos) -> Self {
        Self {
            initiator,
            orientation,
            from_start: false,
            answered: false,
            refused: false,
            closed: false,
            settled: false,
            twin: false,
            told: false,
            behind: (false, false),
            heard: (false, false),
            hearable: (false, false),
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

    /// Who listens has become known.
    pub(super) fn orient(&mut self, initiator: SocketAddr, names: ConnectionNames) {
        // What was seen of it so far came from the other end then.
        self.answered |= self.initiator != initiator;
        self.initiator = initiator;
        self.orientation = Orientation::ListeningPort;
        self.names = None;
        self.set_names(names);
    }

    /// Notes which end is behind the interface that a segment was seen on.
    pub(super) fn place(&mut self, hot: &mut HotFlow, s: &Segment<'_>) {
        let behind = match s.direction {
            Direction::Unknown => return,
            Direction::Received => s.from,
            Direction::Sent => s.to,
        };
        // A reset may only refuse what others have forged.
        let sent = s.direction == Direction::Received && !s.tcp.rst;
        if behind == hot.key.end(true) {
            self.behind.0 = true;
            self.heard.0 |= sent;
        } else {
            self.behind.1 = true;
            self.heard.1 |= sent;
        }
        // Whoever is behind the interface that showed it sent it itself.
        self.forged &= !(sent && behind == self.initiator);
        if behind == self.initiator {
            // The interface of whoever calls is the one that counts.
            hot.interface = s.interface;
        }
    }

    /// Says of the ends (low, high) whether they are behind interfaces that show all they send.
    pub(super) fn set_hearable(&mut self, hearable: (bool, bool)) {
        self.hearable = hearable;
    }

    /// Whether whoever opened it was not heard to send any of it, and would have been.
    pub(super) fn is_unheard(&self, key: &FlowKey) -> bool {
        let of = |(low, high)| if self.initiator == key.end(true) { low } else { high };
        (of(self.behind) || of(self.hearable)) && !of(self.heard)
    }

    /// Whether whoever opened it was heard to send some of it.
    pub(super) fn is_heard(&self, key: &FlowKey) -> bool {
        if self.initiator == key.end(true) { self.heard.0 } else { self.heard.1 }
    }

    /// The responder accepted the connection, as its answer to the initiator's SYN shows.
    pub(super) fn accepted(&mut self, s: &Segment<'_>) {
        let answers = self.isn == Some(s.tcp.ack_number.wrapping_sub(1));
        self.answered |= s.to == self.initiator && answers;
    }

    /// Whether it was seen only where it arrives: whoever opened it is behind none of the
    /// interfaces.
    pub(super) fn arrives(&self, key: &FlowKey) -> bool {
        let (low, high) = self.behind;
        (low || high) && !(if self.initiator == key.end(true) { low } else { high })
    }

    /// Whether it is the other end's to tell. Where a call arrives its destination may have been
    /// translated, of which only the SYN tells; and a guess of who called is no reason to keep
    /// anything back.
    pub(super) fn is_others(&self, key: &FlowKey) -> bool {
        !self.from_start && self.orientation != Orientation::Guessed && self.arrives(key)
    }

    /// Takes a segment in.
    pub(super) fn take(
        &mut self,
        hot: &mut HotFlow,
        s: &Segment<'_>,
        room: TableRoom,
    ) -> FlowChange {
        if hot.packets == u32::MAX {
            self.earlier += u64::from(std::mem::take(&mut hot.packets));
        }
        self.place(hot, s);
        let mut change =
            FlowChange { repeated: hot.count(s.time, s.interface), ..FlowChange::default() };
        self.first = self.first.min(s.time);
        let tcp = s.transport == Transport::Tcp;
        if tcp && s.tcp.syn {
            self.from_start = true;
            self.orientation = Orientation::Handshake;
            if s.tcp.ack {
                self.initiator = s.to;
                self.isn.get_or_insert(s.tcp.ack_number.wrapping_sub(1));
            } else {
                self.initiator = s.from;
                self.isn = Some(s.tcp.seq);
            }
        }
        let by_initiator = s.from == self.initiator;
        if !by_initiator {
            self.answered = true;
            if s.tcp.rst && !self.responder_spoke {
                self.refused = true;
            }
            self.responder_spoke |= !s.payload.is_empty();
        } else if tcp && s.tcp.ack && !s.tcp.rst {
            // Where only this half is visible, what it acknowledges shows that the other half
            // exists.
            self.answered = true;
        }
        if tcp && (s.tcp.fin || s.tcp.rst) {
            self.closed = true;
        }
        // Joined in the middle of a long body, it may have counted as nameless.
        self.settled &=
            !(hot.requests && self.content == Content::Unknown && head::later(s.payload).is_some());
        if !s.payload.is_empty() && !self.settled {
            self.payload(hot, s, by_initiator, room.head, &mut change);
        } else if hot.requests && by_initiator && !self.twin {
            self.later(hot, s, room.host, &mut change);
        }
        hot.settled =
            self.settled && self.answered && !self.arrives(&hot.key) && !self.is_unheard(&hot.key);
        change
    }

    fn payload(
        &mut self,
        hot: &mut HotFlow,
        s: &Segment<'_>,
        by_initiator: bool,
        may_join: bool,
        change: &mut FlowChange,
    ) {
        if s.transport != Transport::Tcp {
            self.settled = true;
            return;
        }
        let sure = self.orientation <= Orientation::Request;
        if sure && !by_initiator {
            return;
        }
        if let Some(FlowExtra::Pending(pending)) = self.extra.as_deref_mut() {
            if s.from == self.initiator {
                let done = pending.join(s, self.names.get_or_insert_default());
                if done.is_some() {
                    *change = FlowChange {
                        head_ended: true,
                        head_incomplete: done == Some(false),
                        ..*change
                    };
                    hot.requests &= !head::opens_tunnel(&pending.bytes);
                    self.extra = None;
                    self.settled = true;
                }
            }
            return;
        }
        match head::begins(s.payload) {
            PayloadStart::Head(content) => {
                // Whoever sends a request or a ClientHello is the initiator.
                if !sure {
                    self.initiator = s.from;
                    self.orientation = Orientation::Request;
                }
                self.content = content;
                hot.requests = content == Content::Http1 && !head::opens_tunnel(s.payload);
                let whole = head::read(content, s.payload, self.names.get_or_insert_default());
                if whole {
                    self.settled = true;
                } else if s.cut {
                    change.head_incomplete = true;
                    self.settled = true;
                } else if !may_join {
                    change.head_dropped = true;
                    self.settled = true;
                } else {
                    change.head_began = true;
                    let bytes = s.payload[..s.payload.len().min(MAX_HEAD)].to_vec();
                    let next = s.tcp.seq.wrapping_add(s.payload.len() as u32);
                    self.extra =
                        Some(Box::new(FlowExtra::Pending(PendingHead { content, bytes, next })));
                }
            }
            PayloadStart::TlsRecords => {
                self.content = Content::Tls;
                self.settled = true;
            }
            PayloadStart::Nothing => {
                self.tries += 1;
                if by_initiator && self.is_begun_by(s) {
                    self.content = Content::Other;
                    self.settled = true;
                }
                if self.tries >= MAX_TRIES {
                    self.settled = true;
                    hot.requests = true;
                }
            }
        }
    }

    /// Takes in what may be a request after the first.
    fn later(
        &mut self,
        hot: &mut HotFlow,
        s: &Segment<'_>,
        may_note: bool,
        change: &mut FlowChange,
    ) {
        let Some(head) = head::later(s.payload) else { return };
        hot.requests = !head::opens_tunnel(s.payload);
        let Some(authority) = head.authority else {
            // The first segment of a joined head, sent once more, loses nothing.
            change.head_incomplete = !head.complete && !change.repeated && !self.is_begun_by(s);
            return;
        };
        if self.names.as_ref().is_some_and(|n| n.authority.as_ref() == Some(&authority)) {
            return;
        }
        let extra = self
            .extra
            .get_or_insert_with(|| Box::new(FlowExtra::LaterHosts(LaterHosts::default())));
        if let FlowExtra::LaterHosts(further) = extra.as_mut() {
            let noted = further.note(authority, s.time, may_note);
            change.further = noted == Added::New;
            change.further_dropped = noted == Added::Dropped && !change.repeated;
        }
    }

    /// Whether a segment of the initiator is the first one with payload.
    fn is_begun_by(&self, s: &Segment<'_>) -> bool {
        self.isn.is_some_and(|isn| s.tcp.seq == isn.wrapping_add(1))
    }

    /// Initiator and responder.
    pub(super) fn ends(&self, key: &FlowKey) -> (SocketAddr, SocketAddr) {
        let (low, high) = (key.end(true), key.end(false));
        if self.initiator == low { (low, high) } else { (high, low) }
    }

    /// Tells what is new of it: the connection, and once more with each further host that was asked
    /// for on it.
    pub(super) fn report(&mut self, hot: &mut HotFlow, sink: &mut impl FnMut(Observation)) {
        if !hot.changed || self.is_withheld(&hot.key) {
            return;
        }
        let connection = self.connection(hot);
        self.told = true;
        self.earlier = 0;
        hot.changed = false;
        hot.packets = 0;
        sink(Observation::Connection(connection));
        self.report_further(hot, false, sink);
    }

    /// Tells the further hosts alone; `only_new`: those that were never told.
    pub(super) fn report_further(
        &mut self,
        hot: &HotFlow,
        only_new: bool,
        sink: &mut impl FnMut(Observation),
    ) {
        if self.is_withheld(&hot.key) {
            return;
        }
        let Some(mut extra) = self.extra.take() else { return };
        if let FlowExtra::LaterHosts(further) = extra.as_mut() {
            further.tell(only_new, |host| {
                let dns = self.names.as_ref().map(|n| n.dns.clone()).unwrap_or_default();
                let names = ConnectionNames {
                    authority: Some(host.authority.to_string()),
                    dns,
                    ..ConnectionNames::default()
                };
                let (first, last, is_new) = (host.first, host.last, !host.told);
                // Its packets are told with the connection.
                let connection =
                    Connection { first, last, packets: 0, names, is_new, ..self.connection(hot) };
                sink(Observation::Connection(connection));
            });
        }
        self.extra = Some(extra);
    }

    /// Whether it is not to be told at all.
    fn is_withheld(&self, key: &FlowKey) -> bool {
        self.twin || self.forged || self.is_others(key) || self.is_unheard(key)
    }

    fn connection(&self, hot: &HotFlow) -> Connection {
        let (initiator, responder) = self.ends(&hot.key);
        Connection {
            initiator,
            responder,
            transport: hot.key.transport(),
            orientation: self.orientation,
            from_start: self.from_start,
            answered: self.answered,
            refused: self.refused,
            first: self.first,
            last: hot.last,
            isn: self.isn,
            closed: self.closed,
            packets: self.earlier + u64::from(hot.packets),
            content: self.content,
            names: self.names.as_deref().cloned().unwrap_or_default(),
            interface: hot.interface,
            is_new: !self.told,
        }
    }

    pub(super) fn joining(&self) -> bool {
        matches!(self.extra.as_deref(), Some(FlowExtra::Pending(_)))
    }

    /// Further hosts remembered.
    pub(super) fn further(&self) -> usize {
        if let Some(FlowExtra::LaterHosts(further)) = self.extra.as_deref() {
            further.len()
        } else {
            0
        }
    }

    /// See [`super::table::FlowTable::rebase`].
    pub(super) fn rebase(&mut self, now: Nanos, step: Nanos) {
        self.first = self.first.saturating_add(step).min(now);
        if let Some(FlowExtra::LaterHosts(further)) = self.extra.as_deref_mut() {
            further.rebase(now, step);
        }
    }
}

impl PendingHead {
    /// Adds a segment. `Some(whole)` when it is done with.
    fn join(&mut self, s: &Segment<'_>, names: &mut ConnectionNames) -> Option<bool> {
        // How far this segment begins behind what is expected: retransmissions overlap.
        let behind = self.next.wrapping_sub(s.tcp.seq);
        let Some(new) = s.payload.get(behind as usize..).filter(|n| !n.is_empty()) else {
            // An old segment again, or a gap: a lost segment cannot be waited for without end.
            let gap = (behind as i32) < 0;
            return gap.then_some(false);
        };
        let room = MAX_HEAD - self.bytes.len();
        self.bytes.extend_from_slice(&new[..new.len().min(room)]);
        self.next = s.tcp.seq.wrapping_add(s.payload.len() as u32);
        if head::read(self.content, &self.bytes, names) {
            return Some(true);
        }
        (s.cut || self.bytes.len() >= MAX_HEAD).then_some(false)
    }
}
