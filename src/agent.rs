//! The live agent: composes collecting, attribution, gathering and delivery.
//!
//! Owns its threads, signals and shutdown. If a thread ends, the whole process ends and prints the
//! reason. Must never decide what a packet means.

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

use sidecarta_capture::flow::ListeningPorts;
use sidecarta_capture::live::collector::{
    Collector, CollectorConfig, CollectorControl, CollectorReport, CollectorStatus, PodAddresses,
};
use sidecarta_capture::observation::Observation;
use tokio::sync::watch;

use crate::cluster::{Cluster, Pod};
use crate::life::{Signals, Worker, reason};
use crate::model::{DataPlane, Time, counter};
use crate::observed::Gatherer;
use crate::view::View;
use outbox::{DeliveryPace, Outbox};
use outlet::Outlet;
use state::{SharedState, lock};
use waiting::WaitingObservations;

pub use rights::{MissingCapability, keep_only_capture};

/// Reports of the collector that may wait for the pipeline.
const REPORT_QUEUE: usize = 4;

/// How the agent runs.
pub struct AgentConfig {
    /// Name of the node, as in `spec.nodeName` of its pods.
    pub node: String,
    /// Only calls of the node's own pods are sent.
    pub own_pods_only: bool,
    /// Which interfaces and packets are captured.
    pub collector: CollectorConfig,
    /// How long an observation of an unknown address waits until the watch delivers its pod.
    pub patience: Duration,
    /// When batches are made and delivered.
    pub pace: DeliveryPace,
    /// Directory of the spool.
    pub spool: Option<PathBuf>,
    /// Where metrics and health are served.
    pub listen: Option<SocketAddr>,
    /// How long draining may take.
    pub drain: Duration,
    /// Client of the API server that is asked whether the node exists.
    pub check: Option<kube::Client>,
}

/// Runs until a signal comes or one of its threads ends. `begin` makes the view within the runtime,
/// where the watches of the view run as tasks.
///
/// # Errors
/// When the agent cannot begin, or one of its threads failed.
pub fn run<F>(
    runtime: tokio::runtime::Runtime,
    config: AgentConfig,
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
    config: AgentConfig,
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
    let state = SharedState::default();
    let server = match config.listen {
        Some(address) => Some(serve::start(address, Arc::clone(&state), stopped.clone()).await?),
        None => None,
    };
    let mut gatherer = Gatherer::new(&config.node, &boot());
    let (outbox, problems) =
        Outbox::open(outlet(view.clone()), config.pace, config.spool.as_deref(), &mut gatherer)
            .map_err(|e| anyhow::anyhow!("cannot use the spool {:?}: {e}", config.spool))?;
    for problem in &problems {
        tracing::warn!(
            %problem,
            "a part of the spool cannot be read; the file is retained as spool.damaged"
        );
    }
    let (collector, control) = Collector::open(config.collector.clone())?;
    let (reports_in, reports) = sync_channel(REPORT_QUEUE);
    control.set_listening(listening(&view.current()));
    control.set_pods(addresses(&view.current(), &config.node));
    let mut collecting =
        Worker::start("collector", move || collector.run(&reports_in).map_err(|e| e.to_string()))?;
    let only_node = config.own_pods_only.then(|| config.node.clone());
    let waiting = WaitingObservations::new(config.patience, only_node);
    let view_of_nodes = view.clone();
    let pipeline = Pipeline {
        view,
        node: config.node.clone(),
        gatherer,
        outbox,
        waiting,
        state: Arc::clone(&state),
        control: control.clone(),
        counted: CollectorStatus::default(),
    };
    let (limit, delay) = (config.drain, config.pace.delay);
    let mut piping = Worker::start("pipeline", move || pipeline.run(&reports, delay))?;
    tracing::info!(
        node = %config.node,
        any = config.collector.any,
        sample = config.collector.handle.sample,
        "the agent runs"
    );

    let mut absent = std::pin::pin!(node_is_absent(config.check, view_of_nodes, config.node));
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
        for worker in [&mut collecting, &mut piping] {
            if !worker.ended.is_terminated() {
                let name = worker.name;
                reasons.extend(reason(name, (&mut worker.ended).await));
            }
        }
    };
    tokio::select! {
        () = drained => {}
        name = signals.next() => anyhow::bail!(
            "aborted by {name} while draining: what was not delivered is lost, or in the spool"
        ),
        () = tokio::time::sleep(limit) => {
            anyhow::bail!("draining took longer than {limit:?} and was given up")
        }
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

/// Ends when the cluster answers that it has no such node, with the message for the user. A wrong
/// name would otherwise stay unseen: a node that does not exist never gets pods.
async fn node_is_absent(client: Option<kube::Client>, mut view: View, node: String) -> String {
    const AGAIN: Duration = Duration::from_secs(60);
    let Some(client) = client else { return std::future::pending().await };
    view.ready().await;
    // A node that has pods exists.
    if view.current().pods().iter().any(|p| *p.node == *node) {
        return std::future::pending().await;
    }
    let nodes: kube::Api<k8s_openapi::api::core::v1::Node> = kube::Api::all(client);
    loop {
        match nodes.get_metadata_opt(&node).await {
            Ok(Some(_)) => return std::future::pending().await,
            Ok(None) => {
                return format!(
                    "the cluster has no node {node}: pass --node with a name that \
                     `kubectl get nodes` shows"
                );
            }
            Err(kube::Error::Api(e)) if e.code == 403 => {
                tracing::warn!(
                    %node,
                    "no pod is known on this node, and this program has no right to ask whether \
                     the node exists: nothing is learned until a pod is known"
                );
                return std::future::pending().await;
            }
            Err(error) => tracing::debug!(%error, "cannot find out yet whether the node exists"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Identifies this run of the agent. No other run has the same text.
fn boot() -> String {
    let random = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
    let started =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    match random.trim() {
        "" => format!("{:x}-{:x}", started.as_nanos(), std::process::id()),
        id => id.to_owned(),
    }
}

/// The sockets and ports on which something listens, as the cluster's objects name them.
fn listening(cluster: &Cluster) -> ListeningPorts {
    let (sockets, ports) = cluster.listening();
    ListeningPorts { sockets, ports }
}

/// The addresses of each running pod of this node. If no pod is known to be on this node, those of
/// all running pods.
fn addresses(cluster: &Cluster, node: &str) -> PodAddresses {
    let running = || {
        let all = cluster.pods().iter().filter(|p| p.end == Time::MAX && !p.addresses.is_empty());
        all.filter(|p| p.data_plane != DataPlane::HostNetwork)
    };
    let here = |p: &&Pod| *p.node == *node;
    let some = running().any(|p| here(&p));
    running().filter(|p| !some || here(p)).map(|p| Arc::clone(&p.addresses)).collect()
}

/// Attributes observations, gathers them into batches and delivers those.
struct Pipeline {
    view: View,
    node: String,
    gatherer: Gatherer,
    outbox: Outbox,
    waiting: WaitingObservations,
    state: SharedState,
    control: CollectorControl,
    /// The collector's counters as of the last report.
    counted: CollectorStatus,
}

impl Pipeline {
    fn run(mut self, reports: &Receiver<CollectorReport>, delay: Duration) -> Result<(), String> {
        let mut previous: Option<Arc<Cluster>> = None;
        // If the channel closes without a last report, the collector has died. Its own worker then
        // reports the reason.
        while let Ok(report) = reports.recv() {
            // Read `synced` before the indexes. In the other order the view could become synced in
            // between, and observations would be given up on by an index that is incomplete.
            let synced = self.view.status().synced;
            let cluster = self.view.current();
            if previous.as_ref().is_none_or(|p| !Arc::ptr_eq(p, &cluster)) {
                self.control.set_listening(listening(&cluster));
                self.control.set_pods(addresses(&cluster, &self.node));
                previous = Some(Arc::clone(&cluster));
            }
            let CollectorReport { now, observations, over, status, last } = report;
            self.count(&status, &observations);
            self.gatherer.count(counter::CONNECTIONS, over.values().sum());
            self.waiting.overflow(now, &over, &cluster, &mut self.gatherer);
            self.waiting.take(now, observations, &cluster, synced, last, &mut self.gatherer);
            if last && !delay.is_zero() {
                // The watch may still have to deliver the pods and Services that were called.
                std::thread::sleep(delay);
            }
            self.outbox.step(Time(now), &mut self.gatherer, last)?;
            self.publish(status);
            if last {
                return self.finish();
            }
        }
        Ok(())
    }

    /// Tries for five more seconds to deliver what is left.
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

    /// Adds to the gatherer what the capture layer has counted since the last report.
    fn count(&mut self, status: &CollectorStatus, observations: &[Observation]) {
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

    /// Publishes the agent's state for metrics and readiness.
    fn publish(&mut self, status: CollectorStatus) {
        let view = self.view.status();
        let mut state = lock(&self.state);
        state.collected = status;
        state.progress = self.outbox.progress.clone();
        state.counted = self.gatherer.totals();
        state.waiting = self.waiting.len();
        state.waiting_edges = self.gatherer.waiting();
        state.synced = view.synced;
        state.blind = view.blind().map(ToString::to_string);
        state.kinds =
            view.kinds.iter().map(|(kind, status)| (kind.clone(), status.to_string())).collect();
    }
}

/// All counters of the collector with their names, those of the capture layer included.
pub(crate) fn named(status: &CollectorStatus) -> Vec<(&'static str, u64)> {
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
