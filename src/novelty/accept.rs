//! What people, or enough watching, decide about workloads and alerts.
//!
//! Owns what an acceptance covers. Must never raise an alert.

use std::collections::{BTreeMap, BTreeSet};

use crate::generate::Learned;
use crate::generate::readiness::{Readiness, Thresholds};
use crate::model::{Acceptance, AcceptedDependency, Baseline, RaisedAlert, Time, WorkloadId};
use crate::records::Records;
use crate::store::{Store, StoreError};

/// Who decided something, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The user as the API server names it, or the user of the machine followed by `(local)`;
    /// `None` where callers are not authenticated.
    pub by: Option<String>,
    /// When, by the clock of the store's process.
    pub at: Time,
}

/// Whether a whole namespace (or everything) is accepted, or workloads one by one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AcceptedPart {
    Whole,
    SomeWorkloads,
}

/// Accepts the dependencies of workloads: of those that have one of these names, or of all where
/// there is no name. All of them also ends the learning of the namespace (or of everything):
/// workloads that come later are new. Returns the accepted workloads, with their numbers of
/// dependencies.
///
/// # Errors
/// When the store fails.
pub fn accept(
    store: &mut Store,
    namespace: Option<&str>,
    names: &[String],
    decision: &Decision,
) -> Result<BTreeMap<WorkloadId, usize>, StoreError> {
    if names.is_empty() {
        accept_where(store, namespace, |_| true, AcceptedPart::Whole, decision)
    } else {
        let is_named = |id: &WorkloadId| names.contains(&id.name);
        accept_where(store, namespace, is_named, AcceptedPart::SomeWorkloads, decision)
    }
}

fn accept_where(
    store: &mut Store,
    namespace: Option<&str>,
    is_accepted: impl Fn(&WorkloadId) -> bool,
    part: AcceptedPart,
    decision: &Decision,
) -> Result<BTreeMap<WorkloadId, usize>, StoreError> {
    let mut all: BTreeMap<WorkloadId, BTreeSet<AcceptedDependency>> =
        store.workloads(namespace)?.into_iter().map(|w| (w.id, BTreeSet::new())).collect();
    for d in store.dependencies(namespace)? {
        all.entry(d.key.workload.clone()).or_default().insert(AcceptedDependency::from(&d.key));
    }
    all.retain(|id, _| is_accepted(id));
    let Decision { by, at } = decision;
    let baseline = |(workload, dependencies)| Baseline {
        workload,
        accepted: *at,
        by: by.clone(),
        dependencies,
    };
    let baselines: Vec<Baseline> = all.into_iter().map(baseline).collect();
    // Where no workload was seen, the learning has not begun.
    let is_whole = part == AcceptedPart::Whole && !baselines.is_empty();
    let acceptance = is_whole.then(|| Acceptance {
        namespace: namespace.map(str::to_owned),
        accepted: *at,
        by: by.clone(),
    });
    store.accept(&baselines, acceptance.as_slice())?;
    Ok(baselines.into_iter().map(|b| (b.workload, b.dependencies.len())).collect())
}

/// Accepts workloads of which enough is known and that have no baseline yet. The learning of the
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
    let workloads = store.workloads(None)?.into_iter().map(|w| w.id);
    let namespaces: BTreeSet<String> =
        workloads.filter(|id| !accepted.contains(id)).map(|id| id.namespace).collect();
    let mut out = BTreeMap::new();
    // Namespace by namespace: all of them together would fill the memory.
    for namespace in namespaces {
        let learned = Records::of(store, Some(&namespace))?.into_known();
        let is_ready = |id: &WorkloadId| {
            !accepted.contains(id) && learned.get(id).is_some_and(|known| is_enough(known, least))
        };
        if learned.keys().any(is_ready) {
            let part = AcceptedPart::SomeWorkloads;
            out.extend(accept_where(store, Some(&namespace), is_ready, part, &decision)?);
        }
    }
    Ok(out)
}

fn is_enough(learned: &Learned, least: &Thresholds) -> bool {
    let readiness = Readiness::of(learned);
    readiness.connections > 0 && readiness.lacks(least).is_none()
}

/// Ignores alerts with this id, for this reason: they are no longer delivered. Returns how many
/// there are.
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
    for RaisedAlert { alert, deliveries } in &mut found {
        alert.ignored = Some(reason.to_owned());
        alert.ignored_by.clone_from(&decision.by);
        alert.ignored_at = Some(decision.at);
        for delivery in deliveries.values_mut() {
            delivery.next = None;
        }
    }
    store.raise(&found)?;
    Ok(found.len())
}
