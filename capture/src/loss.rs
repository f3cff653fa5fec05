//! Counters of packets, and of everything that was seen and could not be used.
//!
//! Owns the counters of the capture layer and their names. A loss is counted where it happens,
//! once, and under one cause only. Must never be reset by a reader.

/// How much was read, and how much of it could not be used.
///
/// The unit is packets, unless the field says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaptureCounters {
    /// Packets read from the source.
    pub packets: u64,
    /// Bytes of packet data read. The captured length counts, not the length on the wire.
    pub bytes: u64,
    /// TCP, UDP and SCTP packets that were used.
    pub used: u64,
    /// Not IP: ARP, STP, 802.1X… Not a loss.
    pub not_ip: u64,
    /// IP, but no TCP, UDP or SCTP: ICMP, IGMP, ESP… Not a loss.
    pub other_transport: u64,
    /// IP fragments after the first, which carry no ports. Not a loss, as the first fragment is
    /// used.
    pub later_fragments: u64,
    /// Packets that were found in packets of a tunnel: VXLAN, Geneve, GRE, IP in IP. Used like any
    /// other. Not a loss.
    pub unwrapped: u64,
    /// Packets of a tunnel that only its ends can read: WireGuard, ESP. They need not be of pods,
    /// and what is in them is readable on the interfaces of pods. Not a loss.
    pub encrypted: u64,
    /// Link layer unknown or cut before the network header.
    pub bad_link: u64,
    /// Network header cut or malformed.
    pub bad_network: u64,
    /// Transport header cut by the snap length or malformed.
    pub bad_transport: u64,
    /// Link type that is not supported.
    pub unknown_link_type: u64,
    /// Packets whose payload was cut by the snap length where it may contain a name: DNS, and in
    /// captures connections whose names are not final. The packet is used, but names in the missing
    /// part are lost. A live filter cuts only packets without names. Heads that it cuts all the
    /// same are counted in `incomplete_head`.
    pub cut_payload: u64,
    /// Packets from or to multicast, broadcast, loopback and unspecified addresses, which no
    /// Service has. Not a loss.
    pub not_unicast: u64,
    /// DNS messages that cannot be read.
    pub bad_dns: u64,
    /// Connections whose ClientHello or request head has a beginning and no end: it was cut, lost
    /// or out of order. Also later requests whose first segment does not contain the authority.
    pub incomplete_head: u64,
    /// Later requests that name a host for which there was no room. These calls are not reported.
    pub dropped_authorities: u64,
    /// Connections forgotten while active, because the flow table was full. Their next packet adds
    /// them again.
    pub evicted_flows: u64,
    /// Connections whose ClientHello or request head continues in a later segment, and was not
    /// joined because too many others were being joined ([`crate::meter::FlowConfig::max_heads`]).
    pub evicted_heads: u64,
    /// DNS answers dropped because too many were remembered.
    pub evicted_answers: u64,
    /// Packets on interfaces whose totals were not counted, because there were too many interfaces.
    pub evicted_interfaces: u64,
    /// Connections seen only where they arrive: the initiator is behind none of the watched
    /// interfaces. As a rule it is on another node, whose agent reports the connection. Their
    /// packets are sampled, so only some are seen. Not a loss.
    pub arriving: u64,
    /// Packets that a pod sent with an address that is not its own. Nothing is learned from them.
    pub forged_source: u64,
    /// DNS answers whose receiver was not seen to ask the question. Nothing is learned from them.
    pub unasked_answers: u64,
    /// Sightings of a packet already seen on another interface. Not a loss.
    pub repeated_sightings: u64,
}

impl CaptureCounters {
    /// Adds the counters of another source.
    pub fn add(&mut self, other: &Self) {
        // Destructured, so that the compiler finds a field that is missing below.
        let Self {
            packets,
            bytes,
            used,
            not_ip,
            other_transport,
            later_fragments,
            unwrapped,
            encrypted,
            bad_link,
            bad_network,
            bad_transport,
            unknown_link_type,
            cut_payload,
            not_unicast,
            bad_dns,
            incomplete_head,
            dropped_authorities,
            evicted_flows,
            evicted_heads,
            evicted_answers,
            evicted_interfaces,
            arriving,
            forged_source,
            unasked_answers,
            repeated_sightings,
        } = other;
        self.packets += packets;
        self.bytes += bytes;
        self.used += used;
        self.not_ip += not_ip;
        self.other_transport += other_transport;
        self.later_fragments += later_fragments;
        self.unwrapped += unwrapped;
        self.encrypted += encrypted;
        self.bad_link += bad_link;
        self.bad_network += bad_network;
        self.bad_transport += bad_transport;
        self.unknown_link_type += unknown_link_type;
        self.cut_payload += cut_payload;
        self.not_unicast += not_unicast;
        self.bad_dns += bad_dns;
        self.incomplete_head += incomplete_head;
        self.dropped_authorities += dropped_authorities;
        self.evicted_flows += evicted_flows;
        self.evicted_heads += evicted_heads;
        self.evicted_answers += evicted_answers;
        self.evicted_interfaces += evicted_interfaces;
        self.arriving += arriving;
        self.forged_source += forged_source;
        self.unasked_answers += unasked_answers;
        self.repeated_sightings += repeated_sightings;
    }

    /// All counters with their names, as they are stored and printed.
    pub fn named(&self) -> [(&'static str, u64); 25] {
        [
            ("packets", self.packets),
            ("bytes", self.bytes),
            ("used", self.used),
            ("not-ip", self.not_ip),
            ("other-transport", self.other_transport),
            ("later-fragments", self.later_fragments),
            ("unwrapped", self.unwrapped),
            ("encrypted-tunnel", self.encrypted),
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
            ("forged-source", self.forged_source),
            ("unasked-answers", self.unasked_answers),
            ("repeated-sightings", self.repeated_sightings),
        ]
    }
}
