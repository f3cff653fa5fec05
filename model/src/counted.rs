//! The ledger: which connections and lookups of captures were counted, so that another capture of
//! the same ones counts nothing.
//!
//! Owns when two sightings belong to one connection, by the rules of the capture layer's flow
//! table, and the stored bytes. Must never take two connections for one where the flow table would
//! not.

use std::hash::Hasher;
use std::net::SocketAddr;

use serde::Serialize;
use siphasher::sip::SipHasher13;

use super::{Time, WorkloadId};

/// Two sightings of one SYN, before and after its destination was translated, are at most this far
/// apart, in nanoseconds: the same as in the flow table.
const TRANSLATED: u64 = 1_000_000_000;

/// One entry of the ledger: a connection or lookup that was counted. Digests stand for addresses
/// and names.
///
/// A connection with several hosts (later HTTP/1 requests) is counted once for each of them, and
/// has one of these for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LedgerEntry {
    /// Packet time of its first packet.
    pub first: Time,
    /// Until then, later packets between the same ends belong to this connection.
    pub until: Time,
    /// Digest of transport, address and port of the initiator. It has 64 bits, so that an attacker
    /// who chooses ports cannot find a digest that equals that of another connection.
    pub initiator: u64,
    /// Digest of transport, address and port of the responder.
    pub responder: u64,
    /// The initiator's initial sequence number, where it was seen.
    pub isn: Option<u32>,
    /// Digest of the dependency that it was counted for; 0: for none.
    pub to: u32,
    /// Digest of the host that was asked for, of HTTP; 0 without one.
    pub host: u32,
    /// In which counts of the dependency it was counted besides the number of connections: one bit
    /// for each. At most [`LedgerEntry::FACETS`].
    pub facets: u16,
}

impl LedgerEntry {
    /// Bits that [`LedgerEntry::facets`] may have.
    pub const FACETS: u16 = 0x7fff;
    /// An entry of zeros, to fill in.
    pub const NOTHING: Self = Self {
        first: Time(0),
        until: Time(0),
        initiator: 0,
        responder: 0,
        isn: None,
        to: 0,
        host: 0,
        facets: 0,
    };
    /// Bytes that one takes in a store.
    pub const BYTES: usize = 46;

    /// Digest of an end of a connection. `kind`: the transport's number, or another one for what is
    /// no connection.
    pub fn end(kind: u8, end: SocketAddr) -> u64 {
        let mut hasher = SipHasher13::new();
        hasher.write(&[kind]);
        match end {
            SocketAddr::V4(a) => hasher.write(&a.ip().octets()),
            SocketAddr::V6(a) => hasher.write(&a.ip().octets()),
        }
        hasher.write(&end.port().to_be_bytes());
        hasher.finish()
    }

    /// Digest of a value by its JSON.
    pub fn wide(value: &impl Serialize) -> u64 {
        struct Into(SipHasher13);
        impl std::io::Write for Into {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.write(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut into = Into(SipHasher13::new());
        // Writing into a digest does not fail, and all that is given here can be JSON.
        let _ = serde_json::to_writer(&mut into, value);
        into.0.finish()
    }

    /// The same, shorter; never 0.
    pub fn digest(value: &impl Serialize) -> u32 {
        let wide = Self::wide(value);
        ((wide ^ wide >> 32) as u32).max(1)
    }

    /// With the host of an HTTP request, where it has one.
    #[must_use]
    pub fn asking(self, authority: Option<&str>) -> Self {
        Self { host: authority.map_or(0, |authority| Self::digest(&authority)), ..self }
    }

    /// Counted for this host that a workload looked up.
    #[must_use]
    pub fn for_host(self, workload: &WorkloadId, host: &str) -> Self {
        Self { to: Self::digest(&(workload, host)), ..self }
    }

    /// Whether both belong to one connection.
    pub fn is_of(&self, other: &Self) -> bool {
        let overlaps = self.first <= other.until && other.first <= self.until;
        let ends = (self.initiator, self.responder) == (other.initiator, other.responder);
        match (self.isn, other.isn) {
            (Some(a), Some(b)) if a != b || self.initiator != other.initiator => false,
            (Some(_), Some(_)) if ends => overlaps,
            // Its destination was translated between the two interfaces.
            (Some(_), Some(_)) => {
                let distance = self.first.since(other.first).max(other.first.since(self.first));
                distance <= TRANSLATED
            }
            // What was joined midway began before: a SYN after its first packet opens another one.
            (Some(_), None) => self.pair() == other.pair() && overlaps && self.first <= other.first,
            (None, Some(_)) => other.is_of(self),
            (None, None) => self.pair() == other.pair() && overlaps,
        }
    }

    /// Both ends, in any order: who opened it may be a guess.
    fn pair(&self) -> (u64, u64) {
        (self.initiator.min(self.responder), self.initiator.max(self.responder))
    }

    fn opening(&self) -> Option<(u64, u64)> {
        Some((self.initiator, self.isn?.into()))
    }

    /// Appends its bytes, big endian.
    pub fn write(&self, out: &mut Vec<u8>) {
        const HAS_ISN: u16 = !LedgerEntry::FACETS;
        let flags = self.facets & Self::FACETS | if self.isn.is_some() { HAS_ISN } else { 0 };
        out.extend(self.first.0.to_be_bytes());
        out.extend(self.until.0.to_be_bytes());
        for n in [self.initiator, self.responder] {
            out.extend(n.to_be_bytes());
        }
        for n in [self.isn.unwrap_or(0), self.to, self.host] {
            out.extend(n.to_be_bytes());
        }
        out.extend(flags.to_be_bytes());
    }

    /// Reads [`LedgerEntry::write`] back, one after the other; `None` where the bytes are not
    /// whole.
    pub fn read_all(bytes: &[u8]) -> Option<Vec<Self>> {
        let (all, rest) = bytes.as_chunks::<{ Self::BYTES }>();
        rest.is_empty().then(|| all.iter().filter_map(Self::read).collect::<Vec<_>>())
    }

    fn read(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let wide = |at: usize| Some(u64::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        let number = |at: usize| Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        let flags = u16::from_be_bytes(*bytes.last_chunk()?);
        Some(Self {
            first: Time(wide(0)?.cast_signed()),
            until: Time(wide(8)?.cast_signed()),
            initiator: wide(16)?,
            responder: wide(24)?,
            isn: number(32).filter(|_| flags & !Self::FACETS != 0),
            to: number(36)?,
            host: number(40)?,
            facets: flags & Self::FACETS,
        })
    }
}

/// What was counted before of a connection that is seen now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CountedBefore {
    /// What was counted of the dependency that it is resolved to now; `None` where it was counted
    /// for others only.
    pub facets: Option<u16>,
    /// What was counted of all dependencies that it was counted for.
    pub any: u16,
    /// Whether the ledger already has all that could be recorded of it now.
    pub recorded: bool,
}

/// Everything that was counted, with indexes.
#[derive(Debug, Default)]
pub struct Ledger {
    /// With the digest of the snapshot that it was resolved by.
    all: Vec<(LedgerEntry, u64)>,
    by_pair: Vec<((u64, u64), u32)>,
    by_opening: Vec<((u64, u64), u32)>,
}

impl Ledger {
    /// From all entries, each with the digest of the snapshot by which it was resolved.
    pub fn new(all: Vec<(LedgerEntry, u64)>) -> Self {
        let indexed = || (0u32..).zip(&all);
        let mut by_pair: Vec<_> = indexed().map(|(i, (c, _))| (c.pair(), i)).collect();
        let mut by_opening: Vec<_> =
            indexed().filter_map(|(i, (c, _))| Some((c.opening()?, i))).collect();
        by_pair.sort_unstable();
        by_opening.sort_unstable();
        Self { all, by_pair, by_opening }
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether something that was counted may be this one.
    pub fn mentions(&self, now: &LedgerEntry) -> bool {
        !self.is_empty() && self.of(now).any(|(c, _)| c.is_of(now))
    }

    /// What was counted between the same ends, or opened by the same packet.
    fn of(&self, now: &LedgerEntry) -> impl Iterator<Item = &(LedgerEntry, u64)> {
        let opened = now.opening().into_iter().flat_map(|key| in_order(&self.by_opening, key));
        let places = in_order(&self.by_pair, now.pair()).chain(opened);
        places.filter_map(|i| self.all.get(i as usize))
    }

    /// What was counted before of a connection that is seen now. `None`: nothing, so it counts now.
    /// Entries of another snapshot for another dependency are ignored, so that a replay with a
    /// wrong snapshot can be corrected.
    pub fn before(&self, now: &LedgerEntry, snapshot: u64) -> Option<CountedBefore> {
        if self.is_empty() {
            return None;
        }
        let earlier = || {
            self.of(now)
                .filter(|(c, by)| (*by == snapshot || c.to == now.to) && c.is_of(now))
                .map(|(c, _)| c)
        };
        earlier().next()?;
        // A connection of several hosts counts once for each. A connection without a known host
        // counts once, whatever host another capture shows.
        let hosts = || earlier().filter(|c| c.host != 0);
        if now.host != 0 && hosts().next().is_some() && !hosts().any(|c| c.host == now.host) {
            return None;
        }
        let same = || earlier().filter(|c| c.to == now.to);
        let covers = |c: &LedgerEntry| {
            let bits = now.facets & !c.facets == 0;
            let time = c.first <= now.first && now.until <= c.until;
            bits && time && c.host == now.host && (c.isn.is_some() || now.isn.is_none())
        };
        Some(CountedBefore {
            facets: same().next().map(|_| same().fold(0, |bits, c| bits | c.facets)),
            any: earlier().fold(0, |bits, c| bits | c.facets),
            recorded: same().any(covers),
        })
    }
}

/// Positions of the entries with this key in a sorted index.
fn in_order(index: &[((u64, u64), u32)], key: (u64, u64)) -> impl Iterator<Item = u32> + '_ {
    let start = index.partition_point(|(k, _)| *k < key);
    index[start..].iter().take_while(move |(k, _)| *k == key).map(|(_, i)| *i)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn counted(from: u16, to: u16, isn: Option<u32>, first: i64, until: i64) -> LedgerEntry {
        let end = |port| LedgerEntry::end(6, SocketAddr::from(([10, 0, 0, 1], port)));
        LedgerEntry {
            first: Time(first * SECOND),
            until: Time(until * SECOND),
            initiator: end(from),
            responder: end(to),
            isn,
            to: 1,
            host: 0,
            facets: 1,
        }
    }

    /// Digests are stored. With other values, every connection would count twice after an upgrade.
    #[test]
    fn digests_are_those_that_stores_contain() {
        let v4 = LedgerEntry::end(6, SocketAddr::from(([10, 244, 1, 10], 9080)));
        let v6 = LedgerEntry::end(17, "[fd00::1]:53".parse().unwrap());
        let json = serde_json::json!({"name": "cart", "port": 8080});
        assert_eq!(
            [v4, v6, LedgerEntry::wide(&json)],
            [0x5f86_c591_a87e_af9b, 0x3c12_3344_79c1_a968, 0x8e96_a90a_31f8_f16a]
        );
        assert_eq!(LedgerEntry::digest(&json), 0xbf6e_5860);
    }

    #[test]
    fn bytes_are_read_back_and_cut_ones_refused() {
        let all = [
            counted(1, 2, Some(7), 3, 4),
            LedgerEntry {
                facets: LedgerEntry::FACETS,
                host: 9,
                ..counted(1, 2, None, -3, i64::MAX / SECOND)
            },
        ];
        let mut bytes = Vec::new();
        all.iter().for_each(|c| c.write(&mut bytes));
        assert_eq!(bytes.len(), 2 * LedgerEntry::BYTES);
        assert_eq!(LedgerEntry::read_all(&bytes).unwrap(), all);
        assert_eq!(LedgerEntry::read_all(&bytes[1..]), None);
    }

    #[test]
    fn sightings_are_of_one_connection_where_the_flow_table_takes_them_for_one() {
        let opened = counted(40_000, 80, Some(7), 10, 20);
        for (other, same, why) in [
            (counted(40_000, 80, Some(7), 10, 20), true, "the same"),
            (counted(40_000, 80, Some(8), 10, 20), false, "another connection on the same ports"),
            (counted(40_000, 8080, Some(7), 11, 30), true, "translated"),
            (counted(40_000, 8080, Some(7), 12, 30), false, "too late to be a translated one"),
            (counted(40_001, 80, Some(7), 10, 20), false, "another port"),
            (counted(40_000, 80, None, 15, 30), true, "joined midway"),
            (counted(80, 40_000, None, 15, 30), true, "midway, in the wrong direction"),
            (counted(40_000, 80, None, 9, 30), false, "an older one, which the SYN ended"),
            (counted(40_000, 80, None, 21, 30), false, "one that came after it was forgotten"),
            (counted(40_000, 80, Some(7), 21, 30), false, "the same number, much later"),
        ] {
            assert_eq!((opened.is_of(&other), other.is_of(&opened)), (same, same), "{why}");
        }
        let midway = counted(40_000, 80, None, 10, 20);
        assert!(midway.is_of(&counted(80, 40_000, None, 20, 30)));
        assert!(!midway.is_of(&counted(80, 40_000, None, 21, 30)));
    }

    #[test]
    fn a_connection_of_several_hosts_counts_once_for_each_in_any_order() {
        let of = |host| LedgerEntry { host, ..counted(40_000, 80, Some(7), 10, 20) };
        for order in [[0, 1, 2], [1, 0, 2], [1, 2, 0], [2, 1, 0], [0, 2, 1], [2, 0, 1]] {
            let (mut seen, mut n) = (Vec::new(), 0);
            for host in order {
                let ledger = Ledger::new(seen.clone());
                n += u64::from(ledger.before(&of(host), 5).is_none());
                seen.push((of(host), 5));
            }
            assert_eq!(n, 2, "{order:?}");
        }
    }

    #[test]
    fn another_snapshot_counts_what_it_resolves_to_something_else() {
        let ledger = Ledger::new(vec![(counted(40_000, 80, Some(7), 10, 20), 5)]);
        let now = counted(40_000, 80, Some(7), 10, 20);
        let before = CountedBefore { facets: Some(1), any: 1, recorded: true };
        assert_eq!(ledger.before(&now, 5), Some(before));
        assert_eq!(ledger.before(&now, 6), Some(before), "the same dependency");
        let other = LedgerEntry { to: 2, ..now };
        let elsewhere = CountedBefore { facets: None, any: 1, recorded: false };
        assert_eq!(ledger.before(&other, 5), Some(elsewhere), "by the same snapshot");
        assert_eq!(ledger.before(&other, 6), None);
    }
}
