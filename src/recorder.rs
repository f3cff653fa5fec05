//! The recorder: a cluster's memory. Composes receiving, keeping, resolving, learning, serving.
//!
//! Owns the life of its parts. Must never acknowledge what is not on the disk.

mod api;
mod app;
mod asking;
pub mod auth;
mod courier;
pub mod engine;
mod metrics;
mod places;
pub mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::alert::{self, Sinks};
use crate::life::{Signals, Worker, reason};
use crate::ops;
use crate::serve::{self, Door};
use crate::store::Store;
use crate::view::{Extent, KindStatus, View};
use app::App;
use auth::{Agents, Gate};
use engine::{Engine, Pace};
use tls::{Certificate, Files};

/// How to run.
pub struct Config {
    /// Where agents and people are served.
    pub address: SocketAddr,
    /// With this certificate; plain without one.
    pub tls: Option<Files>,
    /// Who agents are; absent where everybody may do everything.
    pub agents: Option<Agents>,
    /// Where metrics and health are served.
    pub listen: Option<SocketAddr>,
    /// Of resolving.
    pub pace: Pace,
    /// Where alerts go.
    pub sinks: alert::Config,
    /// DNS domain of the cluster; `None`: as the proxies of its pods have it.
    pub domain: Option<String>,
    /// How long draining may take.
    pub drain: Duration,
}

/// What the recorder knows the cluster by.
pub enum Knowledge {
    /// A snapshot that does not change.
    Fixed(View),
    /// The API server.
    Api(kube::Client),
}

/// Runs until a signal comes or a part of it ends.
///
/// # Errors
/// When it cannot begin, or a part of it failed.
pub fn run(
    runtime: tokio::runtime::Runtime,
    config: Config,
    store: Store,
    knowledge: Knowledge,
) -> anyhow::Result<()> {
    runtime.block_on(live(config, store, knowledge))
}

async fn live(config: Config, store: Store, knowledge: Knowledge) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let (stop, stopped) = watch::channel(false);
    let client = match &knowledge {
        Knowledge::Fixed(_) => None,
        Knowledge::Api(client) => Some(client.clone()),
    };
    let sinks = Sinks::new(&config.sinks, client)?;
    let (view, watching, gate) = match knowledge {
        Knowledge::Fixed(view) => {
            anyhow::ensure!(
                config.agents.is_none(),
                "without an API server nobody can be asked who a token belongs to: pass --no-auth"
            );
            (view, None, None)
        }
        Knowledge::Api(client) => {
            let gate = config.agents.map(|agents| Gate::new(client.clone(), agents));
            let (view, task) = View::start(
                client,
                Extent::Cluster,
                config.domain,
                store.noted()?,
                stopped.clone(),
            );
            (view, Some(task), gate)
        }
    };
    let certificate = config.tls.map(Certificate::read).transpose().map_err(anyhow::Error::msg)?;
    let (connections, _) = serve::limits();
    let door = Door::new(connections);
    let listener = TcpListener::bind(config.address).await.map_err(|e| {
        anyhow::anyhow!("cannot serve on {}: {e}; choose another with --address", config.address)
    })?;
    let (engine, work) = Engine::new(store, view.clone(), config.pace);
    let mut working = Worker::start("store", move || work.run())?;
    let delivered = Arc::new(courier::Counters::default());
    let courier =
        tokio::spawn(courier::run(engine.clone(), sinks, Arc::clone(&delivered), stopped.clone()));
    let app = Arc::new(App::new(engine.clone(), gate, view.clone()));
    let operations = match config.listen {
        Some(address) => {
            let metrics =
                metrics::Metrics { app: Arc::clone(&app), delivered, door: Arc::clone(&door) };
            let missing = move || missing(&view);
            let trouble = {
                let door = Arc::clone(&door);
                move || door.trouble().into_iter().collect()
            };
            let name = "sidecarta_recorder";
            Some(ops::start(address, name, metrics, missing, trouble, stopped.clone()).await?)
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
        r = &mut working.ended => reasons.extend(reason("store", r)),
    }
    let _ = stop.send(true);
    let drained = async {
        // Requests end before the store does: what they bring is acknowledged or refused.
        let _ = serving.await;
        let _ = courier.await;
        if !working.ended.is_terminated() {
            tokio::task::spawn_blocking(move || engine.stop())
                .await
                .map_err(anyhow::Error::from)?;
            reasons.extend(reason("store", (&mut working.ended).await));
        }
        for task in watching.into_iter().chain(operations) {
            let _ = task.await;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        r = drained => r?,
        name = signals.next() => anyhow::bail!("aborted by {name} while draining; what was acknowledged is on the disk"),
        () = tokio::time::sleep(config.drain) => anyhow::bail!("draining took longer than {:?} and was given up", config.drain),
    }
    working.join();
    anyhow::ensure!(reasons.is_empty(), "{}", reasons.join("; "));
    tracing::info!("everything is written");
    Ok(())
}

/// What readiness lacks. A kind that the cluster does not have is no lack.
fn missing(view: &View) -> Vec<String> {
    let status = view.status();
    let lacking = |s: &KindStatus| matches!(s, KindStatus::Listing | KindStatus::Forbidden(_));
    let mut out: Vec<String> = status
        .kinds
        .iter()
        .filter(|(_, s)| lacking(s))
        .map(|(kind, s)| format!("{kind}: {s}"))
        .collect();
    if !status.synced && out.is_empty() {
        out.push("the view of the cluster is not complete".to_owned());
    }
    out
}
