//! Baselines and alerts: what people accepted, and what is not as it was accepted.
//!
//! Owns their rows, and which alerts still have to go where. Must never forget an alert that was
//! not delivered.

use super::keys::{self, Kind};
use super::{Change, Store, StoreError};
use crate::model::{Acceptance, Alert, Baseline, Dependency, RaisedAlert, WorkloadId};

impl Store {
    /// What was accepted of a workload; `None` where nothing ever was.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn baseline(&self, workload: &WorkloadId) -> Result<Option<Baseline>, StoreError> {
        self.get(&keys::of_workload(Kind::Baseline, workload))?
            .map(|row| self.unpack(&row))
            .transpose()
    }

    /// All baselines, of one namespace or all, sorted by workload.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn baselines(&self, namespace: Option<&str>) -> Result<Vec<Baseline>, StoreError> {
        let mut out = Vec::new();
        for row in self.rows.scan_prefix(keys::prefix(Kind::Baseline, namespace)).values() {
            out.push(self.unpack(&row?)?);
        }
        Ok(out)
    }

    /// Which namespaces were accepted as a whole, sorted; first all of them, where they were.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn acceptances(&self) -> Result<Vec<Acceptance>, StoreError> {
        let rows = self.rows.scan_prefix(keys::prefix(Kind::Acceptance, None)).values();
        rows.map(|row| self.decode(&row?)).collect()
    }

    /// All dependencies of one workload, sorted.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn dependencies_of(&self, workload: &WorkloadId) -> Result<Vec<Dependency>, StoreError> {
        let mut out = Vec::new();
        for row in self.rows.scan_prefix(keys::of_workload(Kind::Page, workload)).values() {
            out.append(&mut self.page(&row?)?);
        }
        out.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(out)
    }

    /// Accepts baselines, each in place of its workload's former one, and whole namespaces, and
    /// lets go of the alerts that the baselines answer.
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
        let mut writes = Change::default();
        for acceptance in whole {
            let key = keys::acceptance(acceptance.namespace.as_deref());
            let mut row = Vec::new();
            self.encode_into(&mut row, acceptance)?;
            writes.put(key, row);
        }
        for baseline in baselines {
            let key = keys::of_workload(Kind::Baseline, &baseline.workload);
            writes.put(key, self.pack(baseline)?);
            for (key, raised) in self.raised_of(&baseline.workload)? {
                if baseline.answers(&raised.alert) {
                    writes.remove(key.to_vec());
                }
            }
        }
        self.write(writes)
    }

    /// Alerts, of one namespace or all, sorted by workload, then by what they are about.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn alerts(&self, namespace: Option<&str>) -> Result<Vec<RaisedAlert>, StoreError> {
        let mut out = Vec::new();
        for row in self.rows.scan_prefix(keys::prefix(Kind::Alert, namespace)).values() {
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
        let mut writes = Change::default();
        for raised in all {
            let mut row = Vec::new();
            self.encode_into(&mut row, raised)?;
            writes.put(keys::alert(&raised.alert), row);
        }
        self.write(writes)?;
        self.outbox += u64::from(all.iter().any(RaisedAlert::waits));
        Ok(())
    }

    /// Counts the writes of alerts that wait to be delivered, since the store was opened: while it
    /// stays the same, none has come.
    pub fn outbox(&self) -> u64 {
        self.outbox
    }

    /// Lets go of alerts that are over.
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub fn drop_alerts(&mut self, all: &[Alert]) -> Result<(), StoreError> {
        if all.is_empty() {
            return Ok(());
        }
        let mut writes = Change::default();
        all.iter().for_each(|a| writes.remove(keys::alert(a)));
        self.write(writes)
    }

    fn write(&mut self, writes: Change) -> Result<(), StoreError> {
        if self.stopped {
            return Err(StoreError::Stopped(self.dir.clone()));
        }
        self.commit(writes)
    }

    fn raised_of(
        &self,
        workload: &WorkloadId,
    ) -> Result<Vec<(sled::IVec, RaisedAlert)>, StoreError> {
        let mut out = Vec::new();
        for row in self.rows.scan_prefix(keys::of_workload(Kind::Alert, workload)) {
            let (key, row) = row?;
            out.push((key, self.decode(&row)?));
        }
        Ok(out)
    }
}
