//! Export and import as NDJSON: backup, migration, and moving what was learned from one store to
//! another.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{BufRead, Write};

use super::keys::{self, Kind};
use super::{Applied, Store, StoreError};
use crate::model::export::{
    CountedLine, ExportFooter, ExportHeader, ExportLine, QueuedPart, VERSION,
};
use crate::model::{
    Acceptance, Baseline, Batch, BatchId, Dependency, Ledger, LedgerEntry, RaisedAlert, Record,
    valid,
};

/// Longest line that is read. A row has some kilobytes, a baseline some megabytes at most; older
/// programs wrote a batch that waits as one line, escaped twice over.
const MAX_LINE: u64 = 1024 * 1024 * 1024;

/// Bytes of a batch that waits in a line.
const PIECE: usize = 24 * 1024;

/// What an import did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Records in the export.
    pub rows: u64,
    /// Whether they were merged, or known already.
    pub applied: Applied,
    /// What the export lacks: it was made of a damaged store.
    pub salvaged: Option<String>,
    /// Connections of captures in the export that another capture in the store had shown: they
    /// count twice.
    pub twice: u64,
}

impl fmt::Display for Imported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.applied {
            Applied::New if self.twice > 0 => write!(
                f,
                "{} records imported; {} connections were learned here as well, from other \
                 captures: they count twice (replay the captures into one store to count them once)",
                self.rows, self.twice
            ),
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
        let mut out = Lines { out, rows: 0, batches: 0, kept: 0, counted: 0 };
        let salvaged = self.damage().or(self.salvaged()).map(str::to_owned);
        out.line(&ExportLine::Sidecarta(ExportHeader { version: VERSION, salvaged }))?;
        // Pages of one workload follow each other, and which of them a dependency stands on does
        // not matter.
        let mut workload: Vec<Dependency> = Vec::new();
        for row in self.rows.iter() {
            let (key, row) = row?;
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
            } else if kind == Kind::Counted as u8 {
                let id = keys::parse_counted(&key).ok_or_else(|| self.cut("a key"))?;
                let bytes = self.unpacked(&row)?;
                let bytes = hexadecimal(&bytes);
                out.counted += 1;
                out.line(&ExportLine::Counted(CountedLine { id, bytes }))?;
            } else if kind == Kind::Acceptance as u8 {
                out.rows += 1;
                out.line(&ExportLine::Accepted(self.decode(&row)?))?;
            } else if [Kind::Kept, Kind::View, Kind::Unverified, Kind::Seal]
                .iter()
                .any(|k| *k as u8 == kind)
            {
                // Batches that wait follow below. The others are of this cluster and this time, or
                // of this store alone.
            } else if kind == Kind::Baseline as u8 {
                out.rows += 1;
                out.line(&ExportLine::Baseline(Box::new(self.unpack(&row)?)))?;
            } else if kind == Kind::Alert as u8 {
                out.rows += 1;
                out.line(&ExportLine::Alert(Box::new(self.decode(&row)?)))?;
            } else {
                out.row(self.decode(&row)?)?;
            }
        }
        out.dependencies(&mut workload)?;
        for id in self.kept()? {
            let bytes = self.read_kept(&id)?;
            out.kept += 1;
            // One line even of nothing.
            for piece in bytes.chunks(PIECE).chain(bytes.is_empty().then_some(&[][..])) {
                let (id, zstd) = (id.clone(), Some(hexadecimal(piece)));
                out.line(&ExportLine::Queued(QueuedPart { id, zstd, lines: None }))?;
            }
        }
        let (rows, batches, kept, counted) = (out.rows, out.batches, out.kept, out.counted);
        out.line(&ExportLine::End(ExportFooter { rows, batches, kept, counted }))?;
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
        let Read {
            records, batches, kept, baselines, alerts, salvaged, acceptances, counted, ..
        } = read;
        let (mut held, mut known) = (0, 0);
        for id in &batches {
            held += usize::from(self.holds(id)?);
            // A source of which an earlier batch is here, and not this one, has taught both.
            known += usize::from(self.holds(&BatchId { sequence: 0, ..id.clone() })?);
        }
        let waiting: Vec<(&BatchId, &[u8])> =
            kept.iter().map(|(id, bytes)| (id, bytes.as_slice())).collect();
        if held == batches.len() && held > 0 {
            self.keep(&waiting)?;
            return Ok(Imported { rows, applied: Applied::AlreadyHeld, salvaged, twice: 0 });
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
        if let Some(missing) = &salvaged {
            self.marker.salvaged = Some(missing.clone());
            self.marker.write(&self.dir)?;
        }
        // What marks the export as imported comes last: interrupted before, it is imported again.
        self.keep(&waiting)?;
        // What was accepted here counts more than what was accepted there.
        let unknown = |b: &&Baseline| self.baseline(&b.workload).is_ok_and(|known| known.is_none());
        let baselines: Vec<Baseline> = baselines.iter().filter(unknown).cloned().collect();
        self.raise(&alerts)?;
        let known = self.acceptances()?;
        let acceptances: Vec<Acceptance> = acceptances
            .into_iter()
            .filter(|a| known.iter().all(|k| k.namespace != a.namespace))
            .collect();
        self.accept(&baselines, &acceptances)?;
        let twice = if counted.is_empty() { 0 } else { self.counted_twice(&counted)? };
        let applied = self.apply_holding(&Batch { id, records }, &batches, &counted)?;
        Ok(Imported { rows, applied, salvaged, twice })
    }

    /// How many of these connections were counted here, of other captures.
    fn counted_twice(&self, more: &[(BatchId, Vec<LedgerEntry>)]) -> Result<u64, StoreError> {
        let here = self.ledger()?;
        let more = more.iter().flat_map(|(id, all)| all.iter().map(|c| (c, id.snapshot())));
        let twice = more.filter(|(c, by)| here.before(c, by.unwrap_or(0)).is_some());
        // A connection may have several entries, of which the first tells.
        let ends: BTreeSet<_> = twice.map(|(c, _)| (c.initiator, c.responder, c.isn)).collect();
        Ok(ends.len() as u64)
    }

    /// All that was counted, to be searched.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn ledger(&self) -> Result<Ledger, StoreError> {
        let of = |(id, all): (BatchId, Vec<LedgerEntry>)| {
            let snapshot = id.snapshot().unwrap_or(0);
            all.into_iter().map(move |c| (c, snapshot))
        };
        Ok(Ledger::new(self.counted()?.into_iter().flat_map(of).collect()))
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|b| [b >> 4, b & 15]);
    digits.map(|d| char::from(DIGITS[usize::from(d)])).collect()
}

/// Reads [`hexadecimal`] back.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let both = |[high, low]: &[u8; 2]| u8::try_from((digit(*high)? << 4) | digit(*low)?).ok();
    pairs.iter().map(both).collect::<Option<_>>().filter(|_| rest.is_empty())
}

/// An export being written.
struct Lines<'a, W> {
    out: &'a mut W,
    rows: u64,
    batches: u64,
    kept: u64,
    counted: u64,
}

impl<W: Write> Lines<'_, W> {
    fn line(&mut self, line: &ExportLine) -> Result<(), StoreError> {
        serde_json::to_writer(&mut *self.out, line).map_err(std::io::Error::from)?;
        Ok(self.out.write_all(b"\n")?)
    }

    fn row(&mut self, record: Record) -> Result<(), StoreError> {
        self.rows += 1;
        self.line(&ExportLine::Row(Box::new(record)))
    }

    fn dependencies(&mut self, all: &mut Vec<Dependency>) -> Result<(), StoreError> {
        all.sort_by(|a, b| a.key.cmp(&b.key));
        all.drain(..).try_for_each(|d| self.row(Record::Dependency(d)))
    }

    fn batch(&mut self, key: &[u8]) -> Result<(), StoreError> {
        let Some(id) = keys::parse_batch(key) else { return Ok(()) };
        self.batches += 1;
        self.line(&ExportLine::Batch(id))
    }
}

/// What an export holds.
#[derive(Default)]
struct Read {
    records: Vec<Record>,
    batches: BTreeSet<BatchId>,
    /// Batches that wait, compressed.
    kept: Vec<(BatchId, Vec<u8>)>,
    baselines: Vec<Baseline>,
    alerts: Vec<RaisedAlert>,
    salvaged: Option<String>,
    acceptances: Vec<Acceptance>,
    counted: Vec<(BatchId, Vec<LedgerEntry>)>,
    /// Lines of [`Read::counted`].
    counted_lines: u64,
}

impl Read {
    fn rows(&self) -> u64 {
        let decided = self.baselines.len() + self.alerts.len() + self.acceptances.len();
        (self.records.len() + decided) as u64
    }

    /// False where the line's bytes are not whole.
    fn add_counted(&mut self, line: &CountedLine) -> bool {
        let digits = line.bytes.as_bytes().chunks(2).map(|two| {
            let two = std::str::from_utf8(two).ok().filter(|two| two.len() == 2)?;
            u8::from_str_radix(two, 16).ok()
        });
        let bytes: Option<Vec<u8>> = digits.collect();
        let Some(all) = bytes.as_deref().and_then(LedgerEntry::read_all) else { return false };
        self.counted_lines += 1;
        match self.counted.last_mut().filter(|(id, _)| *id == line.id) {
            Some((_, known)) => known.extend(all),
            None => self.counted.push((line.id.clone(), all)),
        }
        true
    }

    /// Adds a part of a batch that waits. `None`: it is none.
    fn keep(&mut self, kept: QueuedPart) -> Option<()> {
        match kept {
            QueuedPart { id, zstd: Some(text), lines: None } => {
                let mut piece = bytes(&text)?;
                match self.kept.last_mut() {
                    Some((last, all)) if *last == id => all.append(&mut piece),
                    _ => self.kept.push((id, piece)),
                }
            }
            QueuedPart { id, zstd: None, lines: Some(lines) } => {
                self.kept.push((id, zstd::encode_all(lines.as_bytes(), 1).ok()?));
            }
            _ => return None,
        }
        Some(())
    }
}

/// Reads an export whole.
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
        let line: ExportLine =
            serde_json::from_str(&text).map_err(|e| fail(format!("no line of an export: {e}")))?;
        match line {
            ExportLine::Sidecarta(h) if at == 1 && h.version == VERSION => {
                out.salvaged = h.salvaged
            }
            ExportLine::Sidecarta(h) if at == 1 => {
                return Err(fail(format!(
                    "the export has version {}, this program reads {VERSION}",
                    h.version
                )));
            }
            _ if at == 1 => return Err(fail("an export begins with its version".to_owned())),
            _ if end.is_some() => return Err(fail("there is more after the end".to_owned())),
            ExportLine::Sidecarta(_) => return Err(fail("a second header".to_owned())),
            ExportLine::Row(record) => {
                valid::record(&record).map_err(|e| fail(e.to_string()))?;
                out.records.push(*record);
            }
            ExportLine::Queued(kept) => out
                .keep(kept)
                .ok_or_else(|| fail("a batch that waits cannot be read".to_owned()))?,
            ExportLine::Baseline(baseline) => {
                valid::baseline(&baseline).map_err(|e| fail(e.to_string()))?;
                out.baselines.push(*baseline);
            }
            ExportLine::Alert(raised) => {
                valid::alert(&raised.alert).map_err(|e| fail(e.to_string()))?;
                out.alerts.push(*raised);
            }
            ExportLine::Accepted(acceptance) => {
                valid::acceptance(&acceptance).map_err(|e| fail(e.to_string()))?;
                out.acceptances.push(acceptance);
            }
            ExportLine::Counted(line) => {
                if !out.add_counted(&line) {
                    return Err(fail("what was counted is cut".to_owned()));
                }
            }
            ExportLine::Batch(id) => {
                valid::word("the source", &id.source).map_err(|e| fail(e.to_string()))?;
                out.batches.insert(id);
            }
            ExportLine::End(footer) => end = Some(footer),
        }
    }
    match end {
        Some(f)
            if (f.rows, f.batches, f.kept, f.counted)
                == (
                    out.rows(),
                    out.batches.len() as u64,
                    out.kept.len() as u64,
                    out.counted_lines,
                ) =>
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
