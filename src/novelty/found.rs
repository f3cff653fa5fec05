//! Alerts on their way into a store.
//!
//! Owns which are new, and what is brought up to date. Must never judge what an alert is about.

use std::collections::BTreeMap;

use crate::model::RaisedAlert;
use crate::model::{Alert, Merge};
use crate::store::{Store, StoreError};

/// Alerts that were found: those that are new, and the rows of all that changed.
#[derive(Default)]
pub(super) struct Found {
    new: Vec<Alert>,
    rows: Vec<RaisedAlert>,
}

impl Found {
    /// Adds an alert, or brings the one about the same up to date. `recent`: the numbers are those
    /// of what came in addition; else of all there is.
    pub(super) fn add(
        &mut self,
        store: &Store,
        alert: Alert,
        recent: bool,
    ) -> Result<(), StoreError> {
        match store.alert(&alert)? {
            None => {
                self.new.push(alert.clone());
                self.rows.push(RaisedAlert { alert, deliveries: BTreeMap::new() });
            }
            Some(mut known) => {
                let mut tally = alert.tally();
                if recent {
                    tally.merge(&known.alert.tally());
                }
                if (known.alert.tally(), known.alert.dependencies) != (tally, alert.dependencies) {
                    known.alert.set_tally(tally);
                    known.alert.dependencies = alert.dependencies;
                    self.rows.push(known);
                }
            }
        }
        Ok(())
    }

    /// Writes them. Gives those that are new.
    pub(super) fn write(self, store: &mut Store) -> Result<Vec<Alert>, StoreError> {
        store.raise(&self.rows)?;
        Ok(self.new)
    }
}
