//! Alerts on their way into a store.
//!
//! Owns which are new, and how one that goes on is updated. Must never judge what an alert is
//! about.

use std::collections::BTreeMap;

use crate::model::{Alert, Merge, RaisedAlert};
use crate::store::{Store, StoreError};

/// What the numbers of an alert count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AlertNumbers {
    /// One batch: they are added to those of a stored alert.
    OfBatch,
    /// The whole store: they replace those of a stored alert.
    OfStore,
}

/// Alerts that were found: those that are new, and the rows of all that changed.
#[derive(Default)]
pub(super) struct AlertChanges {
    new: Vec<Alert>,
    rows: Vec<RaisedAlert>,
}

impl AlertChanges {
    /// Adds an alert, or updates the stored one about the same.
    pub fn add(
        &mut self,
        store: &Store,
        alert: Alert,
        numbers: AlertNumbers,
    ) -> Result<(), StoreError> {
        let Some(mut stored) = store.alert(&alert)? else {
            self.new.push(alert.clone());
            self.rows.push(RaisedAlert { alert, deliveries: BTreeMap::new() });
            return Ok(());
        };
        let before = (stored.alert.tally(), stored.alert.dependencies);
        let mut tally = alert.tally();
        if numbers == AlertNumbers::OfBatch {
            tally.merge(&before.0);
        }
        if before != (tally, alert.dependencies) {
            stored.alert.set_tally(tally);
            stored.alert.dependencies = alert.dependencies;
            self.rows.push(stored);
        }
        Ok(())
    }

    /// Writes them. Returns those that are new.
    pub fn write(self, store: &mut Store) -> Result<Vec<Alert>, StoreError> {
        store.raise(&self.rows)?;
        Ok(self.new)
    }
}
