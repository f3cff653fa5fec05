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

use crate::memory::{Memory, Missing};
use crate::store::{Access, Store};
use output::Format;
use remote::{Place, RecorderOptions};

/// How a command ended. The numbers are documented in `--help` and the README.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All was done.
    Done = 0,
    /// It could not be done.
    Failed = 1,
    // 2 is clap's: the command line is wrong.
    /// Done, but part of the input could not be read, or part of the store is missing.
    Partial = 3,
    /// Capture and snapshot have nothing in common.
    Mismatch = 4,
    /// Done, but a workload was withheld because it is not ready.
    Unready = 5,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed: nothing was changed, the message says why and what to do
  2  the command line is wrong
  3  done, but part of the input could not be read (a cut capture, a broken object, a damaged store), or no packet could be used; what could be read was used
  4  the captures and the snapshot have nothing in common: most likely the wrong snapshot
  5  done, but workloads of which something is known were withheld (generate)";

/// Learns what each workload of an Istio mesh calls, from packets, and writes its least-privilege
/// Sidecar.
#[derive(Debug, Parser)]
#[command(version, about, after_help = EXIT_CODES, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Learn from captures: pcap or pcapng, plain, gzip or zstd, files, directories or `-` for
    /// standard input
    Replay(replay::Options),
    /// Watch this node's pods and tell what they call: batches for `import`
    Agent(agent::AgentOptions),
    /// Watch, learn and store, all in this process: all that a cluster of one node needs
    Run(agent::RunOptions),
    /// Receive what agents see, learn it and keep it, for a whole cluster
    Recorder(recorder::Options),
    /// Show what each workload calls, with the evidence
    Dependencies(dependencies::Options),
    /// Write one Sidecar per workload
    Generate(generate::Options),
    /// Show what a pod sees under Istio's scoping, and why; try a Sidecar and calls on it
    Scope(scope::Options),
    /// Show for each egress host of a workload which calls and which evidence ask for it
    Explain(explain::Options),
    /// Show clusters and endpoints per workload, before and after
    Forecast(forecast::Options),
    /// Show per workload what was watched, what is known, and what is not
    Status(status::Options),
    /// Accept what is known: from then on, what is not among it raises an alert
    Accept(alerts::AcceptOptions),
    /// Say of an alert that nobody wants to hear of it, and why
    Ignore(alerts::IgnoreOptions),
    /// Show what is not as it was accepted
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

/// Where what is known is read.
#[derive(Debug, Args)]
struct ReadOptions {
    /// Directory of the store [default: sidecarta-store]
    #[arg(long, value_name = "DIR", env = "SIDECARTA_STORE")]
    store: Option<PathBuf>,
    #[command(flatten)]
    recorder: RecorderOptions,
}

impl ReadOptions {
    fn place(&self) -> anyhow::Result<Place> {
        self.recorder.place(self.store.as_deref())
    }
}

impl Place {
    fn memory(&self, namespace: Option<&str>) -> anyhow::Result<Memory> {
        match self {
            Self::Recorder(recorder) => recorder.memory(namespace),
            Self::Store(store) => Ok(Memory::of(&reading(store)?, namespace)?),
        }
    }
}

/// Opens a store to read it. Says what is missing of it.
fn reading(store: &Path) -> anyhow::Result<Store> {
    let store = Store::read(store)?;
    if let Some(missing) = Missing::of(&store) {
        output::warn(missing);
    }
    Ok(store)
}

/// Opens a store that is there to change it.
fn writing(store: &Path) -> anyhow::Result<Store> {
    Ok(Store::open(store, Access::Existing)?)
}

/// How a command ends that has read what is there.
fn read_all(missing: Option<&Missing>) -> Outcome {
    if missing.is_some() { Outcome::Partial } else { Outcome::Done }
}

/// Which workloads, and how to print.
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

/// A snapshot where an API server is asked without one.
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
    /// `--cluster PATH... NAME` reads naturally, and a parser gives all of it to `--cluster`:
    /// behind the first path, what is no file and has no snapshot's name is a name. The paths, and
    /// the names with those that were parsed as such.
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
        Command::Replay(o) => replay::run(&o),
        Command::Agent(o) => agent::agent(&o),
        Command::Run(o) => agent::run(&o),
        Command::Recorder(o) => recorder::run(&o),
        Command::Dependencies(o) => dependencies::run(&o),
        Command::Generate(o) => generate::run(&o),
        Command::Scope(o) => scope::run(&o),
        Command::Explain(o) => explain::run(&o),
        Command::Forecast(o) => forecast::run(&o),
        Command::Status(o) => status::run(&o),
        Command::Accept(o) => alerts::accept(&o),
        Command::Ignore(o) => alerts::ignore(&o),
        Command::Alerts(o) => alerts::alerts(&o),
        Command::Export(o) => exchange::export(&o),
        Command::Import(o) => exchange::import(&o),
    };
    let outcome = match result {
        Ok(outcome) => outcome,
        // The reader of a pipe may stop early (`| head`): not a failure of ours.
        Err(e) if output::is_broken_pipe(&e) => Outcome::Done,
        Err(e) => {
            output::error(format_args!("{e:#}"));
            Outcome::Failed
        }
    };
    ExitCode::from(outcome as u8)
}

/// Prints what could not be read in a snapshot; true when there was anything.
fn report_snapshot(report: &crate::snapshot::Report) -> bool {
    /// A wrong file can have thousands of broken objects; the first ones tell what is wrong.
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
            "{} objects of the snapshot are left out, for names in them that Kubernetes would not take",
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
