//! What is known, wherever it is kept: records read from a store, or fetched from a recorder.
//!
//! Owns nothing but their order. Must never change a record.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::BufRead;

use serde::{Deserialize, Serialize};

use crate::generate::Known;
use crate::model::{
    Acceptance, Baseline, Dependency, Destination, Lookups, Record, Source, Time, UnverifiedBatch,
    Watch, Workload, WorkloadId,
};
use crate::store::{Store, StoreError};

/// Records of one namespace or of all, each kind sorted by key.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// What is called.
    pub dependencies: Vec<Dependency>,
    /// Who is known.
    pub workloads: Vec<Workload>,
    /// What was watched.
    pub watches: Vec<Watch>,
    /// What was asked for.
    pub lookups: Vec<Lookups>,
    /// Totals of sources, of all namespaces.
    pub sources: Vec<Source>,
    /// What a store keeps apart, of all namespaces; of a recorder its status tells.
    pub unverified: Vec<UnverifiedBatch>,
    /// The namespace that was asked for.
    pub namespace: Option<String>,
    /// What is missing: the store is damaged, or has what was saved of a damaged one.
    pub missing: Option<Missing>,
    /// What was accepted. Not among the records.
    pub decided: Decided,
}

/// What is missing of a store, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// It is damaged.
    Damaged(String),
    /// The export that was imported into it was made of a damaged one.
    Salvaged(String),
}

impl Missing {
    /// Of a store.
    pub fn of(store: &Store) -> Option<Self> {
        let damaged = store.damage().map(|why| Self::Damaged(why.to_owned()));
        damaged.or_else(|| store.salvaged().map(|why| Self::Salvaged(why.to_owned())))
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(why) => write!(f, "the store is damaged: {why}"),
            Self::Salvaged(why) => {
                write!(f, "the store holds what was saved of a damaged one: {why}")
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
    /// Namespaces that were accepted as a whole; all, where one has no name.
    pub namespaces: Vec<Acceptance>,
}

impl Decided {
    /// Reads a store.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn of(store: &Store, namespace: Option<&str>) -> Result<Self, StoreError> {
        let mut namespaces = store.acceptances()?;
        namespaces.retain(|a| namespace.is_none_or(|n| a.covers(n)));
        Ok(Self { baselines: store.baselines(namespace)?, namespaces })
    }

    /// What was accepted of a workload.
    pub fn baseline(&self, workload: &WorkloadId) -> Option<&Baseline> {
        let at = self.baselines.binary_search_by(|b| b.workload.cmp(workload)).ok()?;
        self.baselines.get(at)
    }

    /// Whether a workload is new: nothing of it was accepted, though its namespace was.
    pub fn is_new(&self, workload: &WorkloadId) -> bool {
        let covered = || self.namespaces.iter().any(|a| a.covers(&workload.namespace));
        self.baseline(workload).is_none() && covered()
    }

    /// Why a dependency is not accepted, in words; `None` where it is, where nobody has decided
    /// yet, and of the mesh's own calls, of which nobody decides.
    pub fn lacks(&self, d: &Dependency) -> Option<&'static str> {
        if matches!(d.key.destination, Destination::Infrastructure { .. }) {
            return None;
        }
        match self.baseline(&d.key.workload) {
            Some(baseline) => (!baseline.contains(&d.key)).then_some("not accepted"),
            None => self.is_new(&d.key.workload).then_some("workload not accepted"),
        }
    }
}

impl Memory {
    /// Reads a store.
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
            missing: Missing::of(store),
            decided: Decided::of(store, namespace)?,
        })
    }

    /// Reads records as lines of JSON.
    ///
    /// # Errors
    /// When a line is none.
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

    /// When each workload was last seen: the newest time that is not later than `limit`. A capture
    /// or an agent whose clock was wrong must not make all that was seen before look stale. A
    /// workload that has none was not seen at any time that can be true.
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
        // Where the last time is to be believed, nothing of the workload is later.
        let strange: BTreeSet<&WorkloadId> =
            self.workloads.iter().filter(|w| w.last_seen > limit).map(|w| &w.id).collect();
        let dependencies = self.dependencies.iter().filter(|d| strange.contains(&d.key.workload));
        dependencies.for_each(|d| see(&d.key.workload, d.tally.last_seen));
        let lookups = self.lookups.iter().filter(|l| strange.contains(&l.workload));
        lookups.for_each(|l| see(&l.workload, l.tally.last_seen));
        for w in self.watches.iter().filter(|w| strange.contains(&w.workload)) {
            w.spans.0.iter().flat_map(|s| [s.from, s.to]).for_each(|t| see(&w.workload, t));
        }
        seen
    }

    /// All records.
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

    /// By workload.
    pub fn into_known(self) -> BTreeMap<WorkloadId, Known> {
        let mut all: BTreeMap<WorkloadId, Known> = BTreeMap::new();
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
