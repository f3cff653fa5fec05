//! What differs from what was accepted: new dependencies, new workloads, calls that left the mesh
//! or were probably refused, destinations that stay ambiguous, workloads that are no longer
//! watched.
//!
//! Owns the rules of alerts, and raising them in a store. A rule reads what is stored, so that a
//! crash between learning and raising delays an alert and loses none. Must never deliver anything.

mod accept;
mod blocked;
mod changes;
mod coverage;
mod forged;
mod running;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::cluster::Cluster;
use crate::model::{
    Alert, AlertKind, Baseline, Batch, Dependency, Destination, Merge, Record, Tally, Time,
    WorkloadId,
};
use crate::store::{Store, StoreError};
use changes::{AlertChanges, AlertNumbers};

pub use accept::{Decision, accept, accept_ready, ignore};
pub use coverage::review_coverage;

/// After how long something is alerted that may pass by itself.
#[derive(Clone, Copy, Debug)]
pub struct AlertPatience {
    /// How long a destination must have been ambiguous.
    pub ambiguous: Duration,
    /// For how long a running pod of a workload must not have been watched.
    pub unwatched: Duration,
}

impl Default for AlertPatience {
    fn default() -> Self {
        const HOUR: Duration = Duration::from_secs(3_600);
        Self { ambiguous: 24 * HOUR, unwatched: HOUR / 6 }
    }
}

/// Raises alerts about a batch that was just applied. Returns those that are new; alerts that go on
/// are updated.
///
/// # Errors
/// When the store fails.
pub fn raise_from_batch(
    store: &mut Store,
    batch: &Batch,
    now: Time,
    patience: AlertPatience,
) -> Result<Vec<Alert>, StoreError> {
    let dependencies = batch.records.iter().filter_map(|r| match r {
        Record::Dependency(d) => Some(d),
        _ => None,
    });
    let numbers = AlertNumbers::OfBatch;
    let mut new = review_dependencies(store, dependencies, now, patience, numbers)?;
    let watches = batch.records.iter().filter_map(|r| match r {
        Record::Watch(w) => Some(w),
        _ => None,
    });
    new.extend(forged::review(store, watches, now, numbers)?);
    Ok(new)
}

/// Reviews all dependencies that are stored. Returns the alerts that are new.
///
/// # Errors
/// When the store fails.
pub fn review(
    store: &mut Store,
    now: Time,
    patience: AlertPatience,
) -> Result<Vec<Alert>, StoreError> {
    let (mut new, mut after) = (Vec::new(), None);
    loop {
        let (some, last) = review_after(store, after.as_ref(), now, patience)?;
        new.extend(some);
        after = last;
        if after.is_none() {
            return Ok(new);
        }
    }
}

/// Reviews some of the dependencies that are stored: those of the workloads behind `after`, or of
/// the first without it. Also returns the last of these workloads, or `None` when there are no
/// more. Those of a whole cluster together would delay everything else, and fill the memory.
///
/// # Errors
/// When the store fails.
pub fn review_after(
    store: &mut Store,
    after: Option<&WorkloadId>,
    now: Time,
    patience: AlertPatience,
) -> Result<(Vec<Alert>, Option<WorkloadId>), StoreError> {
    /// Dependencies: read in some ten milliseconds.
    const SOME: usize = 2_000;
    let (some, last) = store.dependencies_after(after, SOME)?;
    let new = review_dependencies(store, some.iter(), now, patience, AlertNumbers::OfStore)?;
    Ok((new, last))
}

fn review_dependencies<'a>(
    store: &mut Store,
    dependencies: impl Iterator<Item = &'a Dependency>,
    now: Time,
    patience: AlertPatience,
    numbers: AlertNumbers,
) -> Result<Vec<Alert>, StoreError> {
    let mut baselines: BTreeMap<&WorkloadId, Option<Baseline>> = BTreeMap::new();
    let mut alerts = AlertChanges::default();
    let acceptances = store.acceptances()?;
    let mut new_workloads: BTreeSet<&WorkloadId> = BTreeSet::new();
    for d in dependencies.filter(|d| d.key.destination.is_decidable()) {
        let workload = &d.key.workload;
        if !baselines.contains_key(workload) {
            baselines.insert(workload, store.baseline(workload)?);
        }
        let baseline = baselines.get(workload).and_then(Option::as_ref);
        if baseline.is_none() && acceptances.iter().any(|a| a.covers(&workload.namespace)) {
            new_workloads.insert(workload);
        }
        for (kind, tally) in findings(d, baseline, patience) {
            let alert = Alert {
                destination: Some(d.key.destination.clone()),
                port: d.key.port,
                protocol: Some(d.key.protocol),
                ..Alert::about(kind, workload, tally, now)
            };
            alerts.add(store, alert, numbers)?;
        }
    }
    for workload in new_workloads {
        if let Some(alert) = new_workload(store, workload, now)? {
            alerts.add(store, alert, AlertNumbers::OfStore)?;
        }
    }
    alerts.write(store)
}

/// What is to be alerted about one dependency.
fn findings(
    d: &Dependency,
    baseline: Option<&Baseline>,
    patience: AlertPatience,
) -> Vec<(AlertKind, Tally)> {
    let mut out = Vec::new();
    if baseline.is_some_and(|baseline| !baseline.contains(&d.key)) {
        out.push((AlertKind::NewDependency, d.tally));
    }
    if let Some(tally) = d.scope_miss {
        out.push((AlertKind::ScopeMiss, tally));
    }
    let seen_for = Duration::from_nanos(d.tally.last_seen.since(d.tally.first_seen));
    let is_ambiguous = matches!(d.key.destination, Destination::Ambiguous { .. });
    if is_ambiguous && seen_for >= patience.ambiguous {
        out.push((AlertKind::Ambiguous, d.tally));
    }
    out
}

/// The alert about a workload that nobody accepted, with all that is stored of it; `None` where it
/// has only calls of the mesh itself.
fn new_workload(
    store: &Store,
    workload: &WorkloadId,
    now: Time,
) -> Result<Option<Alert>, StoreError> {
    let all = store.dependencies_of(workload)?;
    let mut tallies = all.iter().filter(|d| d.key.destination.is_decidable()).map(|d| d.tally);
    let Some(mut tally) = tallies.next() else { return Ok(None) };
    let mut dependencies = 1;
    for more in tallies {
        tally.merge(&more);
        dependencies += 1;
    }
    Ok(Some(Alert {
        dependencies: Some(dependencies),
        ..Alert::about(AlertKind::NewWorkload, workload, tally, now)
    }))
}

/// Raises alerts about calls that proxies probably refused, and removes those about hosts that are
/// refused no longer. Returns the alerts that are new.
///
/// # Errors
/// When the store fails.
pub fn review_blocked(
    store: &mut Store,
    cluster: &Cluster,
    now: Time,
) -> Result<Vec<Alert>, StoreError> {
    blocked::review(store, cluster, now)
}

#[cfg(test)]
mod tests;
