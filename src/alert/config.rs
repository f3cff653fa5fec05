//! The configuration of sinks.
//!
//! Owns what may be shown of it. Must never show a secret: neither a path nor a header.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;

/// The form of the requests to a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookForm {
    /// `{"version": 1, "alerts": [...]}`, at most 100 alerts in each request.
    Json,
    /// `{"text": "..."}` for Slack and services like it: a line for each alert, at most 20.
    Slack,
}

/// An address that takes alerts by POST.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    /// `http` or `https`. Path and query may be secret.
    pub url: Uri,
    /// The form of its requests.
    pub form: WebhookForm,
    /// Headers of its requests, such as `Authorization`. Values are secrets.
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

/// Where alerts are delivered.
#[derive(Clone)]
pub struct SinkConfig {
    /// As Kubernetes Events about the workload.
    pub event: bool,
    /// To these webhooks.
    pub webhooks: Vec<Webhook>,
    /// To each of these Alertmanagers, as Alertmanager's documentation asks of clients of a
    /// cluster. A URL has the path before `/api/v2`, where there is one.
    pub alertmanagers: Vec<Uri>,
    /// Headers for each Alertmanager. Values are secrets.
    pub alertmanager_headers: Vec<(String, String)>,
    /// File of certificates (PEM) to trust in place of the system's, for webhooks and
    /// Alertmanagers.
    pub authority: Option<PathBuf>,
    /// How long a receiver may take for one answer.
    pub timeout: Duration,
}

impl Default for SinkConfig {
    fn default() -> Self {
        Self {
            event: false,
            webhooks: Vec::new(),
            alertmanagers: Vec::new(),
            alertmanager_headers: Vec::new(),
            authority: None,
            timeout: Duration::from_secs(10),
        }
    }
}

impl fmt::Debug for SinkConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<_> = self.alertmanagers.iter().map(Uri::host).collect();
        f.debug_struct("SinkConfig")
            .field("event", &self.event)
            .field("webhooks", &self.webhooks)
            .field("alertmanagers", &hosts)
            .field("authority", &self.authority)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Why no sink can be made of a configuration. Contains no secret.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSinkConfig(pub(super) String);
