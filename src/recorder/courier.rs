//! The durable outbox of alerts: what still has to go where, and when it is tried.
//!
//! Owns the pace: new alerts at once, failures with growing pauses, at most so many of a workload in an hour. Must never forget an alert
//! that was not delivered, nor hold up one sink because of another.

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
use crate::store::{Delivery, Raised};

/// How often the outbox is looked at.
const BEAT: Duration = Duration::from_millis(500);
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
}

/// Delivers until `stopped` turns true. Sinks do not wait for each other.
pub(super) async fn run(engine: Engine, sinks: Sinks, counters: Arc<Counters>, stopped: watch::Receiver<bool>) {
    let sinks = Arc::new(sinks);
    let mut tasks = JoinSet::new();
    for name in sinks.names() {
        let (engine, sinks, counters, mut stopped) = (engine.clone(), Arc::clone(&sinks), Arc::clone(&counters), stopped.clone());
        tasks.spawn(async move {
            while tokio::time::timeout(BEAT, stopped.wait_for(|s| *s)).await.is_err() {
                round(&engine, &sinks, &name, &counters).await;
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

/// One look at the outbox for one sink.
async fn round(engine: &Engine, sinks: &Sinks, sink: &str, counters: &Counters) {
    let now = clock::now();
    let Ok(Ok(all)) = engine.ask(|store| store.alerts(None)).await else { return };
    let due = due(all, sink, now);
    if due.is_empty() {
        return;
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
                delivery.attempts += 1;
                delivery.next =
                    next(&result, again, delivery.attempts, &raised.alert, now).filter(|_| known.alert.ignored.is_none());
                changed.push(known);
            }
            store.raise(&changed)
        })
        .await;
    if !matches!(written, Ok(Ok(()))) {
        tracing::warn!(sink, "what was delivered cannot be noted: it is delivered again");
    }
}

/// When an alert is to be tried again; `None`: never.
fn next(result: &Result<(), Undelivered>, again: Option<Duration>, attempts: u32, alert: &Alert, now: Time) -> Option<Time> {
    let wait = match result {
        Ok(()) => again?,
        Err(Undelivered::Never(_)) => return None,
        Err(Undelivered::Later { after, .. }) => backoff(attempts, &alert.id()).max(after.unwrap_or_default()),
    };
    Some(Time(now.0.saturating_add(i64::try_from(wait.as_nanos()).unwrap_or(i64::MAX))))
}

/// What goes to a sink now: what was never tried there, as far as its workload may, and what is to be tried again.
fn due(all: Vec<Raised>, sink: &str, now: Time) -> Vec<Raised> {
    let mut recent: BTreeMap<WorkloadId, usize> = BTreeMap::new();
    for r in &all {
        let tried = r.deliveries.contains_key(sink) && now.since(r.alert.raised) < HOUR;
        *recent.entry(r.alert.workload.clone()).or_default() += usize::from(tried);
    }
    let mut out = Vec::new();
    for raised in all.into_iter().filter(|r| r.alert.ignored.is_none()) {
        let due = match raised.deliveries.get(sink) {
            Some(Delivery { next, .. }) => next.is_some_and(|n| n <= now),
            None => {
                let n = recent.entry(raised.alert.workload.clone()).or_default();
                *n += 1;
                *n <= PER_HOUR
            }
        };
        if due && out.len() < TOGETHER {
            out.push(raised);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AlertKind, Destination, Protocol, ServicePort};

    fn raised(workload: &str, n: u16, delivery: Option<Delivery>) -> Raised {
        let service = ServicePort { namespace: "n".into(), name: "s".into(), host: "s.n.svc".into(), port: n };
        let alert = Alert {
            kind: AlertKind::NewDependency,
            workload: WorkloadId { namespace: "n".into(), kind: "Deployment".into(), name: workload.into() },
            destination: Some(Destination::Service(service)),
            port: n,
            protocol: Some(Protocol::Tcp),
            first_seen: Time(0),
            last_seen: Time(0),
            connections: 1,
            raised: Time(0),
            ignored: None,
        };
        Raised { alert, deliveries: delivery.map(|d| ("s".to_owned(), d)).into_iter().collect() }
    }

    #[test]
    fn a_noisy_workload_waits_and_hinders_no_other() {
        let all: Vec<Raised> = (0..50).map(|n| raised("noisy", n, None)).chain([raised("quiet", 1, None)]).collect();
        let due = due(all, "s", Time(1));
        assert_eq!(due.iter().filter(|r| r.alert.workload.name == "noisy").count(), PER_HOUR);
        assert_eq!(due.len(), PER_HOUR + 1);
        // The first ones are on their way: no more of it within the hour, and then the rest.
        let sent = Some(Delivery { attempts: 1, next: None });
        let all = || -> Vec<Raised> {
            (0..10).map(|n| raised("noisy", n, sent)).chain((10..12).map(|n| raised("noisy", n, None))).collect()
        };
        assert_eq!(super::due(all(), "s", Time(1)).len(), 0);
        assert_eq!(super::due(all(), "s", Time(HOUR as i64 + 1)).len(), 2);
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
        let ports: Vec<u16> = due(all, "s", Time(10)).iter().map(|r| r.alert.port).collect();
        assert_eq!(ports, [1]);
    }
}
