//! Ethernet frames with IPv4.

use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep};

/// Address and port of one end.
pub type End = ([u8; 4], u16);

/// The link-layer address of whoever sends.
const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The link-layer address of the node's side of routed pods. A bridge floods frames for addresses
/// that it does not know, so it works there, too.
const NODE: [u8; 6] = [0xee; 6];
/// Length of an Ethernet header without tags.
const HEADER: usize = 14;
/// Where the link-layer addresses of a frame end and its type, or its first tag, begins.
const TYPE: usize = 12;

fn builder(from: [u8; 4], to: [u8; 4]) -> PacketBuilderStep<IpHeaders> {
    PacketBuilder::ethernet2(SENDER, NODE).ipv4(from, to, 64)
}

/// A TCP segment without its ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp<'a> {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number. With one, ACK is set.
    pub ack: Option<u32>,
    /// Whether SYN is set.
    pub syn: bool,
    /// Whether PSH is set.
    pub psh: bool,
    /// What is sent.
    pub payload: &'a [u8],
}

impl Tcp<'_> {
    /// The frame of this segment.
    pub fn frame(&self, from: End, to: End) -> Vec<u8> {
        let mut tcp = builder(from.0, to.0).tcp(from.1, to.1, self.seq, 64_000);
        if self.syn {
            tcp = tcp.syn();
        }
        if self.psh {
            tcp = tcp.psh();
        }
        if let Some(ack) = self.ack {
            tcp = tcp.ack(ack);
        }
        let mut frame = Vec::new();
        tcp.write(&mut frame, self.payload).unwrap();
        frame
    }
}

/// A SYN: the segment that opens a connection.
pub fn syn(from: End, to: End, seq: u32) -> Vec<u8> {
    Tcp { seq, syn: true, ..Tcp::default() }.frame(from, to)
}

/// A UDP datagram.
pub fn datagram(from: End, to: End, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    builder(from.0, to.0).udp(from.1, to.1).write(&mut frame, payload).unwrap();
    frame
}

/// The packet within a frame that has no tags.
pub fn packet(frame: &[u8]) -> &[u8] {
    &frame[HEADER..]
}

/// A frame within this number of VLAN tags: 802.1ad outside, 802.1Q inside.
pub fn tagged(frame: &[u8], tags: u8) -> Vec<u8> {
    let mut out = frame[..TYPE].to_vec();
    for tag in 0..tags {
        out.extend(if tag + 1 < tags { [0x88, 0xa8] } else { [0x81, 0x00] });
        out.extend([0, 100 + tag]);
    }
    out.extend(&frame[TYPE..]);
    out
}
