//! The engine's thread: its state, its loop, and queueing.
//!
//! Owns what is done in which order. Must never acknowledge a batch that is not on the disk.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::command::{EngineCommand, QueueRequest};
use super::progress::{EngineProgress, MergePace};
use super::unverified::UnverifiedLines;
use super::waiting::WaitingBatches;
use crate::model::{Batch, BatchId, WorkloadId};
use crate::store::{Applied, Store, StoreError};
use crate::view::View;

/// Batches that are written to the disk together, at most.
const QUEUED_TOGETHER: usize = 64;
/// How often the thread checks what is due while no command comes.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// What the engine's thread does.
pub struct StoreWorker {
    pub(super) store: Store,
    pub(super) view: View,
    pub(super) pace: MergePace,
    commands: Receiver<EngineCommand>,
    pub(super) waiting: WaitingBatches,
    pub(super) unverified: UnverifiedLines,
    /// What was done so far.
    pub(super) progress: EngineProgress,
    /// The same as it was last published.
    published: Arc<Mutex<EngineProgress>>,
    /// [`Store::outbox`] as it was last published.
    outbox: watch::Sender<u64>,
    pub(super) last_merge: Option<LastMerge>,
    /// When the last review of everything began.
    pub(super) last_review: Option<Instant>,
    /// The review of everything that is going on.
    pub(super) review: Option<ReviewState>,
    pub(super) saved_view: Option<SavedViewState>,
    /// What was merged and has not raised its alerts yet, because the disk is too full for them.
    pub(super) unraised: Option<Batch>,
    /// The log says already that the disk is too full to raise alerts.
    pub(super) full_disk_logged: bool,
}

/// When batches were last merged, and how long that took.
pub(super) struct LastMerge {
    pub ended: Instant,
    pub took: Duration,
}

/// A review of everything that is stored, some workloads at a time.
pub(super) struct ReviewState {
    /// The last workload that was reviewed.
    pub after: Option<WorkloadId>,
    /// When it goes on.
    pub next: Instant,
}

/// When the view was last saved, and its revision then.
#[derive(Clone, Copy)]
pub(super) struct SavedViewState {
    pub at: Instant,
    pub revision: u64,
}

impl StoreWorker {
    pub(super) fn new(
        store: Store,
        view: View,
        pace: MergePace,
        commands: Receiver<EngineCommand>,
        published: Arc<Mutex<EngineProgress>>,
        outbox: watch::Sender<u64>,
    ) -> Self {
        Self {
            store,
            view,
            pace,
            commands,
            waiting: WaitingBatches::default(),
            unverified: UnverifiedLines::default(),
            progress: EngineProgress::default(),
            published,
            outbox,
            last_merge: None,
            last_review: None,
            review: None,
            saved_view: None,
            unraised: None,
            full_disk_logged: false,
        }
    }

    /// Works until it is stopped.
    ///
    /// # Errors
    /// When the store fails: what was acknowledged is on the disk, and nothing more is written.
    pub fn run(mut self) -> Result<(), String> {
        self.waiting.push_stored(self.store.queued().map_err(|e| e.to_string())?);
        self.unverified = UnverifiedLines::read(&self.store).map_err(|e| e.to_string())?;
        self.progress.unverified = Arc::new(self.unverified.summaries());
        loop {
            self.publish();
            let first = match self.commands.recv_timeout(CHECK_INTERVAL) {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return self.end(),
            };
            let (requests, stop) = self.take_commands(first);
            if !requests.is_empty() {
                self.queue(requests)?;
            }
            if stop {
                return self.end();
            }
            if self.is_merge_due() {
                self.merge_waiting()?;
            }
            self.confirm()?;
            self.save_view_if_due().map_err(|e| e.to_string())?;
            self.review_if_due()?;
        }
    }

    /// Answers the questions that wait. Returns the batches that are to be queued, and whether the
    /// thread is to end.
    fn take_commands(&mut self, first: Option<EngineCommand>) -> (Vec<QueueRequest>, bool) {
        let mut requests = Vec::new();
        let mut stop = false;
        let mut next = first;
        while let Some(command) = next.take() {
            match command {
                EngineCommand::Queue(request) => requests.push(*request),
                EngineCommand::Ask(question) => question(&mut self.store),
                EngineCommand::Stop => stop = true,
            }
            if requests.len() < QUEUED_TOGETHER && !stop {
                next = self.commands.try_recv().ok();
            }
        }
        (requests, stop)
    }

    fn end(mut self) -> Result<(), String> {
        // The batches that wait are on the disk. Those that can be resolved now are merged.
        self.merge_waiting()?;
        self.save_whole_view().map_err(|e| e.to_string())?;
        self.publish();
        self.store.close().map_err(|e| e.to_string())
    }

    fn queue(&mut self, requests: Vec<QueueRequest>) -> Result<(), String> {
        let rows: Vec<(&BatchId, &[u8])> =
            requests.iter().map(|r| (&r.batch.id, r.bytes.as_slice())).collect();
        let applied = match self.store.queue(&rows) {
            Ok(applied) => applied,
            // One by one: a batch that is too large must not prevent the others.
            Err(StoreError::DiskFull { .. }) if requests.len() > 1 => {
                return requests.into_iter().try_for_each(|request| self.queue(vec![request]));
            }
            Err(e) => {
                let why = e.to_string();
                for request in requests {
                    let _ = request.reply.send(Err(why.clone()));
                }
                let is_fatal = !matches!(e, StoreError::DiskFull { .. });
                return if is_fatal { Err(why) } else { Ok(()) };
            }
        };
        for (QueueRequest { batch, reply, .. }, applied) in requests.into_iter().zip(applied) {
            if applied == Applied::New {
                self.progress.queued += 1;
                self.waiting.push(batch);
            } else {
                self.progress.repeated += 1;
            }
            // An agent that no longer waits for the reply sends the batch again.
            let _ = reply.send(Ok(applied));
        }
        Ok(())
    }

    fn publish(&mut self) {
        self.progress.waiting = self.waiting.len() as u64;
        let published = &self.published;
        published.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&self.progress);
        let outbox = self.store.outbox();
        self.outbox.send_if_modified(|sent| std::mem::replace(sent, outbox) != outbox);
    }
}
