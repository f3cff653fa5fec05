//! The live agent: composes collecting, attribution, gathering and delivery, and their lives.
//!
//! Owns threads, signals and shutdown. Nothing ends unseen: whatever ends first ends the process,
//! with its reason. Must never decide what a packet means.

pub mod outbox;
pub mod outlet;
mod rights;
mod serve;
mod state;
pub mod waiting;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use sidecarta_capture::flow::KnownPorts;
use sidecarta_capture::live::collector::{
    Collector, Config as CollectorConfig, Control, Pods, Status as Collected, Told,
};
use sidecarta_capture::observation::Observation;
use tokio::sync::watch;

use crate::cluster::{Cluster, Pod};
use crate::life::{Part, Signals, reason};
use crate::model::{DataPlane, Time, counter};
use crate::observed::Gatherer;
use crate::view::View;
use outbox::{Outbox, Pace};
use outlet::Outlet;
use state::{Shared, lock};
use waiting::Waiting;

pub use rights::{Missing, keep_only_capture};

/// Told observations that wait for the pipeline.
const QUEUE: usize = 4;

/// How to run.
pub struct Config {
    /// Name of the node.
    pub node: String,
    /// Only pods of the node are told of.
    pub own_pods_only: bool,
    /// Of collecting.
    pub collector: CollectorConfig,
    /// How long an unknown address waits for the watch of pods.
    pub patience: Duration,
    /// Of delivery.
    pub pace: Pace,
    /// Directory of the spool.
    pub spool: Option<PathBuf>,
    /// Where metrics and health are served.
    pub listen: Option<SocketAddr>,
    /// How long draining may take.
    pub drain: Duration,
    /// The cluster that is asked whether the node is one of its own.
    pub check: Option<kube::Client>,
}

/// Runs until a signal comes or a part of it ends. `begin` gives the view, within the runtime that
/// its watches live in.
///
/// # Errors
/// When it cannot begin, or a part of it failed.
pub fn run<F>(
    runtime: tokio::runtime::Runtime,
    config: Config,
    outlet: impl FnOnce(View) -> Box<dyn Outlet>,
    begin: F,
) -> anyhow::Result<()>
where
    F: AsyncFnOnce(
        watch::Receiver<bool>,
    ) -> anyhow::Result<(View, Option<tokio::task::JoinHandle<()>>)>,
{
    runtime.block_on(live(config, outlet, begin))
}

async fn live<F>(
    config: Config,
    outlet: impl FnOnce(View) -> Box<dyn Outlet>,
    begin: F,
) -> anyhow::Result<()>
where
    F: AsyncFnOnce(
        watch::Receiver<bool>,
    ) -> anyhow::Result<(View, Option<tokio::task::JoinHandle<()>>)>,
{
    let mut signals = Signals::new()?;
    let (stop, stopped) = watch::channel(false);
    let (view, watching) = begin(stopped.clone()).await?;
    let state = Shared::default();
    let server = match config.listen {
        Some(address) => Some(serve::start(address, Arc::clone(&state), stopped.clone()).await?),
        None => None,
    };
    let mut gatherer = Gatherer::new(&config.node, &boot());
    let (outbox, problems) =
        Outbox::open(outlet(view.clone()), config.pace, config.spool.as_deref(), &mut gatherer)
            .map_err(|e| anyhow::anyhow!("cannot use the spool {:?}: {e}", config.spool))?;
    problems
        .iter()
        .for_each(|p| tracing::warn!(problem = %p, "a part of the spool cannot be read; the file is kept as spool.damaged"));
    let (collector, control) = Collector::open(config.collector.clone())?;
    let (told_in, told) = sync_channel(QUEUE);
    control.known(listening(&view.current()));
    control.pods(addresses(&view.current(), &config.node));
    let collecting =
        Part::start("collector", move || collector.run(&told_in).map_err(|e| e.to_string()))?;
    let waiting = Waiting::new(config.patience, config.own_pods_only.then(|| config.node.clone()));
    let known = view.clone();
    let pipeline = Pipeline {
        view,
        node: config.node.clone(),
        gatherer,
        outbox,
        waiting,
        state: Arc::clone(&state),
        control: control.clone(),
        counted: Collected::default(),
    };
    let (limit, settle) = (config.drain, config.pace.settle);
    let piping = Part::start("pipeline", move || pipeline.run(&told, settle))?;
    tracing::info!(node = %config.node, any = config.collector.any, sample = config.collector.handle.sample, "the agent runs");

    let (mut collecting, mut piping) = (collecting, piping);
    let mut absent = std::pin::pin!(absent(config.check, known, config.node));
    let mut reasons = Vec::new();
    tokio::select! {
        name = signals.next() => tracing::info!(signal = name, "draining; a second signal aborts"),
        r = &mut collecting.ended => reasons.extend(reason("collector", r)),
        r = &mut piping.ended => reasons.extend(reason("pipeline", r)),
        why = &mut absent => reasons.push(why),
    }
    lock(&state).draining = true;
    control.stop();
    let drained = async {
        for part in [&mut collecting, &mut piping] {
            if !part.ended.is_terminated() {
                let name = part.name;
                reasons.extend(reason(name, (&mut part.ended).await));
            }
        }
    };
    tokio::select! {
        () = drained => {}
        name = signals.next() => anyhow::bail!("aborted by {name} while draining: what was not delivered is lost, or in the spool"),
        () = tokio::time::sleep(limit) => anyhow::bail!("draining took longer than {limit:?} and was given up"),
    }
    let _ = stop.send(true);
    collecting.join();
    piping.join();
    for task in watching.into_iter().chain(server) {
        let _ = task.await;
    }
    anyhow::ensure!(reasons.is_empty(), "{}", reasons.join("; "));
    tracing::info!("everything is delivered");
    Ok(())
}

/// Waits until the cluster says that it has no such node, and gives what to say then: the pods of a
/// node that does not exist are none for ever.
async fn absent(client: Option<kube::Client>, mut view: View, node: String) -> String {
    const AGAIN: Duration = Duration::from_secs(60);
    let Some(client) = client else { return std::future::pending().await };
    view.ready().await;
    // Whose pods are known is there.
    if view.current().pods().iter().any(|p| *p.node == *node) {
        return std::future::pending().await;
    }
    let nodes: kube::Api<k8s_openapi::api::core::v1::Node> = kube::Api::all(client);
    loop {
        match nodes.get_metadata_opt(&node).await {
            Ok(Some(_)) => return std::future::pending().await,
            Ok(None) => {
                return format!(
                    "the cluster has no node {node}: pass --node with a name that `kubectl get nodes` shows"
                );
            }
            Err(kube::Error::Api(e)) if e.code == 403 => {
                tracing::warn!(%node, "no pod is known on this node, and whether there is such a node may not be asked: \
                     nothing is learned while that is so");
                return std::future::pending().await;
            }
            Err(error) => tracing::debug!(%error, "whether the node exists is not known yet"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Tells this run from all others.
fn boot() -> String {
    let random = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
    let started =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    match random.trim() {
        "" => format!("{:x}-{:x}", started.as_nanos(), std::process::id()),
        id => id.to_owned(),
    }
}

/// What the cluster says that listens.
fn listening(cluster: &Cluster) -> KnownPorts {
    let (sockets, ports) = cluster.listening();
    KnownPorts { sockets, ports }
}

/// The addresses of each pod of the node that runs; of all pods where none is known to be on it.
fn addresses(cluster: &Cluster, node: &str) -> Pods {
    let running = || {
        let all = cluster.pods().iter().filter(|p| p.end == Time::MAX && !p.addresses.is_empty());
        all.filter(|p| p.data_plane != DataPlane::HostNetwork)
    };
    let here = |p: &&Pod| *p.node == *node;
    let some = running().any(|p| here(&p));
    running().filter(|p| !some || here(p)).map(|p| Arc::clone(&p.addresses)).collect()
}

/// Attributes, gathers, delivers.
struct Pipeline {
    view: View,
    node: String,
    gatherer: Gatherer,
    outbox: Outbox,
    waiting: Waiting,
    state: Shared,
    control: Control,
    counted: Collected,
}

impl Pipeline {
    fn run(mut self, told: &Receiver<Told>, settle: Duration) -> Result<(), String> {
        let mut known: Option<Arc<Cluster>> = None;
        // Without a last word the collector has died, and says why.
        while let Ok(told) = told.recv() {
            // Before the indexes: those may become complete in between, and are no reason to give
            // up on anything.
            let synced = self.view.status().synced;
            let cluster = self.view.current();
            if known.as_ref().is_none_or(|k| !Arc::ptr_eq(k, &cluster)) {
                self.control.known(listening(&cluster));
                self.control.pods(addresses(&cluster, &self.node));
                known = Some(Arc::clone(&cluster));
            }
            let Told { now, observations, over, status, last } = told;
            self.count(&status, &observations);
            self.gatherer.count(counter::CONNECTIONS, over.values().sum());
            self.waiting.overflow(now, &over, &cluster, &mut self.gatherer);
            self.waiting.take(now, observations, &cluster, synced, last, &mut self.gatherer);
            if last && !settle.is_zero() {
                // The watch may still have to tell who was called.
                std::thread::sleep(settle);
            }
            self.outbox.step(Time(now), &mut self.gatherer, last)?;
            self.tell(status);
            if last {
                return self.finish();
            }
        }
        Ok(())
    }

    /// Tries for a while what could not be delivered at once.
    fn finish(&mut self) -> Result<(), String> {
        let until = Instant::now() + Duration::from_secs(5);
        while !self.outbox.is_empty() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(200));
            self.outbox.step(Time(0), &mut self.gatherer, true)?;
        }
        if self.outbox.is_empty() {
            return Ok(());
        }
        let why = self.outbox.progress.failing.as_deref().unwrap_or("no answer yet");
        Err(format!(
            "the last batch could not be delivered ({why}); it is in the spool where there is one"
        ))
    }

    /// What the capture layer has counted since the last tick.
    fn count(&mut self, status: &Collected, observations: &[Observation]) {
        let (mut connections, mut lookups) = (0, 0);
        for observation in observations {
            match observation {
                Observation::Connection(c) => connections += u64::from(c.is_new),
                Observation::Lookup(_) => lookups += 1,
                Observation::Interface(_) => {}
            }
        }
        self.gatherer.count(counter::CONNECTIONS, connections);
        self.gatherer.count(counter::LOOKUPS, lookups);
        let (now, before) = (named(status), named(&self.counted));
        for ((name, now), (_, before)) in now.into_iter().zip(before) {
            self.gatherer.count(name, now.saturating_sub(before));
        }
        self.counted = status.clone();
    }

    fn tell(&mut self, status: Collected) {
        let view = self.view.status();
        let mut state = lock(&self.state);
        state.collected = status;
        state.progress = self.outbox.progress.clone();
        state.counted = self.gatherer.totals();
        state.waiting = self.waiting.len();
        state.edges = self.gatherer.waiting();
        state.synced = view.synced;
        state.blind = view.blind().map(ToString::to_string);
        state.kinds =
            view.kinds.iter().map(|(kind, status)| (kind.clone(), status.to_string())).collect();
    }
}

/// All counters of collecting with their names.
pub(crate) fn named(status: &Collected) -> Vec<(&'static str, u64)> {
    let mut all = status.counters.named().to_vec();
    all.extend([
        ("ring-dropped", status.dropped.ring),
        ("interface-dropped", status.dropped.interface),
        ("unheard-observations", status.unheard),
        ("interfaces-not-opened", status.not_opened),
        ("interfaces-failed", status.failed),
        ("interface-changes-lost", status.links_lost),
        ("clock-steps", status.clock_steps),
    ]);
    all
}
