//! Pods that send with addresses that are not their own.
//!
//! Owns the rule of that alert. A watch counts such packets. Must never read the dependencies of
//! the pods whose addresses were claimed.

use std::collections::BTreeMap;

use super::changes::{AlertChanges, AlertNumbers};
use crate::model::{Alert, AlertKind, Merge, Tally, Time, Watch, WorkloadId};
use crate::store::{Store, StoreError};

/// Raises alerts about forged sources in these watches. Returns those that are new; alerts that go
/// on are updated.
///
/// # Errors
/// When the store fails.
pub(super) fn review<'a>(
    store: &mut Store,
    watches: impl Iterator<Item = &'a Watch>,
    now: Time,
    numbers: AlertNumbers,
) -> Result<Vec<Alert>, StoreError> {
    let mut tallies: BTreeMap<&WorkloadId, Tally> = BTreeMap::new();
    for watch in watches.filter(|watch| watch.ownership.forged > 0) {
        let watched = watch.watched();
        let first = watched.0.first().map_or(now, |span| span.from);
        let last = watched.0.last().map_or(now, |span| span.to);
        let tally = Tally::new(watch.ownership.forged, first, last);
        tallies.entry(&watch.workload).and_modify(|sum| sum.merge(&tally)).or_insert(tally);
    }
    let mut alerts = AlertChanges::default();
    for (workload, tally) in tallies {
        let alert = Alert::about(AlertKind::ForgedSource, workload, tally, now);
        alerts.add(store, alert, numbers)?;
    }
    alerts.write(store)
}
