//! How much of what is seen counts, where another source may have shown it before.
//!
//! Owns what is noted of a connection or a look-up that is counted. Must never count one twice, nor
//! keep back what is known now and was not before.

use std::net::SocketAddr;
use std::sync::OnceLock;

use sidecarta_capture::meter::Config;
use sidecarta_capture::observation::{Connection, Lookup, Transport};

use super::Lesson;
use crate::model::{Counted, Grade, Ledger, Time, WorkloadId};
use crate::resolve::Resolution;

/// What was counted before, for sources that may show the same connections.
#[derive(Clone, Copy, Debug)]
pub struct Earlier<'a> {
    /// What was counted. The first connection waits until it is there.
    pub ledger: &'a OnceLock<Ledger>,
    /// Digest of the snapshot that this learner resolves by.
    pub snapshot: u64,
    /// How long the flow table remembers a connection.
    pub limits: Config,
}

/// How much of a connection counts, and of what is known of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    pub connections: u64,
    /// Of each facet that was not counted before.
    facets: u64,
    /// Facets that were counted before.
    before: u16,
    /// There is something to learn from it.
    pub teaches: bool,
}

impl Share {
    /// All of so many connections.
    pub fn all(connections: u64) -> Self {
        Self { connections, facets: connections, before: 0, teaches: true }
    }

    pub fn of(&self, facet: u16) -> u64 {
        if self.before & facet == 0 { self.facets } else { 0 }
    }
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

/// A connection in short, with what it is counted for: who calls what, where that is a workload.
pub(super) fn sighting(
    c: &Connection,
    call: Option<(&WorkloadId, &Resolution)>,
    limits: &Config,
) -> Counted {
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
    let (to, facets) = call.map_or((0, 0), |(workload, r)| {
        let facets = r.grades.keys().fold(0, |bits, grade| bits | facet(*grade));
        let missed = if r.scope_miss { MISSED } else { 0 };
        (Counted::digest(&(workload, &r.destination, r.port)), facets | missed)
    });
    Counted {
        first: Time(c.first),
        until: Time(c.last.saturating_add(idle)),
        initiator: Counted::end(kind, c.initiator),
        responder: Counted::end(kind, c.responder),
        isn: c.isn,
        to,
        host: c.names.authority.as_ref().map_or(0, Counted::digest),
        facets,
    }
}

/// A look-up in short: a look-up is no connection, and has neither a number nor facets.
pub(super) fn asking(l: &Lookup, workload: &WorkloadId, host: &str) -> Counted {
    /// No transport's number.
    const LOOKUP: u8 = 255;
    /// The same look-up on two interfaces, and the question where another capture has the answer,
    /// are not further apart, in nanoseconds.
    const SAME: i64 = 1_000_000_000;
    Counted {
        first: Time(l.time),
        until: Time(l.time.saturating_add(SAME)),
        initiator: Counted::end(LOOKUP, SocketAddr::new(l.client, 0)),
        responder: Counted::wide(&l.question),
        isn: None,
        to: Counted::digest(&(workload, host)),
        host: 0,
        facets: 0,
    }
}

impl Lesson {
    /// How much of what is seen now counts; notes that it was counted.
    pub(super) fn share(&mut self, now: Counted, earlier: &Earlier<'_>) -> Share {
        let Some(before) = earlier.ledger.wait().before(&now, earlier.snapshot) else {
            self.counted.push(now);
            self.is_new = true;
            return Share::all(1);
        };
        let share = match before.facets {
            Some(facets) => Share { connections: 0, facets: 1, before: facets, teaches: true },
            // Another capture showed less of it, or more. What is stronger counts for nothing and
            // is known from here on; what is weaker was only the less that this one shows.
            None => Share {
                connections: 0,
                facets: 0,
                before: 0,
                teaches: strongest(now.facets) <= strongest(before.any),
            },
        };
        if share.teaches && !before.noted {
            self.elsewhere += u64::from(before.facets.is_none());
            self.is_new |= before.facets.is_none_or(|facets| now.facets & !facets != 0);
            self.counted.push(now);
        }
        share
    }
}
