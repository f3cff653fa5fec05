//! Export and import as NDJSON: backup, migration, and moving what was learned from one store to
//! another.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize};

use super::keys::{self, Kind};
use super::{Applied, Raised, Store, StoreError};
use crate::model::{Baseline, Batch, BatchId, Dependency, Record, valid};
use crate::observed::Reader;

/// Version of the export format.
const VERSION: u32 = 1;

/// Longest line that is read: rows have a few kilobytes, a file with a longer line is no export.
const MAX_LINE: u64 = 16 * 1024 * 1024;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Sidecarta(Header),
    Row(Box<Record>),
    Batch(BatchId),
    /// An agent's batch that waits to be resolved, as its own lines.
    Kept(Kept),
    Baseline(Box<Baseline>),
    Alert(Box<Raised>),
    End(Footer),
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    version: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    id: BatchId,
    lines: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Footer {
    rows: u64,
    batches: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    kept: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// What an import did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Records in the export.
    pub rows: u64,
    /// Whether they were merged, or known already.
    pub applied: Applied,
}

impl fmt::Display for Imported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.applied {
            Applied::New => write!(f, "{} records imported", self.rows),
            Applied::AlreadyHeld => {
                write!(f, "nothing changed: the store holds all that this export holds")
            }
        }
    }
}

impl Store {
    /// Writes everything, sorted: the same content gives the same bytes. Returns the number of
    /// records.
    ///
    /// # Errors
    /// When a row cannot be read or the output not be written.
    pub fn export(&self, out: &mut impl Write) -> Result<u64, StoreError> {
        let mut out = Lines { out, rows: 0, batches: 0, kept: 0 };
        out.line(&Line::Sidecarta(Header { version: VERSION }))?;
        // Pages of one workload follow each other, and which of them a dependency stands on does
        // not matter.
        let mut workload: Vec<Dependency> = Vec::new();
        for row in &self.rows {
            let (key, row) = row.map_err(|e| self.database(e))?;
            let kind = key.first().copied().unwrap_or_default();
            let mut page: Vec<Dependency> =
                if kind == Kind::Page as u8 { self.page(&row)? } else { Vec::new() };
            if page.first().map(|d| &d.key.workload) != workload.first().map(|d| &d.key.workload) {
                out.dependencies(&mut workload)?;
            }
            if kind == Kind::Page as u8 {
                workload.append(&mut page);
            } else if kind == Kind::Batch as u8 {
                out.batch(&key)?;
            } else if kind == Kind::Kept as u8 || kind == Kind::View as u8 {
                // The former are told whole, below; the latter are of this cluster and this time.
            } else if kind == Kind::Baseline as u8 {
                out.rows += 1;
                out.line(&Line::Baseline(Box::new(self.unpack(&row)?)))?;
            } else if kind == Kind::Alert as u8 {
                out.rows += 1;
                out.line(&Line::Alert(Box::new(self.decode(&row)?)))?;
            } else {
                out.row(self.decode(&row)?)?;
            }
        }
        out.dependencies(&mut workload)?;
        for id in self.kept()? {
            let text = zstd::decode_all(self.read_kept(&id)?.as_slice())?;
            let lines =
                String::from_utf8(text).map_err(|e| std::io::Error::other(e.utf8_error()))?;
            out.kept += 1;
            out.line(&Line::Kept(Kept { id, lines }))?;
        }
        let (rows, batches, kept) = (out.rows, out.batches, out.kept);
        out.line(&Line::End(Footer { rows, batches, kept }))?;
        Ok(rows)
    }

    /// Merges an export. The batches that it holds count as held afterwards, so that replaying
    /// their captures changes nothing.
    ///
    /// # Errors
    /// When the export is cut or malformed; then nothing is changed. Also when it holds some
    /// batches that this store holds and some that it does not: their sums cannot be told apart.
    pub fn import(&mut self, mut input: impl BufRead) -> Result<Imported, StoreError> {
        let read = read(&mut input)?;
        let rows = read.rows();
        let Read { records, batches, kept, baselines, alerts } = read;
        let (mut held, mut known) = (0, 0);
        for id in &batches {
            held += usize::from(self.holds(id)?);
            // A source of which an earlier batch is here, and not this one, has taught both.
            known += usize::from(self.holds(&BatchId { sequence: 0, ..id.clone() })?);
        }
        let kept: Vec<(BatchId, Vec<u8>)> = kept
            .into_iter()
            .map(|k| Ok((k.id, zstd::encode_all(k.lines.as_bytes(), 1)?)))
            .collect::<Result<_, StoreError>>()?;
        let waiting: Vec<(&BatchId, &[u8])> =
            kept.iter().map(|(id, bytes)| (id, bytes.as_slice())).collect();
        if held == batches.len() && held > 0 {
            self.keep(&waiting)?;
            return Ok(Imported { rows, applied: Applied::AlreadyHeld });
        }
        if known > 0 {
            return Err(StoreError::Import {
                line: 1,
                why: format!(
                    "{known} of the {} batches in this export are in the store already, the others are not: merging would count \
                     the former twice; import both exports into a new store, or replay the missing captures",
                    batches.len()
                ),
            });
        }
        let digest = records.iter().fold(0u64, |d, r| {
            let text = serde_json::to_string(r).unwrap_or_default();
            text.bytes().fold(d.wrapping_mul(31), |d, b| {
                (d ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
            })
        });
        let id = BatchId { source: format!("import:{digest:016x}"), sequence: 0 };
        let applied = self.apply_holding(&Batch { id, records }, &batches)?;
        self.keep(&waiting)?;
        // What was accepted here counts more than what was accepted there.
        let unknown = |b: &&Baseline| self.baseline(&b.workload).is_ok_and(|known| known.is_none());
        let baselines: Vec<Baseline> = baselines.iter().filter(unknown).cloned().collect();
        self.raise(&alerts)?;
        self.accept(&baselines)?;
        Ok(Imported { rows, applied })
    }
}

/// An export being written.
struct Lines<'a, W> {
    out: &'a mut W,
    rows: u64,
    batches: u64,
    kept: u64,
}

impl<W: Write> Lines<'_, W> {
    fn line(&mut self, line: &Line) -> Result<(), StoreError> {
        serde_json::to_writer(&mut *self.out, line).map_err(std::io::Error::from)?;
        Ok(self.out.write_all(b"\n")?)
    }

    fn row(&mut self, record: Record) -> Result<(), StoreError> {
        self.rows += 1;
        self.line(&Line::Row(Box::new(record)))
    }

    fn dependencies(&mut self, all: &mut Vec<Dependency>) -> Result<(), StoreError> {
        all.sort_by(|a, b| a.key.cmp(&b.key));
        all.drain(..).try_for_each(|d| self.row(Record::Dependency(d)))
    }

    fn batch(&mut self, key: &[u8]) -> Result<(), StoreError> {
        let Some(id) = keys::parse_batch(key) else { return Ok(()) };
        self.batches += 1;
        self.line(&Line::Batch(id))
    }
}

/// What an export holds.
#[derive(Default)]
struct Read {
    records: Vec<Record>,
    batches: BTreeSet<BatchId>,
    kept: Vec<Kept>,
    baselines: Vec<Baseline>,
    alerts: Vec<Raised>,
}

impl Read {
    fn rows(&self) -> u64 {
        (self.records.len() + self.baselines.len() + self.alerts.len()) as u64
    }
}

/// Whether the lines of a batch that waits are a batch.
fn readable(lines: &str) -> Result<(), String> {
    match Reader::new(lines.as_bytes()).next() {
        Some(Ok(_)) => Ok(()),
        Some(Err(e)) => Err(e.to_string()),
        None => Err("a batch that waits has no lines".to_owned()),
    }
}

fn read(input: &mut impl BufRead) -> Result<Read, StoreError> {
    let mut out = Read::default();
    let mut text = String::new();
    let mut at = 0;
    let mut end = None;
    loop {
        text.clear();
        at += 1;
        let fail = |why: String| StoreError::Import { line: at, why };
        let n = std::io::Read::take(&mut *input, MAX_LINE)
            .read_line(&mut text)
            .map_err(|e| fail(format!("it cannot be read: {e}")))?;
        if n == 0 {
            break;
        }
        if n as u64 == MAX_LINE {
            return Err(fail("it is longer than any record".to_owned()));
        }
        let line: Line =
            serde_json::from_str(&text).map_err(|e| fail(format!("no line of an export: {e}")))?;
        match line {
            Line::Sidecarta(h) if at == 1 && h.version == VERSION => {}
            Line::Sidecarta(h) if at == 1 => {
                return Err(fail(format!(
                    "the export has version {}, this program reads {VERSION}",
                    h.version
                )));
            }
            _ if at == 1 => return Err(fail("an export begins with its version".to_owned())),
            _ if end.is_some() => return Err(fail("there is more after the end".to_owned())),
            Line::Sidecarta(_) => return Err(fail("a second header".to_owned())),
            Line::Row(record) => {
                valid::record(&record).map_err(|e| fail(e.to_string()))?;
                out.records.push(*record);
            }
            Line::Kept(kept) => {
                readable(&kept.lines).map_err(fail)?;
                out.kept.push(kept);
            }
            Line::Baseline(baseline) => {
                valid::baseline(&baseline).map_err(|e| fail(e.to_string()))?;
                out.baselines.push(*baseline);
            }
            Line::Alert(raised) => {
                valid::alert(&raised.alert).map_err(|e| fail(e.to_string()))?;
                out.alerts.push(*raised);
            }
            Line::Batch(id) => {
                valid::word("the source", &id.source).map_err(|e| fail(e.to_string()))?;
                out.batches.insert(id);
            }
            Line::End(footer) => end = Some(footer),
        }
    }
    match end {
        Some(f)
            if (f.rows, f.batches, f.kept)
                == (out.rows(), out.batches.len() as u64, out.kept.len() as u64) =>
        {
            Ok(out)
        }
        Some(_) => {
            Err(StoreError::Import { line: at - 1, why: "lines are missing or doubled".to_owned() })
        }
        None if at == 1 => Err(StoreError::Import { line: 1, why: "it is empty".to_owned() }),
        None => Err(StoreError::Import {
            line: at - 1,
            why: "the export is cut: its last line is missing".to_owned(),
        }),
    }
}
