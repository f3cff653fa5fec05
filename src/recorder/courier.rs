//! The durable outbox of alerts: which are to be delivered where, and when that is tried.
//!
//! The outbox is read when alerts have come, and when one is due: with nothing to do it costs
//! nothing. Owns the pace: new alerts at once, failures with growing pauses, a number of alerts of
//! a workload in an hour. Must never forget an alert that was not delivered, nor delay one sink
//! because of another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::engine::Engine;
use crate::alert::{AlertUndelivered, Sinks, backoff};
use crate::clock;
use crate::model::{Alert, Delivery, RaisedAlert, Time, WorkloadId};

/// Shortest pause between two reads of the outbox, also after one that failed.
const SHORTEST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause between two reads of the outbox: the clock may be set.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// New alerts of one workload that are delivered in an hour; the others follow later.
const PER_HOUR: usize = 10;
/// Nanoseconds of an hour.
const HOUR: u64 = 3_600_000_000_000;
/// Alerts that are delivered together, at most.
const TOGETHER: usize = 100;

/// Deliveries of alerts, by what came of them.
#[derive(Debug, Default)]
pub(super) struct DeliveryCounters {
    pub delivered: AtomicU64,
    pub failed: AtomicU64,
    pub refused: AtomicU64,
    /// Reads of the outbox.
    pub reads: AtomicU64,
}

/// Delivers until `stopped` becomes true. Sinks do not wait for each other.
pub(super) async fn run(
    engine: Engine,
    sinks: Sinks,
    counters: Arc<DeliveryCounters>,
    stopped: watch::Receiver<bool>,
) {
    let sinks = Arc::new(sinks);
    let mut tasks = JoinSet::new();
    for sink in sinks.names() {
        let courier = Courier {
            engine: engine.clone(),
            sinks: Arc::clone(&sinks),
            sink,
            counters: Arc::clone(&counters),
        };
        tasks.spawn(courier.run(stopped.clone()));
    }
    while tasks.join_next().await.is_some() {}
}

/// Delivers alerts to one sink.
struct Courier {
    engine: Engine,
    sinks: Arc<Sinks>,
    /// Name of the sink.
    sink: String,
    counters: Arc<DeliveryCounters>,
}

impl Courier {
    async fn run(self, mut stopped: watch::Receiver<bool>) {
        let mut outbox = self.engine.outbox();
        loop {
            outbox.mark_unchanged();
            let pause = self.deliver_due().await;
            // Alerts that come within the shortest pause are delivered together.
            let changed = async {
                tokio::time::sleep(SHORTEST_PAUSE).await;
                // An engine that has ended sends nothing more.
                if outbox.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => return,
                () = tokio::time::sleep(pause) => {}
                () = changed => {}
            }
        }
    }

    /// Reads the outbox and delivers what is due. Returns the pause until the next read.
    async fn deliver_due(&self) -> Duration {
        let now = clock::now();
        self.counters.reads.fetch_add(1, Ordering::Relaxed);
        let read = self.engine.ask(|store| store.alerts(None)).await;
        let Ok(Ok(all)) = read else { return SHORTEST_PAUSE };
        let DueAlerts { due, next } = due(all, &self.sink, now);
        if due.is_empty() {
            let until = |next: Time| Duration::from_nanos(next.since(now));
            return next
                .map_or(LONGEST_PAUSE, |next| until(next).clamp(SHORTEST_PAUSE, LONGEST_PAUSE));
        }
        let alerts: Vec<Alert> = due.iter().map(|raised| raised.alert.clone()).collect();
        let result = self.sinks.deliver(&self.sink, &alerts).await;
        self.count(alerts.len(), &result);
        self.record(due, result, now).await;
        // There may be more than are delivered together.
        SHORTEST_PAUSE
    }

    /// Counts a delivery, and logs one that failed.
    fn count(&self, alerts: usize, result: &Result<(), AlertUndelivered>) {
        let sink = self.sink.as_str();
        let counter = match result {
            Ok(()) => &self.counters.delivered,
            Err(AlertUndelivered::Later { why, .. }) => {
                tracing::warn!(
                    sink, alerts, reason = %why,
                    "alerts are not delivered; they are tried again"
                );
                &self.counters.failed
            }
            Err(AlertUndelivered::Never(why)) => {
                tracing::error!(sink, alerts, reason = %why, "alerts are refused for good");
                &self.counters.refused
            }
        };
        counter.fetch_add(alerts as u64, Ordering::Relaxed);
    }

    /// Records in the store what came of a delivery.
    async fn record(&self, due: Vec<RaisedAlert>, result: Result<(), AlertUndelivered>, now: Time) {
        let repeat_after = self.sinks.repeat_after(&self.sink);
        let sink = self.sink.clone();
        let written = self.engine.ask(move |store| {
            let mut changed = Vec::new();
            for raised in due {
                // It may have been ignored, accepted or updated meanwhile.
                let Some(mut stored) = store.alert(&raised.alert)? else { continue };
                let delivery = stored.deliveries.entry(sink.clone()).or_default();
                delivery.attempts = delivery.attempts.saturating_add(1);
                let next =
                    next_attempt(&result, repeat_after, delivery.attempts, &raised.alert, now);
                delivery.next = next.filter(|_| stored.alert.ignored.is_none());
                changed.push(stored);
            }
            store.raise(&changed)
        });
        if !matches!(written.await, Ok(Ok(()))) {
            tracing::warn!(
                sink = self.sink.as_str(),
                "it cannot be recorded what was delivered: it is delivered again"
            );
        }
    }
}

/// When an alert is to be delivered again; `None`: never.
fn next_attempt(
    result: &Result<(), AlertUndelivered>,
    repeat_after: Option<Duration>,
    attempts: u32,
    alert: &Alert,
    now: Time,
) -> Option<Time> {
    let wait = match result {
        Ok(()) => repeat_after?,
        Err(AlertUndelivered::Never(_)) => return None,
        Err(AlertUndelivered::Later { after, .. }) => {
            backoff(attempts, &alert.id()).max(after.unwrap_or_default())
        }
    };
    Some(Time(now.0.saturating_add(i64::try_from(wait.as_nanos()).unwrap_or(i64::MAX))))
}

/// The alerts that are due for a sink.
#[derive(Debug, PartialEq)]
struct DueAlerts {
    due: Vec<RaisedAlert>,
    /// When the first of the others is due; `None`: no other will be.
    next: Option<Time>,
}

/// What was delivered of a workload within the last hour.
#[derive(Default)]
struct LastHour {
    alerts: usize,
    /// When the first of them is an hour old.
    room_at: Option<Time>,
}

/// Chooses what is due: alerts that were never tried at this sink, as many as their workload may
/// have in an hour, and those whose next attempt is due.
fn due(all: Vec<RaisedAlert>, sink: &str, now: Time) -> DueAlerts {
    let mut last_hour: BTreeMap<WorkloadId, LastHour> = BTreeMap::new();
    for RaisedAlert { alert, deliveries } in &all {
        if deliveries.contains_key(sink) && now.since(alert.raised) < HOUR {
            let room_at = Time(alert.raised.0.saturating_add(HOUR as i64));
            let of_workload = last_hour.entry(alert.workload.clone()).or_default();
            of_workload.alerts += 1;
            of_workload.room_at = earliest(of_workload.room_at, Some(room_at));
        }
    }
    let (mut due, mut next) = (Vec::new(), None);
    for raised in all.into_iter().filter(|raised| raised.alert.ignored.is_none()) {
        let is_due = match raised.deliveries.get(sink) {
            Some(Delivery { next: attempt, .. }) => {
                next = earliest(next, attempt.filter(|attempt| *attempt > now));
                attempt.is_some_and(|attempt| attempt <= now)
            }
            None => {
                let of_workload = last_hour.entry(raised.alert.workload.clone()).or_default();
                of_workload.alerts += 1;
                let has_room = of_workload.alerts <= PER_HOUR;
                if !has_room {
                    next = earliest(next, of_workload.room_at);
                }
                has_room
            }
        };
        if is_due && due.len() < TOGETHER {
            due.push(raised);
        }
    }
    DueAlerts { due, next }
}

/// The earlier of two times that may be absent.
fn earliest(a: Option<Time>, b: Option<Time>) -> Option<Time> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AlertKind, Destination, Protocol, ServicePort};

    fn raised(workload: &str, n: u16, delivery: Option<Delivery>) -> RaisedAlert {
        let service = ServicePort {
            namespace: "n".into(),
            name: "s".into(),
            host: "s.n.svc".into(),
            port: n,
        };
        let alert = Alert {
            kind: AlertKind::NewDependency,
            workload: WorkloadId {
                namespace: "n".into(),
                kind: "Deployment".into(),
                name: workload.into(),
            },
            destination: Some(Destination::Service(service)),
            port: n,
            protocol: Some(Protocol::Tcp),
            first_seen: Time(0),
            last_seen: Time(0),
            connections: 1,
            dependencies: None,
            raised: Time(0),
            ignored: None,
            ignored_by: None,
            ignored_at: None,
        };
        RaisedAlert {
            alert,
            deliveries: delivery.map(|d| ("s".to_owned(), d)).into_iter().collect(),
        }
    }

    /// How many of the alerts that are due are of this workload.
    fn due_of(found: &DueAlerts, workload: &str) -> usize {
        found.due.iter().filter(|r| r.alert.workload.name == workload).count()
    }

    #[test]
    fn a_noisy_workload_does_not_delay_another() {
        let noisy = (0..50).map(|n| raised("noisy", n, None));
        let found = due(noisy.chain([raised("quiet", 1, None)]).collect(), "s", Time(1));
        assert_eq!((due_of(&found, "noisy"), due_of(&found, "quiet")), (PER_HOUR, 1));
    }

    #[test]
    fn alerts_beyond_the_share_of_a_workload_follow_after_an_hour() {
        let sent = Some(Delivery { attempts: 1, next: None });
        let all = || -> Vec<RaisedAlert> {
            let first = (0..10).map(|n| raised("noisy", n, sent));
            first.chain((10..12).map(|n| raised("noisy", n, None))).collect()
        };
        let found = due(all(), "s", Time(1));
        assert_eq!((found.due.len(), found.next), (0, Some(Time(HOUR as i64))));
        assert_eq!(due(all(), "s", Time(HOUR as i64 + 1)).due.len(), 2);
    }

    #[test]
    fn a_failed_delivery_is_due_at_its_next_attempt() {
        let attempt = |next| Some(Delivery { attempts: 3, next: Some(Time(next)) });
        let all = vec![raised("w", 1, attempt(5)), raised("w", 2, attempt(50))];
        let found = due(all, "s", Time(10));
        assert_eq!(found.due.iter().map(|r| r.alert.port).collect::<Vec<_>>(), [1]);
        assert_eq!(found.next, Some(Time(50)));
    }

    #[test]
    fn an_alert_that_is_delivered_or_ignored_is_not_due() {
        let mut ignored = raised("w", 4, None);
        ignored.alert.ignored = Some("why".into());
        let delivered = raised("w", 3, Some(Delivery { attempts: 1, next: None }));
        let found = due(vec![delivered, ignored], "s", Time(10));
        assert_eq!(found, DueAlerts { due: Vec::new(), next: None });
    }

    #[tokio::test]
    async fn the_outbox_is_read_only_when_alerts_come_or_are_due() {
        use crate::alert::{SinkConfig, Webhook, WebhookForm};
        use crate::cluster::Cluster;
        use crate::novelty::AlertPatience;
        use crate::recorder::engine::MergePace;
        use crate::store::{Access, Store};
        use crate::verify::NodeIdentity;
        use crate::view::View;

        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s"), Access::CreateOrOpen).unwrap();
        let second = Duration::from_secs(1);
        let pace = MergePace {
            delay: second,
            longest_delay: second,
            unverified_for: second,
            node: NodeIdentity::Claimed,
            patience: AlertPatience::default(),
            accept: None,
        };
        let (engine, worker) = Engine::new(store, View::fixed(Cluster::default()), pace);
        let thread = std::thread::spawn(move || worker.run());
        // Nothing listens there: each delivery fails, and is tried again.
        let nowhere = Webhook {
            url: "http://127.0.0.1:1/".parse().unwrap(),
            form: WebhookForm::Json,
            headers: Vec::new(),
        };
        let config = SinkConfig { webhooks: vec![nowhere], ..SinkConfig::default() };
        let sinks = Sinks::new(&config, None).unwrap();
        let counters = Arc::new(DeliveryCounters::default());
        let (stop, stopped) = watch::channel(false);
        let courier = tokio::spawn(run(engine.clone(), sinks, Arc::clone(&counters), stopped));
        tokio::time::sleep(4 * SHORTEST_PAUSE).await;
        assert_eq!(counters.reads.load(Ordering::Relaxed), 1);
        engine.ask(|store| store.raise(&[raised("w", 1, None)])).await.unwrap().unwrap();
        let begun = tokio::time::Instant::now();
        while counters.failed.load(Ordering::Relaxed) == 0 {
            assert!(begun.elapsed() < 20 * second, "it is not tried");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // The next attempt comes when it is due.
        while counters.failed.load(Ordering::Relaxed) < 2 {
            assert!(begun.elapsed() < 40 * second, "it is not tried again");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stop.send(true).unwrap();
        courier.await.unwrap();
        engine.stop();
        thread.join().unwrap().unwrap();
    }
}
