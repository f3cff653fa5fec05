//! The outbox: one batch that is being delivered, and what has been gathered since.
//!
//! Owns retries and the spool. While nothing can be delivered, new observations merge into the
//! batch that grows, so nothing piles up. A batch that is refused for good is set aside, and the
//! next one follows. Must never change a batch after the first attempt to deliver it: the receiver
//! may have it already.

mod aside;

use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::outlet::{DeliveryError, Outlet};
use crate::model::{Time, counter};
use crate::observed::{self, Gatherer, Observed, Reader};
use crate::private;
use aside::RefusedBatches;

/// Wait after the first failure. It doubles with each further one.
const MIN_WAIT: Duration = Duration::from_millis(500);
/// Longest wait between two attempts.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// A batch that itself may be the cause of its failures, such as an error in the recorder while it
/// reads the batch, is given up after this long. Otherwise it would block all later ones.
const MAX_FAILING: Duration = Duration::from_secs(60 * 60);
/// How often the spool is written while nothing can be delivered. A crash loses at most so much.
const SPOOL_EVERY: Duration = Duration::from_secs(1);
/// Writing the spool takes at most one part in this many of the time.
const SPOOL_SHARE: u32 = 20;

/// When batches are made and delivered.
#[derive(Clone, Copy, Debug)]
pub struct DeliveryPace {
    /// A batch of calls that were all sent before is made after this long. New calls do not wait.
    pub refresh: Duration,
    /// How old a batch is before it is delivered. Where batches are resolved in this process, its
    /// view must first contain the cluster as of the batch's time.
    pub delay: Duration,
}

/// Counts of batches that were delivered, refused and spooled since the agent began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeliveryProgress {
    /// Batches that were delivered.
    pub delivered: u64,
    /// Edges in the delivered batches.
    pub edges: u64,
    /// Batches that were refused for good, or given up.
    pub refused: u64,
    /// Refused batches that are in the spool.
    pub set_aside: u64,
    /// Refused batches that were deleted or not stored: there was no spool, or no room in it.
    pub discarded: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Why the last attempt failed; `None` after an attempt that succeeded.
    pub failing: Option<String>,
    /// How often writing the spool failed.
    pub spool_failures: u64,
}

/// Delivers one batch after the other, and spools what cannot be delivered.
pub struct Outbox {
    outlet: Box<dyn Outlet>,
    pace: DeliveryPace,
    spool: Option<PathBuf>,
    refused_batches: Option<RefusedBatches>,
    /// Since when the batch in flight fails, if it may itself be the cause.
    suspect_since: Option<Instant>,
    /// What was last written to the spool; `None` while there is no spool file.
    spooled: Option<Spooled>,
    in_flight: Option<InFlight>,
    /// When the last batch was made.
    last_batch: Instant,
    /// What the outbox has done so far.
    pub progress: DeliveryProgress,
}

/// The batch that is being delivered.
struct InFlight {
    batch: Observed,
    /// When it may be tried next.
    next_try: Instant,
    /// How long to wait after the next failure.
    wait: Duration,
}

/// The state of the spool file.
struct Spooled {
    /// When it may be written again, if nothing urgent requires it before.
    next_write: Instant,
    /// The gatherer's revision that the file contains.
    revision: u64,
}

impl Outbox {
    /// Opens the outbox, with what an earlier run left in the spool: a batch that had its identity
    /// is delivered unchanged, the rest is gathered again.
    ///
    /// # Errors
    /// When the spool cannot be read or written. Malformed lines are no error: they are described
    /// in the second value, and the file is renamed to `spool.damaged`.
    pub fn open(
        outlet: Box<dyn Outlet>,
        pace: DeliveryPace,
        spool: Option<&Path>,
        gatherer: &mut Gatherer,
    ) -> io::Result<(Self, Vec<String>)> {
        let now = Instant::now();
        let mut this = Self {
            outlet,
            pace,
            spool: None,
            refused_batches: None,
            suspect_since: None,
            spooled: None,
            in_flight: None,
            last_batch: now,
            progress: DeliveryProgress::default(),
        };
        let mut problems = Vec::new();
        let Some(dir) = spool else { return Ok((this, problems)) };
        private::create_dir_all(dir)?;
        let refused_batches = RefusedBatches::of(dir);
        this.progress.set_aside = refused_batches.stored()?;
        this.refused_batches = Some(refused_batches);
        let path = dir.join("spool.ndjson");
        match File::open(&path) {
            Ok(file) => {
                for batch in Reader::new(BufReader::new(file)) {
                    match batch {
                        Ok(batch) if this.in_flight.is_none() && !batch.id.source.is_empty() => {
                            this.in_flight =
                                Some(InFlight { batch, next_try: now, wait: MIN_WAIT });
                        }
                        Ok(batch) => gatherer.absorb(&batch),
                        Err(e) => problems.push(format!("{}: {e}", path.display())),
                    }
                }
                if !problems.is_empty() {
                    fs::rename(&path, dir.join("spool.damaged"))?;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        this.spool = Some(path);
        this.save(gatherer);
        Ok((this, problems))
    }

    /// Makes a batch if one is due, and tries to deliver it. With `last`, everything that waits is
    /// due at once.
    ///
    /// # Errors
    /// When no batch can be delivered any more, now or later.
    pub fn step(&mut self, made: Time, gatherer: &mut Gatherer, last: bool) -> Result<(), String> {
        let now = Instant::now();
        self.make_batch(now, made, gatherer, last);
        self.spool_while_failing(now, gatherer);
        let Some(in_flight) = &self.in_flight else { return Ok(()) };
        if now < in_flight.next_try && !last {
            return Ok(());
        }
        match self.outlet.deliver(&in_flight.batch) {
            Ok(()) => {
                self.delivered(gatherer);
                // With `last`, continue with what was gathered meanwhile.
                if last { self.step(made, gatherer, true) } else { Ok(()) }
            }
            Err(DeliveryError::UnderWay) => {
                if last && self.spooled.is_none() {
                    self.save(gatherer);
                }
                Ok(())
            }
            Err(DeliveryError::Never(why)) => {
                self.save(gatherer);
                Err(why)
            }
            Err(DeliveryError::Refused(why)) => {
                self.refused(&why, gatherer);
                if last { self.step(made, gatherer, true) } else { Ok(()) }
            }
            Err(DeliveryError::Later { why, after, batch_suspect }) => {
                let is_given_up = self.failed(now, why, after, batch_suspect, gatherer);
                if !is_given_up && (last || self.spooled.is_none()) {
                    self.save(gatherer);
                }
                Ok(())
            }
        }
    }

    /// Takes a batch from the gatherer if none is in flight and one is due.
    fn make_batch(&mut self, now: Instant, made: Time, gatherer: &mut Gatherer, last: bool) {
        let is_due = last || gatherer.is_fresh() || now >= self.last_batch + self.pace.refresh;
        if self.in_flight.is_some() || !is_due {
            return;
        }
        self.last_batch = now;
        let Some(batch) = gatherer.take(made) else { return };
        self.in_flight = Some(InFlight { batch, next_try: now + self.pace.delay, wait: MIN_WAIT });
        // The spool still contains this data without an identity. It is rewritten now: otherwise a
        // run after a crash would deliver the data again under another identity, and it would
        // count twice.
        if self.spooled.is_some() {
            self.save(gatherer);
        }
    }

    /// While deliveries fail, writes what was gathered since to the spool, and repeats a write that
    /// failed.
    fn spool_while_failing(&mut self, now: Instant, gatherer: &Gatherer) {
        let is_behind = |s: &Spooled| now >= s.next_write && s.revision != gatherer.revision();
        if self.in_flight.is_some()
            && self.progress.failing.is_some()
            && self.spooled.as_ref().is_none_or(is_behind)
        {
            self.save(gatherer);
        }
    }

    /// Counts the batch in flight as delivered, and removes it from the spool.
    fn delivered(&mut self, gatherer: &Gatherer) {
        let Some(InFlight { batch, .. }) = self.in_flight.take() else { return };
        self.progress.delivered += 1;
        self.progress.edges += batch.edges.len() as u64;
        self.suspect_since = None;
        if self.progress.failing.take().is_some() {
            let failures = self.progress.failures;
            tracing::info!(failures, "batches are delivered again");
        }
        if self.spooled.is_some() {
            self.save(gatherer);
        }
    }

    /// Plans the next attempt, or gives the batch in flight up. Returns whether it was given up.
    fn failed(
        &mut self,
        now: Instant,
        why: String,
        after: Option<Duration>,
        batch_suspect: bool,
        gatherer: &mut Gatherer,
    ) -> bool {
        self.progress.failures += 1;
        if self.progress.failing.as_ref() != Some(&why) {
            tracing::warn!(
                reason = %why,
                "a batch cannot be delivered now; it will be tried again"
            );
        }
        let since = batch_suspect.then(|| *self.suspect_since.get_or_insert(now));
        self.suspect_since = since;
        if since.is_some_and(|since| now.duration_since(since) >= MAX_FAILING) {
            self.refused(&format!("given up after an hour: {why}"), gatherer);
            return true;
        }
        self.progress.failing = Some(why);
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.next_try = now + after.unwrap_or(in_flight.wait);
            in_flight.wait = (in_flight.wait * 2).min(MAX_WAIT);
        }
        false
    }

    /// Sets the batch in flight aside, so that the next one can follow.
    fn refused(&mut self, why: &str, gatherer: &mut Gatherer) {
        let Some(InFlight { batch, .. }) = self.in_flight.take() else { return };
        self.suspect_since = None;
        self.progress.failing = None;
        self.progress.refused += 1;
        gatherer.count(counter::EDGES_REFUSED, batch.edges.len() as u64);
        let (id, edges) = (&batch.id, batch.edges.len());
        match self.refused_batches.as_ref().map(|refused| refused.add(&batch, why)) {
            Some(Ok(added)) => {
                self.progress.set_aside = added.stored;
                self.progress.discarded += added.dropped;
                let path = added.path.unwrap_or_default();
                tracing::error!(
                    batch = %id, edges, reason = %why, path = %path.display(),
                    dropped = added.dropped,
                    "a batch was refused for good; it is set aside, and the next one follows"
                );
            }
            Some(Err(error)) => {
                self.progress.discarded += 1;
                self.progress.spool_failures += 1;
                tracing::error!(
                    batch = %id, edges, reason = %why, %error,
                    "a batch was refused for good, and cannot be set aside: its content is lost"
                );
            }
            None => {
                self.progress.discarded += 1;
                tracing::error!(
                    batch = %id, edges, reason = %why,
                    "a batch was refused for good, and there is no spool to set it aside in: its \
                     content is lost"
                );
            }
        }
        self.save(gatherer);
    }

    /// Whether no batch waits to be delivered.
    pub fn is_empty(&self) -> bool {
        self.in_flight.is_none()
    }

    /// Writes the batch in flight and what was gathered since to the spool, whole or not at all.
    /// Removes the spool file if there is neither.
    fn save(&mut self, gatherer: &Gatherer) {
        let Some(path) = &self.spool else { return };
        let begun = Instant::now();
        let write = || -> io::Result<bool> {
            let pending = gatherer.pending();
            if self.in_flight.is_none() && pending.is_none() {
                return match fs::remove_file(path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
                    _ => Ok(false),
                };
            }
            let new = path.with_extension("new");
            let mut file = io::BufWriter::new(private::create(&new)?);
            if let Some(in_flight) = &self.in_flight {
                observed::write(&in_flight.batch, &mut file)?;
            }
            if let Some(pending) = pending {
                observed::write(&pending, &mut file)?;
            }
            file.flush()?;
            file.get_ref().sync_all()?;
            fs::rename(&new, path)?;
            Ok(true)
        };
        let written = write();
        let next_write = Instant::now() + SPOOL_EVERY.max(begun.elapsed() * SPOOL_SHARE);
        match written {
            Ok(true) => {
                self.spooled = Some(Spooled { next_write, revision: gatherer.revision() });
            }
            Ok(false) => self.spooled = None,
            Err(error) => {
                self.progress.spool_failures += 1;
                tracing::warn!(
                    %error, path = %path.display(),
                    "the spool cannot be written: what waits is only in memory"
                );
                // The file of before may still be there, so it counts as a spool that is behind.
                self.spooled = Some(Spooled { next_write, revision: u64::MAX });
            }
        }
    }
}

#[cfg(test)]
mod tests;
