//! A workload's share of destinations that nothing bounds: hosts and addresses outside the mesh,
//! and addresses that could not be resolved. A scanner or a crawler reaches millions.
//!
//! Owns what is merged when a workload has its share: a row for each domain, and beyond a number
//! of these one row for the rest. Connections, times and examples are merged, so every sum stays
//! true. Which destinations are listed one by one depends on the order in which batches come: those
//! that came first are. Must never fold what the mesh bounds: Services, hosts of ServiceEntries,
//! pods.

use std::collections::{BTreeMap, BTreeSet};

use super::keys::{self, Kind};
use super::{Change, Store, StoreError};
use crate::model::{
    Batch, Dependency, DependencyKey, Destination, Merge, Record, WorkloadId, domain,
};

/// Destinations without a bound that a workload may have one by one.
pub const LISTED: usize = 1_000;
/// Rows of domains that it may have besides.
pub const DOMAINS: usize = 200;

/// What a workload has already.
#[derive(Debug, Default)]
struct Has {
    listed: BTreeSet<DependencyKey>,
    domains: BTreeSet<DependencyKey>,
}

/// Whether nothing bounds how many of its like there are.
fn is_unbounded(destination: &Destination) -> bool {
    matches!(
        destination,
        Destination::External { namespace: None, .. } | Destination::Unresolved { .. }
    )
}

fn is_domain(destination: &Destination) -> bool {
    matches!(destination, Destination::Others { domain: Some(_), .. })
}

impl Has {
    fn of<'a>(all: impl IntoIterator<Item = &'a Dependency>) -> Self {
        let mut has = Self::default();
        for d in all {
            if is_unbounded(&d.key.destination) {
                has.listed.insert(d.key.clone());
            } else if is_domain(&d.key.destination) {
                has.domains.insert(d.key.clone());
            }
        }
        has
    }

    /// The dependency as it is kept, where it is folded.
    fn fold(&mut self, d: &Dependency) -> Option<Dependency> {
        if !is_unbounded(&d.key.destination) || self.listed.contains(&d.key) {
            return None;
        }
        if self.listed.len() < LISTED {
            self.listed.insert(d.key.clone());
            return None;
        }
        let mut key = merged(&d.key);
        if is_domain(&key.destination) && !self.domains.contains(&key) {
            if self.domains.len() < DOMAINS {
                self.domains.insert(key.clone());
            } else {
                key.destination = Destination::Others { domain: None, why: None };
                key.port = 0;
            }
        }
        // The names that it was addressed by are those that are not listed.
        Some(Dependency { key, addressed: BTreeMap::new(), ..d.clone() })
    }
}

/// The key under which a destination is merged with others: that of its domain, else that of all
/// of its kind.
fn merged(key: &DependencyKey) -> DependencyKey {
    let (destination, port) = match &key.destination {
        Destination::Unresolved { why, .. } => {
            (Destination::Others { domain: None, why: Some(*why) }, 0)
        }
        Destination::External { host: Some(host), .. } => match domain(host) {
            Some(domain) => (Destination::Others { domain: Some(domain), why: None }, key.port),
            None => (Destination::Others { domain: None, why: None }, 0),
        },
        _ => (Destination::Others { domain: None, why: None }, 0),
    };
    DependencyKey { destination, port, ..key.clone() }
}

/// Adds to what is folded under its key.
fn add(folded: &mut BTreeMap<DependencyKey, Dependency>, d: Dependency) {
    match folded.get_mut(&d.key) {
        Some(known) => known.merge(&d),
        None => {
            folded.insert(d.key.clone(), d);
        }
    }
}

impl Store {
    /// A batch as it is merged: with what exceeds a workload's share folded. Folding it once more
    /// changes nothing.
    ///
    /// # Errors
    /// When a row cannot be read or written.
    pub fn fold(&mut self, batch: Batch) -> Result<Batch, StoreError> {
        let folded = self.fold_records(&batch.records)?;
        Ok(Batch { records: folded.unwrap_or(batch.records), id: batch.id })
    }

    /// Records as they are merged; `None` where none of them is folded.
    pub(super) fn fold_records(
        &mut self,
        records: &[Record],
    ) -> Result<Option<Vec<Record>>, StoreError> {
        let mut unbounded: BTreeMap<&WorkloadId, usize> = BTreeMap::new();
        for record in records {
            if let Record::Dependency(d) = record
                && is_unbounded(&d.key.destination)
            {
                *unbounded.entry(&d.key.workload).or_default() += 1;
            }
        }
        let mut near: BTreeMap<&WorkloadId, Has> = BTreeMap::new();
        for (workload, more) in unbounded {
            // Never fewer than there are: pages are read only near the bound, and once.
            let most = match self.unbounded.get(workload) {
                Some(n) => n + more,
                None => self.has(workload)?.listed.len() + more,
            };
            if most > LISTED {
                let has = self.has(workload)?;
                // A store may have more from before there was a bound.
                let has = if has.listed.len() > LISTED { self.compact(workload)? } else { has };
                near.insert(workload, has);
            } else {
                self.unbounded.insert(workload.clone(), most);
            }
        }
        if near.is_empty() {
            return Ok(None);
        }
        let mut folded: BTreeMap<DependencyKey, Dependency> = BTreeMap::new();
        let mut kept = Vec::with_capacity(records.len());
        let mut any = false;
        for record in records {
            let less = match record {
                Record::Dependency(d) => near.get_mut(&d.key.workload).and_then(|has| has.fold(d)),
                _ => None,
            };
            match (less, record) {
                (Some(less), _) => {
                    any = true;
                    add(&mut folded, less);
                }
                // It may be one that something else is folded into.
                (None, Record::Dependency(d))
                    if matches!(d.key.destination, Destination::Others { .. }) =>
                {
                    add(&mut folded, d.clone());
                }
                (None, record) => kept.push(record.clone()),
            }
        }
        for (workload, has) in near {
            self.unbounded.insert(workload.clone(), has.listed.len());
        }
        if !any {
            return Ok(None);
        }
        kept.extend(folded.into_values().map(Record::Dependency));
        kept.sort_by(|a, b| a.key().cmp(&b.key()));
        Ok(Some(kept))
    }

    fn has(&self, workload: &WorkloadId) -> Result<Has, StoreError> {
        let mut has = Has::default();
        for row in self.rows.scan_prefix(keys::of_workload(Kind::Page, workload)).values() {
            let page = Has::of(&self.page(&row?)?);
            has.listed.extend(page.listed);
            has.domains.extend(page.domains);
        }
        Ok(has)
    }

    /// Folds what a workload has beyond its share in the store, in one write. Those with the most
    /// connections stay listed. Pages that become empty stay, for rows never become fewer.
    fn compact(&mut self, workload: &WorkloadId) -> Result<Has, StoreError> {
        let mut pages: Vec<(sled::IVec, Vec<Dependency>)> = Vec::new();
        for row in self.rows.scan_prefix(keys::of_workload(Kind::Page, workload)) {
            let (key, row) = row?;
            pages.push((key, self.page(&row)?));
        }
        let mut most: Vec<(u64, &DependencyKey)> = pages
            .iter()
            .flat_map(|(_, page)| page)
            .filter(|d| is_unbounded(&d.key.destination))
            .map(|d| (d.tally.connections, &d.key))
            .collect();
        most.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
        let listed = most.into_iter().take(LISTED).map(|(_, key)| key.clone()).collect();
        let domains = Has::of(pages.iter().flat_map(|(_, page)| page)).domains;
        let mut has = Has { listed, domains };
        let mut folded: BTreeMap<DependencyKey, Dependency> = BTreeMap::new();
        for (_, page) in &mut pages {
            page.retain(|d| {
                let less = match d.key.destination {
                    // All of its like are in one place while more is added.
                    Destination::Others { .. } => Some(d.clone()),
                    _ => has.fold(d),
                };
                let stays = less.is_none();
                less.into_iter().for_each(|less| add(&mut folded, less));
                stays
            });
        }
        // As many to a page as there were on the largest.
        let rows = pages.iter().map(|(_, page)| page.len()).max().unwrap_or(0).max(16);
        let mut folded = folded.into_values();
        for (_, page) in &mut pages {
            page.extend(folded.by_ref().take(rows.saturating_sub(page.len())));
        }
        if let Some((_, last)) = pages.last_mut() {
            last.extend(folded);
        }
        let mut writes = Change::default();
        for (key, page) in &pages {
            writes.put(key.to_vec(), self.pack(page)?);
        }
        self.commit(writes)?;
        Ok(has)
    }
}

#[cfg(test)]
mod tests;
