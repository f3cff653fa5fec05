//! One connection while it is followed.

use std::net::SocketAddr;

use super::head::{self, Begins, MAX_HEAD};
use super::key::FlowKey;
use super::slots::Hot;
use crate::decode::Segment;
use crate::frame::Direction;
use crate::observation::{Connection, Content, DnsName, Names, Nanos, Orientation, Transport};

/// Segments of an initiator that are searched for a name before the connection counts as nameless: a connection joined midway
/// may begin with the rest of a body.
const MAX_TRIES: u8 = 32;

/// A head being joined.
#[derive(Debug)]
struct Pending {
    content: Content,
    bytes: Vec<u8>,
    next: u32,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub initiator: SocketAddr,
    pub orientation: Orientation,
    pub from_start: bool,
    pub answered: bool,
    pub refused: bool,
    pub closed: bool,
    /// Names can change no more: the fast path may count its packets.
    pub settled: bool,
    /// A translated twin of another connection, on a capture of all interfaces: never told.
    pub twin: bool,
    pub told: bool,
    /// Ends of the connection (low, high) that are behind an interface it was seen on, where directions are known.
    behind: (bool, bool),
    responder_spoke: bool,
    tries: u8,
    /// Initial sequence number of the initiator.
    pub isn: Option<u32>,
    pub first: Nanos,
    /// Packets since it was last told, beyond those that [`Hot::packets`] has room for.
    earlier: u64,
    content: Content,
    names: Option<Box<Names>>,
    pending: Option<Box<Pending>>,
    /// Which entry of the expiry queues is the valid one.
    pub stamp: u32,
}

/// What a segment changed that the table must know of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// A head began to be joined.
    pub head_began: bool,
    /// A joined head is done with.
    pub head_ended: bool,
    /// It ended without being whole.
    pub head_incomplete: bool,
    /// The packet was seen before on another interface.
    pub repeated: bool,
}

impl Entry {
    pub fn new(initiator: SocketAddr, orientation: Orientation, first: Nanos) -> Self {
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
            responder_spoke: false,
            tries: 0,
            isn: None,
            first,
            earlier: 0,
            content: Content::Unknown,
            names: None,
            pending: None,
            stamp: 0,
        }
    }

    pub fn set_names(&mut self, names: Names) {
        if names != Names::default() {
            self.names = Some(Box::new(names));
        }
    }

    pub fn set_dns(&mut self, dns: Vec<DnsName>) {
        self.names.get_or_insert_default().dns = dns;
    }

    /// Who listens has become known.
    pub fn orient(&mut self, initiator: SocketAddr, names: Names) {
        // What was seen of it so far came from the other end then.
        self.answered |= self.initiator != initiator;
        self.initiator = initiator;
        self.orientation = Orientation::KnownPort;
        self.names = None;
        self.set_names(names);
    }

    /// Notes which end is behind the interface that a segment was seen on.
    pub fn place(&mut self, hot: &mut Hot, s: &Segment<'_>) {
        let behind = match s.direction {
            Direction::Unknown => return,
            Direction::Received => s.from,
            Direction::Sent => s.to,
        };
        let low = behind == hot.key.end(true);
        if low {
            self.behind.0 = true;
        } else {
            self.behind.1 = true;
        }
        if behind == self.initiator {
            // The interface of whoever calls is the one that counts.
            hot.interface = s.interface;
        }
    }

    /// Whether it was seen only where it arrives: whoever opened it is behind none of the interfaces.
    pub fn arrives(&self, key: &FlowKey) -> bool {
        let (low, high) = self.behind;
        (low || high) && !(if self.initiator == key.end(true) { low } else { high })
    }

    /// Whether it is the other end's to tell. Where a call arrives its destination may have been translated, of which only the SYN tells;
    /// and a guess of who called is no reason to keep anything back.
    pub fn is_others(&self, key: &FlowKey) -> bool {
        !self.from_start && self.orientation != Orientation::Guessed && self.arrives(key)
    }

    /// Takes a segment in. `may_join`: another head may be joined.
    pub fn take(&mut self, hot: &mut Hot, s: &Segment<'_>, may_join: bool) -> Change {
        if hot.packets == u32::MAX {
            self.earlier += u64::from(std::mem::take(&mut hot.packets));
        }
        self.place(hot, s);
        let mut change = Change { repeated: hot.count(s.time, s.interface), ..Change::default() };
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
            // Where only this half is visible, what it acknowledges shows that the other half exists.
            self.answered = true;
        }
        if tcp && (s.tcp.fin || s.tcp.rst) {
            self.closed = true;
        }
        if !s.payload.is_empty() && !self.settled {
            self.payload(s, by_initiator, may_join, &mut change);
        }
        hot.settled = self.settled && self.answered && !self.arrives(&hot.key);
        change
    }

    fn payload(&mut self, s: &Segment<'_>, by_initiator: bool, may_join: bool, change: &mut Change) {
        if s.transport != Transport::Tcp {
            self.settled = true;
            return;
        }
        let sure = self.orientation <= Orientation::Request;
        if sure && !by_initiator {
            return;
        }
        if let Some(pending) = &mut self.pending {
            if s.from == self.initiator {
                let done = pending.join(s, self.names.get_or_insert_default());
                if done.is_some() {
                    *change = Change { head_ended: true, head_incomplete: done == Some(false), ..*change };
                    self.pending = None;
                    self.settled = true;
                }
            }
            return;
        }
        match head::begins(s.payload) {
            Begins::Head(content) => {
                // Whoever sends a request or a ClientHello is the initiator.
                if !sure {
                    self.initiator = s.from;
                    self.orientation = Orientation::Request;
                }
                self.content = content;
                let whole = head::read(content, s.payload, self.names.get_or_insert_default());
                if whole {
                    self.settled = true;
                } else if s.cut || !may_join {
                    change.head_incomplete = true;
                    self.settled = true;
                } else {
                    change.head_began = true;
                    let bytes = s.payload[..s.payload.len().min(MAX_HEAD)].to_vec();
                    let next = s.tcp.seq.wrapping_add(s.payload.len() as u32);
                    self.pending = Some(Box::new(Pending { content, bytes, next }));
                }
            }
            Begins::TlsRecords => {
                self.content = Content::Tls;
                self.settled = true;
            }
            Begins::Nothing => {
                let begins_connection = self.isn.is_some_and(|isn| s.tcp.seq == isn.wrapping_add(1));
                self.tries += 1;
                if by_initiator && begins_connection {
                    self.content = Content::Other;
                    self.settled = true;
                }
                self.settled |= self.tries >= MAX_TRIES;
            }
        }
    }

    /// Initiator and responder.
    pub fn ends(&self, key: &FlowKey) -> (SocketAddr, SocketAddr) {
        let (low, high) = (key.end(true), key.end(false));
        if self.initiator == low { (low, high) } else { (high, low) }
    }

    /// What is told of it now; `None` where there is nothing new.
    pub fn report(&mut self, hot: &mut Hot) -> Option<Connection> {
        if self.twin || !hot.changed || self.is_others(&hot.key) {
            return None;
        }
        let (initiator, responder) = self.ends(&hot.key);
        let connection = Connection {
            initiator,
            responder,
            transport: hot.key.transport(),
            orientation: self.orientation,
            from_start: self.from_start,
            answered: self.answered,
            refused: self.refused,
            first: self.first,
            last: hot.last,
            packets: self.earlier + u64::from(hot.packets),
            content: self.content,
            names: self.names.as_deref().cloned().unwrap_or_default(),
            interface: hot.interface,
            is_new: !self.told,
        };
        self.told = true;
        self.earlier = 0;
        hot.changed = false;
        hot.packets = 0;
        Some(connection)
    }

    pub fn joining(&self) -> bool {
        self.pending.is_some()
    }
}

impl Pending {
    /// Adds a segment. `Some(whole)` when it is done with.
    fn join(&mut self, s: &Segment<'_>, names: &mut Names) -> Option<bool> {
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
