//! Pods that send with addresses that are not their own.
//!
//! Owns the rule of that alert. A watch tells how many such packets there were; must never look at
//! the dependencies of those whose addresses were claimed.

use std::collections::BTreeMap;

use crate::model::{Alert, AlertKind, Merge, Tally, Time, Watch, WorkloadId};
use crate::store::{Raised, Store, StoreError};

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
    let (mut new, mut rows) = (Vec::new(), Vec::new());
    for (workload, mut tally) in found {
        let alert = Alert {
            kind: AlertKind::ForgedSource,
            workload: workload.clone(),
            destination: None,
            port: 0,
            protocol: None,
            first_seen: tally.first_seen,
            last_seen: tally.last_seen,
            connections: tally.connections,
            dependencies: None,
            raised: now,
            ignored: None,
            ignored_by: None,
            ignored_at: None,
        };
        match store.alert(&alert)? {
            None => {
                new.push(alert.clone());
                rows.push(Raised { alert, deliveries: BTreeMap::new() });
            }
            Some(mut known) => {
                if recent {
                    tally.merge(&known.alert.tally());
                }
                if tally != known.alert.tally() {
                    known.alert.set(tally);
                    rows.push(known);
                }
            }
        }
    }
    store.raise(&rows)?;
    Ok(new)
}
