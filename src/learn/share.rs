//! How much of what is seen counts, where another capture may have shown it before.
//!
//! Owns what is noted of a connection or a look-up that is counted. Must never count one twice, nor
//! keep back what is known now and was not before.

use std::net::SocketAddr;
use std::sync::OnceLock;

use sidecarta_capture::meter::FlowConfig;
use sidecarta_capture::observation::{Connection, Lookup, Transport};

use crate::model::{Grade, Ledger, LedgerEntry, Time, WorkloadId};
use crate::resolve::Resolution;

/// What was counted before, for captures that may show the same connections.
#[derive(Clone, Copy, Debug)]
pub struct Earlier<'a> {
    /// What was counted. The first connection waits until it is there.
    pub ledger: &'a OnceLock<Ledger>,
    /// Digest of the snapshot that calls are resolved by.
    pub snapshot: u64,
    /// How long the flow table remembers a connection.
    pub limits: FlowConfig,
}

/// What a counted connection or look-up is part of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sighting {
    /// A connection of no workload.
    Nobody,
    /// This edge.
    Edge(u32),
    /// This name asked for.
    Asked(u32),
}

/// How often each facet of what is known of connections counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facets {
    n: u64,
    /// Facets that were counted before.
    before: u16,
}

impl Facets {
    /// All of so many connections.
    pub fn all(n: u64) -> Self {
        Self { n, before: 0 }
    }

    pub fn of(self, facet: u16) -> u64 {
        if self.before & facet == 0 { self.n } else { 0 }
    }
}

/// What of a connection that was counted before is new.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    pub facets: Facets,
    /// There is something to learn from it.
    pub teaches: bool,
    /// It is counted for another dependency, and stays so.
    pub elsewhere: bool,
    /// It teaches what was not known.
    pub is_new: bool,
    /// That it was seen is to be noted.
    pub is_noted: bool,
}

/// The facet that is a grade of evidence.
pub(super) fn facet(grade: Grade) -> u16 {
    1 << grade as u16
}

/// The facet that is a scope miss.
pub(super) const MISSED: u16 = 1 << 14;

/// The strongest grade among facets: the lower, the stronger.
fn strongest(facets: u16) -> u32 {
    (facets & !MISSED).trailing_zeros()
}

/// Counted for this call of a workload, where it is one of a workload.
pub(super) fn for_call(seen: LedgerEntry, call: Option<(&WorkloadId, &Resolution)>) -> LedgerEntry {
    let (to, facets) = call.map_or((0, 0), |(workload, r)| {
        let facets = r.grades.keys().fold(0, |bits, grade| bits | facet(*grade));
        let missed = if r.scope_miss { MISSED } else { 0 };
        (LedgerEntry::digest(&(workload, &r.destination, r.port)), facets | missed)
    });
    LedgerEntry { to, facets, ..seen }
}

/// A connection in short.
pub(super) fn of_call(c: &Connection, limits: &FlowConfig) -> LedgerEntry {
    let kind = match c.transport {
        Transport::Tcp => 6,
        Transport::Udp => 17,
        Transport::Sctp => 132,
    };
    // As the flow table does.
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

/// A look-up in short: a look-up is no connection, and has neither a number nor facets.
pub(super) fn of_lookup(l: &Lookup) -> LedgerEntry {
    /// No transport's number.
    const LOOKUP: u8 = 255;
    /// The same look-up on two interfaces, and the question where another capture has the answer,
    /// are not further apart, in nanoseconds.
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
    /// Whether something that was counted before may be this one.
    pub(super) fn mentions(&self, now: &LedgerEntry) -> bool {
        self.ledger.wait().mentions(now)
    }

    /// What of it is new, where it was counted before.
    pub(super) fn share(&self, now: &LedgerEntry) -> Option<Share> {
        let before = self.ledger.wait().before(now, self.snapshot)?;
        let (facets, teaches) = match before.facets {
            Some(facets) => (Facets { n: 1, before: facets }, true),
            // Another capture showed less of it, or more. What is stronger counts for nothing and
            // is known from here on; what is weaker was only the less that this one shows.
            None => {
                let teaches = strongest(now.facets) <= strongest(before.any);
                (Facets { n: 0, before: 0 }, teaches)
            }
        };
        let is_noted = teaches && !before.recorded;
        let more = before.facets.is_none_or(|facets| now.facets & !facets != 0);
        Some(Share {
            facets,
            teaches,
            elsewhere: is_noted && before.facets.is_none(),
            is_new: is_noted && more,
            is_noted,
        })
    }
}
