//! What a batch contains of a connection.
//!
//! Owns the conversion from the types of the capture layer to those of a batch. Must never leave
//! out what resolution reads.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use sidecarta_capture::observation::{Connection, ConnectionNames, Orientation, Transport};

use super::{CallRef, EdgeConnection, Opening};
use crate::model::{Protocol, Time};

/// The protocol of a transport.
pub fn protocol(transport: Transport) -> Protocol {
    match transport {
        Transport::Tcp => Protocol::Tcp,
        Transport::Udp => Protocol::Udp,
        Transport::Sctp => Protocol::Sctp,
    }
}

/// Stands for the responder of datagrams of which nothing shows who calls. All of a pod are one
/// call: by their ports, each client of a server would be another one.
const UNDIRECTED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Whether a responder is that of datagrams of which nothing shows who calls.
pub fn is_undirected(responder: SocketAddr) -> bool {
    responder == UNDIRECTED
}

/// What resolution reads of a connection.
pub fn call(c: &Connection) -> CallRef<'_> {
    if c.orientation == Orientation::Undecided {
        return CallRef {
            responder: UNDIRECTED,
            protocol: protocol(c.transport),
            sni: None,
            authority: None,
            dns: Vec::new(),
        };
    }
    CallRef {
        responder: c.responder,
        protocol: protocol(c.transport),
        sni: c.names.sni.as_deref(),
        authority: c.names.authority.as_deref(),
        dns: questions(&c.names).collect(),
    }
}

/// The names of DNS answers that count as evidence: each once, the latest first.
fn questions(names: &ConnectionNames) -> impl Iterator<Item = &str> {
    // A client that was given a host name puts it into its ClientHello. A ClientHello without a
    // name means that the client was given the address. An earlier answer with that address is a
    // coincidence.
    let all = if names.nameless_hello { &[][..] } else { &names.dns[..] };
    let repeated = |i: usize| all[..i].iter().any(|n| n.question == all[i].question);
    all.iter().enumerate().filter(move |(i, _)| !repeated(*i)).map(|(_, n)| n.question.as_str())
}

/// What an edge counts of a connection.
pub fn begun(c: &Connection) -> EdgeConnection {
    EdgeConnection {
        opening: Opening { began: Time(c.first), from: c.initiator },
        last: Time(c.last),
        is_new: c.is_new,
        // Only TCP has a beginning that can be missed.
        is_midway: c.transport == Transport::Tcp && !c.from_start,
        is_guessed: c.orientation >= Orientation::Guessed,
        is_answered: c.answered,
    }
}
