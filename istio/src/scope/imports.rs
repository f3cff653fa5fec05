//! The hosts of one egress listener, by the namespace that they name (`hostClassification` in
//! `model/sidecar.go`).
//!
//! Owns the reading of egress hosts. Must never decide which Services exist.

use std::collections::BTreeMap;

use foldhash::HashSet;

use crate::mesh::host::{is_wildcard, matches, subset_of};

/// The namespace of an egress host that means all namespaces.
pub(super) const ANY: &str = "*";

/// Hosts listed under one namespace.
#[derive(Debug, Default)]
pub(super) struct HostClass<'a> {
    pub exact: HashSet<&'a str>,
    pub wild: Vec<&'a str>,
    excluded: Vec<&'a str>,
}

impl HostClass<'_> {
    /// Whether an entry with `~` excludes the host.
    pub(super) fn excludes(&self, host: &str) -> bool {
        self.excluded.iter().any(|e| subset_of(host, e))
    }

    /// Whether a Service of this host is imported: a wildcard imports what lies within it.
    pub(super) fn service(&self, host: &str) -> bool {
        self.exact.contains(host) || self.wild.iter().any(|w| subset_of(host, w))
    }

    /// Whether a VirtualService of this host is imported: overlapping is enough, in either
    /// direction.
    pub(super) fn virtual_service(&self, host: &str) -> bool {
        self.exact.contains(host)
            || self.wild.iter().any(|w| matches(host, w))
            || (is_wildcard(host) && self.exact.iter().any(|e| matches(host, e)))
    }
}

/// The hosts of a listener.
#[derive(Debug, Default)]
pub(super) struct Imports<'a> {
    pub classes: BTreeMap<&'a str, HostClass<'a>>,
    /// All entries are exact hosts of named namespaces. istiod then finds them by an index.
    pub all_exact: bool,
    /// A host is listed under two namespaces.
    pub repeated: bool,
}

impl<'a> Imports<'a> {
    /// Reads the list. An entry without exactly one slash is left out, as istiod does.
    pub(super) fn new(hosts: &'a [String], client: &'a str) -> Self {
        let mut out = Self { classes: BTreeMap::new(), all_exact: true, repeated: false };
        let mut seen: HashSet<&str> = HashSet::default();
        for host in hosts {
            let Some((namespace, name)) = host.split_once('/').filter(|(_, n)| !n.contains('/'))
            else {
                continue;
            };
            let (excluded, namespace) = match namespace.strip_prefix('~') {
                Some("") => (true, ANY),
                Some(n) => (true, n),
                None => (false, namespace),
            };
            let namespace = if namespace == "." { client } else { namespace };
            let class = out.classes.entry(namespace).or_default();
            if excluded {
                class.excluded.push(name);
            } else if is_wildcard(name) {
                out.all_exact = false;
                class.wild.push(name);
            } else {
                out.all_exact &= namespace != ANY;
                out.repeated |= class.exact.insert(name) && !seen.insert(name);
            }
        }
        out
    }

    /// Hosts listed under `*`.
    pub(super) fn any(&self) -> Option<&HostClass<'a>> {
        self.classes.get(ANY)
    }
}
