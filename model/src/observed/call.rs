//! A call of a pod, and the connections that are equal as calls.
//!
//! Owns which fields of a connection are sent, and when two connections are one edge: when
//! resolution reads the same of both. Must never contain what resolution does not read, except
//! counts.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{Merge, Protocol, Time};

/// What resolution reads of a connection, but for its time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// Address and port called.
    pub responder: SocketAddr,
    /// Transport protocol of its connections.
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

impl Call {
    /// The host that it names, for folding.
    pub fn host(&self) -> Option<&str> {
        let dns = self.dns.first();
        self.sni.as_ref().or(self.authority.as_ref()).or(dns).map(String::as_str)
    }

    /// All names that it has: SNI, authority, and questions of DNS answers.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.sni.iter().chain(&self.authority).chain(&self.dns)
    }

    /// The same, borrowed.
    pub fn borrowed(&self) -> CallRef<'_> {
        CallRef {
            responder: self.responder,
            protocol: self.protocol,
            sni: self.sni.as_deref(),
            authority: self.authority.as_deref(),
            dns: self.dns.iter().map(String::as_str).collect(),
        }
    }

    /// Whether it equals a borrowed call.
    pub fn is(&self, other: &CallRef<'_>) -> bool {
        self.responder == other.responder
            && self.protocol == other.protocol
            && self.sni.as_deref() == other.sni
            && self.authority.as_deref() == other.authority
            && self.dns.iter().map(String::as_str).eq(other.dns.iter().copied())
    }
}

/// A [`Call`], borrowed. With it a connection is compared with existing calls before anything is
/// copied.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CallRef<'a> {
    /// See [`Call::responder`].
    pub responder: SocketAddr,
    /// See [`Call::protocol`].
    pub protocol: Protocol,
    /// See [`Call::sni`].
    pub sni: Option<&'a str>,
    /// See [`Call::authority`].
    pub authority: Option<&'a str>,
    /// See [`Call::dns`].
    pub dns: Vec<&'a str>,
}

impl CallRef<'_> {
    /// A copy of its own.
    pub fn to_call(&self) -> Call {
        Call {
            responder: self.responder,
            protocol: self.protocol,
            sni: self.sni.map(str::to_owned),
            authority: self.authority.map(str::to_owned),
            dns: self.dns.iter().map(|&name| name.to_owned()).collect(),
        }
    }
}

/// When a connection began, and from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Opening {
    /// Time of its first packet.
    pub began: Time,
    /// Address and port of the initiator.
    pub from: SocketAddr,
}

/// What an edge takes of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EdgeConnection {
    /// When and from where.
    pub opening: Opening,
    /// Packet time of the last packet so far.
    pub last: Time,
    /// It was not reported before.
    pub is_new: bool,
    /// It is older than the capture.
    pub is_midway: bool,
    /// Its initiator is a guess.
    pub is_guessed: bool,
    /// The responder answered, or the initiator acknowledged an answer.
    pub is_answered: bool,
}

/// Connections of one pod that are one [`Call`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", try_from = "EdgeFields")]
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
    /// New connections; 0 where only connections that were reported before go on.
    pub connections: u64,
    /// Of these, those that are older than the capture.
    #[serde(skip_serializing_if = "crate::is_zero")]
    pub midway: u64,
    /// Of these, those whose initiator is a guess.
    #[serde(skip_serializing_if = "crate::is_zero")]
    pub guessed: u64,
    /// Of these, those that nothing answered.
    #[serde(skip_serializing_if = "crate::is_zero")]
    pub unanswered: u64,
}

impl Edge {
    /// Openings of an edge: the two first and the last.
    pub const MAX_OPENINGS: usize = 3;

    /// An edge with one connection. `pod` is the index of the caller in the batch.
    pub fn of(pod: u32, call: Call, begun: &EdgeConnection) -> Self {
        let mut edge = Self {
            pod,
            call,
            openings: Vec::with_capacity(1),
            last: begun.last,
            connections: 0,
            midway: 0,
            guessed: 0,
            unanswered: 0,
        };
        edge.add(begun);
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
    pub fn add(&mut self, begun: &EdgeConnection) {
        self.open(begun.opening);
        self.last = self.last.max(begun.last);
        let n = u64::from(begun.is_new);
        let add = |sum: &mut u64, counts: bool| *sum = sum.saturating_add(n * u64::from(counts));
        add(&mut self.connections, true);
        add(&mut self.midway, begun.is_midway);
        add(&mut self.guessed, begun.is_guessed);
        add(&mut self.unanswered, !begun.is_answered);
    }

    /// Adds an opening. Only the two first and the last stay, so that the order of adding has no
    /// effect.
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

/// The fields of an edge as they are read. Reading is quicker without a flattened field.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EdgeFields {
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
    // Of the first version: all connections of an edge have the same transport, orientation and
    // initiator.
    transport: Option<FirstVersionTransport>,
    #[serde(default)]
    orientation: FirstVersionOrientation,
    from_start: Option<bool>,
    answered: Option<bool>,
    names: Option<FirstVersionNames>,
    initiator: Option<SocketAddr>,
    first: Option<Time>,
    last_began: Option<Time>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FirstVersionTransport {
    Tcp,
    Udp,
    Sctp,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FirstVersionOrientation {
    Guessed,
    #[default]
    #[serde(other)]
    Known,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct FirstVersionNames {
    sni: Option<String>,
    nameless_hello: bool,
    authority: Option<String>,
    dns: Vec<FirstVersionDnsName>,
}

#[derive(Deserialize)]
struct FirstVersionDnsName {
    question: String,
}

impl FirstVersionNames {
    /// The names of DNS answers that are evidence, each once: a client that was given a host name
    /// puts it into its ClientHello.
    fn questions(&mut self) -> Vec<String> {
        let mut out: Vec<String> = Vec::new();
        for FirstVersionDnsName { question } in std::mem::take(&mut self.dns) {
            if !self.nameless_hello && !out.contains(&question) {
                out.push(question);
            }
        }
        out
    }
}

impl TryFrom<EdgeFields> for Edge {
    type Error = &'static str;

    fn try_from(flat: EdgeFields) -> Result<Self, Self::Error> {
        match flat.transport {
            Some(transport) => flat.of_first_version(transport),
            None => flat.of_today(),
        }
    }
}

impl EdgeFields {
    fn of_today(self) -> Result<Edge, &'static str> {
        let Self { pod, responder, sni, authority, dns, openings, last, connections, .. } = self;
        let Self { midway, guessed, unanswered, .. } = self;
        let protocol = self.protocol.ok_or("an edge without a protocol")?;
        if openings.is_empty() {
            return Err("an edge of which no connection began");
        }
        let call = Call { responder, protocol, sni, authority, dns };
        Ok(Edge { pod, call, openings, last, connections, midway, guessed, unanswered })
    }

    fn of_first_version(self, transport: FirstVersionTransport) -> Result<Edge, &'static str> {
        let protocol = match transport {
            FirstVersionTransport::Tcp => Protocol::Tcp,
            FirstVersionTransport::Udp => Protocol::Udp,
            FirstVersionTransport::Sctp => Protocol::Sctp,
        };
        let mut names = self.names.unwrap_or_default();
        let dns = names.questions();
        let FirstVersionNames { sni, authority, .. } = names;
        let from = self.initiator.ok_or("an edge without an initiator")?;
        let first = self.first.ok_or("an edge without its first time")?;
        let last_began = self.last_began.unwrap_or(first);
        let mut openings = vec![Opening { began: first, from }];
        if last_began != first {
            openings.push(Opening { began: last_began, from });
        }
        let all_if = |counts: bool| if counts { self.connections } else { 0 };
        Ok(Edge {
            pod: self.pod,
            call: Call { responder: self.responder, protocol, sni, authority, dns },
            openings,
            last: self.last,
            connections: self.connections,
            midway: all_if(
                transport == FirstVersionTransport::Tcp && self.from_start == Some(false),
            ),
            guessed: all_if(self.orientation == FirstVersionOrientation::Guessed),
            unanswered: all_if(self.answered == Some(false)),
        })
    }
}
