//! Merging: queued batches are resolved, many at a time, and their records are written.
//!
//! Owns how much is merged at once. Must never merge before the view has passed a batch's time,
//! unless the batch has waited for the longest delay.

use std::collections::BTreeSet;
use std::time::Instant;

use super::resolve::{ResolvedBatches, unpack};
use super::unverified::UnverifiedPlan;
use super::waiting::{BufferedBatch, WaitingBatch};
use super::worker::{LastMerge, StoreWorker};
use crate::model::{Batch, BatchId, sums};
use crate::store::StoreError;
use crate::verify::CheckRules;

/// Batches that are merged together, at most: a page that several of them change is written once.
const MAX_MERGED: usize = 256;
/// Records after which no more batches are resolved for the same merge: each record takes a
/// kilobyte of memory, or more.
const MAX_RECORDS: usize = 16_000;
/// Batches that are resolved together, on two threads.
const RESOLVED_TOGETHER: usize = 8;
/// Bytes of memory of the batches that are resolved together. A larger one is resolved alone.
const RESOLVED_BYTES: usize = 16 * 1024 * 1024;

/// The batches of one merge.
#[derive(Default)]
struct MergeInput {
    resolved: ResolvedBatches,
    /// Those that are in it, also those that cannot be read.
    ids: BTreeSet<BatchId>,
    edges: u64,
}

impl StoreWorker {
    /// Whether to merge now: when many batches wait, or when at least as long as the last merge
    /// took has passed since. So merging takes at most half of this thread's time, and the rest
    /// serves uploads.
    pub(super) fn is_merge_due(&self) -> bool {
        let last = self.last_merge.as_ref();
        self.waiting.len() >= MAX_MERGED
            || last.is_none_or(|last| last.ended.elapsed() >= last.took)
    }

    /// Resolves and merges the batches whose time has come, in one write.
    pub(super) fn merge_waiting(&mut self) -> Result<(), String> {
        if !self.raise_new_alerts()? {
            return Ok(());
        }
        let (began, rules) = (Instant::now(), self.check_rules());
        let MergeInput { resolved, ids, edges } = self.resolve_waiting(began, &rules)?;
        let Some(first) = ids.first().cloned() else { return Ok(()) };
        let ResolvedBatches { mut learned, unverified, counted } = resolved;
        let mut plan = UnverifiedPlan::default();
        self.unverified.add(unverified, rules.now, &mut plan)?;
        learned.absorb(std::mem::take(&mut plan.learned));
        sums::merge(&mut plan.counted, &counted);
        let learned = learned.batch().unwrap_or(Batch { id: first, records: Vec::new() });
        let result = self.write_merged(learned, ids, edges, plan);
        self.last_merge = Some(LastMerge { ended: Instant::now(), took: began.elapsed() });
        result
    }

    /// Takes the batches whose time has come, and resolves them.
    fn resolve_waiting(&mut self, now: Instant, rules: &CheckRules) -> Result<MergeInput, String> {
        let view = self.view.status();
        let is_current = view.synced && view.behind.is_none();
        let cluster = self.view.current();
        let mut input = MergeInput::default();
        let (mut batches, mut bytes) = (Vec::new(), 0);
        while let Some(waited) = self.waiting.first_waited(now) {
            let is_due =
                waited >= self.pace.delay && (is_current || waited >= self.pace.longest_delay);
            let is_full =
                input.ids.len() >= MAX_MERGED || input.resolved.learned.len() >= MAX_RECORDS;
            if is_full || !is_due {
                break;
            }
            let Some(first) = self.waiting.pop() else { break };
            let id = first.id.clone();
            if let Some(BufferedBatch { batch, size }) = self.read_waiting(first)? {
                input.edges += batch.edges.len() as u64;
                self.progress.merged_late += u64::from(!is_current);
                batches.push(batch);
                bytes += size;
            }
            input.ids.insert(id);
            // A large batch is resolved, and its memory freed, before the next one is read.
            if batches.len() == RESOLVED_TOGETHER || bytes >= RESOLVED_BYTES {
                input.resolved.add(std::mem::take(&mut batches), &cluster, rules);
                bytes = 0;
            }
        }
        input.resolved.add(batches, &cluster, rules);
        Ok(input)
    }

    /// A batch in memory, from the disk where it is not there yet. `None`: it cannot be read, which
    /// is counted and logged.
    fn read_waiting(&mut self, waiting: WaitingBatch) -> Result<Option<BufferedBatch>, String> {
        if let Some(buffered) = waiting.buffered {
            return Ok(Some(buffered));
        }
        let bytes = self.store.read_queued(&waiting.id).map_err(|e| e.to_string())?;
        match unpack(&bytes) {
            Ok(batch) => {
                let size = batch.footprint();
                Ok(Some(BufferedBatch { batch, size }))
            }
            Err(why) => {
                self.progress.unreadable += 1;
                tracing::error!(
                    batch = %waiting.id, %why,
                    "a queued batch cannot be read: what was in it is lost"
                );
                Ok(None)
            }
        }
    }

    /// Writes what was learned from queued batches, and raises alerts about what is new in it.
    fn write_merged(
        &mut self,
        learned: Batch,
        ids: BTreeSet<BatchId>,
        edges: u64,
        plan: UnverifiedPlan,
    ) -> Result<(), String> {
        match self.fold_and_merge(learned, &ids, &plan) {
            Ok(merged) => {
                self.progress.merged += ids.len() as u64;
                self.progress.edges += edges;
                self.record_written(plan);
                self.unraised = Some(merged);
                self.raise_new_alerts().map(|_| ())
            }
            Err(StoreError::DiskFull { .. }) => {
                // They are on the disk, and are read again from there.
                self.waiting.put_back(ids.into_iter());
                Ok(())
            }
            Err(e) => Err(e.to_string()),
        }
    }

    /// Writes records as they are folded, with the changes of a plan. Returns the folded records:
    /// alerts are about what is stored.
    pub(super) fn fold_and_merge(
        &mut self,
        learned: Batch,
        ids: &BTreeSet<BatchId>,
        plan: &UnverifiedPlan,
    ) -> Result<Batch, StoreError> {
        let folded = self.store.fold(learned)?;
        self.store.merge_with_unverified(&folded.records, ids, &plan.stored)?;
        Ok(folded)
    }
}
