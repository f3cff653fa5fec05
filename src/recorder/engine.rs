//! The thread that owns the store: keeps what agents send, resolves it when the view of the cluster
//! has passed its time, and answers questions.
//!
//! Owns the order of writes. A batch is acknowledged when it is on the disk, resolved later, and
//! counts once. Must never resolve before the cluster is known, and never let what cannot be
//! resolved hold up what can be acknowledged.

mod unconfirmed;
mod upkeep;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use crate::cluster::Cluster;
use crate::generate::readiness::Thresholds;
use crate::learn::{self, Union};
use crate::model::{Batch, BatchId, UnverifiedBatch, WorkloadId, sums};
use crate::novelty::Patience;
use crate::observed::{BatchReadError, Observed, Packed, Reader, allowance};
use crate::parallel::both;
use crate::store::{Applied, Store, StoreError};
use crate::verify::{self, Checked, Rules, check};
use crate::view::View;
use unconfirmed::{Plan, Unconfirmed};

/// Commands that wait for the thread.
const QUEUE: usize = 256;
/// Batches that are written to the disk together.
const TOGETHER: usize = 64;
/// Batches that are merged together, at most: pages that several of them change are written once.
const MERGED: usize = 256;
/// Records that are merged together, but for those of the last batches: each takes a kilobyte and
/// more of memory.
const MERGED_RECORDS: usize = 16_000;
/// Batches that are resolved at once, on two threads.
const AT_ONCE: usize = 8;
/// Bytes of memory of batches that are held until they are resolved; beyond it they are read from
/// the disk again.
const HELD: usize = 32 * 1024 * 1024;
/// Bytes of memory of batches that are resolved at once: one where it is larger.
const AT_ONCE_BYTES: usize = 16 * 1024 * 1024;
/// How often what waits is looked at.
const BEAT: Duration = Duration::from_millis(100);
/// When batches are resolved.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// A batch waits at least this long, so that the watches have told of what it speaks of.
    pub settle: Duration,
    /// And at most this long where the API server cannot be watched: then it is resolved with what
    /// is known, and counted.
    pub limit: Duration,
    /// How long lines about pods that the view does not know are kept apart.
    pub apart: Duration,
    /// Whether a batch may only speak of pods of its node: where agents prove which one is theirs.
    pub nodes: bool,
    /// What is alerted.
    pub patience: Patience,
    /// What must be known of a workload for it to be accepted by itself; `None`: people accept.
    pub accept: Option<Thresholds>,
}

/// What the engine does, for those who ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Batches acknowledged.
    pub kept: u64,
    /// Batches sent again that were there already.
    pub repeated: u64,
    /// Batches merged.
    pub settled: u64,
    /// Edges in them.
    pub edges: u64,
    /// Batches merged though the view of the cluster had not passed their time.
    pub settled_late: u64,
    /// Kept batches that could not be read again: a loss.
    pub unreadable: u64,
    /// Batches that wait to be merged.
    pub waiting: u64,
    /// Alerts raised.
    pub alerts: u64,
    /// What was found when batches were checked, by the names of [`verify::COUNTED`].
    pub checked: BTreeMap<&'static str, u64>,
    /// What is kept apart because the view does not know its pods.
    pub unverified: Arc<Vec<UnverifiedBatch>>,
}

/// A batch to be kept.
struct Keep {
    bytes: Vec<u8>,
    batch: Observed,
    reply: oneshot::Sender<Result<Applied, String>>,
}

enum Command {
    Keep(Box<Keep>),
    Ask(Box<dyn FnOnce(&mut Store) + Send>),
    Stop,
}

/// Why the engine takes no command.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It has as much to do as it may have: try again.
    #[error("too much to do at the moment")]
    Busy,
    /// It has ended, or the disk is full.
    #[error("the store takes nothing: {0}")]
    Closed(String),
}

/// The way to the engine.
#[derive(Clone, Debug)]
pub struct Engine {
    commands: SyncSender<Command>,
    progress: Arc<Mutex<Progress>>,
    outbox: watch::Receiver<u64>,
}

impl Engine {
    /// The way to a thread that is to run [`Work::run`].
    pub fn new(store: Store, view: View, pace: Pace) -> (Self, Work) {
        let (commands, receiver) = sync_channel(QUEUE);
        let progress = Arc::new(Mutex::new(Progress::default()));
        let (tell, outbox) = watch::channel(store.outbox());
        let work = Work {
            store,
            view,
            pace,
            commands: receiver,
            progress: Arc::clone(&progress),
            outbox: tell,
            waiting: VecDeque::new(),
            held: 0,
            now: Progress::default(),
            unconfirmed: Unconfirmed::default(),
            merged: None,
            swept: None,
            review: None,
            noted: None,
            unnoticed: None,
            full: false,
        };
        (Self { commands, progress, outbox }, work)
    }

    /// Keeps a batch. `bytes`: the batch as it came, compressed. When this returns well, it is on
    /// the disk.
    ///
    /// # Errors
    /// When it is not.
    pub async fn keep(&self, batch: Observed, bytes: Vec<u8>) -> Result<Applied, Refused> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Keep(Box::new(Keep { bytes, batch, reply })))?;
        match answer.await {
            Ok(Ok(applied)) => Ok(applied),
            Ok(Err(why)) => Err(Refused::Closed(why)),
            Err(_) => Err(Refused::Closed("it has ended".to_owned())),
        }
    }

    /// Asks something of the store.
    ///
    /// # Errors
    /// When the engine takes no question.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Store) -> T + Send + 'static,
    ) -> Result<T, Refused> {
        let (reply, answer) = oneshot::channel();
        // Whoever asked may be gone.
        self.send(Command::Ask(Box::new(move |store| drop(reply.send(question(store))))))?;
        answer.await.map_err(|_| Refused::Closed("it has ended".to_owned()))
    }

    /// Ends the thread when all before is done.
    pub fn stop(&self) {
        // Waits for room: the command must not be lost. A thread that has ended needs none.
        let _ = self.commands.send(Command::Stop);
    }

    /// Changes when there may be more alerts to deliver, or others.
    pub fn outbox(&self) -> watch::Receiver<u64> {
        self.outbox.clone()
    }

    /// What was done.
    pub fn progress(&self) -> Progress {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn send(&self, command: Command) -> Result<(), Refused> {
        self.commands.try_send(command).map_err(|e| match e {
            TrySendError::Full(_) => Refused::Busy,
            TrySendError::Disconnected(_) => Refused::Closed("it has ended".to_owned()),
        })
    }
}

/// A batch that waits.
struct Waiting {
    id: BatchId,
    came: Instant,
    /// With the memory that it takes; absent where memory is short, or after a restart.
    batch: Option<(Observed, usize)>,
}

/// A look at everything that has begun.
struct Review {
    /// The last workload that was looked at.
    after: Option<WorkloadId>,
    /// When it goes on.
    next: Instant,
}

/// What the engine's thread does.
pub struct Work {
    store: Store,
    view: View,
    pace: Pace,
    commands: Receiver<Command>,
    progress: Arc<Mutex<Progress>>,
    outbox: watch::Sender<u64>,
    waiting: VecDeque<Waiting>,
    held: usize,
    now: Progress,
    unconfirmed: Unconfirmed,
    /// When batches were last merged, and how long it took.
    merged: Option<(Instant, Duration)>,
    swept: Option<Instant>,
    /// How far the look at everything has come, while there is one.
    review: Option<Review>,
    /// When the view was noted, and how far it had come.
    noted: Option<(Instant, u64)>,
    /// What was merged, while the disk is too full to raise what is new in it.
    unnoticed: Option<Batch>,
    /// That was said.
    full: bool,
}

impl Work {
    /// Works until it is told to stop.
    ///
    /// # Errors
    /// When the store fails: what was acknowledged is on the disk, and nothing more is written.
    pub fn run(mut self) -> Result<(), String> {
        let kept = self.store.kept().map_err(|e| e.to_string())?;
        let came = Instant::now();
        self.waiting.extend(kept.into_iter().map(|id| Waiting { id, came, batch: None }));
        self.unconfirmed = Unconfirmed::read(&self.store).map_err(|e| e.to_string())?;
        self.now.unverified = Arc::new(self.unconfirmed.told());
        loop {
            self.tell();
            let first = match self.commands.recv_timeout(BEAT) {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return self.end(),
            };
            let mut keeps = Vec::new();
            let mut stop = false;
            let mut next = first;
            while let Some(command) = next.take() {
                match command {
                    Command::Keep(keep) => keeps.push(*keep),
                    Command::Ask(question) => question(&mut self.store),
                    Command::Stop => stop = true,
                }
                if keeps.len() < TOGETHER && !stop {
                    next = self.commands.try_recv().ok();
                }
            }
            if !keeps.is_empty() {
                self.keep(keeps)?;
            }
            if stop {
                return self.end();
            }
            if self.is_time() {
                self.settle()?;
            }
            self.confirm()?;
            self.note(false).map_err(|e| e.to_string())?;
            self.look()?;
        }
    }

    /// Whether it is time to merge: when many batches wait, or as much time has passed as it took.
    /// The more there is to do, the more of it is done at once, and no more than half the time is
    /// not there for those who bring more.
    fn is_time(&self) -> bool {
        self.waiting.len() >= MERGED || self.merged.is_none_or(|(at, took)| at.elapsed() >= took)
    }

    fn end(mut self) -> Result<(), String> {
        // What waits is on the disk; what may be resolved now is.
        self.settle()?;
        self.note(true).map_err(|e| e.to_string())?;
        self.tell();
        self.store.close().map_err(|e| e.to_string())
    }

    fn keep(&mut self, keeps: Vec<Keep>) -> Result<(), String> {
        let rows: Vec<(&BatchId, &[u8])> =
            keeps.iter().map(|k| (&k.batch.id, k.bytes.as_slice())).collect();
        let applied = match self.store.keep(&rows) {
            Ok(applied) => applied,
            // Each for itself: one that is too large must not keep the others out.
            Err(StoreError::DiskFull { .. }) if keeps.len() > 1 => {
                return keeps.into_iter().try_for_each(|keep| self.keep(vec![keep]));
            }
            Err(e) => {
                let why = e.to_string();
                let fatal = !matches!(e, StoreError::DiskFull { .. });
                keeps.into_iter().for_each(|k| drop(k.reply.send(Err(why.clone()))));
                return if fatal { Err(why) } else { Ok(()) };
            }
        };
        for (Keep { batch, reply, .. }, applied) in keeps.into_iter().zip(applied) {
            let id = batch.id.clone();
            if applied == Applied::New {
                self.now.kept += 1;
                let size = batch.footprint();
                let batch = (self.held + size <= HELD).then_some((batch, size));
                self.held += batch.as_ref().map_or(0, |(_, size)| *size);
                self.waiting.push_back(Waiting { id, came: Instant::now(), batch });
            } else {
                self.now.repeated += 1;
            }
            // An agent that has gone asks again.
            let _ = reply.send(Ok(applied));
        }
        Ok(())
    }

    /// Merges what may be resolved, many batches in one write.
    fn settle(&mut self) -> Result<(), String> {
        if !self.notice()? {
            return Ok(());
        }
        let (now, view) = (Instant::now(), self.view.status());
        let known = view.synced && view.behind.is_none();
        let (mut told, mut told_bytes) = (Vec::new(), 0);
        let mut lesson = Lesson::default();
        let rules = self.rules();
        let mut kept = BTreeSet::new();
        let mut edges = 0;
        let cluster = self.view.current();
        while let Some(first) = self.waiting.front() {
            let waited = now.saturating_duration_since(first.came);
            let late = waited >= self.pace.limit;
            if kept.len() >= MERGED
                || lesson.taught.len() >= MERGED_RECORDS
                || waited < self.pace.settle
                || !(known || late)
            {
                break;
            }
            let Some(first) = self.waiting.pop_front() else { break };
            let (batch, size) = match first.batch {
                Some((batch, size)) => {
                    self.held -= size;
                    (batch, size)
                }
                None => match self.again(&first.id).map_err(|e| e.to_string())? {
                    Ok(batch) => {
                        let size = batch.footprint();
                        (batch, size)
                    }
                    Err(why) => {
                        self.now.unreadable += 1;
                        tracing::error!(batch = %first.id, %why, "a kept batch cannot be read; what it told is lost");
                        kept.insert(first.id);
                        continue;
                    }
                },
            };
            edges += batch.edges.len() as u64;
            self.now.settled_late += u64::from(!known);
            told.push(batch);
            told_bytes += size;
            // A large one is read, learned and let go before the next is read.
            if told.len() == AT_ONCE || told_bytes >= AT_ONCE_BYTES {
                lesson.learn(&cluster, &rules, &mut told);
                told_bytes = 0;
            }
            kept.insert(first.id);
        }
        if kept.is_empty() {
            return Ok(());
        }
        let id = kept.first().cloned().unwrap_or(BatchId { source: String::new(), sequence: 0 });
        lesson.learn(&cluster, &rules, &mut told);
        let Lesson { mut taught, unknown, counted } = lesson;
        let mut plan = Plan::default();
        self.unconfirmed.keep(unknown, rules.now, &mut plan)?;
        taught.absorb(std::mem::take(&mut plan.taught));
        sums::merge(&mut plan.counted, &counted);
        let taught = taught.batch().unwrap_or(Batch { id, records: Vec::new() });
        let result = self.merge(taught, kept, edges, plan);
        self.merged = Some((Instant::now(), now.elapsed()));
        result
    }

    /// Merges what kept batches taught.
    fn merge(
        &mut self,
        taught: Batch,
        kept: BTreeSet<BatchId>,
        edges: u64,
        plan: Plan,
    ) -> Result<(), String> {
        let n = kept.len() as u64;
        // What is raised is what is stored.
        let settled = self.store.fold(taught).and_then(|taught| {
            self.store.settle_apart(&taught.records, &kept, &plan.apart).map(|()| taught)
        });
        match settled {
            Ok(taught) => {
                self.now.settled += n;
                self.now.edges += edges;
                self.written(plan);
                self.unnoticed = Some(taught);
                self.notice().map(|_| ())
            }
            Err(StoreError::DiskFull { .. }) => {
                // They are on the disk, and are taken up again from there.
                for id in kept.into_iter().rev() {
                    self.waiting.push_front(Waiting { id, came: Instant::now(), batch: None });
                }
                Ok(())
            }
            Err(e) => Err(e.to_string()),
        }
    }

    /// Reads a kept batch from the disk, within the bounds that it was taken with; or the reason
    /// why it cannot be read.
    fn again(&self, id: &BatchId) -> Result<Result<Observed, String>, StoreError> {
        let bytes = self.store.read_kept(id)?;
        Ok(unpack(&bytes))
    }

    fn tell(&mut self) {
        self.now.waiting = self.waiting.len() as u64;
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&self.now);
        let changes = self.store.outbox();
        self.outbox.send_if_modified(|told| std::mem::replace(told, changes) != changes);
    }
}

/// The one batch in these bytes.
fn unpack(bytes: &[u8]) -> Result<Observed, String> {
    let packed = Packed::new(bytes);
    let damaged = |e: std::io::Error| format!("its compression: {e}");
    let memory = allowance(packed.text_length().map_err(damaged)?);
    let batch = Reader::new(packed.text().map_err(damaged)?).within(memory).next();
    batch.unwrap_or(Err(BatchReadError::Cut { line: 1 })).map_err(|e| e.to_string())
}

/// What batches have taught, and what of them is kept apart.
#[derive(Default)]
struct Lesson {
    taught: Union,
    unknown: Vec<Observed>,
    counted: BTreeMap<&'static str, u64>,
}

impl Lesson {
    /// Checks and resolves batches, and adds what they teach.
    fn learn(&mut self, cluster: &Cluster, rules: &Rules, told: &mut Vec<Observed>) {
        let second = told.split_off(told.len() / 2);
        let first = std::mem::take(told);
        let learn = |told: Vec<Observed>| -> Vec<_> {
            let one = |batch| {
                let Checked { batch, unknown } = check(batch, cluster, rules);
                let count = |name: &'static str| Some((name, *batch.counters.get(name)?));
                let counted: BTreeMap<_, _> =
                    verify::COUNTED.into_iter().filter_map(count).collect();
                (learn::batch(cluster, &batch), unknown, counted)
            };
            told.into_iter().map(one).collect()
        };
        let (second, first) = if first.is_empty() {
            (learn(second), Vec::new())
        } else {
            both(|| learn(second), || learn(first))
        };
        for (batch, unknown, counted) in first.into_iter().chain(second) {
            self.taught.add(batch);
            self.unknown.extend(unknown);
            sums::merge(&mut self.counted, &counted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::write;

    #[test]
    fn a_kept_batch_is_read_within_the_bounds_that_it_was_taken_with() {
        let batch = Observed {
            id: BatchId { source: "agent:n1:b".to_owned(), sequence: 0 },
            node: "n1".to_owned(),
            made: crate::model::Time(1),
            spans: Default::default(),
            counters: [("learned".to_owned(), 1)].into(),
            pods: Vec::new(),
            edges: Vec::new(),
            asked: Vec::new(),
            watching: Vec::new(),
        };
        let mut text = Vec::new();
        write(&batch, &mut text).unwrap();
        let packed = |text: &[u8]| zstd::encode_all(text, 1).unwrap();
        assert_eq!(unpack(&packed(&text)).as_ref(), Ok(&batch));
        let head = text.split_inclusive(|b| *b == b'\n').next().unwrap();
        let cut = unpack(&packed(head)).unwrap_err();
        assert!(cut.contains("cut"), "{cut}");
        assert!(unpack(&packed(b"")).is_err());
        assert!(unpack(b"damaged").unwrap_err().contains("compression"));
        // What an earlier program took: small on the disk, a gigabyte in memory.
        let names =
            format!("{{\"edge\":{{\"names\":{{\"alpn\":[{}\"\"]}}}}}}", "\"\",".repeat(1 << 22));
        let bomb = unpack(&packed(&[head, names.as_bytes()].concat())).unwrap_err();
        assert!(bomb.contains("longer than"), "{bomb}");
    }
}
