//! Reads on a thread of its own, so that decoding has the other core.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{CaptureReader, Digests};
use crate::frame::FrameBatch;

/// Batches on their way: enough to smooth out a slow moment of either side, few enough to stay in
/// the cache that cores share.
const DEPTH: usize = 4;

/// A reader at work on its own thread.
pub struct Prefetch {
    full: Receiver<FrameBatch>,
    empty: SyncSender<FrameBatch>,
    thread: JoinHandle<CaptureReader>,
    digests: Digests,
}

/// Starts reading.
///
/// # Errors
/// When the system gives no thread.
pub fn spawn(mut reader: CaptureReader) -> std::io::Result<Prefetch> {
    let (full_in, full) = sync_channel::<FrameBatch>(DEPTH);
    let (empty, empty_out) = sync_channel::<FrameBatch>(DEPTH + 2);
    let thread = std::thread::Builder::new().name("read".to_owned()).spawn(move || {
        loop {
            let mut batch = empty_out.try_recv().unwrap_or_default();
            // A receiver that went away wants no more: the reader is given back as it is.
            if !reader.next_batch(&mut batch) || full_in.send(batch).is_err() {
                return reader;
            }
        }
    })?;
    Ok(Prefetch { full, empty, thread, digests: Digests::default() })
}

impl Prefetch {
    /// The next batch; `None` at the end, or soon after `in_vain` is set, also while an idle pipe
    /// is waited for: the thread that waits for it is better left alone then than waited for by
    /// [`Prefetch::finish`].
    pub fn next_batch(&mut self, in_vain: &AtomicBool) -> Option<FrameBatch> {
        const PATIENCE: Duration = Duration::from_millis(50);
        while !in_vain.load(Ordering::Relaxed) {
            match self.full.recv_timeout(PATIENCE) {
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

    /// Gives a batch back for reuse.
    pub fn recycle(&mut self, batch: FrameBatch) {
        // A full queue means that enough are in use.
        let _ = self.empty.try_send(batch);
    }

    /// Waits for the thread and returns the reader with its reports, and the digests of what was
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
