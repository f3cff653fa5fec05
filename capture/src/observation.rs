//! What the capture layer tells the rest: connections, name look-ups, and whose interface was
//! watched.
//!
//! Owns the output types and nothing else. Must never know of pods, Services or any other
//! Kubernetes object: addresses, ports, names and packet times are all there is here.

use std::net::{IpAddr, SocketAddr};

/// Packet time: nanoseconds since the Unix epoch, as the capture recorded it. Never "now".
pub type Nanos = i64;

/// An interface within one run: `source` is the index of the opened capture (file, stream or live
/// handle), `index` the kernel's interface index where the link type tells it (Linux SLL2) or the
/// pcapng interface, else 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterfaceId {
    /// Index of the opened capture, in the order in which the reader was given them.
    pub source: u32,
    /// Kernel interface index (SLL2) or pcapng interface number; 0 where the capture has one
    /// interface only.
    pub index: u32,
}

/// Transport protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// TCP (RFC 9293).
    Tcp,
    /// UDP (RFC 768).
    Udp,
    /// SCTP (RFC 9260): ports only, no handshake is followed.
    Sctp,
}

/// How the initiator of a connection is known, strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Orientation {
    /// A SYN or SYN-ACK was seen.
    Handshake,
    /// One side sent a TLS ClientHello, an HTTP request head or a DNS question.
    Request,
    /// Exactly one side is a socket, or failing that a port, known to listen (a Service or endpoint
    /// port).
    KnownPort,
    /// Neither: the side with the lower port is taken for the responder (equal ports: the sender of
    /// the first packet is taken for the initiator). A guess, and counted as one.
    Guessed,
}

/// What the first bytes of the initiator turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Content {
    /// No payload of the initiator was readable (midway, cut by the snap length, or none was sent).
    Unknown,
    /// A TLS ClientHello, or TLS records of a connection joined midway.
    Tls,
    /// HTTP/1 request head.
    Http1,
    /// HTTP/2 connection preface in plaintext.
    Http2,
    /// Payload from the connection's start that is none of the above.
    Other,
}

/// A name that an answer of the DNS gave for the responder's address, to this initiator, shortly
/// before the connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DnsName {
    /// The name asked for, lower case, without the final dot.
    pub question: String,
    /// The canonical name that owned the address record, where it differs from the question (a
    /// CNAME was followed).
    pub canonical: Option<String>,
    /// When the answer was seen.
    pub answered: Nanos,
}

/// Names seen on a connection. Host names are lower case and without a final dot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Names {
    /// Server name of the ClientHello (RFC 6066), Istio's `outbound_.PORT_.SUBSET_.HOST` included,
    /// verbatim but for case.
    pub sni: Option<String>,
    /// A whole ClientHello was read and it named no server: the client was given an address, not a
    /// host name.
    pub nameless_hello: bool,
    /// First ALPN protocols of the ClientHello (RFC 7301), at most four.
    pub alpn: Vec<String>,
    /// HTTP/1 `Host`, absolute-form target or CONNECT target, or HTTP/2 `:authority`: host with the
    /// port as it was sent.
    pub authority: Option<String>,
    /// DNS answers that gave the responder's address to the initiator shortly before, latest first,
    /// at most four.
    pub dns: Vec<DnsName>,
}

/// One connection, or what was learned of it since it was last told.
///
/// Where later HTTP/1 requests on it ask for another host than the first one did, it is told once
/// more with each such [`Names::authority`]: with the times of the requests for that host, and
/// without packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Address and port of the side that opened it.
    pub initiator: SocketAddr,
    /// Address and port of the side that was called.
    pub responder: SocketAddr,
    /// Transport protocol.
    pub transport: Transport,
    /// How initiator and responder were told apart.
    pub orientation: Orientation,
    /// False where the connection was older than the capture: its handshake was not seen.
    pub from_start: bool,
    /// The responder was heard (any packet of it), or the initiator acknowledged something: the
    /// call was answered. False for a SYN without an answer; see also [`Connection::refused`].
    pub answered: bool,
    /// The responder reset the connection before it sent any payload.
    pub refused: bool,
    /// Time of the first packet of the connection.
    pub first: Nanos,
    /// Time of the last packet so far.
    pub last: Nanos,
    /// The initial sequence number of the initiator (RFC 9293 §3.4), where its SYN or the answer to
    /// it was seen: with the initiator it names the connection on every interface, also where its
    /// destination was translated.
    pub isn: Option<u32>,
    /// A FIN or a RST was seen.
    pub closed: bool,
    /// Packets of both directions since the last report (sightings of one packet on several
    /// interfaces count once where the link type tells the interfaces apart).
    pub packets: u64,
    /// What the initiator's first bytes were.
    pub content: Content,
    /// Names seen on it or leading to it.
    pub names: Names,
    /// Interface on which its first packet was seen.
    pub interface: InterfaceId,
    /// False for a further report of a connection already told (a long-lived one), or of a host
    /// already told of it: it must not be counted again.
    pub is_new: bool,
}

/// A DNS question, with what was answered where the answer was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// Interface on which it was seen first.
    pub interface: InterfaceId,
    /// Who asked.
    pub client: IpAddr,
    /// The DNS server asked.
    pub server: SocketAddr,
    /// When the answer was seen (the question, where only that was).
    pub time: Nanos,
    /// The name asked for, lower case, without the final dot.
    pub question: String,
    /// Owner of the address records where a CNAME was followed.
    pub canonical: Option<String>,
    /// Addresses answered (A and AAAA), as far as the packet holds them.
    pub addresses: Vec<IpAddr>,
    /// Whether an answer was seen, and its response code (RFC 1035 §4.1.1); `None`: only the
    /// question.
    pub rcode: Option<u8>,
}

/// What was seen on one interface in total, so that coverage can tell whose interface it is: on the
/// host side of a pod's veth every packet has that pod's address at one end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceSpan {
    /// Which one.
    pub interface: InterfaceId,
    /// First packet time.
    pub first: Nanos,
    /// Last packet time.
    pub last: Nanos,
    /// TCP, UDP and SCTP packets seen on it.
    pub packets: u64,
    /// Addresses that stand at one end of the IPv4 packets of the interface, of all but one in 20:
    /// none, one, or two while it has shown a single conversation. Where one stands at an end of
    /// more packets than the other, that one alone.
    pub common_v4: Vec<CommonAddress>,
    /// The same for IPv6 (link-local and unspecified addresses aside).
    pub common_v6: Vec<CommonAddress>,
    /// Whose it is, where more than its packets in common tells: on live interfaces.
    pub owner: Option<Owner>,
    /// Packets that the pod behind it sent with an address that is not its own, since the last
    /// report. Of a capture file: packets with none of the common addresses at either end.
    pub forged: u64,
    /// Some of the addresses that those claimed.
    pub claimed: Vec<IpAddr>,
}

/// How it is known whose a live interface is, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OwnedBy {
    /// By its packets alone: the node tells nothing.
    Packets,
    /// The node's neighbours (ARP, NDP) and the bridge's forwarding table: the first that was
    /// known.
    Neighbour,
    /// The node has a host route through it.
    Route,
}

/// Whose a live interface is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Addresses that its pod may send from, sorted.
    pub addresses: Vec<IpAddr>,
    /// How it is known.
    pub by: OwnedBy,
}

/// An address at one end of the packets of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommonAddress {
    /// The address.
    pub address: IpAddr,
    /// Packets that it sent whose TTL or hop limit is an operating system's initial value (64, 128
    /// or 255): not yet routed.
    pub unrouted: u64,
    /// Packets that it sent with any other TTL or hop limit: they crossed a router before this
    /// interface.
    pub routed: u64,
}

/// All that the capture layer tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// A connection ended, was forgotten, or was asked for while it lasts.
    Connection(Connection),
    /// A DNS look-up.
    Lookup(Lookup),
    /// Totals of an interface, told when the input ends or when asked for.
    Interface(InterfaceSpan),
}
