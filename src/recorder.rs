//! The recorder: it receives what the agents of a cluster send, stores it, resolves it, learns from
//! it, and serves what was learned.
//!
//! Owns the lives of its threads and tasks. Must never acknowledge what is not on the disk.

mod agents;
mod api;
mod app;
pub mod auth;
mod courier;
pub mod engine;
mod metrics;
mod request;
mod slots;
pub mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::alert::{SinkConfig, Sinks};
use crate::life::{Signals, Worker, reason};
use crate::ops;
use crate::serve::{self, Door};
use crate::store::Store;
use crate::view::{Extent, KindStatus, View};
use agents::AgentsHeard;
use app::App;
use auth::{AgentAccount, Authorizer};
use courier::DeliveryCounters;
use engine::{Engine, MergePace};
use metrics::RecorderMetrics;
use tls::{Certificate, CertificateFiles};

/// How to run.
pub struct RecorderConfig {
    /// Where agents and people are served.
    pub address: SocketAddr,
    /// The certificate to serve with; `None`: without TLS.
    pub tls: Option<CertificateFiles>,
    /// How agents identify themselves; `None`: everybody may do everything.
    pub agents: Option<AgentAccount>,
    /// Where metrics and health are served; `None`: nowhere.
    pub listen: Option<SocketAddr>,
    /// When batches are merged.
    pub pace: MergePace,
    /// Where alerts are delivered.
    pub sinks: SinkConfig,
    /// DNS domain of the cluster; `None`: that of the proxies of its pods.
    pub domain: Option<String>,
    /// How long draining may take.
    pub drain: Duration,
}

/// Where the recorder has the objects of the cluster from.
pub enum ClusterSource {
    /// A snapshot, which does not change.
    Snapshot(View),
    /// The API server.
    Api(kube::Client),
}

/// Runs until a signal comes or one of its threads ends.
///
/// # Errors
/// When it cannot begin, or one of its threads failed.
pub fn run(
    runtime: tokio::runtime::Runtime,
    config: RecorderConfig,
    store: Store,
    cluster: ClusterSource,
) -> anyhow::Result<()> {
    runtime.block_on(live(config, store, cluster))
}

async fn live(config: RecorderConfig, store: Store, cluster: ClusterSource) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let (stop, stopped) = watch::channel(false);
    let sinks = Sinks::new(&config.sinks, cluster.client())?;
    let ClusterAccess { view, watching, authorizer } =
        ClusterAccess::start(cluster, config.agents, config.domain, &store, stopped.clone())?;
    let certificate = config.tls.map(Certificate::read).transpose().map_err(anyhow::Error::msg)?;
    let (connections, _) = serve::limits();
    let door = Door::new(connections);
    let listener = TcpListener::bind(config.address).await.map_err(|e| {
        anyhow::anyhow!("cannot serve on {}: {e}; choose another with --address", config.address)
    })?;
    let agents = AgentsHeard::of_sources(&store.sources()?);
    let (engine, worker) = Engine::new(store, view.clone(), config.pace);
    let mut thread = Worker::start("store", move || worker.run())?;
    let delivered = Arc::new(DeliveryCounters::default());
    let delivery = courier::run(engine.clone(), sinks, Arc::clone(&delivered), stopped.clone());
    let courier = tokio::spawn(delivery);
    let app = Arc::new(App::new(engine.clone(), authorizer, view.clone(), agents));
    let operations = match config.listen {
        Some(address) => {
            let metrics =
                RecorderMetrics { app: Arc::clone(&app), delivered, door: Arc::clone(&door) };
            Some(start_operations(address, metrics, view, stopped.clone()).await?)
        }
        None => None,
    };
    let address = listener.local_addr()?;
    let serving = tokio::spawn(serve::serve(
        listener,
        api::router(app),
        certificate.map(Certificate::acceptor),
        door,
        stopped.clone(),
    ));
    tracing::info!(%address, "the recorder runs");

    let mut reasons = Vec::new();
    tokio::select! {
        name = signals.next() => tracing::info!(signal = name, "draining; a second signal aborts"),
        r = &mut thread.ended => reasons.extend(reason("store", r)),
    }
    let _ = stop.send(true);
    let drained = async {
        // Requests end before the store does: their batches are acknowledged or refused.
        let _ = serving.await;
        let _ = courier.await;
        if !thread.ended.is_terminated() {
            tokio::task::spawn_blocking(move || engine.stop())
                .await
                .map_err(anyhow::Error::from)?;
            reasons.extend(reason("store", (&mut thread.ended).await));
        }
        for task in watching.into_iter().chain(operations) {
            let _ = task.await;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        r = drained => r?,
        name = signals.next() => anyhow::bail!(
            "aborted by {name} while draining; what was acknowledged is on the disk"
        ),
        () = tokio::time::sleep(config.drain) => anyhow::bail!(
            "draining took longer than {:?} and was given up", config.drain
        ),
    }
    thread.join();
    anyhow::ensure!(reasons.is_empty(), "{}", reasons.join("; "));
    tracing::info!("everything is written");
    Ok(())
}

impl ClusterSource {
    /// The client of the API server, where there is one.
    fn client(&self) -> Option<kube::Client> {
        match self {
            Self::Snapshot(_) => None,
            Self::Api(client) => Some(client.clone()),
        }
    }
}

/// What the recorder has of the cluster while it runs.
struct ClusterAccess {
    view: View,
    /// The task of the watches.
    watching: Option<JoinHandle<()>>,
    authorizer: Option<Authorizer>,
}

impl ClusterAccess {
    fn start(
        cluster: ClusterSource,
        agents: Option<AgentAccount>,
        domain: Option<String>,
        store: &Store,
        stopped: watch::Receiver<bool>,
    ) -> anyhow::Result<Self> {
        match cluster {
            ClusterSource::Snapshot(view) => {
                anyhow::ensure!(
                    agents.is_none(),
                    "without an API server nobody can be asked who a token belongs to: pass \
                     --no-auth"
                );
                Ok(Self { view, watching: None, authorizer: None })
            }
            ClusterSource::Api(client) => {
                let authorizer = agents.map(|agents| Authorizer::new(client.clone(), agents));
                let saved = store.saved_view()?;
                let (view, task) = View::start(client, Extent::Cluster, domain, saved, stopped);
                Ok(Self { view, watching: Some(task), authorizer })
            }
        }
    }
}

/// Serves metrics and health.
async fn start_operations(
    address: SocketAddr,
    metrics: RecorderMetrics,
    view: View,
    stopped: watch::Receiver<bool>,
) -> anyhow::Result<JoinHandle<()>> {
    let missing = move || missing(&view);
    let door = Arc::clone(&metrics.door);
    let trouble = move || door.trouble().into_iter().collect();
    ops::start(address, "sidecarta_recorder", metrics, missing, trouble, stopped).await
}

/// What is missing for readiness. A kind that the cluster does not have is not missing.
fn missing(view: &View) -> Vec<String> {
    let status = view.status();
    let is_missing = |s: &KindStatus| matches!(s, KindStatus::Listing | KindStatus::Forbidden(_));
    let kinds = status.kinds.iter().filter(|(_, s)| is_missing(s));
    let mut out: Vec<String> = kinds.map(|(kind, s)| format!("{kind}: {s}")).collect();
    if !status.synced && out.is_empty() {
        out.push("the view of the cluster is not complete".to_owned());
    }
    out
}
