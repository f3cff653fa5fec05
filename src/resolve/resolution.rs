//! The result of resolution.
//!
//! Owns the type. Must never decide what a call resolves to.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::EntryHost;
use crate::model::{Destination, Grade};

/// What a connection resolved to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallResolution {
    /// The destination.
    pub destination: Destination,
    /// The Service's port if it went to a Service, else the port of the packets.
    pub port: u16,
    /// Every grade of evidence for it, with the name that was the evidence.
    pub grades: BTreeMap<Grade, Option<String>>,
    /// Mesh hosts by which the application addressed it, other than the destination's own host.
    pub addressed: BTreeSet<String>,
    /// The call is a scope miss: it left the mesh, and would not have if the host had been in
    /// scope.
    pub scope_miss: bool,
}

impl CallResolution {
    pub(super) fn new(destination: Destination, port: u16) -> Self {
        Self {
            destination,
            port,
            grades: BTreeMap::new(),
            addressed: BTreeSet::new(),
            scope_miss: false,
        }
    }

    /// Adds a grade of evidence, with the name that is the evidence.
    pub(super) fn graded(mut self, grade: Grade, name: Option<&str>) -> Self {
        self.grades.entry(grade).or_insert_with(|| name.map(str::to_owned));
        self
    }

    /// Adds the mesh hosts that the application named, other than the destination's own: a
    /// VirtualService or an alias may lead from them to the destination.
    pub(super) fn addressed_by(mut self, hosts: &[&String]) -> Self {
        let own = match &self.destination {
            Destination::Service(s) => Some(s.host.as_str()),
            Destination::External { host, .. } => host.as_deref(),
            _ => None,
        };
        let others = hosts.iter().filter(|h| Some(h.as_str()) != own);
        self.addressed.extend(others.map(|h| (*h).clone()));
        self
    }
}

/// A destination outside the cluster, by the entry that lists it if there is one.
pub(super) fn external(host: &str, entry: Option<&EntryHost>) -> Destination {
    Destination::External {
        host: Some(host.to_owned()),
        address: None,
        namespace: entry.map(|e| e.namespace.clone()),
        name: entry.map(|e| e.name.clone()),
        entry_host: entry.map(|e| e.host.clone()).filter(|h| h != host),
    }
}
