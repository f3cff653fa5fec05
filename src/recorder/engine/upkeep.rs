//! What the thread of the store does besides keeping and merging: raises what is new, looks at
//! everything from time to time, learns what the view has confirmed, and notes what the view knows.
//!
//! Owns when that is done, and that a full disk is waited for. Must never count twice what a batch
//! told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::unconfirmed::Plan;
use super::{Review, Work};
use crate::clock;
use crate::model::{Alert, Batch, BatchId, sums};
use crate::novelty;
use crate::store::StoreError;
use crate::verify::Rules;

/// How often what the view has learned is noted, at the most.
const NOTE: Duration = Duration::from_secs(1);
/// And at the least: it tells until when somebody looked.
const NOTE_ANYWAY: Duration = Duration::from_secs(10);
/// When what was confirmed is tried again that a full disk did not take.
const CONFIRM_AGAIN: Duration = Duration::from_secs(5);
/// How often everything is looked at, for what comes with time alone.
const SWEEP: Duration = Duration::from_secs(60);

impl Work {
    /// Looks at everything from time to time.
    pub(super) fn look(&mut self) -> Result<(), String> {
        // What is merged and not yet noticed would be counted twice.
        if self.unnoticed.is_some() {
            return Ok(());
        }
        let looked = if self.review.is_some() {
            self.review()
        } else if self.swept.is_none_or(|s| s.elapsed() >= SWEEP) && self.view.status().synced {
            self.swept = Some(Instant::now());
            self.sweep()
        } else {
            Ok(())
        };
        match looked {
            // It is looked at again when the time comes, or after a start.
            Ok(()) | Err(StoreError::DiskFull { .. }) => Ok(()),
            Err(e) => Err(e.to_string()),
        }
    }

    /// What batches are held against.
    pub(super) fn rules(&self) -> Rules {
        Rules { now: clock::now(), nodes: self.pace.nodes }
    }

    /// Learns what was kept apart and is confirmed by now, and gives up what is not for too long.
    pub(super) fn confirm(&mut self) -> Result<(), String> {
        // As with merging: what is merged and not yet noticed would be counted twice.
        let waits = self.unconfirmed.not_before.is_some_and(|at| Instant::now() < at);
        if waits || self.unconfirmed.is_empty() || !self.notice()? {
            return Ok(());
        }
        let (rules, view, cluster) = (self.rules(), self.view.status(), self.view.current());
        let mut plan = self.unconfirmed.confirm(&self.store, &cluster, &rules)?.unwrap_or_default();
        if plan.is_empty() {
            let known = view.synced && view.behind.is_none();
            plan = self.unconfirmed.expire(rules.now, self.pace.apart, known);
        }
        if plan.is_empty() {
            return Ok(());
        }
        let taught = std::mem::take(&mut plan.taught).batch();
        let none =
            Batch { id: BatchId { source: String::new(), sequence: 0 }, records: Vec::new() };
        let settled = self.store.fold(taught.unwrap_or(none)).and_then(|taught| {
            self.store.settle_apart(&taught.records, &[].into(), &plan.apart).map(|()| taught)
        });
        match settled {
            Ok(taught) => {
                self.written(plan);
                self.unnoticed = Some(taught);
                self.notice().map(|_| ())
            }
            // It is read and resolved again then.
            Err(StoreError::DiskFull { .. }) => {
                self.unconfirmed.not_before = Some(Instant::now() + CONFIRM_AGAIN);
                Ok(())
            }
            Err(e) => Err(e.to_string()),
        }
    }

    /// The changes of a plan are on the disk.
    pub(super) fn written(&mut self, plan: Plan) {
        sums::merge(&mut self.now.checked, &plan.counted);
        if !plan.apart.is_empty() {
            self.unconfirmed.written(plan);
            self.now.unverified = Arc::new(self.unconfirmed.told());
        }
    }

    /// Notes what the view knows, so that it is known after a restart who had an address before.
    /// `last`: all of it, whenever that was done before.
    pub(super) fn note(&mut self, last: bool) -> Result<(), StoreError> {
        let revision = self.view.revision();
        let wait = |(at, of): (Instant, u64)| {
            at.elapsed() < if of == revision { NOTE_ANYWAY } else { NOTE }
        };
        if !last && self.noted.is_some_and(wait) {
            return Ok(());
        }
        loop {
            let changes = self.view.changes();
            let more = changes.more;
            if !changes.is_empty() {
                match self.store.note(&changes.put, &changes.remove) {
                    Ok(()) => self.view.saved(changes),
                    // What was noted before stays true as of its time.
                    Err(StoreError::DiskFull { .. }) => break,
                    Err(e) => return Err(e),
                }
            }
            if !(more && last) {
                // The rest follows when others had their turn.
                self.noted = (!more).then(|| (Instant::now(), revision));
                return Ok(());
            }
        }
        self.noted = Some((Instant::now(), revision));
        Ok(())
    }

    /// After a start it also raises what a crash left unraised.
    fn sweep(&mut self) -> Result<(), StoreError> {
        if let Some(least) = &self.pace.accept {
            for (workload, n) in novelty::accept_ready(&mut self.store, least, clock::now())? {
                tracing::info!(%workload, dependencies = n, "enough is known of it: its dependencies are accepted");
            }
        }
        let new = novelty::coverage(
            &mut self.store,
            &self.view.current(),
            clock::now(),
            self.pace.patience,
        )?;
        self.raised(&new);
        self.review = Some(Review { after: None, next: Instant::now() });
        Ok(())
    }

    /// The next part of a look at everything. It takes a fifth of the time at most: others want
    /// something too.
    fn review(&mut self) -> Result<(), StoreError> {
        let now = Instant::now();
        let Some(Review { after, .. }) = self.review.take_if(|r| r.next <= now) else {
            return Ok(());
        };
        let (new, last) = novelty::review_after(
            &mut self.store,
            after.as_ref(),
            clock::now(),
            self.pace.patience,
        )?;
        self.raised(&new);
        self.review =
            last.map(|last| Review { after: Some(last), next: Instant::now() + 4 * now.elapsed() });
        Ok(())
    }

    fn raised(&mut self, new: &[Alert]) {
        self.now.alerts += new.len() as u64;
        for alert in new {
            tracing::warn!(alert = %alert.id(), "{}", alert.text());
        }
    }

    /// Raises what is new in what was merged. Whether that is done; a full disk is waited for, as
    /// it is when merging. A restart meanwhile finds it in the store.
    pub(super) fn notice(&mut self) -> Result<bool, String> {
        let Some(batch) = self.unnoticed.take() else { return Ok(true) };
        match novelty::notice(&mut self.store, &batch, clock::now(), self.pace.patience) {
            Ok(new) => {
                self.full = false;
                self.raised(&new);
                Ok(true)
            }
            Err(e @ StoreError::DiskFull { .. }) => {
                if !std::mem::replace(&mut self.full, true) {
                    tracing::warn!("what is new is raised when there is room: {e}");
                }
                self.unnoticed = Some(batch);
                Ok(false)
            }
            Err(e) => Err(e.to_string()),
        }
    }
}
