//! Flows: who initiated a connection, which names it has, and when it is over.
//!
//! Owns the flow table, which is bounded, and its expiry on packet time. Must never report in hash
//! order or grow with the input. Must never lose a connection for good when it is forgotten: it is
//! reported before, and its next packet adds it again.

pub(crate) mod answers;
mod entry;
mod head;
mod hot;
pub(crate) mod key;
mod later_hosts;
mod pending;
mod slots;
mod syns;
pub(crate) mod table;

use std::collections::HashSet;
use std::net::IpAddr;

use crate::observation::Nanos;

/// Sockets and ports that something listens on. They orient connections whose beginning was not
/// seen.
#[derive(Clone, Debug, Default)]
pub struct ListeningPorts {
    /// Addresses with ports: endpoints of Services, and the Services' own addresses.
    pub sockets: HashSet<(IpAddr, u16)>,
    /// Ports that something in the cluster listens on.
    pub ports: HashSet<u16>,
}

/// Limits of the flow table in memory and time.
#[derive(Clone, Copy, Debug)]
pub struct FlowConfig {
    /// Flows followed at a time. 131,072 take about 35 MB, and are more than a node of 110 pods
    /// has.
    pub max_flows: usize,
    /// Heads (ClientHello, request) that are joined at a time, each at most 16 KiB.
    pub max_heads: usize,
    /// Later hosts remembered over all flows, each at most 320 bytes. One flow has at most 16.
    pub max_later_hosts: usize,
    /// Pairs of client and address whose DNS names are remembered.
    pub max_answers: usize,
    /// Interfaces whose totals are counted.
    pub max_interfaces: usize,
    /// Nanoseconds without a packet after which an established connection is forgotten. Envoy
    /// leaves idle connections open for an hour. The next packet of a forgotten connection adds it
    /// again.
    pub idle_established: Nanos,
    /// Nanoseconds without a packet after which an unanswered connection, or one of UDP, is
    /// forgotten.
    pub idle_short: Nanos,
    /// Nanoseconds for which a closed connection is remembered, so that its late packets begin no
    /// new one.
    pub linger: Nanos,
    /// The source does not end. New connections are listed, so that
    /// [`crate::meter::Meter::report_fresh`] reports them soon.
    pub live: bool,
}

/// A second in nanoseconds.
const SECOND: Nanos = 1_000_000_000;

impl Default for FlowConfig {
    fn default() -> Self {
        Self {
            max_flows: 131_072,
            max_heads: 1_024,
            max_later_hosts: 65_536,
            max_answers: 65_536,
            max_interfaces: 65_536,
            idle_established: 900 * SECOND,
            idle_short: 60 * SECOND,
            linger: 10 * SECOND,
            live: false,
        }
    }
}
