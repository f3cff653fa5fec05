//! Reading on a thread of its own, so that decoding has another core.
//!
//! Owns the thread and the batches on their way. Must never read frames in another order than the
//! reader.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{CaptureReader, Digests};
use crate::frame::FrameBatch;

/// Batches on their way. Enough to smooth out a slow moment of either side, few enough to stay in
/// the cache that cores share.
const DEPTH: usize = 4;

/// A reader on a thread of its own.
pub struct Prefetch {
    full: Receiver<FrameBatch>,
    empty: SyncSender<FrameBatch>,
    thread: JoinHandle<CaptureReader>,
    digests: Digests,
}

/// Starts a thread that reads.
///
/// # Errors
/// When the system gives no thread.
pub fn spawn(mut reader: CaptureReader) -> std::io::Result<Prefetch> {
    let (full_in, full) = sync_channel::<FrameBatch>(DEPTH);
    let (empty, empty_out) = sync_channel::<FrameBatch>(DEPTH + 2);
    let thread = std::thread::Builder::new().name("read".to_owned()).spawn(move || {
        loop {
            let mut batch = empty_out.try_recv().unwrap_or_default();
            // The receiver was dropped and needs no more. The reader is returned as it is.
            if !reader.next_batch(&mut batch) || full_in.send(batch).is_err() {
                return reader;
            }
        }
    })?;
    Ok(Prefetch { full, empty, thread, digests: Digests::default() })
}

impl Prefetch {
    /// The next batch. `None` at the end, or soon after `in_vain` is set, even where the reader
    /// waits for an idle pipe. Do not call [`Prefetch::finish`] in that case, as it would wait for
    /// the pipe too.
    pub fn next_batch(&mut self, in_vain: &AtomicBool) -> Option<FrameBatch> {
        const POLL_INTERVAL: Duration = Duration::from_millis(50);
        while !in_vain.load(Ordering::Relaxed) {
            match self.full.recv_timeout(POLL_INTERVAL) {
                Ok(batch) => {
                    self.digests.add(&batch);
                    return Some(batch);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        None
    }

    /// Returns a batch for reuse.
    pub fn recycle(&mut self, batch: FrameBatch) {
        // Where the queue is full, there are enough batches.
        let _ = self.empty.try_send(batch);
    }

    /// Waits for the thread. Returns the reader with its reports, and the digests of the frames
    /// delivered.
    ///
    /// # Errors
    /// When the thread panicked.
    pub fn finish(self) -> Result<(CaptureReader, Digests), String> {
        drop(self.full);
        drop(self.empty);
        let reader = self
            .thread
            .join()
            .map_err(|_| "the reading thread ended unexpectedly; this is a bug".to_owned())?;
        Ok((reader, self.digests))
    }
}
