//! Names in records, as exports bring them.

use super::{InvalidName, labels, namespace, object_name, wire_name, word, workload};
use crate::{
    Acceptance, Alert, Baseline, Dependency, Destination, Record, ServicePort, WorkloadId,
};

/// Checks the names in a record. What was learned before names were checked may break a rule.
///
/// # Errors
/// The first name that breaks a rule.
pub fn record(record: &Record) -> Result<(), InvalidName> {
    match record {
        Record::Workload(w) => {
            workload(&w.id)?;
            labels(&w.selector)
        }
        Record::Dependency(d) => dependency(d),
        Record::Watch(w) => {
            workload(&w.workload)?;
            object_name(&w.pod)?;
            w.folded.domains.keys().try_for_each(|d| wire_name(d))
        }
        Record::Lookups(l) => {
            workload(&l.workload)?;
            wire_name(&l.host)
        }
        // Its label is what people call it: a path may contain anything.
        Record::Source(s) => {
            word("the source", &s.source)?;
            s.counters.keys().try_for_each(|name| word("the counter", name))
        }
    }
}

fn dependency(d: &Dependency) -> Result<(), InvalidName> {
    workload(&d.key.workload)?;
    destination(&d.key.destination)?;
    let seen = d.evidence.values().flat_map(|e| &e.examples).filter_map(|x| x.name.as_ref());
    seen.chain(d.addressed.keys()).try_for_each(|name| wire_name(name))
}

fn destination(destination: &Destination) -> Result<(), InvalidName> {
    let object = |space: &Option<String>, name: &Option<String>| {
        space.iter().filter(|n| !n.is_empty()).try_for_each(|n| namespace(n))?;
        name.iter().try_for_each(|n| object_name(n))
    };
    match destination {
        Destination::Service(s) => service(s),
        Destination::Ambiguous { candidates } => candidates.iter().try_for_each(service),
        Destination::External { host, namespace, name, entry_host, .. } => {
            object(namespace, name)?;
            host.iter().chain(entry_host).try_for_each(|h| wire_name(h))
        }
        Destination::Pod { namespace, kind, name } => workload(&WorkloadId {
            namespace: namespace.clone(),
            kind: kind.clone(),
            name: name.clone(),
        }),
        Destination::Infrastructure { namespace, name, .. } => object(namespace, name),
        Destination::Unresolved { host, .. } => host.iter().try_for_each(|h| wire_name(h)),
        Destination::Others { domain, .. } => domain.iter().try_for_each(|d| wire_name(d)),
    }
}

fn service(s: &ServicePort) -> Result<(), InvalidName> {
    if !s.namespace.is_empty() {
        namespace(&s.namespace)?;
    }
    object_name(&s.name)?;
    wire_name(&s.host)
}

/// Checks the names in what was accepted.
///
/// # Errors
/// The first name that breaks a rule.
pub fn baseline(baseline: &Baseline) -> Result<(), InvalidName> {
    workload(&baseline.workload)?;
    baseline.dependencies.iter().try_for_each(|d| destination(&d.destination))
}

/// Checks the name in the acceptance of a namespace.
///
/// # Errors
/// When it breaks a rule.
pub fn acceptance(acceptance: &Acceptance) -> Result<(), InvalidName> {
    acceptance.namespace.iter().try_for_each(|n| namespace(n))
}

/// Checks the names in an alert. The reason for which it is ignored is a person's own words.
///
/// # Errors
/// The first name that breaks a rule.
pub fn alert(alert: &Alert) -> Result<(), InvalidName> {
    workload(&alert.workload)?;
    alert.destination.iter().try_for_each(destination)
}
