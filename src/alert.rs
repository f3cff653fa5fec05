//! Alerts out: Kubernetes Events, webhooks, Alertmanagers.
//!
//! Owns what each receiver is told, and what its answer means. Delivering an alert again tells
//! nothing new: its id makes it the same Event, the same `Idempotency-Key`, the same labels. Must
//! never decide which alert goes out, nor remember which did, nor retry: that is whoever keeps the
//! alerts; and never name the path of a webhook, which lets everybody write to it.

mod body;
mod config;
mod event;
mod post;
mod words;

use std::time::Duration;

use crate::http::Http;
use crate::model::Alert;
use event::Events;
use post::Target;
use words::{digest, hex};

pub use config::{Config, Form, Invalid, Webhook};
pub use words::Undelivered;

/// Alerts in a request, at most. Receivers refuse what is too large, some at 1 MiB.
const TOGETHER: usize = 100;
/// How often an Alertmanager has to hear of an alert: it takes one for resolved after
/// `resolve_timeout`, 5 minutes unless configured.
const AGAIN: Duration = Duration::from_secs(120);
/// Longest wait between two attempts.
const LONGEST: Duration = Duration::from_secs(300);

#[derive(Debug)]
enum Sink {
    Event(Box<Events>),
    Webhook(Form, Target),
    Alertmanager(Target),
}

/// Where alerts go, ready to be used.
#[derive(Debug)]
pub struct Sinks {
    http: Http,
    within: Duration,
    sinks: Vec<(String, Sink)>,
}

impl Sinks {
    /// `client`: for Events, with the rights that the rule below grants (in each namespace that is
    /// watched, or as a ClusterRole). Connects to nothing yet.
    ///
    /// ```yaml
    /// - {apiGroups: [events.k8s.io], resources: [events], verbs: [create, patch]}
    /// # For the UID of the workload; without it Events show in `kubectl get events`, but not in `kubectl describe`.
    /// - {apiGroups: [apps], resources: [deployments, statefulsets, daemonsets, replicasets], verbs: [get]}
    /// - {apiGroups: [batch], resources: [jobs, cronjobs], verbs: [get]}
    /// - {apiGroups: [argoproj.io], resources: [rollouts], verbs: [get]}
    /// - {apiGroups: [""], resources: [pods], verbs: [get]}
    /// ```
    ///
    /// # Errors
    /// When an address or a header cannot be used, two sinks cannot be told apart, there is no
    /// authority in its file, or Events are wanted and there is no client.
    pub fn new(config: &Config, client: Option<kube::Client>) -> Result<Self, Invalid> {
        let mut sinks = Vec::new();
        if config.event {
            let client =
                client.ok_or_else(|| Invalid("alerts as Events need an API server".to_owned()))?;
            sinks.push((
                "event".to_owned(),
                Sink::Event(Box::new(Events::new(client, config.within))),
            ));
        }
        for webhook in &config.webhooks {
            let target = Target::webhook(webhook)?;
            add(&mut sinks, Sink::Webhook(webhook.form, target))?;
        }
        for url in &config.alertmanagers {
            add(
                &mut sinks,
                Sink::Alertmanager(Target::alertmanager(url, &config.alertmanager_headers)?),
            )?;
        }
        let http = Http::new(config.authority.as_deref()).map_err(|e| Invalid(e.to_string()))?;
        Ok(Self { http, within: config.within, sinks })
    }

    /// Names of the sinks, without secrets: `event`, `webhook:HOST/` with eight digits of the
    /// digest of form and URL, `alertmanager:HOST:PORT` (with eight digits of the digest of its
    /// path, where it has one). The same for the same configuration, so that they may be kept on a
    /// disk; a webhook with another URL is another sink.
    pub fn names(&self) -> Vec<String> {
        self.sinks.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Tells a sink of alerts. Takes [`Config::within`] for each request, of which there is one for
    /// 100 alerts, and up to three for each alert where the sink is Events; stops at the first that
    /// shows that the receiver is away.
    ///
    /// # Errors
    /// See [`Undelivered`].
    pub async fn deliver(&self, sink: &str, alerts: &[Alert]) -> Result<(), Undelivered> {
        let Some((_, to)) = self.sinks.iter().find(|(name, _)| name == sink) else {
            return Err(Undelivered::Never(format!("{sink} is not configured any more")));
        };
        match to {
            Sink::Event(events) => events.deliver(alerts).await,
            Sink::Webhook(form, target) => {
                // Those of Slack are people: one message, however much there is.
                let together = if *form == Form::Slack { alerts.len().max(1) } else { TOGETHER };
                let bodies = alerts.chunks(together).map(|some| (form.body(some), Some(key(some))));
                target.post_all(&self.http, self.within, bodies).await
            }
            Sink::Alertmanager(target) => {
                let bodies = alerts.chunks(TOGETHER).map(|some| (body::alertmanager(some), None));
                target.post_all(&self.http, self.within, bodies).await
            }
        }
    }

    /// How often a sink has to be told of an alert as long as it is open; `None` where once is
    /// enough. An Alertmanager that is not told again resolves it by itself: that is how an alert
    /// ends there.
    pub fn wants_again(&self, sink: &str) -> Option<Duration> {
        let (_, to) = self.sinks.iter().find(|(name, _)| name == sink)?;
        matches!(to, Sink::Alertmanager(_)).then_some(AGAIN)
    }
}

/// Adds a sink that is not there yet. The same webhook twice is one sink.
fn add(sinks: &mut Vec<(String, Sink)>, sink: Sink) -> Result<(), Invalid> {
    let (Sink::Webhook(_, target) | Sink::Alertmanager(target)) = &sink else { return Ok(()) };
    let name = target.name().to_owned();
    match sinks.iter().find(|(n, _)| *n == name) {
        None => sinks.push((name, sink)),
        Some((_, Sink::Webhook(_, other) | Sink::Alertmanager(other))) if other == target => {}
        Some(_) => {
            return Err(Invalid(format!(
                "{name} is there twice, with different headers or addresses"
            )));
        }
    }
    Ok(())
}

/// How long to wait after so many attempts that failed (from 1): a second, doubled each time, five
/// minutes at most; up to a fifth less, by the alert's id, so that what failed together is not
/// tried together again.
pub fn backoff(attempt: u32, id: &str) -> Duration {
    let full = Duration::from_secs(1 << attempt.saturating_sub(1).min(10)).min(LONGEST);
    let [a, b, ..] = digest(format!("{attempt}/{id}").as_bytes());
    full - full / 5 * u32::from(u16::from_be_bytes([a, b])) / u32::from(u16::MAX)
}

/// The same for the same alerts each time that they are raised, whatever has been counted since.
fn key(alerts: &[Alert]) -> String {
    let all: Vec<String> = alerts.iter().map(|a| format!("{} {}\n", a.raised, a.id())).collect();
    hex(all.concat().as_bytes(), 16)
}
