//! Alerts out: Kubernetes Events, webhooks, Alertmanagers.
//!
//! Owns what each receiver is told, and what its answer means. Delivering an alert again tells
//! nothing new: its id makes it the same Event, the same `Idempotency-Key`, the same labels. Must
//! never decide which alert goes out, nor remember which did, nor retry: that is whoever keeps the
//! alerts; and never name the path of a webhook, which lets everybody write to it.

mod body;
mod event;
mod post;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;
use rustls::SupportedCipherSuite;
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;

use crate::http::Http;
use crate::model::{Alert, AlertKind};
use event::Events;
use post::Target;

/// Alerts in a request, at most. Receivers refuse what is too large, some at 1 MiB.
const TOGETHER: usize = 100;
/// How often an Alertmanager has to hear of an alert: it takes one for resolved after
/// `resolve_timeout`, 5 minutes unless configured.
const AGAIN: Duration = Duration::from_secs(120);
/// Longest wait between two attempts.
const LONGEST: Duration = Duration::from_secs(300);
/// Longest wait that a receiver may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(3600);

/// What a webhook takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `{"version": 1, "alerts": [...]}`, at most 100 alerts in each request.
    Json,
    /// `{"text": "..."}` for Slack and its kin: a line for each alert, at most 20.
    Slack,
}

/// An address that takes alerts by POST.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Where; `http` or `https`. Path and query may hold a secret.
    pub url: Uri,
    /// What it takes.
    pub form: Form,
    /// Headers to send along, such as `Authorization`. Values are secrets.
    pub headers: Vec<(String, String)>,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook")
            .field("host", &self.url.host())
            .field("form", &self.form)
            .finish_non_exhaustive()
    }
}

/// Where alerts go.
#[derive(Clone)]
pub struct Config {
    /// To Kubernetes Events at the workload.
    pub event: bool,
    /// To these webhooks.
    pub webhooks: Vec<Webhook>,
    /// To these Alertmanagers, all of them, as Alertmanager's clusters want it. The path before
    /// `/api/v2`, where there is one.
    pub alertmanagers: Vec<Uri>,
    /// Headers for each Alertmanager. Values are secrets.
    pub alertmanager_headers: Vec<(String, String)>,
    /// File of certificates (PEM) to trust in place of the system's, for webhooks and
    /// Alertmanagers.
    pub authority: Option<PathBuf>,
    /// How long a receiver may take for one answer.
    pub within: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            event: false,
            webhooks: Vec::new(),
            alertmanagers: Vec::new(),
            alertmanager_headers: Vec::new(),
            authority: None,
            within: Duration::from_secs(10),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<_> = self.alertmanagers.iter().map(Uri::host).collect();
        f.debug_struct("Config")
            .field("event", &self.event)
            .field("webhooks", &self.webhooks)
            .field("alertmanagers", &hosts)
            .field("authority", &self.authority)
            .field("within", &self.within)
            .finish_non_exhaustive()
    }
}

/// Why no sink can be made of a configuration. Tells no secret.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(String);

/// Why alerts were not delivered. Tells no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undelivered {
    /// They may be later, all of them once more: those that were delivered take no harm.
    #[error("{why}")]
    Later {
        /// The reason.
        why: String,
        /// How long the receiver asks to wait, an hour at most; [`backoff`] may be longer.
        after: Option<Duration>,
    },
    /// Some of them will never be; the others are.
    #[error("{0}")]
    Never(String),
}

impl Undelivered {
    fn later(why: impl Into<String>, after: Option<Duration>) -> Self {
        Self::Later { why: why.into(), after: after.map(|a| a.min(LONGEST_ASKED)) }
    }
}

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

/// Words for a kind where Kubernetes and Prometheus want them in one.
fn reason(kind: AlertKind) -> &'static str {
    match kind {
        AlertKind::NewDependency => "NewDependency",
        AlertKind::ScopeMiss => "ScopeMiss",
        AlertKind::Ambiguous => "AmbiguousDestination",
        AlertKind::CoverageLost => "CoverageLost",
        AlertKind::NewWorkload => "NewWorkload",
        AlertKind::ForgedSource => "ForgedSource",
    }
}

/// SHA-256, as TLS brings it. Parts of an alert's id come from the wire: with a lesser digest, a
/// caller could choose a name that hides one alert behind another.
fn digest(bytes: &[u8]) -> [u8; 32] {
    let hash = match TLS13_AES_128_GCM_SHA256 {
        SupportedCipherSuite::Tls13(suite) => suite.common.hash_provider,
        SupportedCipherSuite::Tls12(suite) => suite.common.hash_provider,
    };
    let mut out = [0; 32];
    for (to, from) in out.iter_mut().zip(hash.hash(bytes).as_ref()) {
        *to = *from;
    }
    out
}

/// The first bytes of the digest, two digits each.
fn hex(bytes: &[u8], length: usize) -> String {
    digest(bytes).iter().take(length).map(|b| format!("{b:02x}")).collect()
}

/// The beginning of a text, `limit` bytes at most, with an ellipsis where something is missing.
fn cut(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let mut end = limit.saturating_sub('…'.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}
