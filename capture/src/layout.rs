//! Layouts of headers: lengths, offsets, and the numbers in their fields.
//!
//! Owns each number, once, with its source. Lengths and offsets are in bytes. Offsets count from
//! the beginning of the header that the module is named after. All fields are big-endian. Must
//! never decide what a field means for a connection.

/// Ethernet II (IEEE 802.3 §3.2.6).
pub(crate) mod ethernet {
    /// Length without a tag.
    pub(crate) const HEADER: usize = 14;
    /// Offset of the EtherType, or of the first VLAN tag.
    pub(crate) const ETHER_TYPE: usize = 12;
    /// IPv4 (RFC 894).
    pub(crate) const IPV4: u16 = 0x0800;
    /// IPv6 (RFC 2464).
    pub(crate) const IPV6: u16 = 0x86dd;
    /// EtherTypes of VLAN tags: IEEE 802.1Q, and 802.1ad for the outer tag.
    pub(crate) const VLAN: [u16; 2] = [0x8100, 0x88a8];
    /// Length of a VLAN tag after its EtherType: control information, then the EtherType of what
    /// follows.
    pub(crate) const VLAN_TAG: usize = 4;
    /// Offset of the EtherType that follows within a VLAN tag.
    pub(crate) const VLAN_ETHER_TYPE: usize = 2;
}

/// Linux "cooked" capture (LINKTYPE_LINUX_SLL,
/// <https://www.tcpdump.org/linktypes/LINKTYPE_LINUX_SLL.html>).
pub(crate) mod sll {
    /// Length of the header.
    pub(crate) const HEADER: usize = 16;
    /// Offset of the EtherType.
    pub(crate) const ETHER_TYPE: usize = 14;
}

/// Linux "cooked" capture, version 2 (LINKTYPE_LINUX_SLL2,
/// <https://www.tcpdump.org/linktypes/LINKTYPE_LINUX_SLL2.html>).
pub(crate) mod sll2 {
    /// Length of the header.
    pub(crate) const HEADER: usize = 20;
    /// Offset of the EtherType.
    pub(crate) const ETHER_TYPE: usize = 0;
    /// Offset of the kernel's index of the interface, 32 bits.
    const INTERFACE: usize = 4;
    /// Offset of the packet's type, 8 bits.
    const TYPE: usize = 10;
    /// Type of a frame that the interface sent (`PACKET_OUTGOING`, packet(7)).
    const OUTGOING: u8 = 4;

    /// Whether the interface sent a frame.
    pub(crate) fn is_sent(frame: &[u8]) -> bool {
        frame.get(TYPE) == Some(&OUTGOING)
    }

    /// The kernel's index of the interface that a frame was seen on; `None` where the frame is too
    /// short.
    pub(crate) fn interface(frame: &[u8]) -> Option<u32> {
        frame.get(INTERFACE..)?.first_chunk().map(|b| u32::from_be_bytes(*b))
    }
}

/// BSD loopback (LINKTYPE_NULL, LINKTYPE_LOOP).
pub(crate) mod loopback {
    /// Length of the header, which is the address family.
    pub(crate) const HEADER: usize = 4;
}

/// IPv4 (RFC 791 §3.1).
pub(crate) mod ipv4 {
    /// Length without options.
    pub(crate) const HEADER: usize = 20;
    /// First byte of a header without options: version 4, five words of four bytes.
    pub(crate) const PLAIN: u8 = 0x45;
    /// Offset of the length of header and payload.
    pub(crate) const TOTAL_LENGTH: usize = 2;
    /// Offset of flags and fragment offset.
    pub(crate) const FRAGMENT: usize = 6;
    /// Fragment offset, in units of eight bytes, within the two bytes at [`FRAGMENT`].
    pub(crate) const FRAGMENT_OFFSET: u16 = 0x1fff;
    /// Fragment offset and "more fragments" within the two bytes at [`FRAGMENT`]. 0 in a packet
    /// that is no fragment.
    pub(crate) const FRAGMENTED: u16 = 0x3fff;
    /// Offset of the time to live.
    pub(crate) const TTL: usize = 8;
    /// Offset of the protocol number.
    pub(crate) const PROTOCOL: usize = 9;
    /// Offset of the source address.
    pub(crate) const SOURCE: usize = 12;
    /// Offset of the destination address.
    pub(crate) const DESTINATION: usize = 16;
}

/// IPv6 (RFC 8200 §3).
pub(crate) mod ipv6 {
    /// Length without extension headers.
    pub(crate) const HEADER: usize = 40;
    /// Offset of the length of what follows the header.
    pub(crate) const PAYLOAD_LENGTH: usize = 4;
    /// Offset of the next header's number.
    pub(crate) const NEXT_HEADER: usize = 6;
    /// Offset of the hop limit.
    pub(crate) const HOP_LIMIT: usize = 7;
    /// Offset of the source address.
    pub(crate) const SOURCE: usize = 8;
    /// Offset of the destination address.
    pub(crate) const DESTINATION: usize = 24;
    /// Number of the fragment header (§4.5).
    pub(crate) const FRAGMENT: u8 = 44;
    /// Length of the fragment header.
    pub(crate) const FRAGMENT_HEADER: usize = 8;
    /// Fragment offset within the two bytes at offset 2 of the fragment header, above three bits.
    pub(crate) const FRAGMENT_OFFSET: u16 = 0xfff8;
    /// Numbers of hop-by-hop options, routing and destination options (§4.3, §4.4, §4.6): next
    /// header, then length in units of eight bytes without the first eight.
    pub(crate) const OPTIONS: [u8; 3] = [0, 43, 60];
}

/// Protocol numbers (IANA, "Assigned Internet Protocol Numbers").
pub(crate) mod protocol {
    /// TCP (RFC 9293).
    pub(crate) const TCP: u8 = 6;
    /// UDP (RFC 768).
    pub(crate) const UDP: u8 = 17;
    /// SCTP (RFC 9260).
    pub(crate) const SCTP: u8 = 132;
    /// Authentication header (RFC 4302).
    pub(crate) const AUTHENTICATION: u8 = 51;
}

/// Ports, at the same offsets in TCP, UDP and SCTP.
pub(crate) mod ports {
    /// Offset of the source port.
    pub(crate) const SOURCE: usize = 0;
    /// Offset of the destination port.
    pub(crate) const DESTINATION: usize = 2;
}

/// TCP (RFC 9293 §3.1).
pub(crate) mod tcp {
    /// Length without options.
    pub(crate) const HEADER: usize = 20;
    /// Offset of the sequence number.
    pub(crate) const SEQUENCE: usize = 4;
    /// Offset of the acknowledgment number.
    pub(crate) const ACKNOWLEDGMENT: usize = 8;
    /// Offset of the header's length, in its upper four bits, in units of four bytes.
    pub(crate) const DATA_OFFSET: usize = 12;
    /// Offset of the flags.
    pub(crate) const FLAGS: usize = 13;
    /// No more data from the sender.
    pub(crate) const FIN: u8 = 0x01;
    /// Opens a connection.
    pub(crate) const SYN: u8 = 0x02;
    /// Resets a connection.
    pub(crate) const RST: u8 = 0x04;
    /// Last segment of what the sender wrote.
    pub(crate) const PSH: u8 = 0x08;
    /// The acknowledgment number is valid.
    pub(crate) const ACK: u8 = 0x10;

    /// The header's length in bytes, from the byte at [`DATA_OFFSET`].
    pub(crate) const fn header_length(data_offset: u8) -> usize {
        (data_offset >> 4) as usize * 4
    }
}

/// UDP (RFC 768).
pub(crate) mod udp {
    /// Length of the header.
    pub(crate) const HEADER: usize = 8;
    /// Offset of the length of header and payload.
    pub(crate) const LENGTH: usize = 4;
}

/// VXLAN (RFC 7348 §5).
pub(crate) mod vxlan {
    /// IANA's port, and the default of the Linux kernel (flannel, Cilium).
    pub(crate) const PORTS: [u16; 2] = [4789, 8472];
    /// Length.
    pub(crate) const HEADER: usize = 8;
    /// First byte: the network identifier is valid.
    pub(crate) const FLAGS: u8 = 0x08;
}

/// Geneve (RFC 8926 §3).
pub(crate) mod geneve {
    /// Its port.
    pub(crate) const PORT: u16 = 6081;
    /// Length without options. The first byte has the version in two bits, then the length of the
    /// options in units of four bytes.
    pub(crate) const HEADER: usize = 8;
    /// Offset of the EtherType of what follows.
    pub(crate) const ETHER_TYPE: usize = 2;
}

/// GRE (RFC 2784 §2, RFC 2890 §2).
pub(crate) mod gre {
    /// Length without optional fields, each of four bytes.
    pub(crate) const HEADER: usize = 4;
    /// Offset of the EtherType of what follows.
    pub(crate) const ETHER_TYPE: usize = 2;
    /// A frame of Ethernet follows.
    pub(crate) const BRIDGED: u16 = 0x6558;
    /// Flags of fields that follow.
    pub(crate) const CHECKSUM: u16 = 0x8000;
    /// As [`CHECKSUM`].
    pub(crate) const KEY: u16 = 0x2000;
    /// As [`CHECKSUM`].
    pub(crate) const SEQUENCE: u16 = 0x1000;
    /// Flags that no tunnel of an overlay sets, and the version.
    pub(crate) const UNKNOWN: u16 = 0x4fff;
}

/// WireGuard (<https://www.wireguard.com/protocol/>): the type, three zeros, and what is encrypted.
pub(crate) mod wireguard {
    /// Its own port (Calico, Antrea, flannel), Calico's for IPv6, and Cilium's.
    pub(crate) const PORTS: [u16; 3] = [51820, 51821, 51871];
    /// Handshake initiation and response, and cookie reply, with their lengths.
    pub(crate) const LENGTHS: [(u8, usize); 3] = [(1, 148), (2, 92), (3, 64)];
    /// Data, in blocks of 16 bytes.
    pub(crate) const DATA: u8 = 4;
    /// Least length of data.
    pub(crate) const LEAST_DATA: usize = 32;
}

/// TLS records (RFC 8446 §5.1) and handshake messages (§4).
pub(crate) mod tls {
    /// Length of a record's header.
    pub(crate) const RECORD_HEADER: usize = 5;
    /// Offset of a record's length.
    pub(crate) const RECORD_LENGTH: usize = 3;
    /// Types of records: change cipher spec, alert, handshake, application data.
    pub(crate) const RECORD_TYPES: [u8; 4] = [0x14, 0x15, HANDSHAKE, 0x17];
    /// Type of a record with a handshake message.
    pub(crate) const HANDSHAKE: u8 = 0x16;
    /// Major version of all records since SSL 3.
    pub(crate) const MAJOR: u8 = 3;
    /// Type of a ClientHello.
    pub(crate) const CLIENT_HELLO: u8 = 1;
}
