//! Delivering alerts: to Kubernetes Events, webhooks, Alertmanagers.
//!
//! Owns what each sink gets, and what its answer means. An alert that is delivered again is the
//! same alert there: its id gives the same Event, the same `Idempotency-Key`, the same labels. Must
//! never decide which alerts are delivered, nor remember it, nor retry: the caller does. Must never
//! show the path of a webhook: with it, everybody can write there.

mod body;
mod config;
mod event;
mod post;
mod words;

use std::time::Duration;

use crate::http::Http;
use crate::model::Alert;
use event::EventSink;
use post::PostTarget;
use words::{digest, hex};

pub use config::{InvalidSinkConfig, SinkConfig, Webhook, WebhookForm};
pub use words::AlertUndelivered;

/// Alerts in a request, at most. Receivers refuse long requests, some at 1 MiB.
const TOGETHER: usize = 100;
/// How often an Alertmanager must get an alert that is open: it takes one for resolved after
/// `resolve_timeout`, 5 minutes unless configured.
const REPEAT_AFTER: Duration = Duration::from_secs(120);
/// Longest wait between two attempts.
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);

#[derive(Debug)]
enum Sink {
    Event(Box<EventSink>),
    Webhook(WebhookForm, PostTarget),
    Alertmanager(PostTarget),
}

/// Where alerts are delivered, by name.
#[derive(Debug)]
pub struct Sinks {
    http: Http,
    timeout: Duration,
    sinks: Vec<(String, Sink)>,
}

impl Sinks {
    /// Connects to nothing yet. `client`: for Events, with the rights that these rules grant (in
    /// each namespace that is watched, or as a ClusterRole):
    ///
    /// ```yaml
    /// - {apiGroups: [events.k8s.io], resources: [events], verbs: [create, patch]}
    /// # For the UID of the workload. Without it, `kubectl get events` shows Events and `kubectl
    /// # describe` does not.
    /// - apiGroups: [apps]
    ///   resources: [deployments, statefulsets, daemonsets, replicasets]
    ///   verbs: [get]
    /// - {apiGroups: [batch], resources: [jobs, cronjobs], verbs: [get]}
    /// - {apiGroups: [argoproj.io], resources: [rollouts], verbs: [get]}
    /// - {apiGroups: [""], resources: [pods], verbs: [get]}
    /// ```
    ///
    /// # Errors
    /// When an address or a header cannot be used, two sinks have the same name, there is no
    /// authority in its file, or Events are wanted and there is no client.
    pub fn new(
        config: &SinkConfig,
        client: Option<kube::Client>,
    ) -> Result<Self, InvalidSinkConfig> {
        let mut sinks = Vec::new();
        if config.event {
            let client = client.ok_or_else(|| {
                InvalidSinkConfig("alerts as Events need an API server".to_owned())
            })?;
            let events = EventSink::new(client, config.timeout);
            sinks.push(("event".to_owned(), Sink::Event(Box::new(events))));
        }
        for webhook in &config.webhooks {
            let target = PostTarget::webhook(webhook)?;
            add(&mut sinks, Sink::Webhook(webhook.form, target))?;
        }
        for url in &config.alertmanagers {
            let target = PostTarget::alertmanager(url, &config.alertmanager_headers)?;
            add(&mut sinks, Sink::Alertmanager(target))?;
        }
        let http =
            Http::new(config.authority.as_deref()).map_err(|e| InvalidSinkConfig(e.to_string()))?;
        Ok(Self { http, timeout: config.timeout, sinks })
    }

    /// Names of the sinks, without secrets: `event`, `webhook:HOST/` with eight digits of the
    /// digest of form and URL, `alertmanager:HOST:PORT` (with eight digits of the digest of its
    /// path, where it has one). The same configuration gives the same names, so that they may be
    /// stored; a webhook with another URL is another sink.
    pub fn names(&self) -> Vec<String> {
        self.sinks.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Delivers alerts to a sink. Each request takes [`SinkConfig::timeout`] at most. There is one
    /// request for 100 alerts, or up to three for each alert where the sink is Events. Stops at the
    /// first request that shows that the receiver cannot be reached.
    ///
    /// # Errors
    /// See [`AlertUndelivered`].
    pub async fn deliver(&self, sink: &str, alerts: &[Alert]) -> Result<(), AlertUndelivered> {
        let Some((_, found)) = self.sinks.iter().find(|(name, _)| name == sink) else {
            return Err(AlertUndelivered::Never(format!("{sink} is not configured any more")));
        };
        match found {
            Sink::Event(events) => events.deliver(alerts).await,
            Sink::Webhook(form, target) => {
                // People read Slack: all alerts are one message.
                let together = match form {
                    WebhookForm::Slack => alerts.len().max(1),
                    WebhookForm::Json => TOGETHER,
                };
                let some = alerts.chunks(together);
                let bodies = some.map(|some| (form.body(some), Some(idempotency_key(some))));
                target.post_all(&self.http, self.timeout, bodies).await
            }
            Sink::Alertmanager(target) => {
                let bodies = alerts.chunks(TOGETHER).map(|some| (body::alertmanager(some), None));
                target.post_all(&self.http, self.timeout, bodies).await
            }
        }
    }

    /// How often an open alert must be delivered again to a sink; `None` where once is enough. An
    /// Alertmanager that does not get an alert again resolves it: so alerts end there.
    pub fn repeat_after(&self, sink: &str) -> Option<Duration> {
        let (_, to) = self.sinks.iter().find(|(name, _)| name == sink)?;
        matches!(to, Sink::Alertmanager(_)).then_some(REPEAT_AFTER)
    }
}

/// Adds a sink that is not there yet. The same webhook twice is one sink.
fn add(sinks: &mut Vec<(String, Sink)>, sink: Sink) -> Result<(), InvalidSinkConfig> {
    let (Sink::Webhook(_, target) | Sink::Alertmanager(target)) = &sink else { return Ok(()) };
    let name = target.name().to_owned();
    match sinks.iter().find(|(n, _)| *n == name) {
        None => sinks.push((name, sink)),
        Some((_, Sink::Webhook(_, other) | Sink::Alertmanager(other))) if other == target => {}
        Some(_) => {
            return Err(InvalidSinkConfig(format!(
                "{name} is there twice, with different headers or addresses"
            )));
        }
    }
    Ok(())
}

/// How long to wait after an attempt that failed, by its number (from 1): a second, doubled each
/// time, five minutes at most. Up to a fifth less, by the alert's id, so that alerts that failed
/// together are not tried together again.
pub fn backoff(attempt: u32, id: &str) -> Duration {
    let full = Duration::from_secs(1 << attempt.saturating_sub(1).min(10)).min(LONGEST_BACKOFF);
    let [a, b, ..] = digest(format!("{attempt}/{id}").as_bytes());
    full - full / 5 * u32::from(u16::from_be_bytes([a, b])) / u32::from(u16::MAX)
}

/// The same key for the same alerts, also when their numbers have changed. An alert that is raised
/// anew has another.
fn idempotency_key(alerts: &[Alert]) -> String {
    let all: Vec<String> = alerts.iter().map(|a| format!("{} {}\n", a.raised, a.id())).collect();
    hex(all.concat().as_bytes(), 16)
}
