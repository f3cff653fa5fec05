//! Reading the records of a store.

use sled::IVec;

use super::error::StoreError;
use super::handle::Store;
use super::keys::{self, RowKind};
use crate::model::{Dependency, Lookups, Record, Source, Watch, Workload, WorkloadId};

impl Store {
    /// Dependencies, of one namespace or all, sorted by key.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn dependencies(&self, namespace: Option<&str>) -> Result<Vec<Dependency>, StoreError> {
        let pages = self.rows.scan_prefix(keys::prefix(RowKind::Page, namespace)).values();
        let pages: Result<Vec<IVec>, _> = pages.collect();
        let mut all = self.read_pages(&pages?)?;
        all.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(all)
    }

    /// All dependencies of one workload, sorted by key.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn dependencies_of(&self, workload: &WorkloadId) -> Result<Vec<Dependency>, StoreError> {
        let mut out = Vec::new();
        for row in self.rows.scan_prefix(keys::of_workload(RowKind::Page, workload)).values() {
            out.append(&mut self.page(&row?)?);
        }
        out.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(out)
    }

    /// Dependencies of some workloads, each workload whole: of those behind `after`, or of the
    /// first without it. At least `least` dependencies where there are as many. Also returns the
    /// last of these workloads, or `None` when there are no more.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn dependencies_after(
        &self,
        after: Option<&WorkloadId>,
        least: usize,
    ) -> Result<(Vec<Dependency>, Option<WorkloadId>), StoreError> {
        let first = after.map_or_else(|| keys::prefix(RowKind::Page, None), keys::after_pages);
        let mut all: Vec<Dependency> = Vec::new();
        for row in self.rows.range(first..) {
            let (key, row) = row?;
            if !keys::is_page(&key) {
                break;
            }
            let mut page = self.page(&row)?;
            let last = all.last().map(|d| &d.key.workload);
            if all.len() >= least && page.first().map(|d| &d.key.workload) != last {
                let last = last.cloned();
                return Ok((all, last));
            }
            all.append(&mut page);
        }
        Ok((all, None))
    }

    /// Workloads, of one namespace or all, sorted.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn workloads(&self, namespace: Option<&str>) -> Result<Vec<Workload>, StoreError> {
        self.records(RowKind::Workload, namespace, |r| match r {
            Record::Workload(w) => Some(w),
            _ => None,
        })
    }

    /// Which pods were watched, sorted by workload and pod.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn watches(&self, namespace: Option<&str>) -> Result<Vec<Watch>, StoreError> {
        self.records(RowKind::Watch, namespace, |r| match r {
            Record::Watch(w) => Some(w),
            _ => None,
        })
    }

    /// Hosts that were looked up, sorted by workload and host.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn lookups(&self, namespace: Option<&str>) -> Result<Vec<Lookups>, StoreError> {
        self.records(RowKind::Lookups, namespace, |r| match r {
            Record::Lookups(l) => Some(l),
            _ => None,
        })
    }

    /// Totals of every source, sorted.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn sources(&self) -> Result<Vec<Source>, StoreError> {
        self.records(RowKind::Source, None, |r| match r {
            Record::Source(s) => Some(s),
            _ => None,
        })
    }

    fn records<T>(
        &self,
        kind: RowKind,
        namespace: Option<&str>,
        pick: impl Fn(Record) -> Option<T>,
    ) -> Result<Vec<T>, StoreError> {
        let mut out = Vec::new();
        for row in self.rows.scan_prefix(keys::prefix(kind, namespace)) {
            let (_, row) = row?;
            out.extend(pick(self.decode(&row)?));
        }
        Ok(out)
    }
}
