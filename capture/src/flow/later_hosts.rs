//! Hosts that later requests on a connection ask for: a client that pools connections, as Envoy
//! does, sends requests for several hosts over one of them where they share an endpoint.
//!
//! Owns their number and what was told of each. Must never hold the host that the connection itself
//! is told with.

use crate::observation::Nanos;

/// Most of them on one connection. More than that ask a proxy on the way, or scan.
const MAX_HOSTS: usize = 16;

/// One of them.
#[derive(Debug)]
pub(super) struct LaterHost {
    /// Host with the port as it was sent.
    pub authority: Box<str>,
    /// Time of the first request for it.
    pub first: Nanos,
    /// Time of the last one.
    pub last: Nanos,
    pub told: bool,
    /// Asked for since it was told.
    changed: bool,
}

/// All of a connection, in the order in which they were read.
#[derive(Debug, Default)]
pub(super) struct LaterHosts(Vec<LaterHost>);

/// What a request was to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    Known,
    New,
    /// There is no room for another host.
    Dropped,
}

impl LaterHosts {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes a request in. `may_grow`: there is room for another host in the table.
    pub(super) fn note(&mut self, authority: String, time: Nanos, may_grow: bool) -> Added {
        if let Some(host) = self.0.iter_mut().find(|h| *h.authority == *authority) {
            (host.first, host.last) = (host.first.min(time), host.last.max(time));
            host.changed = true;
            return Added::Known;
        }
        if !may_grow || self.len() >= MAX_HOSTS {
            return Added::Dropped;
        }
        self.0.push(LaterHost {
            authority: authority.into(),
            first: time,
            last: time,
            told: false,
            changed: true,
        });
        Added::New
    }

    /// Gives out what is to be told, and remembers that it was: hosts never told, and unless
    /// `only_new` those asked for again.
    pub(super) fn tell(&mut self, only_new: bool, mut tell: impl FnMut(&LaterHost)) {
        for host in self.0.iter_mut().filter(|h| h.changed && !(only_new && h.told)) {
            tell(host);
            (host.told, host.changed) = (true, false);
        }
    }

    /// See [`super::table::FlowTable::rebase`].
    pub(super) fn rebase(&mut self, now: Nanos, step: Nanos) {
        for time in self.0.iter_mut().flat_map(|h| [&mut h.first, &mut h.last]) {
            *time = time.saturating_add(step).min(now);
        }
    }
}
