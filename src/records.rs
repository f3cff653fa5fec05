//! Records that were read from a store or fetched from a recorder, with what people accepted.
//!
//! Owns only their order. Must never change a record.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::BufRead;

use serde::{Deserialize, Serialize};

use crate::generate::Learned;
use crate::model::{
    Acceptance, Baseline, Dependency, Lookups, Record, Source, Time, UnverifiedBatch, Watch,
    Workload, WorkloadId,
};
use crate::store::{Store, StoreError};

/// Records of one namespace or of all, each kind sorted by key.
#[derive(Clone, Debug, Default)]
pub struct Records {
    /// What workloads call.
    pub dependencies: Vec<Dependency>,
    /// The workloads that were seen.
    pub workloads: Vec<Workload>,
    /// Which pods were watched, and when.
    pub watches: Vec<Watch>,
    /// Names that workloads asked the DNS for.
    pub lookups: Vec<Lookups>,
    /// Totals of all sources, whatever the namespace.
    pub sources: Vec<Source>,
    /// Unverified lines of all namespaces. Empty if a recorder was asked: `/v1/mesh` has them.
    pub unverified: Vec<UnverifiedBatch>,
    /// The namespace that was asked for; `None` for all.
    pub namespace: Option<String>,
    /// Why a part of the records is missing, if so.
    pub missing: Option<StoreDefect>,
    /// What people accepted. It is not one of the records.
    pub decided: Decided,
}

/// Why a store lacks a part of what was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreDefect {
    /// The store is damaged, with the reason.
    Damaged(String),
    /// The store was imported from an export of a damaged store, with the reason.
    Salvaged(String),
}

impl StoreDefect {
    /// The defect of this store, if it has one.
    pub fn of(store: &Store) -> Option<Self> {
        let damaged = store.damage().map(|why| Self::Damaged(why.to_owned()));
        damaged.or_else(|| store.salvaged().map(|why| Self::Salvaged(why.to_owned())))
    }
}

impl fmt::Display for StoreDefect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(why) => write!(f, "the store is damaged: {why}"),
            Self::Salvaged(why) => {
                write!(f, "the store contains what was saved of a damaged one: {why}")
            }
        }
    }
}

/// What people accepted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Decided {
    /// By workload.
    pub baselines: Vec<Baseline>,
    /// Namespaces that were accepted as a whole. An acceptance without a name covers all.
    pub namespaces: Vec<Acceptance>,
}

impl Decided {
    /// Reads what was accepted in a namespace, or in all, from a store.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn of(store: &Store, namespace: Option<&str>) -> Result<Self, StoreError> {
        let mut namespaces = store.acceptances()?;
        namespaces.retain(|a| namespace.is_none_or(|n| a.covers(n)));
        Ok(Self { baselines: store.baselines(namespace)?, namespaces })
    }

    /// The baseline of a workload, if one was accepted.
    pub fn baseline(&self, workload: &WorkloadId) -> Option<&Baseline> {
        let at = self.baselines.binary_search_by(|b| b.workload.cmp(workload)).ok()?;
        self.baselines.get(at)
    }

    /// Whether a workload is new: it has no baseline, though its namespace was accepted.
    pub fn is_new(&self, workload: &WorkloadId) -> bool {
        let covered = || self.namespaces.iter().any(|a| a.covers(&workload.namespace));
        self.baseline(workload).is_none() && covered()
    }

    /// The remark for a dependency that is not accepted. `None` if it is accepted, if nobody has
    /// decided on its workload yet, and for what nobody decides on.
    pub fn lacks(&self, d: &Dependency) -> Option<&'static str> {
        if !d.key.destination.is_decidable() {
            return None;
        }
        match self.baseline(&d.key.workload) {
            Some(baseline) => (!baseline.contains(&d.key)).then_some("not accepted"),
            None => self.is_new(&d.key.workload).then_some("workload not accepted"),
        }
    }
}

impl Records {
    /// Reads the records of a namespace, or of all, from a store.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn of(store: &Store, namespace: Option<&str>) -> Result<Self, StoreError> {
        Ok(Self {
            dependencies: store.dependencies(namespace)?,
            workloads: store.workloads(namespace)?,
            watches: store.watches(namespace)?,
            lookups: store.lookups(namespace)?,
            sources: store.sources()?,
            unverified: store.unverified()?,
            namespace: namespace.map(str::to_owned),
            missing: StoreDefect::of(store),
            decided: Decided::of(store, namespace)?,
        })
    }

    /// Reads records from lines of JSON.
    ///
    /// # Errors
    /// When the input cannot be read, or a line is no record.
    pub fn read(input: impl BufRead) -> std::io::Result<Self> {
        let mut out = Self::default();
        for line in input.lines() {
            match serde_json::from_str(&line?)? {
                Record::Dependency(d) => out.dependencies.push(d),
                Record::Workload(w) => out.workloads.push(w),
                Record::Watch(w) => out.watches.push(w),
                Record::Lookups(l) => out.lookups.push(l),
                Record::Source(s) => out.sources.push(s),
            }
        }
        Ok(out)
    }

    /// When each workload was last seen: the newest time that is not later than `limit`. Later
    /// times come from a wrong clock, and must not make stale what was seen before. A workload
    /// without a time up to `limit` is absent.
    pub fn last_seen(&self, limit: Time) -> BTreeMap<WorkloadId, Time> {
        let mut seen: BTreeMap<WorkloadId, Time> = BTreeMap::new();
        let mut see = |id: &WorkloadId, time: Time| {
            if time > limit {
                return;
            }
            match seen.get_mut(id) {
                Some(last) => *last = time.max(*last),
                None => drop(seen.insert(id.clone(), time)),
            }
        };
        self.workloads.iter().for_each(|w| see(&w.id, w.last_seen));
        // If a workload's own time is believable, its other records have no later one. Only for
        // the rest all records are searched.
        let too_late: BTreeSet<&WorkloadId> =
            self.workloads.iter().filter(|w| w.last_seen > limit).map(|w| &w.id).collect();
        let dependencies = self.dependencies.iter().filter(|d| too_late.contains(&d.key.workload));
        dependencies.for_each(|d| see(&d.key.workload, d.tally.last_seen));
        let lookups = self.lookups.iter().filter(|l| too_late.contains(&l.workload));
        lookups.for_each(|l| see(&l.workload, l.tally.last_seen));
        for w in self.watches.iter().filter(|w| too_late.contains(&w.workload)) {
            w.watched().0.iter().flat_map(|s| [s.from, s.to]).for_each(|t| see(&w.workload, t));
        }
        seen
    }

    /// All records, workloads first and sources last.
    pub fn into_records(self) -> impl Iterator<Item = Record> {
        let workloads = self.workloads.into_iter().map(Record::Workload);
        let dependencies = self.dependencies.into_iter().map(Record::Dependency);
        let watches = self.watches.into_iter().map(Record::Watch);
        let lookups = self.lookups.into_iter().map(Record::Lookups);
        workloads
            .chain(dependencies)
            .chain(watches)
            .chain(lookups)
            .chain(self.sources.into_iter().map(Record::Source))
    }

    /// Groups dependencies, watches and lookups by workload.
    pub fn into_known(self) -> BTreeMap<WorkloadId, Learned> {
        let mut all: BTreeMap<WorkloadId, Learned> = BTreeMap::new();
        for d in self.dependencies {
            all.entry(d.key.workload.clone()).or_default().dependencies.push(d);
        }
        for w in self.watches {
            all.entry(w.workload.clone()).or_default().watches.push(w);
        }
        for l in self.lookups {
            all.entry(l.workload.clone()).or_default().lookups.push(l);
        }
        all
    }
}
