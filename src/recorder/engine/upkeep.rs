//! What the engine's thread does besides queueing and merging: it raises alerts, reviews everything
//! from time to time, learns unverified lines that the view has confirmed, and saves the view.
//!
//! Owns when that is done, and waiting for a disk that is full. Must never count twice what is in a
//! batch.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::unverified::UnverifiedPlan;
use super::worker::{ReviewState, SavedViewState, StoreWorker};
use crate::clock;
use crate::model::{Alert, Batch, BatchId, sums};
use crate::novelty;
use crate::store::StoreError;
use crate::verify::CheckRules;

/// Shortest time between two saves of the view.
const SAVE_AFTER: Duration = Duration::from_secs(1);
/// Longest time between two saves: what is saved also says until when the view was up to date.
const SAVE_ANYWAY: Duration = Duration::from_secs(10);
/// When confirmed lines are merged again that a full disk did not take.
const CONFIRM_AGAIN: Duration = Duration::from_secs(5);
/// How often everything is reviewed, for alerts that only time brings.
const REVIEW_INTERVAL: Duration = Duration::from_secs(60);
/// A part of a review is followed by a pause of this many times its own length. So a review takes
/// a fifth of this thread's time at most.
const REVIEW_PAUSE: u32 = 4;

impl StoreWorker {
    /// What batches are checked against.
    pub(super) fn check_rules(&self) -> CheckRules {
        CheckRules { now: clock::now(), node: self.pace.node }
    }

    /// Merges unverified lines that are confirmed by now, or else gives up those that nobody has
    /// confirmed for too long.
    pub(super) fn confirm(&mut self) -> Result<(), String> {
        let waits = self.unverified.not_before.is_some_and(|at| Instant::now() < at);
        // Alerts about the last merge come first: a review between the two would count it twice.
        if waits || self.unverified.is_empty() || !self.raise_new_alerts()? {
            return Ok(());
        }
        let (rules, view, cluster) = (self.check_rules(), self.view.status(), self.view.current());
        let confirmed = self.unverified.confirm(&self.store, &cluster, &rules)?;
        let mut plan = confirmed.unwrap_or_default();
        if plan.is_empty() {
            let is_current = view.synced && view.behind.is_none();
            plan = self.unverified.expire(rules.now, self.pace.unverified_for, is_current);
        }
        if plan.is_empty() {
            return Ok(());
        }
        let none = || BatchId { source: String::new(), sequence: 0 };
        let learned = std::mem::take(&mut plan.learned).batch();
        let learned = learned.unwrap_or_else(|| Batch { id: none(), records: Vec::new() });
        match self.fold_and_merge(learned, &[].into(), &plan) {
            Ok(merged) => {
                self.record_written(plan);
                self.unraised = Some(merged);
                self.raise_new_alerts().map(|_| ())
            }
            // The lines are read and resolved again then.
            Err(StoreError::DiskFull { .. }) => {
                self.unverified.not_before = Some(Instant::now() + CONFIRM_AGAIN);
                Ok(())
            }
            Err(e) => Err(e.to_string()),
        }
    }

    /// Takes note that the changes of a plan are on the disk.
    pub(super) fn record_written(&mut self, plan: UnverifiedPlan) {
        sums::merge(&mut self.progress.checked, &plan.counted);
        if !plan.stored.is_empty() {
            self.unverified.written(plan);
            self.progress.unverified = Arc::new(self.unverified.summaries());
        }
    }

    /// Saves a part of the view where that is due, so that after a restart it is known who had an
    /// address before.
    pub(super) fn save_view_if_due(&mut self) -> Result<(), StoreError> {
        let revision = self.view.revision();
        if let Some(saved) = self.saved_view {
            let pause = if saved.revision == revision { SAVE_ANYWAY } else { SAVE_AFTER };
            if saved.at.elapsed() < pause {
                return Ok(());
            }
        }
        // Where there is more, it follows in the next round of the thread.
        let is_done = self.save_some_of_view()? != SavedPart::More;
        self.saved_view = is_done.then(|| SavedViewState { at: Instant::now(), revision });
        Ok(())
    }

    /// Saves all of the view, before the thread ends.
    pub(super) fn save_whole_view(&mut self) -> Result<(), StoreError> {
        while self.save_some_of_view()? == SavedPart::More {}
        Ok(())
    }

    fn save_some_of_view(&mut self) -> Result<SavedPart, StoreError> {
        let changes = self.view.changes();
        let more = changes.more;
        if !changes.is_empty() {
            match self.store.save_view(&changes.put, &changes.remove) {
                Ok(()) => self.view.saved(changes),
                // What was saved before stays true as of its time.
                Err(StoreError::DiskFull { .. }) => return Ok(SavedPart::DiskFull),
                Err(e) => return Err(e),
            }
        }
        Ok(if more { SavedPart::More } else { SavedPart::Last })
    }

    /// Reviews everything that is stored from time to time, a part of it in each call.
    pub(super) fn review_if_due(&mut self) -> Result<(), String> {
        // Alerts about the last merge come first: a review would count it twice.
        if self.unraised.is_some() {
            return Ok(());
        }
        let is_due = self.last_review.is_none_or(|last| last.elapsed() >= REVIEW_INTERVAL);
        let reviewed = if self.review.is_some() {
            self.review_next_part()
        } else if is_due && self.view.status().synced {
            self.last_review = Some(Instant::now());
            self.begin_review()
        } else {
            Ok(())
        };
        match reviewed {
            // On a full disk the next review, or the one after a restart, does the same again.
            Ok(()) | Err(StoreError::DiskFull { .. }) => Ok(()),
            Err(e) => Err(e.to_string()),
        }
    }

    /// Accepts workloads of which enough is known, reviews coverage, and begins the review of
    /// dependencies. After a start, that also raises the alerts that a crash left unraised.
    fn begin_review(&mut self) -> Result<(), StoreError> {
        if let Some(least) = &self.pace.accept {
            for (workload, n) in novelty::accept_ready(&mut self.store, least, clock::now())? {
                tracing::info!(
                    %workload,
                    dependencies = n,
                    "enough is known of it: its dependencies are accepted"
                );
            }
        }
        let (cluster, patience) = (self.view.current(), self.pace.patience);
        let new = novelty::review_coverage(&mut self.store, &cluster, clock::now(), patience)?;
        self.log_raised(&new);
        let new = novelty::review_blocked(&mut self.store, &cluster, clock::now())?;
        self.log_raised(&new);
        self.review = Some(ReviewState { after: None, next: Instant::now() });
        Ok(())
    }

    fn review_next_part(&mut self) -> Result<(), StoreError> {
        let began = Instant::now();
        let Some(ReviewState { after, .. }) = self.review.take_if(|r| r.next <= began) else {
            return Ok(());
        };
        let patience = self.pace.patience;
        let (new, last) =
            novelty::review_after(&mut self.store, after.as_ref(), clock::now(), patience)?;
        self.log_raised(&new);
        self.review = last.map(|last| ReviewState {
            after: Some(last),
            next: Instant::now() + REVIEW_PAUSE * began.elapsed(),
        });
        Ok(())
    }

    /// Raises alerts about what was merged last. Returns whether that is done: on a full disk it is
    /// not, and is tried again before the next merge. After a restart, a review raises them.
    pub(super) fn raise_new_alerts(&mut self) -> Result<bool, String> {
        let Some(batch) = self.unraised.take() else { return Ok(true) };
        let patience = self.pace.patience;
        match novelty::raise_from_batch(&mut self.store, &batch, clock::now(), patience) {
            Ok(new) => {
                self.full_disk_logged = false;
                self.log_raised(&new);
                Ok(true)
            }
            Err(e @ StoreError::DiskFull { .. }) => {
                if !std::mem::replace(&mut self.full_disk_logged, true) {
                    tracing::warn!("new alerts are raised when there is room: {e}");
                }
                self.unraised = Some(batch);
                Ok(false)
            }
            Err(e) => Err(e.to_string()),
        }
    }

    fn log_raised(&mut self, new: &[Alert]) {
        self.progress.alerts += new.len() as u64;
        for alert in new {
            tracing::warn!(alert = %alert.id(), "{}", alert.text());
        }
    }
}

/// How far saving the view came.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SavedPart {
    /// All of it is saved.
    Last,
    /// There is more.
    More,
    DiskFull,
}
