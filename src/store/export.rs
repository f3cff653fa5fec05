//! Exports: everything that a store has, as NDJSON. For backup, migration, and moving what was
//! learned from one store to another.
//!
//! Owns the order of the lines: the same content gives the same bytes. Must never write rows that
//! belong to this store or this cluster alone.

use std::io::Write;

use sled::IVec;

use super::error::StoreError;
use super::handle::Store;
use super::keys::{self, RowKind};
use crate::model::export::{
    CountedLine, ExportFooter, ExportHeader, ExportLine, QueuedPart, VERSION,
};
use crate::model::{BatchId, Dependency, Record};

/// Bytes of a queued batch in a line.
const PIECE: usize = 24 * 1024;

impl Store {
    /// Writes everything, sorted: the same content gives the same bytes. Returns the number of
    /// records.
    ///
    /// # Errors
    /// When a row cannot be read or the output not be written.
    pub fn export(&self, out: &mut impl Write) -> Result<u64, StoreError> {
        let mut out = ExportWriter { out, rows: 0, batches: 0, queued: 0, counted: 0 };
        let salvaged = self.damage().or(self.salvaged()).map(str::to_owned);
        out.line(&ExportLine::Sidecarta(ExportHeader { version: VERSION, salvaged }))?;
        // The pages of one workload follow each other. They are joined, since it means nothing on
        // which of them a dependency is.
        let mut workload: Vec<Dependency> = Vec::new();
        for row in self.rows.iter() {
            let (key, row) = row?;
            let mut page: Vec<Dependency> =
                if keys::is_page(&key) { self.page(&row)? } else { Vec::new() };
            if page.first().map(|d| &d.key.workload) != workload.first().map(|d| &d.key.workload) {
                out.dependencies(&mut workload)?;
            }
            if keys::is_page(&key) {
                workload.append(&mut page);
            } else {
                self.export_row(&key, &row, &mut out)?;
            }
        }
        out.dependencies(&mut workload)?;
        for id in self.queued()? {
            let bytes = self.read_queued(&id)?;
            out.queued(&id, &bytes)?;
        }
        let ExportWriter { rows, batches, queued, counted, .. } = out;
        out.line(&ExportLine::End(ExportFooter { rows, batches, queued, counted }))?;
        Ok(rows)
    }

    /// Exports a row that is no page.
    fn export_row(
        &self,
        key: &[u8],
        row: &IVec,
        out: &mut ExportWriter<'_, impl Write>,
    ) -> Result<(), StoreError> {
        /// Queued batches follow behind all rows. The others mean something in this store and this
        /// cluster only, and now.
        const LEFT_OUT: [RowKind; 4] =
            [RowKind::Queued, RowKind::SavedView, RowKind::Unverified, RowKind::Seal];
        let kind = key.first().copied().unwrap_or_default();
        let is = |wanted: RowKind| wanted as u8 == kind;
        if LEFT_OUT.into_iter().any(is) {
            Ok(())
        } else if is(RowKind::Batch) {
            out.batch(key)
        } else if is(RowKind::Counted) {
            let id = keys::parse_counted(key).ok_or_else(|| self.cut_row("a key"))?;
            let bytes = hexadecimal(&self.decompress(row)?);
            out.counted += 1;
            out.line(&ExportLine::Counted(CountedLine { id, bytes }))
        } else if is(RowKind::Acceptance) {
            out.rows += 1;
            out.line(&ExportLine::Accepted(self.decode(row)?))
        } else if is(RowKind::Baseline) {
            out.rows += 1;
            out.line(&ExportLine::Baseline(Box::new(self.decompress_json(row)?)))
        } else if is(RowKind::Alert) {
            out.rows += 1;
            out.line(&ExportLine::Alert(Box::new(self.decode(row)?)))
        } else {
            out.record(self.decode(row)?)
        }
    }
}

/// Writes the lines of an export, and counts them.
struct ExportWriter<'a, W> {
    out: &'a mut W,
    rows: u64,
    batches: u64,
    queued: u64,
    counted: u64,
}

impl<W: Write> ExportWriter<'_, W> {
    fn line(&mut self, line: &ExportLine) -> Result<(), StoreError> {
        serde_json::to_writer(&mut *self.out, line).map_err(std::io::Error::from)?;
        Ok(self.out.write_all(b"\n")?)
    }

    fn record(&mut self, record: Record) -> Result<(), StoreError> {
        self.rows += 1;
        self.line(&ExportLine::Row(Box::new(record)))
    }

    fn dependencies(&mut self, all: &mut Vec<Dependency>) -> Result<(), StoreError> {
        all.sort_by(|a, b| a.key.cmp(&b.key));
        all.drain(..).try_for_each(|d| self.record(Record::Dependency(d)))
    }

    fn batch(&mut self, key: &[u8]) -> Result<(), StoreError> {
        let Some(id) = keys::parse_batch(key) else { return Ok(()) };
        self.batches += 1;
        self.line(&ExportLine::Batch(id))
    }

    fn queued(&mut self, id: &BatchId, bytes: &[u8]) -> Result<(), StoreError> {
        self.queued += 1;
        // An empty batch has one line as well.
        for piece in bytes.chunks(PIECE).chain(bytes.is_empty().then_some(&[][..])) {
            let (id, zstd) = (id.clone(), Some(hexadecimal(piece)));
            self.line(&ExportLine::Queued(QueuedPart { id, zstd, lines: None }))?;
        }
        Ok(())
    }
}

/// Two digits for each byte.
fn hexadecimal(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|b| [b >> 4, b & 15]);
    digits.map(|d| char::from(DIGITS[usize::from(d)])).collect()
}

/// Reads [`hexadecimal`] back. `None`: a digit is missing or none.
pub(super) fn from_hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let byte = |[high, low]: &[u8; 2]| u8::try_from((digit(*high)? << 4) | digit(*low)?).ok();
    let bytes: Option<Vec<u8>> = pairs.iter().map(byte).collect();
    bytes.filter(|_| rest.is_empty())
}
