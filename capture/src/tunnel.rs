//! Packets within packets: what an overlay network wraps the packets of pods in on its way between
//! nodes.
//!
//! Owns finding the inner packet, and telling what is encrypted. Must never take for a tunnel what
//! only has its port: the header must be one.

use etherparse::{EtherType, IpNumber};

use crate::bytes::be16;
use crate::layout::{geneve, gre, ports, udp, vxlan, wireguard};

/// What a packet of a tunnel contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Within<'a> {
    /// A frame of Ethernet.
    Frame(&'a [u8]),
    /// A packet of this EtherType.
    Packet(EtherType, &'a [u8]),
    /// What only the ends of the tunnel can read.
    Encrypted,
}

/// Reads what is behind an IP header with this protocol number; `None` where that is no tunnel.
pub(crate) fn within(number: IpNumber, data: &[u8]) -> Option<Within<'_>> {
    match number {
        // RFC 2003, RFC 4213.
        IpNumber::IPV4 => Some(Within::Packet(EtherType::IPV4, data)),
        IpNumber::IPV6 => Some(Within::Packet(EtherType::IPV6, data)),
        IpNumber::GRE => in_gre(data),
        IpNumber::ENCAPSULATING_SECURITY_PAYLOAD => Some(Within::Encrypted),
        IpNumber::UDP => {
            let port = be16(data, ports::DESTINATION)?;
            let inner = data.get(udp::HEADER..)?;
            match port {
                p if vxlan::PORTS.contains(&p) => in_vxlan(inner),
                geneve::PORT => in_geneve(inner),
                p if wireguard::PORTS.contains(&p) => {
                    let length = usize::from(be16(data, udp::LENGTH)?).checked_sub(udp::HEADER)?;
                    is_wireguard(inner, length).then_some(Within::Encrypted)
                }
                _ => None,
            }
        }
        _ => None,
    }
}

fn in_vxlan(data: &[u8]) -> Option<Within<'_>> {
    let (header, frame) = data.split_at_checked(vxlan::HEADER)?;
    // The network identifier is there, and nothing else is said.
    (header[0] == vxlan::FLAGS && header[1..4] == [0; 3]).then_some(Within::Frame(frame))
}

fn in_geneve(data: &[u8]) -> Option<Within<'_>> {
    let header = data.get(..geneve::HEADER)?;
    if header[0] >> 6 != 0 {
        return None;
    }
    let options = usize::from(header[0] & 0x3f) * 4;
    inner(be16(header, geneve::ETHER_TYPE)?, data.get(geneve::HEADER + options..)?)
}

fn in_gre(data: &[u8]) -> Option<Within<'_>> {
    let flags = be16(data, 0)?;
    if flags & gre::UNKNOWN != 0 {
        return None;
    }
    let fields = [gre::CHECKSUM, gre::KEY, gre::SEQUENCE].iter().filter(|f| flags & **f != 0);
    inner(be16(data, gre::ETHER_TYPE)?, data.get(gre::HEADER + 4 * fields.count()..)?)
}

fn inner(ether: u16, data: &[u8]) -> Option<Within<'_>> {
    match EtherType(ether) {
        EtherType::IPV4 | EtherType::IPV6 => Some(Within::Packet(EtherType(ether), data)),
        EtherType(gre::BRIDGED) => Some(Within::Frame(data)),
        _ => None,
    }
}

/// Whether a datagram of this length is a message of WireGuard.
fn is_wireguard(data: &[u8], length: usize) -> bool {
    let Some([kind, 0, 0, 0]) = data.first_chunk::<4>() else { return false };
    match wireguard::LENGTHS.iter().find(|(k, _)| k == kind) {
        Some((_, exact)) => length == *exact,
        None => {
            *kind == wireguard::DATA && length >= wireguard::LEAST_DATA && length.is_multiple_of(16)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(port: u16, payload: &[u8]) -> Vec<u8> {
        let length = (udp::HEADER + payload.len()) as u16;
        let mut out = vec![0xc0, 0];
        out.extend(port.to_be_bytes());
        out.extend(length.to_be_bytes());
        out.extend([0, 0]);
        out.extend(payload);
        out
    }

    #[test]
    fn a_port_alone_makes_no_tunnel() {
        for port in [4789, 8472, 6081, 51820, 51871] {
            let data = datagram(port, b"GET / HTTP/1.1\r\n\r\n");
            assert_eq!(within(IpNumber::UDP, &data), None, "{port}");
        }
    }

    #[test]
    fn headers_are_passed_over_with_their_options() {
        let vxlan = datagram(8472, &[8, 0, 0, 0, 0, 0, 1, 0, 7]);
        assert_eq!(within(IpNumber::UDP, &vxlan), Some(Within::Frame(&[7])));
        let geneve = datagram(6081, &[1, 0, 0x65, 0x58, 0, 0, 1, 0, 9, 9, 9, 9, 7]);
        assert_eq!(within(IpNumber::UDP, &geneve), Some(Within::Frame(&[7])));
        let gre = [0x20, 0, 8, 0, 9, 9, 9, 9, 7];
        assert_eq!(within(IpNumber::GRE, &gre), Some(Within::Packet(EtherType::IPV4, &[7])));
        let mut message = [0; 148];
        message[0] = 1;
        assert_eq!(within(IpNumber::UDP, &datagram(51820, &message)), Some(Within::Encrypted));
    }

    #[test]
    fn what_is_cut_anywhere_does_no_harm() {
        let whole = datagram(6081, &[1, 0, 0x65, 0x58, 0, 0, 1, 0, 9, 9, 9, 9, 7]);
        for n in 0..whole.len() {
            let _ = within(IpNumber::UDP, &whole[..n]);
            let _ = within(IpNumber::GRE, &whole[..n]);
        }
    }
}
