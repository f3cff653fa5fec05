//! The key of a flow: both ends and the transport protocol.
//!
//! Owns a form of it that is quick to build, hash and compare. Must never depend on the direction
//! of a packet.

use std::hash::{BuildHasher, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use foldhash::fast::RandomState;

use crate::observation::Transport;

/// Set in [`FlowKey::rest`] for IPv6.
const V6: u64 = 1 << 8;

/// Both ends and the protocol, the lower end first, so that both directions have the same key. An
/// IPv4 address is in the second word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlowKey {
    low: [u64; 2],
    high: [u64; 2],
    /// Port of the low end, port of the high end, address family and protocol, from the highest
    /// bits down.
    rest: u64,
}

/// One end in a key: the address in two words, and the port.
pub(crate) type KeyEnd = ([u64; 2], u16);

pub(crate) fn v4(address: u32, port: u16) -> KeyEnd {
    ([0, u64::from(address)], port)
}

pub(crate) fn v6(address: u128, port: u16) -> KeyEnd {
    ([(address >> 64) as u64, address as u64], port)
}

impl FlowKey {
    /// The key of a packet, and whether its sender is the low end.
    #[inline]
    pub(crate) fn of(from: SocketAddr, to: SocketAddr, transport: Transport) -> (Self, bool) {
        let end = |a: SocketAddr| match a.ip() {
            IpAddr::V4(ip) => v4(ip.to_bits(), a.port()),
            IpAddr::V6(ip) => v6(ip.to_bits(), a.port()),
        };
        Self::between(end(from), end(to), from.is_ipv6(), transport)
    }

    /// Same as [`FlowKey::of`], for ends that were read from the bytes of a header.
    #[inline]
    pub(crate) fn between(
        from: KeyEnd,
        to: KeyEnd,
        is_v6: bool,
        transport: Transport,
    ) -> (Self, bool) {
        let from_low = from <= to;
        let (low, high) = if from_low { (from, to) } else { (to, from) };
        let family = if is_v6 { V6 } else { 0 };
        let rest = u64::from(low.1) << 32 | u64::from(high.1) << 16 | family | transport as u64;
        (Self { low: low.0, high: high.0, rest }, from_low)
    }

    #[inline]
    pub(crate) fn is_v6(&self) -> bool {
        self.rest & V6 != 0
    }

    pub(crate) fn transport(&self) -> Transport {
        match self.rest as u8 {
            t if t == Transport::Udp as u8 => Transport::Udp,
            t if t == Transport::Sctp as u8 => Transport::Sctp,
            _ => Transport::Tcp,
        }
    }

    /// Address of the low or the high end.
    pub(crate) fn address(&self, low: bool) -> IpAddr {
        let [a, b] = if low { self.low } else { self.high };
        if self.is_v6() {
            IpAddr::V6(Ipv6Addr::from_bits(u128::from(a) << 64 | u128::from(b)))
        } else {
            IpAddr::V4(Ipv4Addr::from_bits(b as u32))
        }
    }

    /// The end that is first in the key.
    pub(crate) fn low_end(&self) -> SocketAddr {
        self.end(true)
    }

    /// The end that is second in the key.
    pub(crate) fn high_end(&self) -> SocketAddr {
        self.end(false)
    }

    fn end(&self, low: bool) -> SocketAddr {
        SocketAddr::new(self.address(low), (self.rest >> if low { 32 } else { 16 }) as u16)
    }

    #[inline]
    pub(crate) fn hash(&self, state: &RandomState) -> u64 {
        let mut hasher = state.build_hasher();
        if self.is_v6() {
            for word in [self.low[0], self.low[1], self.high[0], self.high[1]] {
                hasher.write_u64(word);
            }
        } else {
            hasher.write_u64(self.low[1] << 32 | self.high[1]);
        }
        hasher.write_u64(self.rest);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn both_directions_have_one_key_that_gives_the_ends_back(
            (a, b) in prop_oneof![
                any::<([u8; 4], [u8; 4])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b))),
                any::<([u8; 16], [u8; 16])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b))),
            ],
            ports in any::<(u16, u16)>(),
            transport in prop::sample::select(
                vec![Transport::Tcp, Transport::Udp, Transport::Sctp],
            ),
        ) {
            let (from, to) = (SocketAddr::new(a, ports.0), SocketAddr::new(b, ports.1));
            let (there, from_low) = FlowKey::of(from, to, transport);
            let (back, to_low) = FlowKey::of(to, from, transport);
            prop_assert_eq!(there, back);
            prop_assert!(from == to || from_low != to_low);
            prop_assert_eq!((there.end(from_low), there.transport()), (from, transport));
            prop_assert_eq!(back.end(to_low), to);
            let state = RandomState::default();
            prop_assert_eq!(there.hash(&state), back.hash(&state));
        }
    }
}
