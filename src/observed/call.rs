//! A call of a pod, and the connections that are equal as calls.
//!
//! Owns what of a connection is told, and when two connections are one edge: when resolution reads
//! the same of both. Must never hold what resolution does not read, but for counts.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use sidecarta_capture::observation::{Connection, Names, Orientation, Transport};

use crate::model::{Merge, Protocol, Time};

/// What resolution reads of a connection, but for its time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// Address and port called.
    pub responder: SocketAddr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Server name of the ClientHello (RFC 6066), lower case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// Host of the HTTP request, with the port as it was sent, lower case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// Names whose DNS answers gave the responder's address to the pod shortly before, latest
    /// first. None where a ClientHello without a server name says that the client was given the
    /// address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<String>,
}

/// The protocol of a transport.
pub fn protocol(transport: Transport) -> Protocol {
    match transport {
        Transport::Tcp => Protocol::Tcp,
        Transport::Udp => Protocol::Udp,
        Transport::Sctp => Protocol::Sctp,
    }
}

/// Whether a connection is older than the capture. Only TCP has a beginning that can be missed.
pub(super) fn is_midway(c: &Connection) -> bool {
    began_before(c.transport, c.from_start)
}

fn began_before(transport: Transport, from_start: bool) -> bool {
    transport == Transport::Tcp && !from_start
}

/// Whether the initiator of a connection is a guess.
pub(super) fn is_guessed(c: &Connection) -> bool {
    c.orientation == Orientation::Guessed
}

/// The names of DNS answers that are evidence, latest first, each once.
fn questions(names: &Names) -> impl Iterator<Item = &str> {
    // A client that was given a host name puts it into its ClientHello; one without was given the
    // address, and an earlier answer with that address is a coincidence.
    let all = if names.nameless_hello { &[][..] } else { &names.dns[..] };
    let repeated = |i: usize| all[..i].iter().any(|n| n.question == all[i].question);
    all.iter().enumerate().filter(move |(i, _)| !repeated(*i)).map(|(_, n)| n.question.as_str())
}

impl Call {
    /// Of a connection.
    pub fn of(c: &Connection) -> Self {
        Self::named(c.responder, protocol(c.transport), &c.names)
    }

    fn named(responder: SocketAddr, protocol: Protocol, names: &Names) -> Self {
        Self {
            responder,
            protocol,
            sni: names.sni.clone(),
            authority: names.authority.clone(),
            dns: questions(names).map(str::to_owned).collect(),
        }
    }

    /// The host that it names, for folding.
    pub fn host(&self) -> Option<&str> {
        let dns = self.dns.first();
        self.sni.as_ref().or(self.authority.as_ref()).or(dns).map(String::as_str)
    }

    /// Its names.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.sni.iter().chain(&self.authority).chain(&self.dns)
    }

    /// What makes it equal to another one, borrowed.
    pub(super) fn parts(&self) -> Parts<'_> {
        Parts {
            responder: self.responder,
            protocol: self.protocol,
            sni: self.sni.as_deref(),
            authority: self.authority.as_deref(),
            dns: self.dns.iter().map(String::as_str).collect(),
        }
    }

    /// Whether these are its parts.
    pub(super) fn is(&self, parts: &Parts<'_>) -> bool {
        self.responder == parts.responder
            && self.protocol == parts.protocol
            && self.sni.as_deref() == parts.sni
            && self.authority.as_deref() == parts.authority
            && self.dns.iter().map(String::as_str).eq(parts.dns.iter().copied())
    }
}

/// A [`Call`], borrowed: a connection is compared with the calls that are known before anything of
/// it is copied.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Parts<'a> {
    responder: SocketAddr,
    protocol: Protocol,
    sni: Option<&'a str>,
    authority: Option<&'a str>,
    dns: Vec<&'a str>,
}

impl<'a> Parts<'a> {
    pub fn of(c: &'a Connection) -> Self {
        Self {
            responder: c.responder,
            protocol: protocol(c.transport),
            sni: c.names.sni.as_deref(),
            authority: c.names.authority.as_deref(),
            dns: questions(&c.names).collect(),
        }
    }
}

/// When a connection began, and from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Opening {
    /// Time of its first packet.
    pub began: Time,
    /// Its initiator.
    pub from: SocketAddr,
}

/// Connections of one pod that are one [`Call`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", try_from = "Flat")]
pub struct Edge {
    /// Index of the pod in [`Observed::pods`](super::Observed::pods).
    pub pod: u32,
    /// What they have in common.
    #[serde(flatten)]
    pub call: Call,
    /// The two that began first and the one that began last, in order; one at least.
    pub openings: Vec<Opening>,
    /// Last packet of any.
    pub last: Time,
    /// New connections; 0 where it is only told that known ones go on.
    pub connections: u64,
    /// Of these, those that are older than the capture.
    #[serde(skip_serializing_if = "is_zero")]
    pub midway: u64,
    /// Of these, those whose initiator is a guess.
    #[serde(skip_serializing_if = "is_zero")]
    pub guessed: u64,
    /// Of these, those that nothing answered.
    #[serde(skip_serializing_if = "is_zero")]
    pub unanswered: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Edge {
    /// Openings of an edge: the two first and the last.
    pub const MAX_OPENINGS: usize = 3;

    /// Of one connection.
    pub fn of(pod: u32, call: Call, c: &Connection) -> Self {
        let mut edge = Self {
            pod,
            call,
            openings: Vec::with_capacity(1),
            last: Time(c.last),
            connections: 0,
            midway: 0,
            guessed: 0,
            unanswered: 0,
        };
        edge.add(c);
        edge
    }

    /// First packet of the first connection.
    pub fn first(&self) -> Time {
        self.openings.first().map_or(self.last, |o| o.began)
    }

    /// First packet of the connection that began last.
    pub fn last_began(&self) -> Time {
        self.openings.last().map_or(self.last, |o| o.began)
    }

    /// Adds a connection of the same pod and call.
    pub fn add(&mut self, c: &Connection) {
        self.open(Opening { began: Time(c.first), from: c.initiator });
        self.last = self.last.max(Time(c.last));
        let n = u64::from(c.is_new);
        self.connections = self.connections.saturating_add(n);
        let add = |sum: &mut u64, counts: bool| *sum = sum.saturating_add(n * u64::from(counts));
        add(&mut self.midway, is_midway(c));
        add(&mut self.guessed, is_guessed(c));
        add(&mut self.unanswered, !c.answered);
    }

    /// Keeps the two first and the last of all openings, so that the order of adding does not show.
    fn open(&mut self, opening: Opening) {
        let Err(at) = self.openings.binary_search(&opening) else { return };
        match self.openings.len() {
            Self::MAX_OPENINGS if at == Self::MAX_OPENINGS => self.openings[at - 1] = opening,
            Self::MAX_OPENINGS if at == Self::MAX_OPENINGS - 1 => {}
            Self::MAX_OPENINGS => {
                self.openings.insert(at, opening);
                self.openings.remove(Self::MAX_OPENINGS - 1);
            }
            _ => self.openings.insert(at, opening),
        }
    }
}

impl Merge for Edge {
    /// Of two edges of the same pod and call.
    fn merge(&mut self, other: &Self) {
        other.openings.iter().for_each(|o| self.open(*o));
        self.last = self.last.max(other.last);
        for (sum, n) in [
            (&mut self.connections, other.connections),
            (&mut self.midway, other.midway),
            (&mut self.guessed, other.guessed),
            (&mut self.unanswered, other.unanswered),
        ] {
            *sum = sum.saturating_add(n);
        }
    }
}

/// An edge as it is read, which is quicker without a flattened field.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Flat {
    pod: u32,
    responder: SocketAddr,
    last: Time,
    connections: u64,
    protocol: Option<Protocol>,
    sni: Option<String>,
    authority: Option<String>,
    #[serde(default)]
    dns: Vec<String>,
    #[serde(default)]
    openings: Vec<Opening>,
    #[serde(default)]
    midway: u64,
    #[serde(default)]
    guessed: u64,
    #[serde(default)]
    unanswered: u64,
    // Of the first version: one way of connecting for all connections of an edge.
    transport: Option<Transport>,
    orientation: Option<Orientation>,
    from_start: Option<bool>,
    answered: Option<bool>,
    names: Option<Names>,
    initiator: Option<SocketAddr>,
    first: Option<Time>,
    last_began: Option<Time>,
}

impl TryFrom<Flat> for Edge {
    type Error = &'static str;

    fn try_from(flat: Flat) -> Result<Self, Self::Error> {
        let Flat { pod, responder, last, connections, .. } = flat;
        let Some(transport) = flat.transport else {
            let Flat { sni, authority, dns, openings, midway, guessed, unanswered, .. } = flat;
            let protocol = flat.protocol.ok_or("an edge without a protocol")?;
            if openings.is_empty() {
                return Err("an edge of which no connection began");
            }
            let call = Call { responder, protocol, sni, authority, dns };
            return Ok(Self {
                pod,
                call,
                openings,
                last,
                connections,
                midway,
                guessed,
                unanswered,
            });
        };
        let names = flat.names.unwrap_or_default();
        let call = Call::named(responder, protocol(transport), &names);
        let from = flat.initiator.ok_or("an edge without an initiator")?;
        let first = flat.first.ok_or("an edge without its first time")?;
        let last_began = flat.last_began.unwrap_or(first);
        let all_if = |counts: bool| if counts { connections } else { 0 };
        let mut openings = vec![Opening { began: first, from }];
        if last_began != first {
            openings.push(Opening { began: last_began, from });
        }
        Ok(Self {
            pod,
            call,
            openings,
            last,
            connections,
            midway: all_if(began_before(transport, flat.from_start.unwrap_or(true))),
            guessed: all_if(flat.orientation == Some(Orientation::Guessed)),
            unanswered: all_if(!flat.answered.unwrap_or(true)),
        })
    }
}
