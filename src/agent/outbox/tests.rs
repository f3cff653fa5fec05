use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::*;
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
            return Err(Undelivered::Later { why: "full".to_owned(), after: None });
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
        gatherer.connection(&pod("a"), &connection(40_000 + taken, 80 + taken, i64::from(taken)));
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
