//! Counters of everything that was seen and could not be used, each cause apart.
//!
//! A loss is counted where it happens, once, and is never folded into another cause. Must never be
//! reset by a reader.

/// What was read, and what of it could not be used.
///
/// All values are packets unless the field says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets read from the source.
    pub packets: u64,
    /// Bytes of packet data read (captured length, not wire length).
    pub bytes: u64,
    /// TCP, UDP and SCTP packets that were used.
    pub used: u64,
    /// Not IP: ARP, STP, 802.1X… Not a loss.
    pub not_ip: u64,
    /// IP, but no TCP, UDP or SCTP: ICMP, IGMP, ESP… Not a loss.
    pub other_transport: u64,
    /// IP fragments after the first: they carry no ports. Not a loss by themselves, the first
    /// fragment is used.
    pub later_fragments: u64,
    /// Link layer unknown or cut before the network header.
    pub bad_link: u64,
    /// Network header cut or malformed.
    pub bad_network: u64,
    /// Transport header cut by the snap length or malformed.
    pub bad_transport: u64,
    /// Link type that Sidecarta does not read.
    pub unknown_link_type: u64,
    /// Packets whose payload was cut by the snap length while a name might be in it: of DNS, and in
    /// captures of connections whose names are not known yet. Used, but names in the missing part
    /// are lost. A live filter cuts what has no name; heads that are cut all the same are in
    /// `incomplete_head`.
    pub cut_payload: u64,
    /// Multicast, broadcast, loopback and unspecified addresses: never a Service. Not a loss.
    pub not_unicast: u64,
    /// DNS messages that could not be read.
    pub bad_dns: u64,
    /// Connections whose ClientHello or request head began readable and never completed (cut, lost
    /// or out of order), and later requests whose first segment does not hold the authority.
    pub incomplete_head: u64,
    /// Later requests for hosts of which there was no room to remember them: those calls are not
    /// told.
    pub dropped_authorities: u64,
    /// Connections forgotten while active because the flow table was full; learned again with their
    /// next packet.
    pub evicted_flows: u64,
    /// Connections whose ClientHello or request head goes on in a later segment, and was not joined
    /// because too many others were being joined ([`crate::meter::Config::max_heads`]).
    pub evicted_heads: u64,
    /// Remembered DNS answers dropped because there were too many.
    pub evicted_answers: u64,
    /// Interfaces whose totals were not kept because there were too many.
    pub evicted_interfaces: u64,
    /// Connections seen only where they arrive: whoever opened them is behind none of the watched
    /// interfaces, as a rule on another node, whose agent tells them. Only some are seen, as
    /// packets of them are sampled. Not a loss.
    pub arriving: u64,
    /// Sightings of a packet already seen on another interface. Not a loss.
    pub repeated_sightings: u64,
}

impl Counters {
    /// All of them with their names, as they are stored and shown.
    pub fn named(&self) -> [(&'static str, u64); 21] {
        [
            ("packets", self.packets),
            ("bytes", self.bytes),
            ("used", self.used),
            ("not-ip", self.not_ip),
            ("other-transport", self.other_transport),
            ("later-fragments", self.later_fragments),
            ("bad-link", self.bad_link),
            ("bad-network", self.bad_network),
            ("bad-transport", self.bad_transport),
            ("unknown-link-type", self.unknown_link_type),
            ("cut-payload", self.cut_payload),
            ("not-unicast", self.not_unicast),
            ("bad-dns", self.bad_dns),
            ("incomplete-head", self.incomplete_head),
            ("dropped-authorities", self.dropped_authorities),
            ("evicted-flows", self.evicted_flows),
            ("evicted-heads", self.evicted_heads),
            ("evicted-answers", self.evicted_answers),
            ("evicted-interfaces", self.evicted_interfaces),
            ("arriving-connections", self.arriving),
            ("repeated-sightings", self.repeated_sightings),
        ]
    }
}
