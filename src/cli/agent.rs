//! `sidecarta agent` and `sidecarta run`: learning from live traffic.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use sidecarta_capture::live::collector::CollectorConfig;
use sidecarta_capture::live::handle::HandleConfig;
use tokio::runtime::Runtime;

use super::duration::duration;
use super::log::{LogOptions, listen};
use super::{CommandOutcome, SnapshotOptions, StoreOptions};
use crate::agent::outbox::DeliveryPace;
use crate::agent::outlet::{DeliveryThread, Outlet, ToFile, ToRecorder, ToStdout, ToStore};
use crate::agent::{AgentConfig, keep_only_capture, run as live};
use crate::life::prepare_long_run;
use crate::private;
use crate::snapshot;
use crate::store::{Access, Store};
use crate::view::{Extent, View};

const AGENT_EXAMPLE: &str = "\
Examples:
  sidecarta agent --to observed.ndjson
  sidecarta agent --pods pods.yaml --to - | sidecarta import --cluster cluster.yaml -
  sidecarta agent --node worker-1 --spool /var/lib/sidecarta \
--to /var/lib/sidecarta/observed.ndjson --log-format json

It needs CAP_NET_RAW and nothing else: as root all other capabilities are dropped. In Kubernetes it
runs on the host's network, and reads the pods of its node.";

const RUN_EXAMPLE: &str = "\
Examples:
  sudo sidecarta run
  sudo sidecarta run --cluster cluster.yaml --store learned

Interrupt it, and read what was learned: sidecarta status, sidecarta dependencies, \
sidecarta generate.";

/// How interfaces are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CaptureMode {
    /// One handle for each pod's interface
    Each,
    /// One handle for all interfaces of the node, filtered
    Any,
}

/// Which packets of a pod's interface are read, as in `tcpdump -Q` on the node's side of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PacketDirection {
    /// What the pod sends and what it receives
    Inout,
    /// Only what the pod sends: costs the traffic a third less. Not seen are DNS answers, which
    /// name destinations outside the cluster, packets that refuse a call, and calls of pods whose
    /// own interface is not watched yet
    In,
}

/// The options that both commands have.
#[derive(Debug, Args)]
struct LiveOptions {
    /// Name of this node, as in the pods' spec.nodeName
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node: Option<String>,
    /// How interfaces are read
    #[arg(long, value_enum, default_value_t = CaptureMode::Each, env = "SIDECARTA_CAPTURE")]
    capture: CaptureMode,
    /// Which packets of each pod's interface are read
    #[arg(
        long,
        value_enum,
        default_value_t = PacketDirection::Inout,
        env = "SIDECARTA_DIRECTION"
    )]
    direction: PacketDirection,
    /// Of packets that open, close or name nothing, read one in N; 1 reads all. A connection older
    /// than the agent that carries one packet a second is found after N seconds on average
    #[arg(
        long,
        value_name = "N",
        default_value_t = HandleConfig::default().sample,
        value_parser = clap::value_parser!(u32).range(1..),
        env = "SIDECARTA_SAMPLE"
    )]
    sample: u32,
    /// Kernel ring of each interface, in KiB; it buffers bursts of packets until the agent reads
    /// them
    #[arg(
        long,
        value_name = "KIB",
        default_value_t = HandleConfig::default().ring_bytes / 1024,
        value_parser = clap::value_parser!(u32).range(64..1_048_576)
    )]
    ring: u32,
    /// Send calls that were sent before again after this long
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    refresh: Duration,
    /// How long an address may wait for the watch of pods to name its pod
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    patience: Duration,
    /// Serve /metrics, /healthz and /readyz here; `none` serves nothing
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:15099",
        env = "SIDECARTA_LISTEN"
    )]
    listen: String,
    /// How long draining may take when a signal has come
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = duration)]
    drain: Duration,
    #[command(flatten)]
    log: LogOptions,
}

/// Watch this node's pods and send what they call
#[derive(Debug, Args)]
#[command(after_help = AGENT_EXAMPLE)]
pub(super) struct AgentOptions {
    #[command(flatten)]
    live: LiveOptions,
    /// Pods from a snapshot (files or directories) in place of the API server
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pods: Vec<PathBuf>,
    /// Where batches go: the URL of a recorder, a file that grows, or `-` for standard output
    #[arg(long, value_name = "URL|FILE", env = "SIDECARTA_TO")]
    to: PathBuf,
    /// File with the token to show to the recorder
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/var/run/secrets/sidecarta/token",
        env = "SIDECARTA_TOKEN_FILE"
    )]
    token_file: PathBuf,
    /// Authority that signed the recorder's certificate, in PEM [default: those of the system]
    #[arg(long, value_name = "FILE", env = "SIDECARTA_CA_FILE")]
    ca_file: Option<PathBuf>,
    /// Directory that stores batches which could not be delivered, over restarts as well
    #[arg(long, value_name = "DIR", env = "SIDECARTA_SPOOL")]
    spool: Option<PathBuf>,
}

/// Watch, learn and store, all in this process
#[derive(Debug, Args)]
#[command(after_help = RUN_EXAMPLE)]
pub(super) struct RunOptions {
    #[command(flatten)]
    live: LiveOptions,
    #[command(flatten)]
    store: StoreOptions,
    #[command(flatten)]
    cluster: SnapshotOptions,
    /// How long a batch waits before it is resolved, so that the watches can deliver new pods and
    /// Services first
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    settle: Duration,
}

/// Where the agent reads the objects of the cluster.
enum ObjectSource {
    /// A snapshot.
    Fixed(View),
    /// The API server, with what is watched and the DNS domain if one is given.
    Api(kube::Client, Extent, Option<String>),
}

impl ObjectSource {
    /// The view of the cluster, and the task of its watches if there are any.
    async fn begin(
        self,
        stopped: tokio::sync::watch::Receiver<bool>,
    ) -> (View, Option<tokio::task::JoinHandle<()>>) {
        match self {
            Self::Fixed(view) => (view, None),
            Self::Api(client, extent, domain) => {
                let (view, task) = View::start(client, extent, domain, Vec::new(), stopped);
                (view, Some(task))
            }
        }
    }
}

impl LiveOptions {
    /// The name of this node: as given, else the host's name.
    fn node(&self) -> anyhow::Result<String> {
        let name = self
            .node
            .clone()
            .or_else(|| fs::read_to_string("/proc/sys/kernel/hostname").ok())
            .unwrap_or_default();
        let name = name.trim().to_owned();
        anyhow::ensure!(!name.is_empty(), "the name of this node is not known: pass --node NAME");
        crate::model::valid::word("the name of this node", &name)?;
        Ok(name)
    }

    fn config(
        &self,
        own_pods_only: bool,
        delay: Duration,
        spool: Option<PathBuf>,
    ) -> anyhow::Result<AgentConfig> {
        let pod_sends_only = self.direction == PacketDirection::In;
        let any = self.capture == CaptureMode::Any;
        anyhow::ensure!(
            !(any && pod_sends_only),
            "`--direction in` needs a handle for each interface: leave `--capture any` out"
        );
        let handle = HandleConfig {
            sample: self.sample,
            ring_bytes: self.ring * 1024,
            pod_sends_only,
            ..HandleConfig::default()
        };
        Ok(AgentConfig {
            node: self.node()?,
            own_pods_only,
            collector: CollectorConfig { handle, any, ..CollectorConfig::default() },
            patience: self.patience,
            pace: DeliveryPace { refresh: self.refresh, delay },
            spool,
            listen: listen(&self.listen)?,
            drain: self.drain,
            check: None,
        })
    }
}

impl ObjectSource {
    /// The client of the API server, which is asked whether the node exists.
    fn client(&self) -> Option<kube::Client> {
        match self {
            Self::Fixed(_) => None,
            Self::Api(client, ..) => Some(client.clone()),
        }
    }

    /// Checks that a snapshot has a pod on this node. Passes if no pod of the snapshot names its
    /// node.
    ///
    /// # Errors
    /// When the pods of the snapshot are all on other nodes.
    fn check_node(&self, node: &str) -> anyhow::Result<()> {
        let Self::Fixed(view) = self else { return Ok(()) };
        let cluster = view.current();
        let nodes: BTreeSet<&str> = cluster.pods().iter().map(|p| &*p.node).collect();
        anyhow::ensure!(
            nodes.is_empty() || nodes.contains("") || nodes.contains(node),
            "no pod of the snapshot is on a node {node}, but on {}: pass --node with one of these",
            nodes.into_iter().collect::<Vec<_>>().join(", ")
        );
        Ok(())
    }
}

/// The runtime, the source of objects, and whether a part of the snapshot could not be read. Called
/// before capabilities are dropped: the kubeconfig may belong to another user.
fn connect(
    snapshot_paths: &[PathBuf],
    domain: Option<&str>,
    extent: Extent,
) -> anyhow::Result<(Runtime, ObjectSource, bool)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .build()?;
    if snapshot_paths.is_empty() {
        let client = runtime.block_on(crate::view::client(None, None))?;
        let objects = ObjectSource::Api(client, extent, domain.map(str::to_owned));
        return Ok((runtime, objects, false));
    }
    let (cluster, report) = snapshot::load(snapshot_paths, domain)?;
    let partial = super::report_snapshot(&report);
    Ok((runtime, ObjectSource::Fixed(View::fixed(cluster)), partial))
}

/// Runs `sidecarta agent`.
pub(super) fn agent(options: &AgentOptions) -> anyhow::Result<CommandOutcome> {
    options.live.log.init()?;
    prepare_long_run();
    let mut config = options.live.config(true, Duration::ZERO, options.spool.clone())?;
    let (runtime, objects, partial) =
        connect(&options.pods, None, Extent::Node(config.node.clone()))?;
    objects.check_node(&config.node)?;
    config.check = objects.client();
    let outlet: Box<dyn Outlet> = match options.to.to_str() {
        Some("-") => Box::new(ToStdout),
        Some(url) if url.contains("://") => {
            let handle = runtime.handle().clone();
            Box::new(DeliveryThread::new(ToRecorder::new(
                url,
                options.token_file.clone(),
                options.ca_file.as_deref(),
                handle,
            )?)?)
        }
        _ => Box::new(
            ToFile::open(&options.to)
                .with_context(|| format!("cannot write {}", options.to.display()))?,
        ),
    };
    if let Some(spool) = &options.spool {
        private::create_dir_all(spool)
            .with_context(|| format!("cannot make the spool {}", spool.display()))?;
    }
    keep_only_capture()?;
    live(runtime, config, |_| outlet, async |stopped| Ok(objects.begin(stopped).await))?;
    Ok(if partial { CommandOutcome::Partial } else { CommandOutcome::Done })
}

/// Runs `sidecarta run`.
pub(super) fn run(options: &RunOptions) -> anyhow::Result<CommandOutcome> {
    options.live.log.init()?;
    prepare_long_run();
    let mut config = options.live.config(false, options.settle, None)?;
    let domain = options.cluster.cluster_domain.as_deref();
    let (runtime, objects, partial) = connect(&options.cluster.cluster, domain, Extent::Cluster)?;
    // Without --node the node has the host's name. Nothing here depends on it, so it is not
    // checked.
    if options.live.node.is_some() {
        objects.check_node(&config.node)?;
        config.check = objects.client();
    }
    // The directory is made first: it may need rights that are dropped next. The store is opened
    // afterwards: the database's threads must not inherit those rights.
    let dir = &options.store.store;
    private::create_dir_all(dir)
        .with_context(|| format!("cannot make the store {}", dir.display()))?;
    keep_only_capture()?;
    let store = Store::open(&options.store.store, Access::CreateOrOpen)?;
    live(
        runtime,
        config,
        |view| Box::new(ToStore::new(store, view)),
        async |stopped| Ok(objects.begin(stopped).await),
    )?;
    Ok(if partial { CommandOutcome::Partial } else { CommandOutcome::Done })
}
