//! Reading an export.
//!
//! Owns which lines make a whole export. Must never return a part of one.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::{BufRead, Read as _};

use super::error::StoreError;
use super::export::from_hexadecimal;
use crate::model::export::{
    CountedLine, ExportFooter, ExportHeader, ExportLine, QueuedPart, VERSION,
};
use crate::model::{Acceptance, Baseline, BatchId, LedgerEntry, RaisedAlert, Record, valid};

/// Bytes of the longest line that is read. A row has some kilobytes, a baseline some megabytes at
/// most; older programs wrote a queued batch as one line, escaped twice.
const MAX_LINE: u64 = 1024 * 1024 * 1024;

/// What an export contains.
#[derive(Default)]
pub(super) struct ExportContent {
    pub records: Vec<Record>,
    pub batches: BTreeSet<BatchId>,
    /// Queued batches, compressed.
    pub queued: Vec<(BatchId, Vec<u8>)>,
    pub baselines: Vec<Baseline>,
    pub alerts: Vec<RaisedAlert>,
    pub salvaged: Option<String>,
    pub acceptances: Vec<Acceptance>,
    pub counted: Vec<(BatchId, Vec<LedgerEntry>)>,
    /// Lines of `counted`.
    counted_lines: u64,
}

impl ExportContent {
    /// Records, and what people decided.
    pub fn rows(&self) -> u64 {
        let decided = self.baselines.len() + self.alerts.len() + self.acceptances.len();
        (self.records.len() + decided) as u64
    }

    /// Adds a line between the first and the last. `Err`: what is wrong with it.
    fn add(&mut self, line: ExportLine) -> Result<(), String> {
        let text = |e: &dyn Display| e.to_string();
        match line {
            ExportLine::Sidecarta(_) => return Err("a second header".to_owned()),
            // The caller ends with this line.
            ExportLine::End(_) => {}
            ExportLine::Row(record) => {
                valid::record(&record).map_err(|e| text(&e))?;
                self.records.push(*record);
            }
            ExportLine::Queued(queued) => {
                self.add_queued(queued).ok_or("a batch that waits cannot be read")?;
            }
            ExportLine::Baseline(baseline) => {
                valid::baseline(&baseline).map_err(|e| text(&e))?;
                self.baselines.push(*baseline);
            }
            ExportLine::Alert(raised) => {
                valid::alert(&raised.alert).map_err(|e| text(&e))?;
                self.alerts.push(*raised);
            }
            ExportLine::Accepted(acceptance) => {
                valid::acceptance(&acceptance).map_err(|e| text(&e))?;
                self.acceptances.push(acceptance);
            }
            ExportLine::Counted(line) => {
                self.add_counted(&line).ok_or("what was counted is cut")?;
            }
            ExportLine::Batch(id) => {
                valid::word("the source", &id.source).map_err(|e| text(&e))?;
                self.batches.insert(id);
            }
        }
        Ok(())
    }

    /// Adds connections that were counted. `None`: the line's bytes are not whole.
    fn add_counted(&mut self, line: &CountedLine) -> Option<()> {
        let all = LedgerEntry::read_all(&from_hexadecimal(&line.bytes)?)?;
        self.counted_lines += 1;
        match self.counted.last_mut().filter(|(id, _)| *id == line.id) {
            Some((_, there)) => there.extend(all),
            None => self.counted.push((line.id.clone(), all)),
        }
        Some(())
    }

    /// Adds a piece of a queued batch. `None`: it is none.
    fn add_queued(&mut self, queued: QueuedPart) -> Option<()> {
        match queued {
            QueuedPart { id, zstd: Some(text), lines: None } => {
                let mut piece = from_hexadecimal(&text)?;
                match self.queued.last_mut() {
                    Some((last, all)) if *last == id => all.append(&mut piece),
                    _ => self.queued.push((id, piece)),
                }
            }
            QueuedPart { id, zstd: None, lines: Some(lines) } => {
                self.queued.push((id, zstd::encode_all(lines.as_bytes(), 1).ok()?));
            }
            _ => return None,
        }
        Some(())
    }

    /// Whether this is all that was exported.
    fn is_whole(&self, footer: &ExportFooter) -> bool {
        footer.rows == self.rows()
            && footer.batches == self.batches.len() as u64
            && footer.queued == self.queued.len() as u64
            && footer.counted == self.counted_lines
    }
}

/// Reads an export to its end.
///
/// # Errors
/// When it is cut or malformed.
pub(super) fn read(input: &mut impl BufRead) -> Result<ExportContent, StoreError> {
    let mut out = ExportContent::default();
    let mut text = String::new();
    let mut number = 0;
    let mut end = None;
    loop {
        text.clear();
        number += 1;
        let fail = |why: String| StoreError::Import { line: number, why };
        let n = input
            .by_ref()
            .take(MAX_LINE)
            .read_line(&mut text)
            .map_err(|e| fail(format!("it cannot be read: {e}")))?;
        if n == 0 {
            break;
        }
        if n as u64 == MAX_LINE {
            return Err(fail("it is longer than any record".to_owned()));
        }
        let line: ExportLine =
            serde_json::from_str(&text).map_err(|e| fail(format!("no line of an export: {e}")))?;
        if number == 1 {
            out.salvaged = header(line).map_err(fail)?.salvaged;
            continue;
        }
        if end.is_some() {
            return Err(fail("there is more after the end".to_owned()));
        }
        match line {
            ExportLine::End(footer) => end = Some(footer),
            line => out.add(line).map_err(fail)?,
        }
    }
    let fail = |line, why: &str| Err(StoreError::Import { line, why: why.to_owned() });
    match end {
        Some(footer) if out.is_whole(&footer) => Ok(out),
        Some(_) => fail(number - 1, "lines are missing or doubled"),
        None if number == 1 => fail(1, "it is empty"),
        None => fail(number - 1, "the export is cut: its last line is missing"),
    }
}

/// The first line of an export. `Err`: what is wrong with it.
fn header(line: ExportLine) -> Result<ExportHeader, String> {
    match line {
        ExportLine::Sidecarta(header) if header.version == VERSION => Ok(header),
        ExportLine::Sidecarta(header) => {
            Err(format!("the export has version {}, this program reads {VERSION}", header.version))
        }
        _ => Err("an export begins with its version".to_owned()),
    }
}
