//! A workload's share of unbounded destinations: hosts and addresses outside the mesh, and
//! addresses that could not be resolved. A scanner or a crawler reaches millions.
//!
//! Owns what is folded when a workload has used its share: one dependency for each domain, and one
//! for all other domains beyond a number of them. Connections, times and examples are merged, so
//! every sum stays true. The destinations that came first are listed one by one, so the list
//! depends on the order of batches. Must never fold what the mesh bounds: Services, hosts of
//! ServiceEntries, pods.

use std::collections::{BTreeMap, BTreeSet};

use super::changes::RowChanges;
use super::error::StoreError;
use super::handle::Store;
use super::keys::{self, RowKind};
use crate::model::{
    Batch, Dependency, DependencyKey, Destination, Merge, Record, WorkloadId, domain,
};

/// Unbounded destinations of a workload that are listed one by one.
pub const LISTED: usize = 1_000;
/// Domains of a workload, beside these, that destinations are folded into.
pub const DOMAINS: usize = 200;

/// The unbounded destinations that a workload has.
#[derive(Debug, Default)]
struct UnboundedOf {
    listed: BTreeSet<DependencyKey>,
    domains: BTreeSet<DependencyKey>,
}

/// Whether nothing bounds how many destinations of this kind there are.
fn is_unbounded(destination: &Destination) -> bool {
    matches!(
        destination,
        Destination::External { namespace: None, .. } | Destination::Unresolved { .. }
    )
}

fn is_domain(destination: &Destination) -> bool {
    matches!(destination, Destination::Others { domain: Some(_), .. })
}

impl UnboundedOf {
    fn of<'a>(all: impl IntoIterator<Item = &'a Dependency>) -> Self {
        let mut unbounded = Self::default();
        for d in all {
            if is_unbounded(&d.key.destination) {
                unbounded.listed.insert(d.key.clone());
            } else if is_domain(&d.key.destination) {
                unbounded.domains.insert(d.key.clone());
            }
        }
        unbounded
    }

    /// The dependency that this one is folded into; `None` where it stays.
    fn fold(&mut self, d: &Dependency) -> Option<Dependency> {
        if !is_unbounded(&d.key.destination) || self.listed.contains(&d.key) {
            return None;
        }
        if self.listed.len() < LISTED {
            self.listed.insert(d.key.clone());
            return None;
        }
        let mut key = folded_key(&d.key);
        if is_domain(&key.destination) && !self.domains.contains(&key) {
            if self.domains.len() < DOMAINS {
                self.domains.insert(key.clone());
            } else {
                key.destination = Destination::Others { domain: None, why: None };
                key.port = 0;
            }
        }
        // The names by which it was addressed are those that are no longer listed.
        Some(Dependency { key, addressed: BTreeMap::new(), ..d.clone() })
    }
}

/// The key that a destination is folded into: that of its domain, else that of all of its kind.
fn folded_key(key: &DependencyKey) -> DependencyKey {
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

/// Adds a dependency to those of its key.
fn add(folded: &mut BTreeMap<DependencyKey, Dependency>, d: Dependency) {
    match folded.get_mut(&d.key) {
        Some(there) => there.merge(&d),
        None => {
            folded.insert(d.key.clone(), d);
        }
    }
}

impl Store {
    /// Folds what exceeds a workload's share in a batch. Folding the result again changes nothing.
    ///
    /// # Errors
    /// When a row cannot be read or written.
    pub fn fold(&mut self, batch: Batch) -> Result<Batch, StoreError> {
        let folded = self.fold_records(&batch.records)?;
        Ok(Batch { records: folded.unwrap_or(batch.records), id: batch.id })
    }

    /// As [`Store::fold`], for records; `None` where none of them is folded.
    pub(super) fn fold_records(
        &mut self,
        records: &[Record],
    ) -> Result<Option<Vec<Record>>, StoreError> {
        let mut added: BTreeMap<&WorkloadId, usize> = BTreeMap::new();
        for record in records {
            if let Record::Dependency(d) = record
                && is_unbounded(&d.key.destination)
            {
                *added.entry(&d.key.workload).or_default() += 1;
            }
        }
        let mut near_limit: BTreeMap<&WorkloadId, UnboundedOf> = BTreeMap::new();
        for (workload, more) in added {
            // An upper limit of what there is: pages are read only near the limit, and once.
            let most = match self.unbounded.get(workload) {
                Some(n) => n + more,
                None => self.unbounded_of(workload)?.listed.len() + more,
            };
            if most > LISTED {
                let unbounded = self.unbounded_of(workload)?;
                // A store may have more from before there was a limit.
                let is_over = unbounded.listed.len() > LISTED;
                let unbounded = if is_over { self.compact(workload)? } else { unbounded };
                near_limit.insert(workload, unbounded);
            } else {
                self.unbounded.insert(workload.clone(), most);
            }
        }
        if near_limit.is_empty() {
            return Ok(None);
        }
        let mut folded: BTreeMap<DependencyKey, Dependency> = BTreeMap::new();
        let mut out = Vec::with_capacity(records.len());
        let mut any = false;
        for record in records {
            let into = match record {
                Record::Dependency(d) => {
                    near_limit.get_mut(&d.key.workload).and_then(|unbounded| unbounded.fold(d))
                }
                _ => None,
            };
            match (into, record) {
                (Some(into), _) => {
                    any = true;
                    add(&mut folded, into);
                }
                // Others may be folded into it.
                (None, Record::Dependency(d))
                    if matches!(d.key.destination, Destination::Others { .. }) =>
                {
                    add(&mut folded, d.clone());
                }
                (None, record) => out.push(record.clone()),
            }
        }
        for (workload, unbounded) in near_limit {
            self.unbounded.insert(workload.clone(), unbounded.listed.len());
        }
        if !any {
            return Ok(None);
        }
        out.extend(folded.into_values().map(Record::Dependency));
        out.sort_by(|a, b| a.key().cmp(&b.key()));
        Ok(Some(out))
    }

    fn unbounded_of(&self, workload: &WorkloadId) -> Result<UnboundedOf, StoreError> {
        let mut unbounded = UnboundedOf::default();
        for row in self.rows.scan_prefix(keys::of_workload(RowKind::Page, workload)).values() {
            let page = UnboundedOf::of(&self.page(&row?)?);
            unbounded.listed.extend(page.listed);
            unbounded.domains.extend(page.domains);
        }
        Ok(unbounded)
    }

    /// Folds what a workload has in the store beyond its share, in one write. The destinations with
    /// the most connections stay listed. Pages that become empty stay: the number of pages never
    /// becomes smaller.
    fn compact(&mut self, workload: &WorkloadId) -> Result<UnboundedOf, StoreError> {
        let mut pages: Vec<(sled::IVec, Vec<Dependency>)> = Vec::new();
        for row in self.rows.scan_prefix(keys::of_workload(RowKind::Page, workload)) {
            let (key, row) = row?;
            pages.push((key, self.page(&row)?));
        }
        let mut by_connections: Vec<(u64, &DependencyKey)> = pages
            .iter()
            .flat_map(|(_, page)| page)
            .filter(|d| is_unbounded(&d.key.destination))
            .map(|d| (d.tally.connections, &d.key))
            .collect();
        by_connections.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
        let listed = by_connections.into_iter().take(LISTED).map(|(_, key)| key.clone()).collect();
        let domains = UnboundedOf::of(pages.iter().flat_map(|(_, page)| page)).domains;
        let mut unbounded = UnboundedOf { listed, domains };
        let mut folded: BTreeMap<DependencyKey, Dependency> = BTreeMap::new();
        for (_, page) in &mut pages {
            page.retain(|d| {
                let into = match d.key.destination {
                    // Those that others are folded into are moved as well, so that they merge.
                    Destination::Others { .. } => Some(d.clone()),
                    _ => unbounded.fold(d),
                };
                let stays = into.is_none();
                if let Some(into) = into {
                    add(&mut folded, into);
                }
                stays
            });
        }
        // As many on a page as there are on the longest.
        let longest = pages.iter().map(|(_, page)| page.len()).max().unwrap_or(0).max(16);
        let mut folded = folded.into_values();
        for (_, page) in &mut pages {
            page.extend(folded.by_ref().take(longest.saturating_sub(page.len())));
        }
        if let Some((_, last)) = pages.last_mut() {
            last.extend(folded);
        }
        let mut changes = RowChanges::default();
        for (key, page) in &pages {
            changes.put(key.to_vec(), self.compress_json(page)?);
        }
        self.commit(changes)?;
        Ok(unbounded)
    }
}

#[cfg(test)]
mod tests;
