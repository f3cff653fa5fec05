//! Where alerts go, as it is configured.
//!
//! Owns what may be said of it. Must never show a secret: neither a path, nor a header.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;

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
pub struct Invalid(pub(super) String);
