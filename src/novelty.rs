//! What is new: dependencies that nobody accepted, workloads that nobody accepted, calls that left
//! the mesh, workloads that are watched no more.
//!
//! Owns the rules of alerts, and raising them in a store. A rule looks at what is stored, so that a
//! crash between learning and raising delays an alert and loses none. Must never deliver anything.

mod forged;
mod found;

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::Cluster;
use crate::generate::Learned;
use crate::generate::readiness::{Readiness, Thresholds};
use crate::memory::Memory;
use crate::model::RaisedAlert;
use crate::model::{
    Acceptance, AcceptedDependency, Alert, AlertKind, Baseline, Batch, Dependency, Destination,
    Merge, Record, Spans, Tally, Time, WorkloadId,
};
use crate::records::Records;
use crate::store::{Store, StoreError};
use found::Found;

/// After how long something is alerted that may pass by itself.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// A destination has been ambiguous for this long, in nanoseconds.
    pub ambiguous: u64,
    /// No pod of a workload has been watched for this long, in nanoseconds.
    pub unwatched: u64,
}

impl Default for Patience {
    fn default() -> Self {
        const HOUR: u64 = 3_600_000_000_000;
        Self { ambiguous: 24 * HOUR, unwatched: HOUR }
    }
}

/// Who decided something, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The user as the API server names it, or the user of the machine followed by `(local)`; `None`
    /// where nobody asks who it is.
    pub by: Option<String>,
    /// When, by the clock of the store's process.
    pub at: Time,
}

/// Raises what a batch shows that was just applied: alerts that are new. Those that go on are
/// brought up to date.
///
/// # Errors
/// When the store fails.
pub fn notice(
    store: &mut Store,
    batch: &Batch,
    now: Time,
    patience: Patience,
) -> Result<Vec<Alert>, StoreError> {
    let dependencies = batch.records.iter().filter_map(|r| match r {
        Record::Dependency(d) => Some(d),
        _ => None,
    });
    let mut new = look(store, dependencies, now, patience, true)?;
    let watches = batch.records.iter().filter_map(|r| match r {
        Record::Watch(w) => Some(w),
        _ => None,
    });
    new.extend(forged::look(store, watches, now, true)?);
    Ok(new)
}

/// Looks at all dependencies that are stored.
///
/// # Errors
/// When the store fails.
pub fn review(store: &mut Store, now: Time, patience: Patience) -> Result<Vec<Alert>, StoreError> {
    let (mut new, mut after) = (Vec::new(), None);
    loop {
        let (found, last) = review_after(store, after.as_ref(), now, patience)?;
        new.extend(found);
        after = last;
        if after.is_none() {
            return Ok(new);
        }
    }
}

/// Looks at some of the dependencies that are stored: those of workloads after this one, of the
/// first without one. With the last of these workloads; `None` when there are no more. A whole
/// cluster's at once would hold up all else, and fill the memory.
///
/// # Errors
/// When the store fails.
pub fn review_after(
    store: &mut Store,
    after: Option<&WorkloadId>,
    now: Time,
    patience: Patience,
) -> Result<(Vec<Alert>, Option<WorkloadId>), StoreError> {
    /// Dependencies: read in some ten milliseconds.
    const SOME: usize = 2_000;
    let (some, last) = store.dependencies_after(after, SOME)?;
    Ok((look(store, some.iter(), now, patience, false)?, last))
}

/// Accepts what is known of workloads: of those that have one of these names, or of all without
/// any. All of them also ends the learning of the namespace (or of everything): what is not among
/// them then is a new workload. Gives the workloads, with how many dependencies each has.
///
/// # Errors
/// When the store fails.
pub fn accept(
    store: &mut Store,
    namespace: Option<&str>,
    names: &[String],
    decision: &Decision,
) -> Result<BTreeMap<WorkloadId, usize>, StoreError> {
    let chosen = |id: &WorkloadId| names.is_empty() || names.contains(&id.name);
    accept_chosen(store, namespace, chosen, names.is_empty(), decision)
}

fn accept_chosen(
    store: &mut Store,
    namespace: Option<&str>,
    chosen: impl Fn(&WorkloadId) -> bool,
    whole: bool,
    decision: &Decision,
) -> Result<BTreeMap<WorkloadId, usize>, StoreError> {
    let mut all: BTreeMap<WorkloadId, BTreeSet<AcceptedDependency>> =
        store.workloads(namespace)?.into_iter().map(|w| (w.id, BTreeSet::new())).collect();
    for d in store.dependencies(namespace)? {
        all.entry(d.key.workload.clone()).or_default().insert(AcceptedDependency::from(&d.key));
    }
    all.retain(|id, _| chosen(id));
    let Decision { by, at: accepted } = decision;
    let baselines: Vec<Baseline> = all
        .into_iter()
        .map(|(workload, dependencies)| Baseline {
            workload,
            accepted: *accepted,
            by: by.clone(),
            dependencies,
        })
        .collect();
    // Where nothing is known, the learning has not begun.
    let whole = (whole && !baselines.is_empty()).then(|| Acceptance {
        namespace: namespace.map(str::to_owned),
        accepted: *accepted,
        by: by.clone(),
    });
    store.accept(&baselines, whole.as_slice())?;
    Ok(baselines.into_iter().map(|b| (b.workload, b.dependencies.len())).collect())
}

/// Accepts workloads of which enough is known and nothing was accepted yet. The learning of the
/// others goes on.
///
/// # Errors
/// When the store fails.
pub fn accept_ready(
    store: &mut Store,
    least: &Thresholds,
    now: Time,
) -> Result<BTreeMap<WorkloadId, usize>, StoreError> {
    /// Who accepts then.
    const ITSELF: &str = "sidecarta (enough is known)";
    let decision = Decision { by: Some(ITSELF.to_owned()), at: now };
    let accepted: BTreeSet<WorkloadId> =
        store.baselines(None)?.into_iter().map(|b| b.workload).collect();
    let workloads =
        store.workloads(None)?.into_iter().map(|w| w.id).filter(|id| !accepted.contains(id));
    let namespaces: BTreeSet<String> = workloads.map(|id| id.namespace).collect();
    let mut out = BTreeMap::new();
    // One after the other: all of them at once would fill the memory.
    for namespace in namespaces {
        let known = Records::of(store, Some(&namespace))?.into_known();
        let ready = |id: &WorkloadId| {
            let enough = |k: &Learned| {
                let readiness = Readiness::of(k);
                readiness.connections > 0 && readiness.lacks(least).is_none()
            };
            !accepted.contains(id) && known.get(id).is_some_and(enough)
        };
        if known.keys().any(ready) {
            out.extend(accept_chosen(store, Some(&namespace), ready, false, &decision)?);
        }
    }
    Ok(out)
}

/// Says of alerts that nobody wants to hear of them, and why. Gives how many there are.
///
/// # Errors
/// When the store fails.
pub fn ignore(
    store: &mut Store,
    id: &str,
    reason: &str,
    decision: &Decision,
) -> Result<usize, StoreError> {
    let mut found: Vec<RaisedAlert> =
        store.alerts(None)?.into_iter().filter(|r| r.alert.id() == id).collect();
    for raised in &mut found {
        raised.alert.ignored = Some(reason.to_owned());
        raised.alert.ignored_by.clone_from(&decision.by);
        raised.alert.ignored_at = Some(decision.at);
        raised.deliveries.values_mut().for_each(|d| d.next = None);
    }
    store.raise(&found)?;
    Ok(found.len())
}

/// Whether a dependency is one that people accept or not: the mesh's own calls are not.
fn matters(d: &Dependency) -> bool {
    !matches!(d.key.destination, Destination::Infrastructure { .. })
}

fn look<'a>(
    store: &mut Store,
    dependencies: impl Iterator<Item = &'a Dependency>,
    now: Time,
    patience: Patience,
    recent: bool,
) -> Result<Vec<Alert>, StoreError> {
    let mut baselines: BTreeMap<&WorkloadId, Option<Baseline>> = BTreeMap::new();
    let mut alerts = Found::default();
    let accepted = store.acceptances()?;
    let mut new_workloads: BTreeSet<&WorkloadId> = BTreeSet::new();
    for d in dependencies.filter(|d| matters(d)) {
        let workload = &d.key.workload;
        if !baselines.contains_key(workload) {
            baselines.insert(workload, store.baseline(workload)?);
        }
        let baseline = baselines.get(workload).and_then(Option::as_ref);
        if baseline.is_none() && accepted.iter().any(|a| a.covers(&workload.namespace)) {
            new_workloads.insert(workload);
        }
        let unaccepted = baseline.is_some_and(|b| !b.contains(&d.key));
        let long = d.tally.last_seen.since(d.tally.first_seen) >= patience.ambiguous;
        let ambiguous = matches!(d.key.destination, Destination::Ambiguous { .. }) && long;
        let found = [
            (unaccepted, AlertKind::NewDependency, Some(d.tally)),
            (d.scope_miss.is_some(), AlertKind::ScopeMiss, d.scope_miss),
            (ambiguous, AlertKind::Ambiguous, Some(d.tally)),
        ];
        for (holds, kind, tally) in found {
            let Some(tally) = tally.filter(|_| holds) else { continue };
            let alert = Alert {
                destination: Some(d.key.destination.clone()),
                port: d.key.port,
                protocol: Some(d.key.protocol),
                ..Alert::about(kind, workload, tally, now)
            };
            alerts.add(store, alert, recent)?;
        }
    }
    for workload in new_workloads {
        if let Some(alert) = new_workload(store, workload, now)? {
            // Its numbers are those of the whole store.
            alerts.add(store, alert, false)?;
        }
    }
    alerts.write(store)
}

/// The alert about a workload that nobody accepted, of all that is stored of it; `None` where it
/// calls nothing that matters.
fn new_workload(
    store: &Store,
    workload: &WorkloadId,
    now: Time,
) -> Result<Option<Alert>, StoreError> {
    let all = store.dependencies_of(workload)?;
    let mut tallies = all.iter().filter(|d| matters(d)).map(|d| d.tally);
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

/// Workloads that were accepted, run, and are watched no more; and the end of alerts about those
/// that are again.
///
/// # Errors
/// When the store fails.
pub fn coverage(
    store: &mut Store,
    cluster: &Cluster,
    now: Time,
    patience: Patience,
) -> Result<Vec<Alert>, StoreError> {
    let running: BTreeSet<&WorkloadId> = cluster
        .pods()
        .iter()
        .filter(|p| p.start <= now && now < p.end)
        .map(|p| &p.workload)
        .collect();
    let mut seen: BTreeMap<WorkloadId, Spans> = BTreeMap::new();
    let watches = store.watches(None)?;
    for w in &watches {
        seen.entry(w.workload.clone()).or_default().merge(&w.spans);
    }
    // Where it was stored and not raised before the end.
    let mut new = forged::look(store, watches.iter(), now, false)?;
    let (mut rows, mut over) = (Vec::new(), Vec::new());
    for baseline in store.baselines(None)? {
        let id = &baseline.workload;
        let Some((first, last)) =
            seen.get(id).and_then(|s| Some((s.0.first()?.from, s.0.last()?.to)))
        else {
            continue;
        };
        let seen = Tally::new(0, first, last);
        let alert = Alert::about(AlertKind::CoverageLost, id, seen, now);
        let lost = running.contains(id) && now.since(last) >= patience.unwatched;
        match (lost, store.alert(&alert)?) {
            (true, None) => {
                new.push(alert.clone());
                rows.push(RaisedAlert { alert, deliveries: BTreeMap::new() });
            }
            (false, Some(_)) => over.push(alert),
            _ => {}
        }
    }
    store.raise(&rows)?;
    store.drop_alerts(&over)?;
    Ok(new)
}

#[cfg(test)]
mod tests;
