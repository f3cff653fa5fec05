//! The command line: composes the services into commands. The only place that prints.
//!
//! Owns flags, output formats and exit codes. Must never decide what a packet or an object means.

mod agent;
mod alerts;
mod dependencies;
mod duration;
mod exchange;
mod explain;
mod forecast;
mod generate;
mod graph;
mod log;
mod output;
mod progress;
mod recorder;
mod remote;
mod replay;
mod scope;
mod status;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::model::Alert;
use crate::records::{Records, StoreDefect};
use crate::store::{Access, Store};
use output::Format;
use remote::{RecordSource, RecorderOptions};

/// How a command ended. The numbers are documented in `--help` and the README.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommandOutcome {
    /// All was done.
    Done = 0,
    /// It could not be done.
    Failed = 1,
    // 2 is clap's: the command line is wrong.
    /// Done, but a part of the input could not be read, or a part of the store is missing.
    Partial = 3,
    /// Capture and snapshot have nothing in common.
    Mismatch = 4,
    /// Done, but a workload of which something is known was withheld.
    Unready = 5,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed: nothing was changed, the message says why and what to do
  2  the command line is wrong
  3  done, but part of the input could not be read (a cut capture, a broken object, a damaged \
store), or no packet could be used; what could be read was used
  4  the captures and the snapshot have nothing in common: most likely the wrong snapshot
  5  done, but workloads of which something is known were withheld (generate)";

/// Learns what each workload of an Istio mesh calls, from packets, and writes its least-privilege
/// Sidecar.
#[derive(Debug, Parser)]
#[command(version, about, after_help = EXIT_CODES, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Learn from captures: pcap or pcapng, plain, gzip or zstd, files, directories or `-` for
    /// standard input
    Replay(replay::ReplayOptions),
    /// Watch this node's pods and send what they call, as batches for a recorder or `import`
    Agent(agent::AgentOptions),
    /// Watch, learn and store, all in this process: all that a cluster of one node needs
    Run(agent::RunOptions),
    /// Receive what agents see, learn from it and store it, for a whole cluster
    Recorder(recorder::RecorderRunOptions),
    /// Show what each workload calls, with the evidence
    Dependencies(dependencies::DependenciesOptions),
    /// Write one Sidecar per workload
    Generate(generate::GenerateCommandOptions),
    /// Show what a pod sees under Istio's scoping, and why; try a Sidecar and calls on it
    Scope(scope::ScopeOptions),
    /// Show for each egress host of a workload which calls and which evidence ask for it
    Explain(explain::ExplainOptions),
    /// Show clusters and endpoints per workload, before and after
    Forecast(forecast::ForecastOptions),
    /// Show per workload what was watched, what is known, and what is not
    Status(status::StatusOptions),
    /// Accept what is known: from then on, every other dependency raises an alert
    Accept(alerts::AcceptOptions),
    /// Silence an alert, and say why
    Ignore(alerts::IgnoreOptions),
    /// Show what differs from what was accepted
    Alerts(alerts::AlertsOptions),
    /// Write the whole store as NDJSON
    Export(exchange::ExportOptions),
    /// Learn from an agent's batches, or merge an export into the store
    Import(exchange::ImportOptions),
}

/// Where the store is.
#[derive(Debug, Args)]
struct StoreOptions {
    /// Directory of the store
    #[arg(long, value_name = "DIR", env = "SIDECARTA_STORE", default_value = remote::STORE)]
    store: PathBuf,
}

impl StoreOptions {
    fn create(&self) -> anyhow::Result<Store> {
        Ok(Store::open(&self.store, Access::CreateOrOpen)?)
    }
}

/// Where records are read: a store or a recorder.
#[derive(Debug, Args)]
struct ReadOptions {
    /// Directory of the store [default: sidecarta-store]
    #[arg(long, value_name = "DIR", env = "SIDECARTA_STORE")]
    store: Option<PathBuf>,
    #[command(flatten)]
    recorder: RecorderOptions,
}

impl ReadOptions {
    fn source(&self) -> anyhow::Result<RecordSource> {
        self.recorder.source(self.store.as_deref())
    }
}

impl RecordSource {
    /// All records of a namespace, or of all namespaces.
    fn records(&self, namespace: Option<&str>) -> anyhow::Result<Records> {
        match self {
            Self::Recorder(recorder) => recorder.records(namespace),
            Self::Store(store) => Ok(Records::of(&open_to_read(store)?, namespace)?),
        }
    }

    /// The same with the alerts that are stored.
    fn records_and_alerts(&self, namespace: Option<&str>) -> anyhow::Result<(Records, Vec<Alert>)> {
        match self {
            Self::Recorder(recorder) => {
                Ok((recorder.records(namespace)?, recorder.alerts(namespace)?))
            }
            Self::Store(store) => {
                let store = open_to_read(store)?;
                let raised = store.alerts(namespace)?.into_iter();
                let alerts = raised.map(|raised| raised.alert).collect();
                Ok((Records::of(&store, namespace)?, alerts))
            }
        }
    }
}

/// Opens a store to read it. Warns if a part of it is missing.
fn open_to_read(store: &Path) -> anyhow::Result<Store> {
    let store = Store::read(store)?;
    if let Some(missing) = StoreDefect::of(&store) {
        output::warn(missing);
    }
    Ok(store)
}

/// Opens an existing store to change it.
fn open_to_change(store: &Path) -> anyhow::Result<Store> {
    Ok(Store::open(store, Access::Existing)?)
}

/// The outcome of a command that has read a store: `Partial` if a part of it is missing.
fn read_outcome(missing: Option<&StoreDefect>) -> CommandOutcome {
    if missing.is_some() { CommandOutcome::Partial } else { CommandOutcome::Done }
}

/// Which workloads are shown.
#[derive(Debug, Args)]
struct ViewOptions {
    /// Only workloads of this namespace
    #[arg(short, long, value_name = "NS")]
    namespace: Option<String>,
}

/// The snapshot of the cluster.
#[derive(Debug, Args)]
struct ClusterOptions {
    /// Snapshot: what `kubectl get pods,svc,endpointslices,… -A -o yaml` printed; files or
    /// directories
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    cluster: Vec<PathBuf>,
    /// The cluster's DNS domain [default: as the proxies of its pods have it, else cluster.local]
    #[arg(long, value_name = "DOMAIN")]
    cluster_domain: Option<String>,
}

/// A snapshot in place of the API server.
#[derive(Debug, Args)]
struct SnapshotOptions {
    /// The cluster from a snapshot (files or directories) in place of the API server
    #[arg(long, value_name = "PATH", num_args = 1..)]
    cluster: Vec<PathBuf>,
    /// DNS domain of the cluster [default: as the proxies of its pods have it, else cluster.local]
    #[arg(long, value_name = "DOMAIN")]
    cluster_domain: Option<String>,
}

impl ClusterOptions {
    /// Separates paths and names: in `--cluster PATH... NAME` the parser takes NAME as a path.
    /// After the first path, an argument is a name if no such file exists and it does not end as a
    /// snapshot's file does. Returns the options with the paths alone, and all names, with those
    /// that the parser recognised last.
    fn and_names(&self, parsed: &[String]) -> (Self, Vec<String>) {
        let snapshot = |p: &PathBuf| {
            p.exists() || p.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
        };
        let behind = self.cluster.iter().skip(1).take_while(|p| snapshot(p)).count();
        let (paths, names) = self.cluster.split_at((1 + behind).min(self.cluster.len()));
        let names =
            names.iter().map(|n| n.display().to_string()).chain(parsed.iter().cloned()).collect();
        (Self { cluster: paths.to_vec(), cluster_domain: self.cluster_domain.clone() }, names)
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        CliCommand::Replay(o) => replay::run(&o),
        CliCommand::Agent(o) => agent::agent(&o),
        CliCommand::Run(o) => agent::run(&o),
        CliCommand::Recorder(o) => recorder::run(&o),
        CliCommand::Dependencies(o) => dependencies::run(&o),
        CliCommand::Generate(o) => generate::run(&o),
        CliCommand::Scope(o) => scope::run(&o),
        CliCommand::Explain(o) => explain::run(&o),
        CliCommand::Forecast(o) => forecast::run(&o),
        CliCommand::Status(o) => status::run(&o),
        CliCommand::Accept(o) => alerts::accept(&o),
        CliCommand::Ignore(o) => alerts::ignore(&o),
        CliCommand::Alerts(o) => alerts::alerts(&o),
        CliCommand::Export(o) => exchange::export(&o),
        CliCommand::Import(o) => exchange::import(&o),
    };
    let outcome = match result {
        Ok(outcome) => outcome,
        // The reader of a pipe may stop early (`| head`): that is no failure.
        Err(e) if output::is_broken_pipe(&e) => CommandOutcome::Done,
        Err(e) => {
            output::error(format_args!("{e:#}"));
            CommandOutcome::Failed
        }
    };
    ExitCode::from(outcome as u8)
}

/// Prints what could not be read in a snapshot. Returns whether there was anything.
fn report_snapshot(report: &crate::snapshot::Report) -> bool {
    /// A wrong file can have thousands of broken objects; the first ones show what is wrong.
    const SHOWN: usize = 20;
    let show = |word: &str, all: &[String]| {
        for line in all.iter().take(SHOWN) {
            output::say(format_args!("{word}: {line}"));
        }
        if all.len() > SHOWN {
            let more = all.len() - SHOWN;
            output::say(format_args!("{word}: … and {more} more of the kind in the snapshot"));
        }
    };
    show("warning", &report.problems);
    if report.invalid > 0 {
        output::warn(format_args!(
            "{} objects of the snapshot are left out, for names in them that Kubernetes would not \
             accept",
            report.invalid
        ));
    }
    show("note", &report.remarks);
    !report.problems.is_empty()
}

/// Formats of commands that print data.
#[derive(Debug, Args)]
struct OutputOptions {
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}
