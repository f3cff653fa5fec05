//! Dependencies on the disk: those of a workload, many to a row.
//!
//! Owns how they are spread over rows. sled's cost is that of a row, whatever its length up to some kilobytes: a row for each dependency
//! took longer to write than ten million packets to read. A page is a JSON array; which page a dependency stands on means nothing. Must
//! never hold a dependency on two pages.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::keys::{self, Kind};
use super::{Store, StoreError, room};
use crate::model::{Dependency, DependencyKey, Merge, Record, WorkloadId};

/// Longest page of several dependencies. sled splits a leaf at 17 rows, and puts one of more than 128 KiB in a file that it never
/// deletes: this stays below.
const PAGE: usize = 7 * 1024;

struct Page<'a> {
    number: u32,
    dependencies: Vec<Cow<'a, Dependency>>,
    changed: bool,
}

impl Store {
    /// Merges dependencies of one workload into its pages, as writes.
    pub(super) fn write_pages(
        &self,
        workload: &WorkloadId,
        new: &[&Dependency],
        writes: &mut sled::Batch,
    ) -> Result<(), StoreError> {
        let mut pages = Vec::new();
        for row in self.rows.scan_prefix(keys::of_workload(Kind::Page, workload)) {
            let (key, row) = row.map_err(|e| self.database(e))?;
            let dependencies = self.decode::<Vec<Dependency>>(&row)?.into_iter().map(Cow::Owned).collect();
            pages.push(Page { number: keys::page_number(&key), dependencies, changed: false });
        }
        let found: Vec<Option<(usize, usize)>> = {
            let mut places: BTreeMap<&DependencyKey, (usize, usize)> = BTreeMap::new();
            for (p, page) in pages.iter().enumerate() {
                places.extend(page.dependencies.iter().enumerate().map(|(i, d)| (&d.key, (p, i))));
            }
            new.iter().map(|d| places.get(&d.key).copied()).collect()
        };
        if pages.is_empty() {
            pages.push(Page { number: 0, dependencies: Vec::with_capacity(new.len()), changed: false });
        }
        let last = pages.len() - 1;
        for (dependency, place) in new.iter().zip(found) {
            let page = place.map_or(last, |(p, _)| p);
            let page = &mut pages[page];
            page.changed = true;
            match place {
                Some((_, i)) => page.dependencies[i].to_mut().merge(dependency),
                None => page.dependencies.push(Cow::Borrowed(*dependency)),
            }
        }
        let mut next = pages[last].number + 1;
        for page in pages.iter().filter(|p| p.changed) {
            let mut number = page.number;
            let mut text = Vec::with_capacity(PAGE);
            for dependency in &page.dependencies {
                let start = text.len();
                text.push(if start == 0 { b'[' } else { b',' });
                self.encode_into(&mut text, dependency)?;
                if start > 0 && text.len() >= PAGE {
                    // What is one too many begins another page.
                    let mut rest = text.split_off(start);
                    rest[0] = b'[';
                    text.push(b']');
                    writes.insert(keys::page(workload, number), std::mem::replace(&mut text, rest));
                    number = next;
                    next += 1;
                }
            }
            text.push(b']');
            writes.insert(keys::page(workload, number), text);
        }
        Ok(())
    }

    /// Stores of schema 1 had a row for each dependency: writes them into pages, in one step.
    pub(super) fn migrate(&mut self) -> Result<(), StoreError> {
        room(&self.dir)?;
        // The rows become fewer, which is no damage where this is interrupted.
        self.marker.rows = 0;
        self.marker.write(&self.dir)?;
        let mut writes = sled::Batch::default();
        let mut all: BTreeMap<WorkloadId, Vec<Dependency>> = BTreeMap::new();
        for row in self.rows.scan_prefix(keys::prefix(Kind::Dependency, None)) {
            let (key, row) = row.map_err(|e| self.database(e))?;
            if let Record::Dependency(d) = self.decode(&row)? {
                all.entry(d.key.workload.clone()).or_default().push(d);
            }
            writes.remove(key);
        }
        for (workload, dependencies) in &all {
            self.write_pages(workload, &dependencies.iter().collect::<Vec<_>>(), &mut writes)?;
        }
        self.commit(writes)
    }
}
