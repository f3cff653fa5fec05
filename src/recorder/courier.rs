//! The durable outbox of alerts: what still has to go where, and when it is tried.
//!
//! It is looked at when alerts have come, and when one is due: with nothing to do it costs nothing.
//! Owns the pace: new alerts at once, failures with growing pauses, at most so many of a workload
//! in an hour. Must never forget an alert that was not delivered, nor hold up one sink because of
//! another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::engine::Engine;
use crate::alert::{Sinks, Undelivered, backoff};
use crate::clock;
use crate::model::{Alert, Time, WorkloadId};
use crate::model::{Delivery, RaisedAlert};

/// How often the outbox is looked at, at the most; and when that has failed.
const BEAT: Duration = Duration::from_millis(500);
/// How often it is looked at in any case: the clock may be set.
const LONGEST: Duration = Duration::from_secs(60);
/// New alerts of one workload that are delivered in an hour; the others follow later.
const PER_HOUR: usize = 10;
const HOUR: u64 = 3_600_000_000_000;
/// Alerts delivered in one go.
const TOGETHER: usize = 100;

/// What was delivered and what not.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub delivered: AtomicU64,
    pub failed: AtomicU64,
    pub refused: AtomicU64,
    /// Looks at the outbox.
    pub looks: AtomicU64,
}

/// Delivers until `stopped` turns true. Sinks do not wait for each other.
pub(super) async fn run(
    engine: Engine,
    sinks: Sinks,
    counters: Arc<Counters>,
    stopped: watch::Receiver<bool>,
) {
    let sinks = Arc::new(sinks);
    let mut tasks = JoinSet::new();
    for name in sinks.names() {
        let (engine, sinks, counters, mut stopped) =
            (engine.clone(), Arc::clone(&sinks), Arc::clone(&counters), stopped.clone());
        tasks.spawn(async move {
            let mut outbox = engine.outbox();
            loop {
                outbox.mark_unchanged();
                let pause = round(&engine, &sinks, &name, &counters).await;
                // What comes within a beat is looked at together.
                let come = async {
                    tokio::time::sleep(BEAT).await;
                    // An engine that has ended sends nothing more.
                    if outbox.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                };
                tokio::select! {
                    _ = stopped.wait_for(|s| *s) => return,
                    () = tokio::time::sleep(pause) => {}
                    () = come => {}
                }
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

/// One look at the outbox for one sink, and how long it is until the next.
async fn round(engine: &Engine, sinks: &Sinks, sink: &str, counters: &Counters) -> Duration {
    let now = clock::now();
    counters.looks.fetch_add(1, Ordering::Relaxed);
    let Ok(Ok(all)) = engine.ask(|store| store.alerts(None)).await else { return BEAT };
    let (due, next_due) = due(all, sink, now);
    if due.is_empty() {
        return next_due
            .map_or(LONGEST, |t| Duration::from_nanos(t.since(now)).clamp(BEAT, LONGEST));
    }
    let alerts: Vec<Alert> = due.iter().map(|r| r.alert.clone()).collect();
    let result = sinks.deliver(sink, &alerts).await;
    let again = sinks.wants_again(sink);
    let counter = match &result {
        Ok(()) => &counters.delivered,
        Err(Undelivered::Later { why, .. }) => {
            tracing::warn!(sink, alerts = alerts.len(), reason = %why, "alerts are not delivered; they are tried again");
            &counters.failed
        }
        Err(Undelivered::Never(why)) => {
            tracing::error!(sink, alerts = alerts.len(), reason = %why, "alerts are refused for good");
            &counters.refused
        }
    };
    counter.fetch_add(alerts.len() as u64, Ordering::Relaxed);
    let name = sink.to_owned();
    let written = engine
        .ask(move |store| {
            let mut changed = Vec::new();
            for raised in due {
                // It may have been ignored, accepted or seen again meanwhile.
                let Some(mut known) = store.alert(&raised.alert)? else { continue };
                let delivery = known.deliveries.entry(name.clone()).or_default();
                delivery.attempts = delivery.attempts.saturating_add(1);
                delivery.next = next(&result, again, delivery.attempts, &raised.alert, now)
                    .filter(|_| known.alert.ignored.is_none());
                changed.push(known);
            }
            store.raise(&changed)
        })
        .await;
    if !matches!(written, Ok(Ok(()))) {
        tracing::warn!(sink, "what was delivered cannot be noted: it is delivered again");
    }
    // There may be more than go together.
    BEAT
}

/// When an alert is to be tried again; `None`: never.
fn next(
    result: &Result<(), Undelivered>,
    again: Option<Duration>,
    attempts: u32,
    alert: &Alert,
    now: Time,
) -> Option<Time> {
    let wait = match result {
        Ok(()) => again?,
        Err(Undelivered::Never(_)) => return None,
        Err(Undelivered::Later { after, .. }) => {
            backoff(attempts, &alert.id()).max(after.unwrap_or_default())
        }
    };
    Some(Time(now.0.saturating_add(i64::try_from(wait.as_nanos()).unwrap_or(i64::MAX))))
}

/// What goes to a sink now: what was never tried there, as far as its workload may, and what is to
/// be tried again. And when the next of the rest is due.
fn due(all: Vec<RaisedAlert>, sink: &str, now: Time) -> (Vec<RaisedAlert>, Option<Time>) {
    let mut recent: BTreeMap<WorkloadId, usize> = BTreeMap::new();
    // Of each workload, when another one may follow.
    let mut room: BTreeMap<WorkloadId, Time> = BTreeMap::new();
    for r in &all {
        let tried = r.deliveries.contains_key(sink) && now.since(r.alert.raised) < HOUR;
        *recent.entry(r.alert.workload.clone()).or_default() += usize::from(tried);
        if tried {
            let over = Time(r.alert.raised.0.saturating_add(HOUR as i64));
            room.entry(r.alert.workload.clone()).and_modify(|t| *t = over.min(*t)).or_insert(over);
        }
    }
    let (mut out, mut later) = (Vec::new(), None);
    let mut wait = |until: Option<Time>| later = later.min(until).or(later).or(until);
    for raised in all.into_iter().filter(|r| r.alert.ignored.is_none()) {
        let due = match raised.deliveries.get(sink) {
            Some(Delivery { next, .. }) => {
                wait(next.filter(|n| *n > now));
                next.is_some_and(|n| n <= now)
            }
            None => {
                let n = recent.entry(raised.alert.workload.clone()).or_default();
                *n += 1;
                if *n > PER_HOUR {
                    wait(room.get(&raised.alert.workload).copied());
                }
                *n <= PER_HOUR
            }
        };
        if due && out.len() < TOGETHER {
            out.push(raised);
        }
    }
    (out, later)
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

    #[test]
    fn a_noisy_workload_waits_and_hinders_no_other() {
        let all: Vec<RaisedAlert> =
            (0..50).map(|n| raised("noisy", n, None)).chain([raised("quiet", 1, None)]).collect();
        let due = due(all, "s", Time(1)).0;
        assert_eq!(due.iter().filter(|r| r.alert.workload.name == "noisy").count(), PER_HOUR);
        assert_eq!(due.len(), PER_HOUR + 1);
        // The first ones are on their way: no more of it within the hour, and then the rest.
        let sent = Some(Delivery { attempts: 1, next: None });
        let all = || -> Vec<RaisedAlert> {
            (0..10)
                .map(|n| raised("noisy", n, sent))
                .chain((10..12).map(|n| raised("noisy", n, None)))
                .collect()
        };
        assert_eq!(super::due(all(), "s", Time(1)).0.len(), 0);
        assert_eq!(super::due(all(), "s", Time(HOUR as i64 + 1)).0.len(), 2);
        assert_eq!(
            super::due(all(), "s", Time(1)).1,
            Some(Time(HOUR as i64)),
            "when there is room for another"
        );
    }

    #[test]
    fn what_failed_comes_again_and_what_is_done_or_ignored_does_not() {
        let later = |next| Some(Delivery { attempts: 3, next: Some(Time(next)) });
        let mut ignored = raised("w", 4, None);
        ignored.alert.ignored = Some("why".into());
        let all = vec![
            raised("w", 1, later(5)),
            raised("w", 2, later(50)),
            raised("w", 3, Some(Delivery { attempts: 1, next: None })),
            ignored,
        ];
        let (due, next) = due(all, "s", Time(10));
        assert_eq!(due.iter().map(|r| r.alert.port).collect::<Vec<_>>(), [1]);
        assert_eq!(next, Some(Time(50)));
        assert_eq!(
            super::due(
                vec![raised("w", 3, Some(Delivery { attempts: 1, next: None }))],
                "s",
                Time(10)
            )
            .1,
            None
        );
    }

    #[tokio::test]
    async fn with_nothing_to_do_the_outbox_is_left_alone_and_what_comes_is_delivered_at_once() {
        use crate::alert::{Config, Form, Webhook};
        use crate::cluster::Cluster;
        use crate::novelty::Patience;
        use crate::recorder::engine::Pace;
        use crate::store::{Access, Store};
        use crate::view::View;

        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s"), Access::CreateOrOpen).unwrap();
        let second = Duration::from_secs(1);
        let pace = Pace {
            settle: second,
            limit: second,
            apart: second,
            nodes: false,
            patience: Patience::default(),
            accept: None,
        };
        let (engine, work) = Engine::new(store, View::fixed(Cluster::default()), pace);
        let thread = std::thread::spawn(move || work.run());
        // Nobody listens there: what is delivered fails, and is to be tried again.
        let nowhere = Webhook {
            url: "http://127.0.0.1:1/".parse().unwrap(),
            form: Form::Json,
            headers: Vec::new(),
        };
        let sinks =
            Sinks::new(&Config { webhooks: vec![nowhere], ..Config::default() }, None).unwrap();
        let counters = Arc::new(Counters::default());
        let (stop, stopped) = watch::channel(false);
        let courier = tokio::spawn(run(engine.clone(), sinks, Arc::clone(&counters), stopped));
        tokio::time::sleep(4 * BEAT).await;
        assert_eq!(counters.looks.load(Ordering::Relaxed), 1);
        engine.ask(|store| store.raise(&[raised("w", 1, None)])).await.unwrap().unwrap();
        let begun = tokio::time::Instant::now();
        while counters.failed.load(Ordering::Relaxed) == 0 {
            assert!(begun.elapsed() < 20 * second, "it is not tried");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // It is tried again when its time has come.
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
