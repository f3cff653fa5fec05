//! Names that the DNS gave for an address, per client, shortly before a connection.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use crate::observation::{DnsName, Nanos};

/// Names kept per client and address: one address may serve several hosts.
const MAX_NAMES: usize = 4;
/// An answer counts for its time to live, but at least this long: resolvers and applications cache
/// a little longer.
const MIN_LIFE: i64 = 60_000_000_000;
/// And at most this long: an address changes hands.
const MAX_LIFE: i64 = 600_000_000_000;

#[derive(Debug)]
struct Remembered {
    name: DnsName,
    until: Nanos,
}

/// Remembers answers, the oldest pair goes when there are too many.
#[derive(Debug)]
pub(crate) struct Answers {
    known: HashMap<(IpAddr, IpAddr), Vec<Remembered>>,
    order: VecDeque<(IpAddr, IpAddr)>,
    limit: usize,
}

impl Answers {
    pub fn new(limit: usize) -> Self {
        Self { known: HashMap::new(), order: VecDeque::new(), limit: limit.max(1) }
    }

    /// Remembers a name; true when another pair had to go.
    pub fn add(&mut self, client: IpAddr, address: IpAddr, name: DnsName, ttl: u32) -> bool {
        let life = (i64::from(ttl) * 1_000_000_000).clamp(MIN_LIFE, MAX_LIFE);
        let until = name.answered.saturating_add(life);
        let pair = (client, address);
        let mut evicted = false;
        if !self.known.contains_key(&pair) {
            if self.known.len() >= self.limit
                && let Some(oldest) = self.order.pop_front()
            {
                // A pair whose names have all expired is no loss, but telling would cost more than
                // counting it.
                evicted = self.known.remove(&oldest).is_some();
            }
            self.order.push_back(pair);
        }
        let names = self.known.entry(pair).or_default();
        names.retain(|n| n.name.question != name.question);
        names.insert(0, Remembered { name, until });
        names.truncate(MAX_NAMES);
        evicted
    }

    /// The clock was set: answers keep their age.
    pub fn shift(&mut self, step: Nanos) {
        for remembered in self.known.values_mut().flatten() {
            remembered.name.answered = remembered.name.answered.saturating_add(step);
            remembered.until = remembered.until.saturating_add(step);
        }
    }

    /// Names that were good at this time, latest first.
    pub fn names(&self, client: IpAddr, address: IpAddr, time: Nanos) -> Vec<DnsName> {
        let names = self.known.get(&(client, address)).map_or(&[][..], Vec::as_slice);
        names
            .iter()
            .filter(|n| n.name.answered <= time && time <= n.until)
            .map(|n| n.name.clone())
            .collect()
    }
}
