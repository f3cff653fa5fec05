use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::*;
use crate::model::Span;
use crate::observed::tests::{connection, pod};

/// What is durable somewhere, and how the spool was at each moment that a crash could have come.
#[derive(Default)]
struct Disk {
    delivered: Vec<Observed>,
    failing: bool,
    spool: PathBuf,
    moments: Vec<(Vec<Observed>, Option<Vec<u8>>)>,
}

impl Disk {
    fn crash(&mut self) {
        let spool = fs::read(&self.spool).ok();
        self.moments.push((self.delivered.clone(), spool));
    }

    /// Connections, each batch counted once however often it was delivered.
    fn connections(delivered: &[Observed]) -> u64 {
        let once: BTreeMap<(&str, u64), &Observed> =
            delivered.iter().map(|b| ((b.id.source.as_str(), b.id.sequence), b)).collect();
        once.values().flat_map(|b| &b.edges).map(|e| e.connections).sum()
    }
}

struct Fake(Arc<Mutex<Disk>>);

impl Outlet for Fake {
    fn deliver(&mut self, batch: &Observed) -> Result<(), Undelivered> {
        let mut disk = self.0.lock().unwrap();
        disk.crash();
        if disk.failing {
            return Err(Undelivered::Later {
                why: "full".to_owned(),
                after: None,
                of_batch: false,
            });
        }
        disk.delivered.push(batch.clone());
        // It is delivered, and the agent does not know it yet.
        disk.crash();
        Ok(())
    }
}

const PACE: Pace = Pace { refresh: Duration::from_secs(3600), settle: Duration::ZERO };

fn opened(disk: &Arc<Mutex<Disk>>, dir: &Path, boot: &str) -> (Outbox, Gatherer) {
    disk.lock().unwrap().spool = dir.join("spool.ndjson");
    let mut gatherer = Gatherer::new("n1", boot);
    let (outbox, problems) =
        Outbox::open(Box::new(Fake(Arc::clone(disk))), PACE, Some(dir), &mut gatherer).unwrap();
    assert_eq!(problems, Vec::<String>::new());
    (outbox, gatherer)
}

/// Takes up what a crash at this moment left, and gives all that is delivered in the end.
fn after_crash(delivered: Vec<Observed>, spool: Option<&[u8]>) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    if let Some(spool) = spool {
        fs::write(dir.path().join("spool.ndjson"), spool).unwrap();
    }
    let disk = Arc::new(Mutex::new(Disk { delivered, ..Disk::default() }));
    let (mut outbox, mut gatherer) = opened(&disk, dir.path(), "second");
    outbox.step(Time(20), &mut gatherer, true).unwrap();
    assert!(outbox.is_empty() && gatherer.pending().is_none());
    assert!(!dir.path().join("spool.ndjson").exists(), "what is delivered is not kept");
    // And a third run finds nothing to do.
    let before = disk.lock().unwrap().delivered.len();
    let (mut outbox, mut gatherer) = opened(&disk, dir.path(), "third");
    outbox.step(Time(30), &mut gatherer, true).unwrap();
    let disk = disk.lock().unwrap();
    assert_eq!(disk.delivered.len(), before);
    Disk::connections(&disk.delivered)
}

#[test]
fn whenever_it_crashes_nothing_counts_twice_and_what_was_spooled_counts() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::<Mutex<Disk>>::default();
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
    // With when the output works: at first, then not, then again.
    let rounds = [true, false, false, false, true, true, false, true];
    let mut least = Vec::new();
    for works in rounds {
        disk.lock().unwrap().failing = !works;
        let all = take(&mut gatherer);
        // As if the time for the next attempt, and for writing the spool, had come.
        if let Some((_, at, _)) = &mut outbox.inflight {
            *at = Instant::now();
        }
        if let Some(spooled) = &mut outbox.spooled {
            spooled.next = Instant::now();
        }
        outbox.step(Time(10), &mut gatherer, false).unwrap();
        let mut disk = disk.lock().unwrap();
        disk.crash();
        // From here on, where all of it is in the spool or delivered.
        if !works {
            least.push((disk.moments.len() - 1, all));
        }
    }
    outbox.step(Time(11), &mut gatherer, true).unwrap();
    let all = u64::from(taken);
    let mut disk = disk.lock().unwrap();
    disk.crash();
    assert_eq!(Disk::connections(&disk.delivered), all);
    least.push((disk.moments.len() - 1, all));
    let mut tried = 0;
    for (n, (delivered, spool)) in disk.moments.iter().enumerate() {
        let got = after_crash(delivered.clone(), spool.as_deref());
        assert!(got <= all, "at moment {n}: {got} of {all}");
        if let Some((_, want)) = least.iter().find(|(at, _)| *at == n) {
            assert_eq!(got, *want, "at moment {n}");
            tried += 1;
        }
    }
    assert_eq!(tried, least.len());
}

#[test]
fn a_spool_that_is_damaged_is_kept_aside() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("spool.ndjson"), "{\"observed\":").unwrap();
    let mut gatherer = Gatherer::new("n1", "boot");
    let disk = Arc::<Mutex<Disk>>::default();
    let (_, problems) =
        Outbox::open(Box::new(Fake(disk)), PACE, Some(dir.path()), &mut gatherer).unwrap();
    assert_eq!(problems.len(), 1);
    assert!(dir.path().join("spool.damaged").exists() && !dir.path().join("spool.ndjson").exists());
}

/// Refuses what calls this port, or fails with it, and takes everything else.
struct Picky {
    port: u16,
    answer: fn() -> Undelivered,
    taken: Arc<Mutex<Vec<Observed>>>,
}

impl Outlet for Picky {
    fn deliver(&mut self, batch: &Observed) -> Result<(), Undelivered> {
        if batch.edges.iter().any(|e| e.call.responder.port() == self.port) {
            return Err((self.answer)());
        }
        self.taken.lock().unwrap().push(batch.clone());
        Ok(())
    }
}

/// With a spool, and what it has delivered.
fn picky(dir: &Path, answer: fn() -> Undelivered) -> (Outbox, Gatherer, Arc<Mutex<Vec<Observed>>>) {
    let taken = Arc::<Mutex<Vec<Observed>>>::default();
    let outlet = Picky { port: 666, answer, taken: Arc::clone(&taken) };
    let mut gatherer = Gatherer::new("n1", "boot");
    let (outbox, problems) =
        Outbox::open(Box::new(outlet), PACE, Some(dir), &mut gatherer).unwrap();
    assert_eq!(problems, Vec::<String>::new());
    (outbox, gatherer, taken)
}

#[test]
fn a_refused_batch_is_set_aside_and_the_next_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (mut outbox, mut gatherer, taken) =
        picky(dir.path(), || Undelivered::Refused("400: no".to_owned()));
    let files = || {
        let entries = fs::read_dir(dir.path().join("refused")).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    for n in 0..20 {
        gatherer.connection(&pod("a"), &connection(40_000 + n, 666, i64::from(n)), || Span::ALWAYS);
        outbox.step(Time(10), &mut gatherer, true).unwrap();
        gatherer.connection(&pod("a"), &connection(40_000 + n, 80, i64::from(n)), || Span::ALWAYS);
        outbox.step(Time(10), &mut gatherer, true).unwrap();
        if n == 0 {
            assert_eq!(files(), ["1.ndjson", "1.txt"]);
        }
    }
    let connections: u64 =
        taken.lock().unwrap().iter().flat_map(|b| &b.edges).map(|e| e.connections).sum();
    assert_eq!((connections, outbox.is_empty()), (20, true));
    // No more is kept than there is room for, and what had to go is counted.
    let progress = &outbox.progress;
    assert_eq!((progress.refused, progress.set_aside, progress.discarded), (20, 16, 4));
    assert_eq!(progress.failing, None);
    assert_eq!(gatherer.totals()[counter::EDGES_REFUSED], 20);
    let names = files();
    assert_eq!((names.len(), names.contains(&"20.ndjson".to_owned())), (32, true));
    let last = File::open(dir.path().join("refused/20.ndjson")).unwrap();
    let last: Vec<_> = Reader::new(BufReader::new(last)).map(Result::unwrap).collect();
    assert_eq!((last.len(), last[0].edges[0].call.responder.port()), (1, 666));
    let why = fs::read_to_string(dir.path().join("refused/20.txt")).unwrap();
    assert!(why.contains("400: no"), "{why}");
    // The next run finds them.
    let (outbox, ..) = picky(dir.path(), || Undelivered::Refused(String::new()));
    assert_eq!(outbox.progress.set_aside, 16);
}

#[test]
fn a_batch_that_fails_by_itself_is_given_up_in_the_end_and_a_failure_of_all_is_not() {
    fn of_batch() -> Undelivered {
        Undelivered::Later { why: "500".to_owned(), after: None, of_batch: true }
    }
    fn of_all() -> Undelivered {
        Undelivered::Later { why: "503".to_owned(), after: None, of_batch: false }
    }
    for (answer, given_up) in [(of_batch as fn() -> Undelivered, 1), (of_all, 0)] {
        let dir = tempfile::tempdir().unwrap();
        let (mut outbox, mut gatherer, taken) = picky(dir.path(), answer);
        gatherer.connection(&pod("a"), &connection(40_000, 666, 1), || Span::ALWAYS);
        let step = |outbox: &mut Outbox, gatherer: &mut Gatherer| {
            if let Some((_, at, _)) = &mut outbox.inflight {
                *at = Instant::now();
            }
            outbox.step(Time(10), gatherer, false).unwrap();
        };
        step(&mut outbox, &mut gatherer);
        gatherer.connection(&pod("a"), &connection(40_000, 80, 1), || Span::ALWAYS);
        step(&mut outbox, &mut gatherer);
        assert_eq!((outbox.progress.refused, outbox.progress.failing.is_some()), (0, true));
        // As if an hour had passed.
        let long = Instant::now().checked_sub(MAX_FAILING);
        outbox.suspect = outbox.suspect.and(long);
        step(&mut outbox, &mut gatherer);
        step(&mut outbox, &mut gatherer);
        assert_eq!((outbox.progress.refused, outbox.progress.set_aside), (given_up, given_up));
        assert_eq!(taken.lock().unwrap().len() as u64, given_up, "the next goes on");
    }
}
