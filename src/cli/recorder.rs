//! `sidecarta recorder`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use hyper::Uri;

use super::duration::duration;
use super::log::{LogOptions, listen};
use super::{CommandOutcome, SnapshotOptions, StoreOptions};
use crate::alert::{self, Webhook, WebhookForm};
use crate::generate::readiness::{StartRule, Thresholds};
use crate::novelty::AlertPatience;
use crate::recorder::auth::AgentAccount;
use crate::recorder::engine::MergePace;
use crate::recorder::tls::CertificateFiles;
use crate::recorder::{ClusterSource, RecorderConfig, run as live};
use crate::snapshot;
use crate::verify::NodeIdentity;
use crate::view::View;

const EXAMPLE: &str = "\
Examples:
  sidecarta recorder --store /var/lib/sidecarta --tls-cert tls.crt --tls-key tls.key
  sidecarta recorder --no-auth --address 127.0.0.1:15098 --cluster cluster.yaml

Agents send to it with `sidecarta agent --to https://HOST:15098`, people ask it with \
`--recorder https://HOST:15098`.";

/// Receive what agents see, learn from it and store it, for a whole cluster
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct RecorderRunOptions {
    #[command(flatten)]
    store: StoreOptions,
    /// Where agents and people are served
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "0.0.0.0:15098",
        env = "SIDECARTA_ADDRESS"
    )]
    address: SocketAddr,
    /// Certificate chain in PEM; read again when it changes
    #[arg(long, value_name = "FILE", requires = "tls_key", env = "SIDECARTA_TLS_CERT")]
    tls_cert: Option<PathBuf>,
    /// Its key in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert", env = "SIDECARTA_TLS_KEY")]
    tls_key: Option<PathBuf>,
    /// ServiceAccount of the agents
    #[arg(
        long,
        value_name = "NAMESPACE/NAME",
        default_value = "sidecarta/sidecarta-agent",
        value_parser = account
    )]
    agent_account: (String, String),
    /// Audience that the agents' tokens are made for
    #[arg(long, value_name = "NAME", default_value = "sidecarta-recorder")]
    audience: String,
    /// Turn authentication off; only where nobody else can reach the address
    #[arg(long)]
    no_auth: bool,
    #[command(flatten)]
    cluster: SnapshotOptions,
    /// How long a batch waits before it is resolved, so that the watches can deliver new pods and
    /// Services first
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    settle: Duration,
    /// How long a batch waits for the API server; then it is resolved with what is known, and
    /// counted
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    patience: Duration,
    /// How long to store what agents send about pods that the API server does not know: nothing is
    /// learned from it unless the API server knows the pod within that time
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration)]
    unverified_for: Duration,
    /// Accept a workload's dependencies automatically once it was watched for this long (and
    /// --accept-confidence is reached)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    accept_after: Option<Duration>,
    /// With --accept-after: least confidence that the next connection is of a known dependency, 0
    /// to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.99)]
    accept_confidence: f64,
    /// Alerts as Events on the workloads: `kubectl get events` shows them
    #[arg(long)]
    event: bool,
    /// Alerts as JSON to this URL; may be repeated
    #[arg(
        long,
        value_name = "URL",
        env = "SIDECARTA_WEBHOOK",
        value_delimiter = ' ',
        hide_env_values = true
    )]
    webhook: Vec<Uri>,
    /// Alerts to this incoming webhook of Slack; may be repeated
    #[arg(
        long,
        value_name = "URL",
        env = "SIDECARTA_SLACK",
        value_delimiter = ' ',
        hide_env_values = true
    )]
    slack: Vec<Uri>,
    /// Alerts to this Alertmanager (API v2); may be repeated
    #[arg(long, value_name = "URL", env = "SIDECARTA_ALERTMANAGER", value_delimiter = ' ')]
    alertmanager: Vec<Uri>,
    /// Authority that signed the certificates of webhooks and Alertmanagers, in PEM [default: those
    /// of the system]
    #[arg(long, value_name = "FILE")]
    alert_ca_file: Option<PathBuf>,
    /// Serve /metrics, /healthz and /readyz here; `none` serves nothing
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:15097",
        env = "SIDECARTA_LISTEN"
    )]
    listen: String,
    /// How long draining may take when a signal has come
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = duration)]
    drain: Duration,
    #[command(flatten)]
    log: LogOptions,
}

fn account(text: &str) -> Result<(String, String), String> {
    let (namespace, name) = text.split_once('/').ok_or("write NAMESPACE/NAME")?;
    Ok((namespace.to_owned(), name.to_owned()))
}

fn sinks(options: &RecorderRunOptions) -> alert::SinkConfig {
    let hook = |url: &Uri, form| Webhook { url: url.clone(), form, headers: Vec::new() };
    let json = options.webhook.iter().map(|u| hook(u, WebhookForm::Json));
    alert::SinkConfig {
        event: options.event,
        webhooks: json.chain(options.slack.iter().map(|u| hook(u, WebhookForm::Slack))).collect(),
        alertmanagers: options.alertmanager.clone(),
        authority: options.alert_ca_file.clone(),
        ..alert::SinkConfig::default()
    }
}

/// Runs `sidecarta recorder`.
pub(super) fn run(options: &RecorderRunOptions) -> anyhow::Result<CommandOutcome> {
    options.log.init()?;
    crate::life::prepare_long_run();
    let tls = options
        .tls_cert
        .clone()
        .zip(options.tls_key.clone())
        .map(|(certificate, key)| CertificateFiles { certificate, key });
    let local = options.address.ip().is_loopback();
    anyhow::ensure!(
        !options.no_auth || local,
        "--no-auth lets everybody read and write everything: only with a loopback --address"
    );
    anyhow::ensure!(
        tls.is_some() || local,
        "tokens would pass the network in the clear: pass --tls-cert and --tls-key, or a loopback \
         --address"
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(8)
        .enable_all()
        .build()?;
    let mut partial = false;
    let knowledge = if options.cluster.cluster.is_empty() {
        ClusterSource::Api(runtime.block_on(crate::view::client(None, None))?)
    } else {
        let (cluster, report) =
            snapshot::load(&options.cluster.cluster, options.cluster.cluster_domain.as_deref())?;
        partial = super::report_snapshot(&report);
        ClusterSource::Snapshot(View::fixed(cluster))
    };
    let config = RecorderConfig {
        address: options.address,
        tls,
        agents: (!options.no_auth).then(|| AgentAccount {
            account: options.agent_account.clone(),
            audience: options.audience.clone(),
        }),
        listen: listen(&options.listen)?,
        pace: MergePace {
            delay: options.settle,
            longest_delay: options.patience,
            unverified_for: options.unverified_for,
            node: if options.no_auth { NodeIdentity::Claimed } else { NodeIdentity::Proven },
            patience: AlertPatience::default(),
            accept: options.accept_after.map(|after| Thresholds {
                start: StartRule::MayBeUnseen,
                min_coverage: u64::try_from(after.as_nanos()).unwrap_or(u64::MAX),
                min_confidence: options.accept_confidence,
            }),
        },
        sinks: sinks(options),
        domain: options.cluster.cluster_domain.clone(),
        drain: options.drain,
    };
    live(runtime, config, options.store.create()?, knowledge)?;
    Ok(if partial { CommandOutcome::Partial } else { CommandOutcome::Done })
}
