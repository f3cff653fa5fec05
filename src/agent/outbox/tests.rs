use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::*;
use crate::model::Span;
use crate::observed::tests::{connection, pod};

/// The receiver's durable batches, and the content of the spool at each moment at which the agent
/// could crash.
#[derive(Default)]
struct CrashDisk {
    delivered: Vec<Observed>,
    failing: bool,
    spool: PathBuf,
    moments: Vec<(Vec<Observed>, Option<Vec<u8>>)>,
}

impl CrashDisk {
    /// Records the state that a crash at this moment would leave.
    fn record_moment(&mut self) {
        let spool = fs::read(&self.spool).ok();
        self.moments.push((self.delivered.clone(), spool));
    }

    /// Connections in all batches; a batch that was delivered twice counts once.
    fn connections(delivered: &[Observed]) -> u64 {
        let once: BTreeMap<(&str, u64), &Observed> =
            delivered.iter().map(|b| ((b.id.source.as_str(), b.id.sequence), b)).collect();
        once.values().flat_map(|b| &b.edges).map(|e| e.connections).sum()
    }
}

struct FakeOutlet(Arc<Mutex<CrashDisk>>);

impl Outlet for FakeOutlet {
    fn deliver(&mut self, batch: &Observed) -> Result<(), DeliveryError> {
        let mut disk = self.0.lock().unwrap();
        disk.record_moment();
        if disk.failing {
            return Err(later("full", false));
        }
        disk.delivered.push(batch.clone());
        // The batch is delivered, and the agent does not know it yet.
        disk.record_moment();
        Ok(())
    }
}

fn later(why: &str, batch_suspect: bool) -> DeliveryError {
    DeliveryError::Later { why: why.to_owned(), after: None, batch_suspect }
}

const PACE: DeliveryPace =
    DeliveryPace { refresh: Duration::from_secs(3600), delay: Duration::ZERO };

/// As if the wait for the next attempt had passed.
fn end_wait(outbox: &mut Outbox) {
    if let Some(in_flight) = &mut outbox.in_flight {
        in_flight.next_try = Instant::now();
    }
}

fn opened(disk: &Arc<Mutex<CrashDisk>>, dir: &Path, boot: &str) -> (Outbox, Gatherer) {
    disk.lock().unwrap().spool = dir.join("spool.ndjson");
    let mut gatherer = Gatherer::new("n1", boot);
    let (outbox, problems) =
        Outbox::open(Box::new(FakeOutlet(Arc::clone(disk))), PACE, Some(dir), &mut gatherer)
            .unwrap();
    assert_eq!(problems, Vec::<String>::new());
    (outbox, gatherer)
}

/// Starts an agent on what a crash left, lets it deliver all, and returns how many connections are
/// delivered in the end.
fn connections_after_crash(delivered: Vec<Observed>, spool: Option<&[u8]>) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    if let Some(spool) = spool {
        fs::write(dir.path().join("spool.ndjson"), spool).unwrap();
    }
    let disk = Arc::new(Mutex::new(CrashDisk { delivered, ..CrashDisk::default() }));
    let (mut outbox, mut gatherer) = opened(&disk, dir.path(), "second");
    outbox.step(Time(20), &mut gatherer, true).unwrap();
    assert!(outbox.is_empty() && gatherer.pending().is_none());
    assert!(!dir.path().join("spool.ndjson").exists(), "the spool has no delivered batch");
    // A third run has nothing to deliver.
    let before = disk.lock().unwrap().delivered.len();
    let (mut outbox, mut gatherer) = opened(&disk, dir.path(), "third");
    outbox.step(Time(30), &mut gatherer, true).unwrap();
    let disk = disk.lock().unwrap();
    assert_eq!(disk.delivered.len(), before);
    CrashDisk::connections(&disk.delivered)
}

#[test]
fn after_a_crash_at_any_moment_nothing_counts_twice_and_what_was_spooled_counts() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::<Mutex<CrashDisk>>::default();
    let (mut outbox, mut gatherer) = opened(&disk, dir.path(), "first");
    let mut taken = 0;
    let mut take = |gatherer: &mut Gatherer| {
        taken += 1;
        gatherer.connection(
            &pod("a"),
            &connection(40_000 + taken, 80 + taken, i64::from(taken)),
            || Span::ALWAYS,
        );
        u64::from(taken)
    };
    // Whether the receiver works in each round.
    let rounds = [true, false, false, false, true, true, false, true];
    // Moments at which everything is either in the spool or delivered, with its count.
    let mut complete = Vec::new();
    for works in rounds {
        disk.lock().unwrap().failing = !works;
        let all = take(&mut gatherer);
        end_wait(&mut outbox);
        if let Some(spooled) = &mut outbox.spooled {
            spooled.next_write = Instant::now();
        }
        outbox.step(Time(10), &mut gatherer, false).unwrap();
        let mut disk = disk.lock().unwrap();
        disk.record_moment();
        if !works {
            complete.push((disk.moments.len() - 1, all));
        }
    }
    outbox.step(Time(11), &mut gatherer, true).unwrap();
    let all = u64::from(taken);
    let mut disk = disk.lock().unwrap();
    disk.record_moment();
    assert_eq!(CrashDisk::connections(&disk.delivered), all);
    complete.push((disk.moments.len() - 1, all));
    let mut tried = 0;
    for (n, (delivered, spool)) in disk.moments.iter().enumerate() {
        let got = connections_after_crash(delivered.clone(), spool.as_deref());
        assert!(got <= all, "at moment {n}: {got} of {all}");
        if let Some((_, want)) = complete.iter().find(|(at, _)| *at == n) {
            assert_eq!(got, *want, "at moment {n}");
            tried += 1;
        }
    }
    assert_eq!(tried, complete.len());
}

#[test]
fn a_damaged_spool_is_renamed_and_described() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("spool.ndjson"), "{\"observed\":").unwrap();
    let mut gatherer = Gatherer::new("n1", "boot");
    let disk = Arc::<Mutex<CrashDisk>>::default();
    let (_, problems) =
        Outbox::open(Box::new(FakeOutlet(disk)), PACE, Some(dir.path()), &mut gatherer).unwrap();
    assert_eq!(problems.len(), 1);
    assert!(dir.path().join("spool.damaged").exists() && !dir.path().join("spool.ndjson").exists());
}

/// Fails on batches with a call to this port, and accepts all others.
struct PickyOutlet {
    port: u16,
    answer: fn() -> DeliveryError,
    taken: Arc<Mutex<Vec<Observed>>>,
}

impl Outlet for PickyOutlet {
    fn deliver(&mut self, batch: &Observed) -> Result<(), DeliveryError> {
        if batch.edges.iter().any(|e| e.call.responder.port() == self.port) {
            return Err((self.answer)());
        }
        self.taken.lock().unwrap().push(batch.clone());
        Ok(())
    }
}

/// An outbox with a spool that fails on batches for port 666, and the batches that it delivered.
fn picky(
    dir: &Path,
    answer: fn() -> DeliveryError,
) -> (Outbox, Gatherer, Arc<Mutex<Vec<Observed>>>) {
    let taken = Arc::<Mutex<Vec<Observed>>>::default();
    let outlet = PickyOutlet { port: 666, answer, taken: Arc::clone(&taken) };
    let mut gatherer = Gatherer::new("n1", "boot");
    let (outbox, problems) =
        Outbox::open(Box::new(outlet), PACE, Some(dir), &mut gatherer).unwrap();
    assert_eq!(problems, Vec::<String>::new());
    (outbox, gatherer, taken)
}

/// Names of the files in `refused`, sorted.
fn refused_files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir.join("refused")).unwrap();
    let mut names: Vec<String> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Gathers and delivers one call to the refused port and one to another, `rounds` times.
fn deliver_good_and_refused(outbox: &mut Outbox, gatherer: &mut Gatherer, rounds: u16) {
    for n in 0..rounds {
        for port in [666, 80] {
            let call = connection(40_000 + n, port, i64::from(n));
            gatherer.connection(&pod("a"), &call, || Span::ALWAYS);
            outbox.step(Time(10), gatherer, true).unwrap();
        }
    }
}

/// Connections in these batches. A batch may have counters alone.
fn connections(batches: &Mutex<Vec<Observed>>) -> u64 {
    batches.lock().unwrap().iter().flat_map(|b| &b.edges).map(|e| e.connections).sum()
}

fn refuse() -> DeliveryError {
    DeliveryError::Refused("400: no".to_owned())
}

#[test]
fn a_refused_batch_is_set_aside_with_its_reason_and_the_next_is_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let (mut outbox, mut gatherer, taken) = picky(dir.path(), refuse);
    deliver_good_and_refused(&mut outbox, &mut gatherer, 1);
    assert_eq!(refused_files(dir.path()), ["1.ndjson", "1.txt"]);
    let file = File::open(dir.path().join("refused/1.ndjson")).unwrap();
    let batches: Vec<_> = Reader::new(BufReader::new(file)).map(Result::unwrap).collect();
    assert_eq!((batches.len(), batches[0].edges[0].call.responder.port()), (1, 666));
    let why = fs::read_to_string(dir.path().join("refused/1.txt")).unwrap();
    assert!(why.contains("400: no"), "{why}");
    assert_eq!((connections(&taken), outbox.is_empty()), (1, true));
    assert_eq!(outbox.progress.failing, None);
}

#[test]
fn sixteen_refused_batches_are_stored_and_each_older_one_counts_as_discarded() {
    let dir = tempfile::tempdir().unwrap();
    let (mut outbox, mut gatherer, taken) = picky(dir.path(), refuse);
    deliver_good_and_refused(&mut outbox, &mut gatherer, 20);
    assert_eq!((connections(&taken), outbox.is_empty()), (20, true));
    let progress = &outbox.progress;
    assert_eq!((progress.refused, progress.set_aside, progress.discarded), (20, 16, 4));
    assert_eq!(gatherer.totals()[counter::EDGES_REFUSED], 20);
    let names = refused_files(dir.path());
    assert_eq!((names.len(), names.contains(&"20.ndjson".to_owned())), (32, true));
    // The next run counts them again.
    let (outbox, ..) = picky(dir.path(), refuse);
    assert_eq!(outbox.progress.set_aside, 16);
}

/// Lets a batch fail with this answer for an hour, and returns the outbox with the number of
/// batches that it delivered.
fn fail_for_an_hour(answer: fn() -> DeliveryError) -> (Outbox, usize) {
    let dir = tempfile::tempdir().unwrap();
    let (mut outbox, mut gatherer, taken) = picky(dir.path(), answer);
    gatherer.connection(&pod("a"), &connection(40_000, 666, 1), || Span::ALWAYS);
    let step = |outbox: &mut Outbox, gatherer: &mut Gatherer| {
        end_wait(outbox);
        outbox.step(Time(10), gatherer, false).unwrap();
    };
    step(&mut outbox, &mut gatherer);
    gatherer.connection(&pod("a"), &connection(40_000, 80, 1), || Span::ALWAYS);
    step(&mut outbox, &mut gatherer);
    assert_eq!((outbox.progress.refused, outbox.progress.failing.is_some()), (0, true));
    // As if an hour had passed.
    let an_hour_ago = Instant::now().checked_sub(MAX_FAILING);
    outbox.suspect_since = outbox.suspect_since.and(an_hour_ago);
    step(&mut outbox, &mut gatherer);
    step(&mut outbox, &mut gatherer);
    let delivered = taken.lock().unwrap().len();
    (outbox, delivered)
}

#[test]
fn a_suspect_batch_is_given_up_after_an_hour_and_the_next_is_delivered() {
    let (outbox, delivered) = fail_for_an_hour(|| later("500", true));
    assert_eq!((outbox.progress.refused, outbox.progress.set_aside), (1, 1));
    assert_eq!(delivered, 1);
}

#[test]
fn a_batch_is_not_given_up_while_the_receiver_fails_for_all() {
    let (outbox, delivered) = fail_for_an_hour(|| later("503", false));
    assert_eq!((outbox.progress.refused, outbox.progress.set_aside), (0, 0));
    assert_eq!(delivered, 0);
}
