//! Pods that send with addresses that are not their own.
//!
//! Owns the rule of that alert. A watch tells how many such packets there were; must never look at
//! the dependencies of those whose addresses were claimed.

use std::collections::BTreeMap;

use super::found::Found;
use crate::model::{Alert, AlertKind, Merge, Tally, Time, Watch, WorkloadId};
use crate::store::{Store, StoreError};

/// Raises what watches show: alerts that are new. Those that go on are brought up to date.
/// `recent`: the watches tell what came in addition, and not all there is.
///
/// # Errors
/// When the store fails.
pub(super) fn look<'a>(
    store: &mut Store,
    watches: impl Iterator<Item = &'a Watch>,
    now: Time,
    recent: bool,
) -> Result<Vec<Alert>, StoreError> {
    let mut found: BTreeMap<&WorkloadId, Tally> = BTreeMap::new();
    for w in watches.filter(|w| w.ownership.forged > 0) {
        let first = w.spans.0.first().map_or(now, |s| s.from);
        let last = w.spans.0.last().map_or(now, |s| s.to);
        let tally = Tally::new(w.ownership.forged, first, last);
        found.entry(&w.workload).and_modify(|t| t.merge(&tally)).or_insert(tally);
    }
    let mut alerts = Found::default();
    for (workload, tally) in found {
        let alert = Alert::about(AlertKind::ForgedSource, workload, tally, now);
        alerts.add(store, alert, recent)?;
    }
    alerts.write(store)
}
