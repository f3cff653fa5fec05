//! What is on its way: one batch that is being delivered, and what has been gathered since.
//!
//! Owns retrying and the spool. Nothing piles up while nothing can be delivered: what comes merges
//! into the batch that waits. A batch that is refused for good is set aside, and the next goes on.
//! Must never change a batch that delivery was tried of: whoever takes it may have it already.

mod aside;

use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::outlet::{Outlet, Undelivered};
use crate::model::{Time, counter};
use crate::observed::{self, Gatherer, Observed, Reader};
use crate::private;
use aside::Aside;

/// Longest wait between two attempts.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// A batch that fails for so long in a way of its own, such as an error of whoever reads it, is
/// given up, so that it does not silence the node. The next one may do better.
const MAX_FAILING: Duration = Duration::from_secs(60 * 60);
/// How often what waits is written to the spool while nothing can be delivered: so much may a crash
/// take.
const SPOOL_EVERY: Duration = Duration::from_secs(1);
/// Writing the spool takes one in this many parts of the time, at most.
const SPOOL_SHARE: u32 = 20;

/// When batches are made and delivered.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// What was told before is told again after this long, with what has come meanwhile.
    pub refresh: Duration,
    /// A batch is this old before it is delivered: whoever resolves it in this process must know
    /// the cluster as of then.
    pub settle: Duration,
}

/// What was delivered and what not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Batches delivered.
    pub delivered: u64,
    /// Edges in them.
    pub edges: u64,
    /// Batches that were refused for good, or given up.
    pub refused: u64,
    /// Refused batches that are in the spool.
    pub set_aside: u64,
    /// Refused batches that are nowhere any more: there was no spool, or no room in it.
    pub discarded: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Why the last attempt failed; `None` once one has worked again.
    pub failing: Option<String>,
    /// Times that the spool could not be written.
    pub spool_failures: u64,
}

/// A batch on its way and what follows it.
pub struct Outbox {
    outlet: Box<dyn Outlet>,
    pace: Pace,
    spool: Option<PathBuf>,
    aside: Option<Aside>,
    /// Since when the batch on its way fails in a way of its own.
    suspect: Option<Instant>,
    /// What it holds, while it holds anything.
    spooled: Option<Spooled>,
    /// With when it may be tried, and how long to wait after the next failure.
    inflight: Option<(Observed, Instant, Duration)>,
    taken: Instant,
    /// What it has done.
    pub progress: Progress,
}

/// What the spool holds.
struct Spooled {
    /// When it may be written again, if that is no hurry.
    next: Instant,
    /// Of the gatherer.
    revision: u64,
}

impl Outbox {
    /// With what an earlier run left in the spool: its batch is delivered as it was, the rest is
    /// gathered anew.
    ///
    /// # Errors
    /// When the spool cannot be read or written. What is malformed in it is told in the second
    /// value and kept aside.
    pub fn open(
        outlet: Box<dyn Outlet>,
        pace: Pace,
        spool: Option<&Path>,
        gatherer: &mut Gatherer,
    ) -> io::Result<(Self, Vec<String>)> {
        let now = Instant::now();
        let mut this = Self {
            outlet,
            pace,
            spool: None,
            aside: None,
            suspect: None,
            spooled: None,
            inflight: None,
            taken: now,
            progress: Progress::default(),
        };
        let mut problems = Vec::new();
        let Some(dir) = spool else { return Ok((this, problems)) };
        private::create_dir_all(dir)?;
        let aside = Aside::of(dir);
        this.progress.set_aside = aside.kept()?;
        this.aside = Some(aside);
        let path = dir.join("spool.ndjson");
        match File::open(&path) {
            Ok(file) => {
                for batch in Reader::new(BufReader::new(file)) {
                    match batch {
                        Ok(batch) if this.inflight.is_none() && !batch.id.source.is_empty() => {
                            this.inflight = Some((batch, now, Duration::from_millis(500)));
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

    /// Makes a batch where one is due, and delivers what can be. `last`: whatever there is is due.
    ///
    /// # Errors
    /// When nothing will be delivered any more.
    pub fn step(&mut self, made: Time, gatherer: &mut Gatherer, last: bool) -> Result<(), String> {
        let now = Instant::now();
        if self.inflight.is_none()
            && (last || gatherer.is_fresh() || now >= self.taken + self.pace.refresh)
        {
            self.taken = now;
            if let Some(batch) = gatherer.take(made) {
                self.inflight = Some((batch, now + self.pace.settle, Duration::from_millis(500)));
                // What the spool holds of it has no identity yet: delivered now and taken up by the
                // next run, it would count twice.
                if self.spooled.is_some() {
                    self.save(gatherer);
                }
            }
        }
        // Whatever comes while nothing can be delivered. A spool that could not be written is tried
        // again as well.
        let behind = |s: &Spooled| now >= s.next && s.revision != gatherer.revision();
        if self.inflight.is_some()
            && self.progress.failing.is_some()
            && self.spooled.as_ref().is_none_or(behind)
        {
            self.save(gatherer);
        }
        let Some((batch, at, wait)) = &mut self.inflight else { return Ok(()) };
        if now < *at && !last {
            return Ok(());
        }
        match self.outlet.deliver(batch) {
            Ok(()) => {
                self.progress.delivered += 1;
                self.progress.edges += batch.edges.len() as u64;
                self.suspect = None;
                if self.progress.failing.take().is_some() {
                    let failures = self.progress.failures;
                    tracing::info!(failures, "batches are delivered again");
                }
                self.inflight = None;
                if self.spooled.is_some() {
                    self.save(gatherer);
                }
                // What came meanwhile does not have to wait for the next tick.
                if last { self.step(made, gatherer, true) } else { Ok(()) }
            }
            Err(Undelivered::UnderWay) => {
                if last && self.spooled.is_none() {
                    self.save(gatherer);
                }
                Ok(())
            }
            Err(Undelivered::Never(why)) => {
                self.save(gatherer);
                Err(why)
            }
            Err(Undelivered::Refused(why)) => {
                self.refused(&why, gatherer);
                if last { self.step(made, gatherer, true) } else { Ok(()) }
            }
            Err(Undelivered::Later { why, after, of_batch }) => {
                self.progress.failures += 1;
                if self.progress.failing.as_ref() != Some(&why) {
                    tracing::warn!(reason = %why, "a batch cannot be delivered; it is kept, and tried again");
                }
                let since = if of_batch { Some(*self.suspect.get_or_insert(now)) } else { None };
                self.suspect = since;
                if since.is_some_and(|since| now.duration_since(since) >= MAX_FAILING) {
                    self.refused(&format!("given up after an hour: {why}"), gatherer);
                    return Ok(());
                }
                self.progress.failing = Some(why);
                *at = now + after.unwrap_or(*wait);
                *wait = (*wait * 2).min(MAX_WAIT);
                if last || self.spooled.is_none() {
                    self.save(gatherer);
                }
                Ok(())
            }
        }
    }

    /// Sets the batch on its way aside, so that the next goes on.
    fn refused(&mut self, why: &str, gatherer: &mut Gatherer) {
        let Some((batch, ..)) = self.inflight.take() else { return };
        self.suspect = None;
        self.progress.failing = None;
        self.progress.refused += 1;
        gatherer.count(counter::EDGES_REFUSED, batch.edges.len() as u64);
        let (id, edges) = (&batch.id, batch.edges.len());
        match self.aside.as_ref().map(|aside| aside.set(&batch, why)) {
            Some(Ok(set)) => {
                self.progress.set_aside = set.kept;
                self.progress.discarded += set.dropped;
                let path = set.path.unwrap_or_default();
                tracing::error!(batch = %id, edges, reason = %why, path = %path.display(), dropped = set.dropped, "a batch was refused for good; it is set aside, and the next goes on");
            }
            Some(Err(error)) => {
                self.progress.discarded += 1;
                self.progress.spool_failures += 1;
                tracing::error!(batch = %id, edges, reason = %why, %error, "a batch was refused for good, and cannot be set aside: what it told is lost");
            }
            None => {
                self.progress.discarded += 1;
                tracing::error!(batch = %id, edges, reason = %why, "a batch was refused for good, and there is no spool to set it aside in: what it told is lost");
            }
        }
        self.save(gatherer);
    }

    /// Whether anything waits to be delivered.
    pub fn is_empty(&self) -> bool {
        self.inflight.is_none()
    }

    /// Writes what waits to the spool, whole or not at all.
    fn save(&mut self, gatherer: &Gatherer) {
        let Some(path) = &self.spool else { return };
        let begun = Instant::now();
        let next = |begun: Instant| Instant::now() + SPOOL_EVERY.max(begun.elapsed() * SPOOL_SHARE);
        let write = || -> io::Result<bool> {
            let pending = gatherer.pending();
            if self.inflight.is_none() && pending.is_none() {
                return match fs::remove_file(path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
                    _ => Ok(false),
                };
            }
            let new = path.with_extension("new");
            let mut file = io::BufWriter::new(private::create(&new)?);
            if let Some((batch, ..)) = &self.inflight {
                observed::write(batch, &mut file)?;
            }
            if let Some(pending) = pending {
                observed::write(&pending, &mut file)?;
            }
            file.flush()?;
            file.get_ref().sync_all()?;
            fs::rename(&new, path)?;
            Ok(true)
        };
        match write() {
            Ok(holds) => {
                self.spooled =
                    holds.then(|| Spooled { next: next(begun), revision: gatherer.revision() })
            }
            Err(error) => {
                self.progress.spool_failures += 1;
                tracing::warn!(%error, path = %path.display(), "the spool cannot be written: what waits is only in memory");
                // It may hold what it held before.
                self.spooled = Some(Spooled { next: next(begun), revision: u64::MAX });
            }
        }
    }
}

#[cfg(test)]
mod tests;
