//! Baselines and alerts: what people accepted, and what differs from it.
//!
//! Owns their rows, and which alerts are still to be delivered where. Must never forget an alert
//! that was not delivered.

use super::changes::RowChanges;
use super::error::StoreError;
use super::handle::Store;
use super::keys::{self, RowKind};
use crate::model::{Acceptance, Alert, Baseline, RaisedAlert, WorkloadId};

impl Store {
    /// The baseline of a workload; `None` where nothing of it was ever accepted.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn baseline(&self, workload: &WorkloadId) -> Result<Option<Baseline>, StoreError> {
        self.get(&keys::of_workload(RowKind::Baseline, workload))?
            .map(|row| self.decompress_json(&row))
            .transpose()
    }

    /// Baselines, of one namespace or all, sorted by workload.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn baselines(&self, namespace: Option<&str>) -> Result<Vec<Baseline>, StoreError> {
        let mut out = Vec::new();
        for row in self.rows.scan_prefix(keys::prefix(RowKind::Baseline, namespace)).values() {
            out.push(self.decompress_json(&row?)?);
        }
        Ok(out)
    }

    /// Which namespaces were accepted as a whole, sorted. The acceptance of everything is the
    /// first.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn acceptances(&self) -> Result<Vec<Acceptance>, StoreError> {
        let rows = self.rows.scan_prefix(keys::prefix(RowKind::Acceptance, None)).values();
        rows.map(|row| self.decode(&row?)).collect()
    }

    /// Writes baselines, each in place of its workload's former one, and acceptances. Removes the
    /// alerts that the baselines answer.
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub fn accept(
        &mut self,
        baselines: &[Baseline],
        whole: &[Acceptance],
    ) -> Result<(), StoreError> {
        if baselines.is_empty() && whole.is_empty() {
            return Ok(());
        }
        let mut changes = RowChanges::default();
        for acceptance in whole {
            let key = keys::acceptance(acceptance.namespace.as_deref());
            let mut row = Vec::new();
            self.encode_into(&mut row, acceptance)?;
            changes.put(key, row);
        }
        for baseline in baselines {
            let key = keys::of_workload(RowKind::Baseline, &baseline.workload);
            changes.put(key, self.compress_json(baseline)?);
            for (key, raised) in self.alerts_of(&baseline.workload)? {
                if baseline.answers(&raised.alert) {
                    changes.remove(key.to_vec());
                }
            }
        }
        self.commit(changes)
    }

    /// Alerts, of one namespace or all, sorted by workload, then by what they are about.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn alerts(&self, namespace: Option<&str>) -> Result<Vec<RaisedAlert>, StoreError> {
        let mut out = Vec::new();
        for row in self.rows.scan_prefix(keys::prefix(RowKind::Alert, namespace)).values() {
            out.push(self.decode(&row?)?);
        }
        Ok(out)
    }

    /// An alert by its identity.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn alert(&self, alert: &Alert) -> Result<Option<RaisedAlert>, StoreError> {
        self.get(&keys::alert(alert))?.map(|row| self.decode(&row)).transpose()
    }

    /// Writes alerts, each in place of the one of the same identity.
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub fn raise(&mut self, all: &[RaisedAlert]) -> Result<(), StoreError> {
        if all.is_empty() {
            return Ok(());
        }
        let mut changes = RowChanges::default();
        for raised in all {
            let mut row = Vec::new();
            self.encode_into(&mut row, raised)?;
            changes.put(keys::alert(&raised.alert), row);
        }
        self.commit(changes)?;
        self.outbox += u64::from(all.iter().any(RaisedAlert::waits));
        Ok(())
    }

    /// Counts the changes of alerts that wait to be delivered, since the store was opened. While it
    /// stays the same, there is no new one.
    pub fn outbox(&self) -> u64 {
        self.outbox
    }

    /// Removes alerts that are over.
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub fn drop_alerts(&mut self, all: &[Alert]) -> Result<(), StoreError> {
        if all.is_empty() {
            return Ok(());
        }
        let mut changes = RowChanges::default();
        for alert in all {
            changes.remove(keys::alert(alert));
        }
        self.commit(changes)
    }

    fn alerts_of(
        &self,
        workload: &WorkloadId,
    ) -> Result<Vec<(sled::IVec, RaisedAlert)>, StoreError> {
        let mut out = Vec::new();
        for row in self.rows.scan_prefix(keys::of_workload(RowKind::Alert, workload)) {
            let (key, row) = row?;
            out.push((key, self.decode(&row)?));
        }
        Ok(out)
    }
}
