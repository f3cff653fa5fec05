//! Queued batches that wait to be merged, in the order in which they came.
//!
//! Owns how many of them are in memory. All of them are on the disk. Must never drop one.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::model::BatchId;
use crate::observed::Observed;

/// Bytes of memory for batches that wait. Others are read from the disk again.
const MAX_BUFFERED: usize = 32 * 1024 * 1024;

/// A batch in memory.
pub(super) struct BufferedBatch {
    pub batch: Observed,
    /// Bytes of memory that it takes.
    pub size: usize,
}

/// A queued batch that waits to be merged.
pub(super) struct WaitingBatch {
    pub id: BatchId,
    came: Instant,
    /// `None` where memory was short, or after a restart.
    pub buffered: Option<BufferedBatch>,
}

/// All batches that wait to be merged.
#[derive(Default)]
pub(super) struct WaitingBatches {
    batches: VecDeque<WaitingBatch>,
    buffered_bytes: usize,
}

impl WaitingBatches {
    pub fn len(&self) -> usize {
        self.batches.len()
    }

    /// Adds a batch that has just come.
    pub fn push(&mut self, batch: Observed) {
        let (id, size) = (batch.id.clone(), batch.footprint());
        let has_room = self.buffered_bytes + size <= MAX_BUFFERED;
        let buffered = has_room.then_some(BufferedBatch { batch, size });
        if has_room {
            self.buffered_bytes += size;
        }
        self.batches.push_back(WaitingBatch { id, came: Instant::now(), buffered });
    }

    /// Adds batches that are on the disk, in their order, behind the others.
    pub fn push_stored(&mut self, ids: impl IntoIterator<Item = BatchId>) {
        let came = Instant::now();
        let stored = ids.into_iter().map(|id| WaitingBatch { id, came, buffered: None });
        self.batches.extend(stored);
    }

    /// Puts batches back that could not be merged, in their order, before the others.
    pub fn put_back(&mut self, ids: impl DoubleEndedIterator<Item = BatchId>) {
        for id in ids.rev() {
            self.batches.push_front(WaitingBatch { id, came: Instant::now(), buffered: None });
        }
    }

    /// How long the first one has waited.
    pub fn first_waited(&self, now: Instant) -> Option<Duration> {
        self.batches.front().map(|first| now.saturating_duration_since(first.came))
    }

    /// Takes the first one.
    pub fn pop(&mut self) -> Option<WaitingBatch> {
        let first = self.batches.pop_front()?;
        if let Some(buffered) = &first.buffered {
            self.buffered_bytes -= buffered.size;
        }
        Some(first)
    }
}
