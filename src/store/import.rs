//! Importing an export into a store.
//!
//! Owns what of an export counts where the store has something already. Must never merge a batch
//! twice.

use std::collections::BTreeSet;
use std::fmt;
use std::io::BufRead;

use super::apply::Applied;
use super::error::StoreError;
use super::handle::Store;
use super::parse::{ExportContent, read};
use crate::model::{Acceptance, Baseline, Batch, BatchId, Ledger, LedgerEntry, Record};

/// What an import did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedExport {
    /// Records in the export.
    pub rows: u64,
    /// Whether they were merged, or had been merged before.
    pub applied: Applied,
    /// What is missing of the export: it was made of a damaged store.
    pub salvaged: Option<String>,
    /// Connections of captures in the export that another capture in the store showed as well: they
    /// count twice.
    pub twice: u64,
}

impl fmt::Display for ImportedExport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.applied {
            Applied::New if self.twice > 0 => write!(
                f,
                "{} records imported; {} connections were learned here as well, from other \
                 captures: they count twice (replay the captures into one store to count them \
                 once)",
                self.rows, self.twice
            ),
            Applied::New => write!(f, "{} records imported", self.rows),
            Applied::AlreadyMerged => {
                write!(f, "nothing changed: the store has all that this export has")
            }
        }
    }
}

impl Store {
    /// Merges an export. Its batches count as merged afterwards, so that replaying their captures
    /// changes nothing.
    ///
    /// # Errors
    /// When the export is cut or malformed; then nothing is changed. Also when some of its batches
    /// are merged here and others are not: their sums cannot be separated.
    pub fn import(&mut self, mut input: impl BufRead) -> Result<ImportedExport, StoreError> {
        let content = read(&mut input)?;
        let rows = content.rows();
        let ExportContent {
            records,
            batches,
            queued,
            baselines,
            alerts,
            salvaged,
            acceptances,
            counted,
            ..
        } = content;
        let (mut merged, mut of_known_source) = (0, 0);
        for id in &batches {
            merged += usize::from(self.has_merged(id)?);
            // Where an earlier batch of the source is merged here, and this one is not, the records
            // of the export have both.
            let first = BatchId { sequence: 0, ..id.clone() };
            of_known_source += usize::from(self.has_merged(&first)?);
        }
        let queued: Vec<(&BatchId, &[u8])> =
            queued.iter().map(|(id, bytes)| (id, bytes.as_slice())).collect();
        if merged == batches.len() && merged > 0 {
            self.queue(&queued)?;
            return Ok(ImportedExport {
                rows,
                applied: Applied::AlreadyMerged,
                salvaged,
                twice: 0,
            });
        }
        if of_known_source > 0 {
            return Err(StoreError::Import {
                line: 1,
                why: format!(
                    "{of_known_source} of the {} batches in this export are in the store already, \
                     the others are not: merging would count the former twice; import both exports \
                     into a new store, or replay the missing captures",
                    batches.len()
                ),
            });
        }
        if let Some(missing) = &salvaged {
            self.marker.salvaged = Some(missing.clone());
            self.marker.write(&self.dir)?;
        }
        // The mark that the export is imported is written last: interrupted before, it is imported
        // again.
        self.queue(&queued)?;
        self.raise(&alerts)?;
        self.accept_missing(baselines, acceptances)?;
        let twice = if counted.is_empty() { 0 } else { self.counted_twice(&counted)? };
        let id = BatchId { source: format!("import:{:016x}", digest(&records)), sequence: 0 };
        let applied = self.apply_with(&Batch { id, records }, &batches, &counted)?;
        Ok(ImportedExport { rows, applied, salvaged, twice })
    }

    /// Accepts what is not accepted here yet: what was accepted here counts more.
    fn accept_missing(
        &mut self,
        baselines: Vec<Baseline>,
        acceptances: Vec<Acceptance>,
    ) -> Result<(), StoreError> {
        let is_new = |b: &Baseline| self.baseline(&b.workload).is_ok_and(|here| here.is_none());
        let baselines: Vec<Baseline> = baselines.into_iter().filter(is_new).collect();
        let here = self.acceptances()?;
        let is_new = |a: &Acceptance| here.iter().all(|there| there.namespace != a.namespace);
        let acceptances: Vec<Acceptance> = acceptances.into_iter().filter(is_new).collect();
        self.accept(&baselines, &acceptances)
    }

    /// How many of these connections were counted here, of other captures.
    fn counted_twice(&self, more: &[(BatchId, Vec<LedgerEntry>)]) -> Result<u64, StoreError> {
        let here = self.ledger()?;
        let mut ends = BTreeSet::new();
        for (id, counted) in more {
            let snapshot = id.snapshot().unwrap_or(0);
            for c in counted {
                // A connection may have several entries. It counts once.
                if here.before(c, snapshot).is_some() {
                    ends.insert((c.initiator, c.responder, c.isn));
                }
            }
        }
        Ok(ends.len() as u64)
    }

    /// All connections that were counted, to be searched.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn ledger(&self) -> Result<Ledger, StoreError> {
        let with_snapshot = |(id, all): (BatchId, Vec<LedgerEntry>)| {
            let snapshot = id.snapshot().unwrap_or(0);
            all.into_iter().map(move |c| (c, snapshot))
        };
        Ok(Ledger::new(self.counted()?.into_iter().flat_map(with_snapshot).collect()))
    }
}

/// A digest of records, which identifies an import. Must never change: it is stored.
fn digest(records: &[Record]) -> u64 {
    let mut digest = 0u64;
    for record in records {
        let text = serde_json::to_string(record).unwrap_or_default();
        digest = digest.wrapping_mul(31);
        for byte in text.bytes() {
            digest = (digest ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    digest
}
