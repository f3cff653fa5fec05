//! Observations: what the capture layer reports of connections, lookups and interfaces.
//!
//! Owns the output types. Contains addresses, ports, names and packet times only. Must never
//! contain pods, Services or another Kubernetes object.

use std::net::{IpAddr, SocketAddr};

/// Packet time: nanoseconds since the Unix epoch, as the capture recorded it. Never the clock of
/// the machine.
pub type Nanos = i64;

/// An interface within one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterfaceId {
    /// Index of the capture (file, stream or live handle), in the order of the reader's sources.
    pub source: u32,
    /// Index of the interface: the kernel's where it is live or the link type has it (Linux SLL2),
    /// else the number in the pcapng file, else 0.
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

/// How the initiator of a connection was determined, strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Orientation {
    /// A SYN or SYN-ACK was seen.
    Handshake,
    /// One side sent a TLS ClientHello, an HTTP request head or a DNS question.
    Request,
    /// Something listens on exactly one side: on its address and port, or else on its port (a port
    /// of a Service or an endpoint).
    ListeningPort,
    /// None of these. Of TCP and SCTP, the side with the lower port is taken for the responder.
    /// With equal ports, the sender of the first packet is taken for the initiator. Of datagrams,
    /// the side whose port is ephemeral is taken for the initiator, where the other one's is not. A
    /// guess, and counted as one.
    Guessed,
    /// Datagrams whose ports do not show who calls: both are ephemeral, or neither is. The sender
    /// of the first one that was seen is taken for the initiator.
    Undecided,
}

/// What the first bytes of the initiator are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Content {
    /// No payload of the initiator was readable: joined midway, cut by the snap length, or nothing
    /// was sent.
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

/// A name from a DNS answer that gave this initiator the responder's address, shortly before the
/// connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DnsName {
    /// Name in the question: lower case, without the final dot.
    pub question: String,
    /// Canonical name of the address record, where it differs from the question because a CNAME was
    /// followed.
    pub canonical: Option<String>,
    /// Packet time of the answer.
    pub answered: Nanos,
}

/// Names seen on a connection. Host names are lower case and without a final dot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionNames {
    /// Server name of the ClientHello (RFC 6066), in lower case. Istio's
    /// `outbound_.PORT_.SUBSET_.HOST` is one.
    pub sni: Option<String>,
    /// A whole ClientHello was read, and it names no server. The client was configured with an
    /// address, not a host name.
    pub nameless_hello: bool,
    /// First ALPN protocols of the ClientHello (RFC 7301), at most four.
    pub alpn: Vec<String>,
    /// Authority of the first request: HTTP/1 `Host`, absolute-form target or CONNECT target, or
    /// HTTP/2 `:authority`. Host, with the port as the client sent it.
    pub authority: Option<String>,
    /// DNS answers that gave the initiator the responder's address shortly before, latest first, at
    /// most four.
    pub dns: Vec<DnsName>,
}

/// One connection, or what changed of it since its last report.
///
/// Where later HTTP/1 requests name other hosts than the first request, there is one more report
/// with each such [`ConnectionNames::authority`]. Its times are those of the requests for that
/// host, and it has no packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Address and port of the side that opened it.
    pub initiator: SocketAddr,
    /// Address and port of the side that was called.
    pub responder: SocketAddr,
    /// Transport protocol of the connection.
    pub transport: Transport,
    /// How initiator and responder were distinguished.
    pub orientation: Orientation,
    /// True where its handshake was seen. False where it was joined midway.
    pub from_start: bool,
    /// The responder sent a packet, or the initiator acknowledged one. False for a SYN without an
    /// answer. See also [`Connection::refused`].
    pub answered: bool,
    /// The responder reset the connection before it sent any payload.
    pub refused: bool,
    /// Packet time of the first packet of the connection.
    pub first: Nanos,
    /// Packet time of the last packet so far.
    pub last: Nanos,
    /// Initial sequence number of the initiator (RFC 9293 §3.4), where its SYN or the answer to it
    /// was seen. Together with the initiator it identifies the connection on every interface, even
    /// where its destination was translated.
    pub isn: Option<u32>,
    /// A FIN or a RST was seen.
    pub closed: bool,
    /// Packets in both directions since the last report. Repeated sightings are not counted, where
    /// the link type identifies the interface.
    pub packets: u64,
    /// What the first bytes of the initiator are.
    pub content: Content,
    /// Names seen on it, or in DNS answers before it.
    pub names: ConnectionNames,
    /// Interface on which its first packet was seen.
    pub interface: InterfaceId,
    /// False where this connection, or this later host of it, was reported before. Then it must not
    /// be counted again.
    pub is_new: bool,
}

/// A DNS question, with its answer where one was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// Interface on which it was seen first.
    pub interface: InterfaceId,
    /// Address of the pod that asked.
    pub client: IpAddr,
    /// Address and port of the DNS server.
    pub server: SocketAddr,
    /// Packet time of the answer, or of the question where no answer was seen.
    pub time: Nanos,
    /// Name in the question: lower case, without the final dot.
    pub question: String,
    /// Canonical name of the address records, where a CNAME was followed.
    pub canonical: Option<String>,
    /// Addresses in the answer (A and AAAA), as far as the packet contains them.
    pub addresses: Vec<IpAddr>,
    /// Response code of the answer (RFC 1035 §4.1.1); `None` where no answer was seen.
    pub rcode: Option<u8>,
}

/// Totals of one interface. They show whose interface it is: on the host side of a pod's veth,
/// every packet has that pod's address at one end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceSpan {
    /// The interface that was seen.
    pub interface: InterfaceId,
    /// Packet time of the first packet, or of the beginning of the span on a live interface.
    pub first: Nanos,
    /// Packet time of the last packet, or of the end of the span on a live interface.
    pub last: Nanos,
    /// TCP, UDP and SCTP packets seen on it.
    pub packets: u64,
    /// Packets and observations of it that were lost within the span. 0 for a capture file.
    pub lost: u64,
    /// Addresses at one end of the IPv4 packets of the interface, of all but one in 20. Two, while
    /// the interface has shown a single conversation. If one of them is at an end of more packets,
    /// that one alone. May be empty.
    pub common_v4: Vec<CommonAddress>,
    /// Same as `common_v4`, for IPv6 without link-local and unspecified addresses.
    pub common_v6: Vec<CommonAddress>,
    /// Owner of a live interface. `None` for a capture file.
    pub owner: Option<InterfaceOwner>,
    /// Packets that the pod behind it sent with an address that is not its own, since the last
    /// report. For a capture file: packets with none of the common addresses at either end.
    pub forged: u64,
    /// Some of the addresses that those packets claimed.
    pub claimed: Vec<IpAddr>,
}

/// How the owner of a live interface was determined, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OwnerEvidence {
    /// Its packets alone. The node has no evidence.
    Packets,
    /// The node's neighbours (ARP, NDP) and the forwarding table of a bridge. The first entry
    /// counts.
    Neighbour,
    /// A host route of the node leads through it.
    Route,
}

/// The owner of a live interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceOwner {
    /// Addresses that its pod may send from, sorted.
    pub addresses: Vec<IpAddr>,
    /// How the owner was determined.
    pub by: OwnerEvidence,
}

/// An address at one end of the packets of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommonAddress {
    /// Address at one end of the packets.
    pub address: IpAddr,
    /// Packets that it sent whose TTL or hop limit is the initial value of an operating system (64,
    /// 128 or 255), so that no router forwarded them.
    pub unrouted: u64,
    /// Packets that it sent with any other TTL or hop limit. A router forwarded them before this
    /// interface.
    pub routed: u64,
}

/// One report of the capture layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// A connection that ended, was forgotten, or goes on.
    Connection(Connection),
    /// A DNS question, answered or not.
    Lookup(Lookup),
    /// Totals of an interface.
    Interface(InterfaceSpan),
}
