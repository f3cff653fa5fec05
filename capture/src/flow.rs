//! Connections: who initiated, what they are called, when they are over.
//!
//! Owns the bounded flow table and its expiry on packet time. Must never emit in hash order, grow
//! with the input, or let a connection that it forgets be lost for good: it is told when it is
//! forgotten, and learned again with its next packet.

pub(crate) mod answers;
mod entry;
mod head;
mod hot;
pub(crate) mod key;
mod later_hosts;
mod slots;
mod syns;
pub(crate) mod table;

use std::collections::HashSet;
use std::net::IpAddr;

/// What is known to listen; lets the table tell initiator from responder in connections joined
/// midway.
#[derive(Clone, Debug, Default)]
pub struct ListeningPorts {
    /// Sockets: endpoints of Services, Services' own addresses with their ports.
    pub sockets: HashSet<(IpAddr, u16)>,
    /// Ports that something in the cluster listens on.
    pub ports: HashSet<u16>,
}

/// Limits of memory and time. All have defaults.
#[derive(Clone, Copy, Debug)]
pub struct FlowConfig {
    /// Flows followed at once. 131,072 take about 35 MB and are more than a node of 110 pods has.
    pub max_flows: usize,
    /// Heads (ClientHello, request) being joined at once, each at most 16 KiB.
    pub max_heads: usize,
    /// Hosts remembered that later requests asked for, over all flows, each at most 320 bytes; of
    /// one flow 16 at most.
    pub max_further: usize,
    /// (client, address) pairs whose DNS names are remembered.
    pub max_answers: usize,
    /// Interfaces whose totals are kept.
    pub max_interfaces: usize,
    /// An established connection without packets for this long is forgotten. Envoy keeps idle ones
    /// for an hour; one that speaks again is learned again.
    pub idle_established: i64,
    /// The same for one that was never answered, and for UDP.
    pub idle_short: i64,
    /// A closed connection is remembered this long, so that late packets of it are no new one.
    pub linger: i64,
    /// New connections are noted, so that [`crate::meter::Meter::fresh`] can tell them before all
    /// are told: for a source that does not end. Without it nothing is noted.
    pub live: bool,
}

/// A second in nanoseconds.
const SECOND: i64 = 1_000_000_000;

impl Default for FlowConfig {
    fn default() -> Self {
        Self {
            max_flows: 131_072,
            max_heads: 1_024,
            max_further: 65_536,
            max_answers: 65_536,
            max_interfaces: 65_536,
            idle_established: 900 * SECOND,
            idle_short: 60 * SECOND,
            linger: 10 * SECOND,
            live: false,
        }
    }
}
