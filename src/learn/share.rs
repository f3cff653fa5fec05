//! How much of a connection or lookup counts, if an earlier capture may have shown it too.
//!
//! Owns what the ledger records of a connection or a lookup. Must never count one twice, nor drop
//! evidence that an earlier capture did not show.

use std::net::SocketAddr;
use std::sync::OnceLock;

use sidecarta_capture::meter::FlowConfig;
use sidecarta_capture::observation::{Connection, Lookup, Transport};

use crate::model::{Grade, Ledger, LedgerEntry, Time, WorkloadId};
use crate::resolve::CallResolution;

/// What was counted before, for captures that may show the same connections.
#[derive(Clone, Copy, Debug)]
pub struct Earlier<'a> {
    /// What was counted. Reading it blocks until the ledger has been loaded.
    pub ledger: &'a OnceLock<Ledger>,
    /// Digest of the snapshot that calls are resolved by.
    pub snapshot: u64,
    /// Times for which the flow table remembers a connection.
    pub limits: FlowConfig,
}

/// The line of the batch in which a connection or a lookup is counted.
#[derive(Clone, Copy, Debug)]
pub(super) enum CountedIn {
    /// No line: the connection is of no workload.
    Nobody,
    /// The edge with this index.
    Edge(u32),
    /// The lookup with this index.
    Asked(u32),
}

/// How often connections count for each facet. A facet is a grade of evidence, or the scope miss.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facets {
    /// Number of connections.
    connections: u64,
    /// Facets for which they were counted before.
    before: u16,
}

impl Facets {
    /// Connections that count for all facets.
    pub fn all(connections: u64) -> Self {
        Self { connections, before: 0 }
    }

    /// The number that counts for a facet.
    pub fn of(self, facet: u16) -> u64 {
        if self.before & facet == 0 { self.connections } else { 0 }
    }
}

/// What is new of a connection or a lookup that was counted before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    pub facets: Facets,
    /// Something can be learned from it.
    pub is_useful: bool,
    /// It was counted for another dependency, and stays counted there.
    pub elsewhere: bool,
    /// It adds what was not known.
    pub is_new: bool,
    /// The ledger must record it.
    pub is_recorded: bool,
}

/// The facet of a grade of evidence.
pub(super) fn facet(grade: Grade) -> u16 {
    1 << grade as u16
}

/// The facet of a scope miss.
pub(super) const MISSED: u16 = 1 << 14;

/// The strongest grade among facets. A lower number is stronger.
fn strongest(facets: u16) -> u32 {
    (facets & !MISSED).trailing_zeros()
}

/// What the ledger records of a connection that resolved to this call of a workload, or to none.
pub(super) fn for_call(
    seen: LedgerEntry,
    call: Option<(&WorkloadId, &CallResolution)>,
) -> LedgerEntry {
    let (to, facets) = call.map_or((0, 0), |(workload, r)| {
        let facets = r.grades.keys().fold(0, |bits, grade| bits | facet(*grade));
        let missed = if r.scope_miss { MISSED } else { 0 };
        (LedgerEntry::digest(&(workload, &r.destination, r.port)), facets | missed)
    });
    LedgerEntry { to, facets, ..seen }
}

/// What the ledger records of a connection, before it is resolved.
pub(super) fn of_call(c: &Connection, limits: &FlowConfig) -> LedgerEntry {
    let kind = match c.transport {
        Transport::Tcp => 6,
        Transport::Udp => 17,
        Transport::Sctp => 132,
    };
    // The flow table uses the same times.
    let idle = if c.closed {
        limits.linger
    } else if !c.answered || c.transport != Transport::Tcp {
        limits.idle_short
    } else {
        limits.idle_established
    };
    LedgerEntry {
        first: Time(c.first),
        until: Time(c.last.saturating_add(idle)),
        initiator: LedgerEntry::end(kind, c.initiator),
        responder: LedgerEntry::end(kind, c.responder),
        isn: c.isn,
        ..LedgerEntry::NOTHING
    }
}

/// What the ledger records of a lookup. A lookup is no connection: it has neither a sequence number
/// nor facets.
pub(super) fn of_lookup(l: &Lookup) -> LedgerEntry {
    /// Is not the number of a transport.
    const LOOKUP: u8 = 255;
    /// Nanoseconds within which two sightings are of one lookup: on two interfaces, or its question
    /// in one capture and its answer in another.
    const SAME: i64 = 1_000_000_000;
    LedgerEntry {
        first: Time(l.time),
        until: Time(l.time.saturating_add(SAME)),
        initiator: LedgerEntry::end(LOOKUP, SocketAddr::new(l.client, 0)),
        responder: LedgerEntry::wide(&l.question),
        ..LedgerEntry::NOTHING
    }
}

impl Earlier<'_> {
    /// Whether a counted connection or lookup may be this one.
    pub(super) fn mentions(&self, now: &LedgerEntry) -> bool {
        self.ledger.wait().mentions(now)
    }

    /// What is new of it; `None` if it was not counted before.
    pub(super) fn share(&self, now: &LedgerEntry) -> Option<Share> {
        let before = self.ledger.wait().before(now, self.snapshot)?;
        let (facets, is_useful) = match before.facets {
            Some(facets) => (Facets { connections: 1, before: facets }, true),
            // It was counted for another dependency: one of the two captures showed less of the
            // connection. Stronger evidence is learned without counting the connection again.
            // Weaker evidence only comes from the less that this capture shows.
            None => {
                let is_useful = strongest(now.facets) <= strongest(before.any);
                (Facets { connections: 0, before: 0 }, is_useful)
            }
        };
        let is_recorded = is_useful && !before.recorded;
        let has_more = before.facets.is_none_or(|facets| now.facets & !facets != 0);
        Some(Share {
            facets,
            is_useful,
            elsewhere: is_recorded && before.facets.is_none(),
            is_new: is_recorded && has_more,
            is_recorded,
        })
    }
}
