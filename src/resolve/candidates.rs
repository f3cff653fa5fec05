//! Candidates: the ports of Services and of ServiceEntries that may stand behind an address.
//!
//! Owns the choice among them by names. Must never choose where no name does.

use std::collections::BTreeSet;

use super::names::{Clues, is_strong};
use super::resolution::{CallResolution, external};
use crate::cluster::{ClusterService, IndexedEntry};
use crate::model::{Destination, Grade, ServicePort};

/// A port of a Service or of an entry.
#[derive(Clone, Debug)]
pub(super) struct Candidate<'a> {
    /// Namespace, name, host and port of either.
    port: ServicePort,
    entry: Option<&'a IndexedEntry>,
    /// The host that was called, if the entry lists a wildcard.
    called: Option<String>,
}

impl<'a> Candidate<'a> {
    pub fn service(service: &ClusterService, port: u16) -> Self {
        Self { port: service.at(port), entry: None, called: None }
    }

    pub fn entry(entry: &'a IndexedEntry, port: u16) -> Self {
        let host = &entry.host;
        let port = ServicePort {
            namespace: host.namespace.clone(),
            name: host.name.clone(),
            host: host.host.clone(),
            port,
        };
        Self { port, entry: Some(entry), called: None }
    }

    /// The same candidate, called by this name.
    pub fn called(self, name: &str) -> Self {
        let called = Some(name.to_owned()).filter(|n| *n != self.port.host);
        Self { called, ..self }
    }

    /// Whether a name stands for it whose grade is strong enough.
    fn is_named(&self, clues: &Clues<'_>, enough: impl Fn(Grade) -> bool) -> bool {
        let ServicePort { host, port, .. } = &self.port;
        match self.entry {
            None => clues
                .services
                .iter()
                .any(|c| enough(c.grade) && c.host == *host && c.port_fits(*port)),
            Some(_) => clues.externals.iter().any(|c| {
                enough(c.grade)
                    && c.entry.is_some_and(|e| e.host == *host)
                    && c.port.is_none_or(|p| p == *port)
            }),
        }
    }

    fn resolution(self, clues: &Clues<'_>) -> CallResolution {
        let port = self.port.port;
        let destination = match self.entry {
            None => Destination::Service(self.port),
            Some(entry) => {
                let named = clues.externals.iter().find(|c| c.entry == Some(&entry.host));
                let name = self.called.as_deref().or(named.map(|c| c.name.as_str()));
                external(name.unwrap_or(&entry.host.host), Some(&entry.host))
            }
        };
        CallResolution::new(destination, port)
    }
}

/// One candidate for each host and port. Of several objects with one host, the one in the client's
/// namespace counts, then that of Kubernetes (`pilot/pkg/model/sidecar.go`).
pub(super) fn collapse<'a>(mut all: Vec<Candidate<'a>>, namespace: &str) -> Vec<Candidate<'a>> {
    all.sort_by(|a, b| {
        let key = |c: &Candidate<'_>| {
            (c.port.host.clone(), c.port.port, c.port.namespace != namespace, c.entry.is_some())
        };
        key(a).cmp(&key(b)).then_with(|| a.port.cmp(&b.port))
    });
    all.dedup_by(|a, b| {
        (&a.port.host, a.port.port) == (&b.port.host, b.port.port) && a.called == b.called
    });
    all
}

/// Chooses among candidates by names only. If no name stands for one of them, all stay. A name on
/// the connection itself decides before one of a lookup. `sure` says that there is no other
/// candidate, so that a single one needs no name.
pub(super) fn among(
    all: Vec<Candidate<'_>>,
    grade: Grade,
    sure: bool,
    clues: &Clues<'_>,
) -> CallResolution {
    let by = |enough: fn(Grade) -> bool| -> Vec<&Candidate<'_>> {
        all.iter().filter(|c| c.is_named(clues, enough)).collect()
    };
    let mut chosen = by(is_strong);
    if chosen.is_empty() {
        chosen = by(|_| true);
    }
    // Two ports of one Service can have one target port. The port of an authority distinguishes
    // them.
    let only = match (chosen.as_slice(), all.as_slice()) {
        ([one], _) => Some((*one).clone()),
        ([], [one]) if sure => Some(one.clone()),
        _ => None,
    };
    if let Some(only) = only {
        let host = only.port.host.clone();
        return clues.supporting(&host, only.resolution(clues)).graded(grade, None);
    }
    let several = if chosen.len() > 1 { chosen } else { all.iter().collect() };
    let candidates: BTreeSet<ServicePort> = several.into_iter().map(|c| c.port.clone()).collect();
    let port = candidates.first().map_or(0, |c| c.port);
    CallResolution::new(Destination::Ambiguous { candidates }, port).graded(grade, None)
}
