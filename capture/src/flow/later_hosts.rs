//! Later hosts: the hosts that later requests on a connection name. A client that pools
//! connections, as Envoy does, sends requests for several hosts over one connection where they
//! share an endpoint.
//!
//! Owns their number, and what was reported of each. Must never contain the host that the
//! connection itself is reported with.

use crate::observation::Nanos;

/// Later hosts of one connection, at most. A client with more of them talks to a proxy, or scans.
const MAX_HOSTS: usize = 16;

/// A host that later requests on one connection name.
#[derive(Debug)]
pub(super) struct LaterHost {
    /// Host, with the port as the client sent it.
    pub authority: Box<str>,
    /// Packet time of the first request for it.
    pub first: Nanos,
    /// Packet time of the last request for it.
    pub last: Nanos,
    pub reported: bool,
    /// A request named it since the last report.
    changed: bool,
}

/// Later hosts of one connection, in the order in which they were read.
#[derive(Debug, Default)]
pub(super) struct LaterHosts(Vec<LaterHost>);

/// Result of [`LaterHosts::add`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    Present,
    New,
    /// Not added: there is no room for another host.
    Dropped,
}

/// Which later hosts a report contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HostSelection {
    /// Hosts that were never reported.
    New,
    /// Hosts that a request named since the last report, new ones included.
    Changed,
}

impl LaterHosts {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds a request. `may_grow`: there is room for another host in the flow table.
    pub(super) fn add(&mut self, authority: String, time: Nanos, may_grow: bool) -> Added {
        if let Some(host) = self.0.iter_mut().find(|h| *h.authority == *authority) {
            (host.first, host.last) = (host.first.min(time), host.last.max(time));
            host.changed = true;
            return Added::Present;
        }
        if !may_grow || self.len() >= MAX_HOSTS {
            return Added::Dropped;
        }
        self.0.push(LaterHost {
            authority: authority.into(),
            first: time,
            last: time,
            reported: false,
            changed: true,
        });
        Added::New
    }

    /// Passes the selected hosts to `sink`, and marks them as reported.
    pub(super) fn report(&mut self, selection: HostSelection, mut sink: impl FnMut(&LaterHost)) {
        for host in self
            .0
            .iter_mut()
            .filter(|h| h.changed && (selection == HostSelection::Changed || !h.reported))
        {
            sink(host);
            (host.reported, host.changed) = (true, false);
        }
    }

    /// Shifts all times by `step`, but not beyond `now`. See [`super::table::FlowTable::rebase`].
    pub(super) fn rebase(&mut self, now: Nanos, step: Nanos) {
        for time in self.0.iter_mut().flat_map(|h| [&mut h.first, &mut h.last]) {
            *time = time.saturating_add(step).min(now);
        }
    }
}
