//! Dependencies on the disk: those of a workload, many to a row.
//!
//! Owns how they are spread over rows. sled's cost is that of a row, and then that of its bytes,
//! several times over: a row for each dependency took longer to write than ten million packets to
//! read. A page is a JSON array, compressed; which page a dependency stands on means nothing. Must
//! never hold a dependency on two pages.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;

use serde::Serialize;
use serde::de::{DeserializeOwned, Error as _};
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe;

use super::keys::{self, Kind};
use super::{Change, New, Place, Store, StoreError, room};
use crate::model::{Dependency, DependencyKey, Merge, Record, WorkloadId};
use crate::parallel::both;

/// Longest text of a page of several dependencies. sled splits a leaf at 17 rows, and puts one of
/// more than 128 KiB in a file that it never deletes. Packed to a quarter (a tenth is usual), 17
/// pages stay below.
const PAGE: usize = 24 * 1024;

/// Longest text that is unpacked: one dependency with all that it can hold has a hundredth of this.
const MAX_PAGE: usize = 16 * 1024 * 1024;

/// Compression level: the fastest that has a number of its own. More would take time and gain
/// little.
const LEVEL: i32 = 1;

struct Page<'a> {
    number: u32,
    dependencies: Vec<Cow<'a, Dependency>>,
    changed: bool,
}

/// A page on its way to the disk.
struct Row {
    key: Vec<u8>,
    row: Vec<u8>,
}

/// Pages on their way to the disk.
struct Writes {
    rows: Vec<Row>,
    packer: Compressor<'static>,
}

impl Store {
    /// Merges dependencies into the pages of their workloads, on two threads where there are many:
    /// encoding is most of the work of storing.
    pub(super) fn write_all(&self, new: &New<'_>, change: &mut Change) -> Result<(), StoreError> {
        /// Workloads below which a thread costs more than it saves.
        const MANY: usize = 32;
        let all: Vec<_> = new.iter().collect();
        let encode = |part: &[(&&WorkloadId, &Vec<&Dependency>)]| -> Result<_, StoreError> {
            let packer = Compressor::new(LEVEL).map_err(|e| self.unpackable(&e))?;
            let mut writes = Writes { rows: Vec::new(), packer };
            part.iter()
                .try_for_each(|(workload, new)| self.write_pages(workload, new, &mut writes))?;
            Ok(writes.rows)
        };
        let halves = match all.len() {
            0..MANY => vec![encode(&all)?],
            n => {
                let (here, there) = all.split_at(n / 2);
                let (there, here) = both(|| encode(there), || encode(here));
                vec![here?, there?]
            }
        };
        for Row { key, row } in halves.into_iter().flatten() {
            change.put(key, row);
        }
        Ok(())
    }

    /// Merges dependencies of one workload into its pages.
    fn write_pages(
        &self,
        workload: &WorkloadId,
        new: &[&Dependency],
        writes: &mut Writes,
    ) -> Result<(), StoreError> {
        let mut pages = Vec::new();
        for row in self.rows.scan_prefix(keys::of_workload(Kind::Page, workload)) {
            let (key, row) = row?;
            let dependencies = self.page(&row)?.into_iter().map(Cow::Owned).collect();
            pages.push(Page { number: keys::page_number(&key), dependencies, changed: false });
        }
        if pages.is_empty() {
            pages.push(Page { number: 0, dependencies: Vec::new(), changed: false });
        }
        let places: Vec<Option<(usize, usize)>> = {
            let mut known: BTreeMap<&DependencyKey, (usize, usize)> = BTreeMap::new();
            for (p, page) in pages.iter().enumerate() {
                known.extend(page.dependencies.iter().enumerate().map(|(i, d)| (&d.key, (p, i))));
            }
            new.iter().map(|d| known.get(&d.key).copied()).collect()
        };
        let last = pages.len() - 1;
        for (&dependency, place) in new.iter().zip(places) {
            let page = &mut pages[place.map_or(last, |(p, _)| p)];
            page.changed = true;
            match place {
                Some((_, i)) => page.dependencies[i].to_mut().merge(dependency),
                None => page.dependencies.push(Cow::Borrowed(dependency)),
            }
        }
        let mut next = pages[last].number + 1;
        for page in pages.iter().filter(|p| p.changed) {
            let mut number = page.number;
            let mut text = Vec::with_capacity(PAGE);
            for dependency in &page.dependencies {
                let start = text.len();
                text.push(if start == 0 { b'[' } else { b',' });
                self.encode_into(&mut text, dependency.as_ref())?;
                if start > 0 && text.len() >= PAGE {
                    // What is one too many begins another page.
                    let mut rest = text.split_off(start);
                    rest[0] = b'[';
                    self.write_page(workload, number, text, writes)?;
                    text = rest;
                    number = next;
                    next += 1;
                }
            }
            self.write_page(workload, number, text, writes)?;
        }
        Ok(())
    }

    fn write_page(
        &self,
        workload: &WorkloadId,
        number: u32,
        mut text: Vec<u8>,
        writes: &mut Writes,
    ) -> Result<(), StoreError> {
        text.push(b']');
        let row = writes.packer.compress(&text).map_err(|e| self.unpackable(&e))?;
        writes.rows.push(Row { key: keys::page(workload, number), row });
        Ok(())
    }

    /// Reads pages, on two threads where there are many: decoding is most of the work of reading.
    pub(super) fn read_pages(&self, rows: &[sled::IVec]) -> Result<Vec<Dependency>, StoreError> {
        /// Pages below which a thread costs more than it saves.
        const MANY: usize = 16;
        let read = |rows: &[sled::IVec]| -> Result<Vec<Dependency>, StoreError> {
            let mut all = Vec::new();
            rows.iter().try_for_each(|row| self.page(row).map(|mut page| all.append(&mut page)))?;
            Ok(all)
        };
        if rows.len() < MANY {
            return read(rows);
        }
        let (here, there) = rows.split_at(rows.len() / 2);
        let (there, here) = both(|| read(there), || read(here));
        let mut all = here?;
        all.append(&mut there?);
        Ok(all)
    }

    /// Reads a page.
    pub(super) fn page(&self, row: &[u8]) -> Result<Vec<Dependency>, StoreError> {
        self.unpack(row)
    }

    /// Writes anything as a page is written.
    pub(super) fn pack(&self, value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
        let mut text = Vec::new();
        self.encode_into(&mut text, value)?;
        self.packed(&text)
    }

    /// Compresses a row.
    pub(super) fn packed(&self, text: &[u8]) -> Result<Vec<u8>, StoreError> {
        zstd::bulk::compress(text, LEVEL).map_err(|e| self.unpackable(&e))
    }

    /// Reads [`Store::pack`] back.
    pub(super) fn unpack<T: DeserializeOwned>(&self, row: &[u8]) -> Result<T, StoreError> {
        self.decode(&self.unpacked(row)?)
    }

    /// Reads [`Store::packed`] back.
    pub(super) fn unpacked(&self, row: &[u8]) -> Result<Vec<u8>, StoreError> {
        let length = zstd_safe::get_frame_content_size(row)
            .ok()
            .flatten()
            .and_then(|n| usize::try_from(n).ok());
        let length = length
            .filter(|n| *n <= MAX_PAGE)
            .ok_or_else(|| self.unpackable(&io::ErrorKind::InvalidData.into()))?;
        Decompressor::new()
            .and_then(|mut d| d.decompress(row, length))
            .map_err(|e| self.unpackable(&e))
    }

    fn unpackable(&self, error: &io::Error) -> StoreError {
        StoreError::Row {
            path: self.dir.clone(),
            error: serde_json::Error::custom(format!("its compression: {error}")),
        }
    }

    /// Stores of schema 1 had a row for each dependency: writes them into pages, in one step.
    pub(super) fn migrate(&mut self) -> Result<(), StoreError> {
        let mut writes = Change::default();
        let mut all = Vec::new();
        for row in self.rows.scan_prefix(keys::prefix(Kind::Dependency, None)) {
            let (key, row) = row?;
            if let Record::Dependency(d) = self.decode(&row)? {
                all.push(d);
            }
            writes.remove(key.to_vec());
        }
        let mut new = New::new();
        for d in &all {
            new.entry(&d.key.workload).or_default().push(d);
        }
        self.write_all(&new, &mut writes)?;
        if matches!(self.place, Place::Store { .. }) {
            // The rows become fewer, which is no damage where this is interrupted; none at all
            // would still be.
            room(&self.dir, writes.size())?;
            self.marker.rows = self.marker.rows.min(1);
            self.marker.lasting = Some(self.marker.rows);
            self.marker.write(&self.dir)?;
        }
        self.commit(writes)
    }
}
