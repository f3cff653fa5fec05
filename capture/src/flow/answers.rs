//! DNS answers: the names that a client got for an address shortly before a connection.
//!
//! Owns how many answers are remembered, and for how long. Must never let one client push out the
//! answers of another while it has more of them.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use crate::observation::{DnsName, Nanos};

/// Names remembered per client and address. One address may serve several hosts.
const MAX_NAMES: usize = 4;
/// An answer is valid for its time to live, but at least this long: resolvers and applications
/// cache a little longer.
const MIN_LIFE_NANOS: i64 = 60_000_000_000;
/// An answer is valid at most this long: an address may pass to another pod.
const MAX_LIFE_NANOS: i64 = 600_000_000_000;

/// Bytes of names remembered per client, estimated. A client that asks for more names pushes out
/// its own.
const CLIENT_BYTES: usize = 256 * 1024;
/// Bytes of names remembered of all clients, estimated.
const TOTAL_BYTES: usize = 8 * 1024 * 1024;

#[derive(Debug)]
struct RememberedName {
    name: DnsName,
    until: Nanos,
}

/// Bytes of memory that a name takes, estimated: two allocations, and its part of a table.
fn size(name: &DnsName) -> usize {
    160 + name.question.len() + name.canonical.as_ref().map_or(0, String::len)
}

#[derive(Debug, Default)]
struct ClientAnswers {
    by_address: HashMap<IpAddr, Vec<RememberedName>>,
    /// Addresses in the order in which they were added.
    order: VecDeque<IpAddr>,
    bytes: usize,
}

impl ClientAnswers {
    /// Forgets the oldest address. Returns the bytes that this frees.
    fn forget_oldest(&mut self) -> Option<usize> {
        let names = self.by_address.remove(&self.order.pop_front()?)?;
        let bytes = names.iter().map(|n| size(&n.name)).sum();
        self.bytes -= bytes;
        Some(bytes)
    }
}

/// Answers of all clients. Where there are too many, the oldest one of the client with the most
/// bytes is dropped.
#[derive(Debug)]
pub(crate) struct DnsAnswers {
    clients: HashMap<IpAddr, ClientAnswers>,
    pairs: usize,
    bytes: usize,
    limit: usize,
}

impl DnsAnswers {
    /// Room for `limit` pairs of client and address.
    pub(crate) fn new(limit: usize) -> Self {
        Self { clients: HashMap::new(), pairs: 0, bytes: 0, limit: limit.max(1) }
    }

    /// Adds a name with its time to live in seconds. True where another pair was dropped.
    pub(crate) fn add(&mut self, client: IpAddr, address: IpAddr, name: DnsName, ttl: u32) -> bool {
        let life = (i64::from(ttl) * 1_000_000_000).clamp(MIN_LIFE_NANOS, MAX_LIFE_NANOS);
        let until = name.answered.saturating_add(life);
        let entry = self.clients.entry(client).or_default();
        let before = entry.bytes;
        let names = entry.by_address.entry(address).or_insert_with(|| {
            entry.order.push_back(address);
            self.pairs += 1;
            Vec::new()
        });
        entry.bytes -= names.iter().map(|n| size(&n.name)).sum::<usize>();
        names.retain(|n| n.name.question != name.question);
        names.insert(0, RememberedName { name, until });
        names.truncate(MAX_NAMES);
        entry.bytes += names.iter().map(|n| size(&n.name)).sum::<usize>();
        self.bytes = self.bytes + entry.bytes - before;
        // A pair whose names have all expired is no loss. Finding that out would cost more than
        // counting it.
        let mut evicted = false;
        while self.clients.get(&client).is_some_and(|c| c.bytes > CLIENT_BYTES && c.order.len() > 1)
        {
            evicted |= self.evict(client);
        }
        while (self.bytes > TOTAL_BYTES || self.pairs > self.limit) && self.pairs > 1 {
            let most = self.clients.iter().max_by_key(|(a, c)| (c.bytes, **a)).map(|(a, _)| *a);
            evicted |= most.is_some_and(|most| self.evict(most));
        }
        evicted
    }

    fn evict(&mut self, client: IpAddr) -> bool {
        let Some(entry) = self.clients.get_mut(&client) else { return false };
        let Some(bytes) = entry.forget_oldest() else { return false };
        self.bytes -= bytes;
        self.pairs -= 1;
        if entry.order.is_empty() {
            self.clients.remove(&client);
        }
        true
    }

    /// Shifts all times by `step`, after the clock was set.
    pub(crate) fn shift(&mut self, step: Nanos) {
        let clients = self.clients.values_mut();
        for remembered in clients.flat_map(|c| c.by_address.values_mut()).flatten() {
            remembered.name.answered = remembered.name.answered.saturating_add(step);
            remembered.until = remembered.until.saturating_add(step);
        }
    }

    /// Names that were valid at this packet time, the latest first.
    pub(crate) fn names(&self, client: IpAddr, address: IpAddr, time: Nanos) -> Vec<DnsName> {
        let names = self.clients.get(&client).and_then(|c| c.by_address.get(&address));
        names
            .map_or(&[][..], Vec::as_slice)
            .iter()
            .filter(|n| n.name.answered <= time && time <= n.until)
            .map(|n| n.name.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    fn add(answers: &mut DnsAnswers, client: u32, n: u32) -> bool {
        let question = format!("{n}.{}", "x".repeat(200));
        answers.add(ip(client), ip(n), DnsName { question, canonical: None, answered: 5 }, 60)
    }

    #[test]
    fn a_client_with_too_many_names_pushes_out_its_own() {
        let mut answers = DnsAnswers::new(65_536);
        assert!(!add(&mut answers, 1, 7));
        let evicted = (0..100_000).filter(|n| add(&mut answers, 2, *n)).count();
        assert!(
            evicted > 90_000 && answers.bytes < CLIENT_BYTES + 2_000,
            "{evicted} {}",
            answers.bytes
        );
        assert_eq!(answers.names(ip(1), ip(7), 6).len(), 1, "another client loses nothing");
        assert_eq!(answers.names(ip(2), ip(99_999), 6).len(), 1, "the latest is remembered");
    }

    #[test]
    fn beyond_the_limit_of_all_clients_the_largest_client_loses_names() {
        let mut answers = DnsAnswers::new(65_536);
        for client in 0..200 {
            for n in 0..500 {
                add(&mut answers, client, n);
            }
        }
        add(&mut answers, 1_000, 1);
        for client in 0..200 {
            for n in 500..1_000 {
                add(&mut answers, client, n);
            }
        }
        assert!(answers.bytes <= TOTAL_BYTES);
        assert_eq!(answers.names(ip(1_000), ip(1), 6).len(), 1);
        let counted: usize = answers.clients.values().map(|c| c.order.len()).sum();
        assert_eq!(counted, answers.pairs);
    }

    #[test]
    fn beyond_the_limit_of_pairs_the_oldest_pair_is_dropped() {
        let mut answers = DnsAnswers::new(2);
        assert!(!add(&mut answers, 1, 1) && !add(&mut answers, 1, 2) && add(&mut answers, 1, 3));
        assert!(answers.names(ip(1), ip(1), 6).is_empty());
        assert_eq!(answers.names(ip(1), ip(3), 6).len(), 1);
    }
}
