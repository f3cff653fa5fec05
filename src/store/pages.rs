//! Pages: rows that have many dependencies of one workload each.
//!
//! Owns how dependencies are spread over pages. Each row costs sled time, and its bytes cost
//! several times over: with a row for each dependency, writing took longer than reading ten million
//! packets. A page is a JSON array, compressed; which page a dependency is on means nothing. Must
//! never put a dependency on two pages.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;

use serde::Serialize;
use serde::de::{DeserializeOwned, Error as _};
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe;

use super::apply::NewDependencies;
use super::changes::RowChanges;
use super::error::StoreError;
use super::handle::{Location, Store, check_room};
use super::keys::{self, RowKind};
use crate::model::{Dependency, DependencyKey, Merge, Record, WorkloadId};
use crate::parallel::both;

/// Longest text of a page of several dependencies, in bytes. sled splits a leaf at 17 rows, and
/// puts one of more than 128 KiB in a file that it never deletes. Packed to a quarter (a tenth is
/// usual), 17 pages stay below.
const PAGE: usize = 24 * 1024;

/// Longest text that is decompressed, in bytes: the largest possible dependency has a hundredth of
/// this.
const MAX_PAGE: usize = 16 * 1024 * 1024;

/// Compression level of zstd: its fastest regular one. A higher one would take time and gain
/// little.
const LEVEL: i32 = 1;

struct Page<'a> {
    number: u32,
    dependencies: Vec<Cow<'a, Dependency>>,
    changed: bool,
}

/// Where a dependency is: the position of its page, and its position there.
#[derive(Clone, Copy)]
struct PagePosition {
    page: usize,
    index: usize,
}

/// A page, compressed.
struct PackedPage {
    key: Vec<u8>,
    row: Vec<u8>,
}

/// Pages that are being compressed.
struct PageWriter {
    pages: Vec<PackedPage>,
    compressor: Compressor<'static>,
}

impl Store {
    /// Merges dependencies into the pages of their workloads, on two threads where there are many:
    /// encoding is most of the work of storing.
    pub(super) fn merge_dependencies(
        &self,
        new: &NewDependencies<'_>,
        changes: &mut RowChanges,
    ) -> Result<(), StoreError> {
        /// Workloads below which a thread costs more than it saves.
        const MANY: usize = 32;
        let all: Vec<_> = new.iter().collect();
        let encode = |some: &[(&&WorkloadId, &Vec<&Dependency>)]| -> Result<_, StoreError> {
            let compressor = Compressor::new(LEVEL).map_err(|e| self.compression_error(&e))?;
            let mut writer = PageWriter { pages: Vec::new(), compressor };
            for (workload, new) in some {
                self.merge_into_pages(workload, new, &mut writer)?;
            }
            Ok(writer.pages)
        };
        let halves = match all.len() {
            0..MANY => vec![encode(&all)?],
            n => {
                let (here, there) = all.split_at(n / 2);
                let (there, here) = both(|| encode(there), || encode(here));
                vec![here?, there?]
            }
        };
        for PackedPage { key, row } in halves.into_iter().flatten() {
            changes.put(key, row);
        }
        Ok(())
    }

    /// Merges dependencies of one workload into its pages.
    fn merge_into_pages(
        &self,
        workload: &WorkloadId,
        new: &[&Dependency],
        writer: &mut PageWriter,
    ) -> Result<(), StoreError> {
        let mut pages = Vec::new();
        for row in self.rows.scan_prefix(keys::of_workload(RowKind::Page, workload)) {
            let (key, row) = row?;
            let dependencies = self.page(&row)?.into_iter().map(Cow::Owned).collect();
            pages.push(Page { number: keys::page_number(&key), dependencies, changed: false });
        }
        if pages.is_empty() {
            pages.push(Page { number: 0, dependencies: Vec::new(), changed: false });
        }
        let positions = positions(&pages, new);
        let last = pages.len() - 1;
        for (&dependency, position) in new.iter().zip(positions) {
            let page = &mut pages[position.map_or(last, |position| position.page)];
            page.changed = true;
            match position {
                Some(position) => page.dependencies[position.index].to_mut().merge(dependency),
                None => page.dependencies.push(Cow::Borrowed(dependency)),
            }
        }
        let mut next_number = pages[last].number + 1;
        for page in pages.iter().filter(|page| page.changed) {
            self.split_page(workload, page, &mut next_number, writer)?;
        }
        Ok(())
    }

    /// Writes a page, and as many new ones behind it as it has become too long.
    fn split_page(
        &self,
        workload: &WorkloadId,
        page: &Page<'_>,
        next_number: &mut u32,
        writer: &mut PageWriter,
    ) -> Result<(), StoreError> {
        let mut number = page.number;
        let mut text = Vec::with_capacity(PAGE);
        for dependency in &page.dependencies {
            let start = text.len();
            text.push(if start == 0 { b'[' } else { b',' });
            self.encode_into(&mut text, dependency.as_ref())?;
            if start > 0 && text.len() >= PAGE {
                // The dependency that is one too many begins another page.
                let mut rest = text.split_off(start);
                rest[0] = b'[';
                self.write_page(workload, number, text, writer)?;
                text = rest;
                number = *next_number;
                *next_number += 1;
            }
        }
        self.write_page(workload, number, text, writer)
    }

    fn write_page(
        &self,
        workload: &WorkloadId,
        number: u32,
        mut text: Vec<u8>,
        writer: &mut PageWriter,
    ) -> Result<(), StoreError> {
        text.push(b']');
        let row = writer.compressor.compress(&text).map_err(|e| self.compression_error(&e))?;
        writer.pages.push(PackedPage { key: keys::page(workload, number), row });
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
        self.decompress_json(row)
    }

    /// Makes a row of a value as of a page: JSON, compressed.
    pub(super) fn compress_json(&self, value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
        let mut text = Vec::new();
        self.encode_into(&mut text, value)?;
        self.compress(&text)
    }

    /// Compresses a row.
    pub(super) fn compress(&self, text: &[u8]) -> Result<Vec<u8>, StoreError> {
        zstd::bulk::compress(text, LEVEL).map_err(|e| self.compression_error(&e))
    }

    /// Reads [`Store::compress_json`] back.
    pub(super) fn decompress_json<T: DeserializeOwned>(&self, row: &[u8]) -> Result<T, StoreError> {
        self.decode(&self.decompress(row)?)
    }

    /// Reads [`Store::compress`] back.
    pub(super) fn decompress(&self, row: &[u8]) -> Result<Vec<u8>, StoreError> {
        let announced = zstd_safe::get_frame_content_size(row).ok().flatten();
        let length = announced.and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= MAX_PAGE);
        let length =
            length.ok_or_else(|| self.compression_error(&io::ErrorKind::InvalidData.into()))?;
        Decompressor::new()
            .and_then(|mut decompressor| decompressor.decompress(row, length))
            .map_err(|e| self.compression_error(&e))
    }

    fn compression_error(&self, error: &io::Error) -> StoreError {
        self.row_error(serde_json::Error::custom(format!("its compression: {error}")))
    }

    /// Writes the dependencies of a store of schema 1, which had a row for each, into pages, in one
    /// step.
    pub(super) fn migrate(&mut self) -> Result<(), StoreError> {
        let mut changes = RowChanges::default();
        let mut all = Vec::new();
        for row in self.rows.scan_prefix(keys::prefix(RowKind::Dependency, None)) {
            let (key, row) = row?;
            if let Record::Dependency(d) = self.decode(&row)? {
                all.push(d);
            }
            changes.remove(key.to_vec());
        }
        let mut new = NewDependencies::new();
        for d in &all {
            new.entry(&d.key.workload).or_default().push(d);
        }
        self.merge_dependencies(&new, &mut changes)?;
        if matches!(self.location, Location::Original { .. }) {
            // The rows become fewer. Where this is interrupted, that must not count as damage;
            // a store without any row still must.
            check_room(&self.dir, changes.size())?;
            self.marker.rows = self.marker.rows.min(1);
            self.marker.lasting = Some(self.marker.rows);
            self.marker.write(&self.dir)?;
        }
        self.commit(changes)
    }
}

/// Where each of these dependencies is on the pages; `None` where it is on none.
fn positions(pages: &[Page<'_>], new: &[&Dependency]) -> Vec<Option<PagePosition>> {
    let mut stored: BTreeMap<&DependencyKey, PagePosition> = BTreeMap::new();
    for (page, Page { dependencies, .. }) in pages.iter().enumerate() {
        for (index, dependency) in dependencies.iter().enumerate() {
            stored.insert(&dependency.key, PagePosition { page, index });
        }
    }
    new.iter().map(|d| stored.get(&d.key).copied()).collect()
}
