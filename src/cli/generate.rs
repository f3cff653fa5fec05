//! `sidecarta generate`, and what `explain` and `forecast` share with it.

use std::collections::BTreeMap;
use std::fs;
use std::io::BufRead;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};

use super::duration::nanoseconds;
use super::remote::{RecorderOptions, STORE};
use super::{ClusterOptions, Outcome, ViewOptions, output};
use crate::clock;
use crate::generate::group::GroupBy;
use crate::generate::readiness::Thresholds;
use crate::generate::{self as generation, GenerateInput, Learned, Subject, generate, subjects};
use crate::generate::{Cause, DeclaredCall, SILENT, UnreadableCall};
use crate::memory::Missing;
use crate::model::{Dependency, Time, WorkloadId, valid};
use crate::snapshot::{self, Snapshot};
use crate::verify;

const EXAMPLE: &str = "\
Examples:
  sidecarta generate --cluster cluster.yaml                      # a stream on standard output
  sidecarta generate --cluster cluster.yaml --output sidecars    # one file per workload, for a pull request
  sidecarta generate --cluster cluster.yaml --calls calls.jsonl --workload shop/web   # from declared calls

Each Sidecar is proved: every call keeps its route, and no host can be left out. What is not ready is withheld, listed
with the reason, and gives exit code 5.";

/// Where the store is; without one, declared calls can stand alone.
#[derive(Debug, Args)]
pub(super) struct SourceOptions {
    /// Directory of the store (default: sidecarta-store; with --calls no store is needed)
    #[arg(long, value_name = "DIR", env = "SIDECARTA_STORE")]
    store: Option<PathBuf>,
    #[command(flatten)]
    recorder: RecorderOptions,
    #[command(flatten)]
    pub(super) cluster: ClusterOptions,
    /// Calls that people or other tools declare: JSON Lines of {"workload": "NAMESPACE/NAME",
    /// "host", "port", "protocol", "address"}; a workload or a pod, the last three optional. Joined
    /// with what was learned. A host may be a URL or HOST:PORT. A workload with a line that cannot
    /// be read is withheld, and the line named
    #[arg(long, value_name = "FILE")]
    calls: Vec<PathBuf>,
    /// Leave out what was not seen for this long while its workload was; each is named
    #[arg(long, value_name = "TIME", value_parser = nanoseconds)]
    drop_stale: Option<u64>,
}

/// Which workloads.
#[derive(Debug, Args)]
pub(super) struct ChoiceOptions {
    #[command(flatten)]
    view: ViewOptions,
    /// Only this workload (or the workload of this pod); may be repeated
    #[arg(long, value_name = "NAMESPACE/NAME")]
    workload: Vec<String>,
    /// Not this workload, or not this namespace; may be repeated
    #[arg(long, value_name = "NAMESPACE[/NAME]")]
    exclude: Vec<String>,
}

/// When a workload is ready.
#[derive(Debug, Args)]
pub(super) struct ReadyOptions {
    /// Least time that a workload must have been watched, in seconds or with a unit (90s, 15m, 24h,
    /// 7d). Where no connection was seen, from a pod's start; Jobs count completed runs instead
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = nanoseconds)]
    min_coverage: u64,
    /// Least confidence, 0 to 1, that the next connection is of a dependency already known
    /// (Good-Turing estimate, from 30 connections on; a workload with fewer must have been watched
    /// 7 times as long)
    #[arg(long, value_name = "SHARE", default_value_t = 0.95, value_parser = share)]
    min_confidence: f64,
    /// Write Sidecars of workloads that are not ready all the same
    #[arg(long)]
    include_unready: bool,
    /// Write Sidecars of workloads of which a call is known that the Sidecar would not keep for
    /// sure; each such call is named
    #[arg(long)]
    include_incomplete: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum By {
    Workload,
    App,
    Namespace,
}

/// Write one Sidecar per workload
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Options {
    #[command(flatten)]
    source: SourceOptions,
    #[command(flatten)]
    choice: ChoiceOptions,
    #[command(flatten)]
    ready: ReadyOptions,
    /// What shares a Sidecar
    #[arg(long, value_enum, default_value_t = By::Workload)]
    group_by: By,
    /// Also a default Sidecar per namespace, the union of its workloads: a safety net for new ones
    #[arg(long)]
    namespace_default: bool,
    /// Replace Sidecars that Sidecarta did not write; without it their workloads are withheld
    #[arg(long)]
    adopt: bool,
    /// Write one file per workload, NAMESPACE/NAME.yaml, below this directory instead of a stream
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// Lines that are named of those that are no calls.
const SHOWN: usize = 20;

fn share(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|s| (0.0..=1.0).contains(s))
        .ok_or_else(|| "a share lies between 0 and 1".to_owned())
}

/// Snapshot, subjects and knowledge, gathered.
pub(super) struct Gathered {
    pub(super) snapshot: Snapshot,
    pub(super) subjects: Vec<Subject>,
    pub(super) known: BTreeMap<WorkloadId, Learned>,
    pub(super) partial: bool,
}

/// Reads all that generation works on.
pub(super) fn gather(source: &SourceOptions, cluster: &ClusterOptions) -> anyhow::Result<Gathered> {
    let snapshot = snapshot::load_mesh(&cluster.cluster, cluster.cluster_domain.as_deref())?;
    let mut partial = super::report_snapshot(&snapshot.report);
    snapshot.report.not_given().iter().for_each(output::note);
    let (mut all, mut stored) = (BTreeMap::new(), Vec::new());
    // Declared calls may stand alone; a store or a recorder that was named must be there.
    let here = source.store.is_some() || source.recorder.is_given() || Path::new(STORE).exists();
    if source.calls.is_empty() || here {
        let mut memory = source.recorder.place(source.store.as_deref())?.memory(None)?;
        if let Some(missing @ Missing::Damaged(_)) = &memory.missing {
            anyhow::bail!(
                "{missing}; a Sidecar from what is left could lack hosts that are called: restore \
                 the store from an export, or replay the captures into a new one"
            );
        }
        partial |= memory.missing.is_some();
        let seen = memory.last_seen(verify::latest(clock::now()));
        stored = std::mem::take(&mut memory.workloads);
        all = memory.into_known();
        if let Some(after) = source.drop_stale {
            drop_stale(&mut all, &seen, after);
        }
    }
    generation::separate_past_proxy(&snapshot.cluster, &mut all);
    let subjects = subjects(&snapshot.cluster, &stored);
    for file in &source.calls {
        partial |= declared(file, &snapshot, &subjects, &mut all)?;
    }
    Ok(Gathered { snapshot, subjects, known: all, partial })
}

/// Leaves out what has become stale, and names it.
fn drop_stale(
    all: &mut BTreeMap<WorkloadId, Learned>,
    seen: &BTreeMap<WorkloadId, Time>,
    after: u64,
) {
    for (id, seen) in seen {
        let Some(known) = all.get_mut(id) else { continue };
        let (stale, fresh) = std::mem::take(&mut known.dependencies)
            .into_iter()
            .partition(|d| d.is_stale(*seen, after));
        known.dependencies = fresh;
        let stale: Vec<Dependency> = stale;
        for d in stale {
            let (to, port, last) =
                (&d.key.destination, d.key.port, output::moment(d.tally.last_seen));
            output::note(format_args!("{id}: {to}:{port} is left out as stale: last seen {last}"));
        }
    }
}

/// Reads declared calls; whether a line names a workload that is not there. Each such line is
/// named. A line that is no call is its workload's: nothing is written for it.
///
/// # Errors
/// When a line is no call and its workload cannot be told: any list could be shorter than what is
/// known.
fn declared(
    file: &Path,
    snapshot: &Snapshot,
    subjects: &[Subject],
    all: &mut BTreeMap<WorkloadId, Learned>,
) -> anyhow::Result<bool> {
    let open = fs::File::open(file)
        .with_context(|| format!("cannot read the calls {}", file.display()))?;
    let mut partial = false;
    let mut refused: Vec<String> = Vec::new();
    for (n, line) in std::io::BufReader::new(open).lines().enumerate() {
        let place = format!("{}:{}", file.display(), n + 1);
        let line = line.with_context(|| format!("cannot read the calls {place}"))?;
        // Some editors begin a file with a mark of its byte order.
        let line = line.trim_start_matches('\u{feff}');
        if line.trim().is_empty() {
            continue;
        }
        let (workload, call) = match DeclaredCall::read(line) {
            Ok(call) => (call.workload.clone(), Ok(DeclaredCall { from: place.clone(), ..call })),
            Err(UnreadableCall { workload: Some(workload), why }) => (workload, Err(why)),
            Err(UnreadableCall { workload: None, why }) => {
                refused.push(format!("{place}: {why}"));
                continue;
            }
        };
        match (find(&workload, snapshot, subjects), call) {
            (Some(id), Ok(call)) => all.entry(id).or_default().declared.push(call),
            (Some(id), Err(why)) => {
                output::warn(format_args!("{place}: {why}: {workload} is withheld for it"));
                all.entry(id).or_default().unreadable.push(format!("{place}: {why}"));
            }
            (None, _) => {
                output::warn(format_args!(
                    "{place}: no workload and no pod of the snapshot is called {workload}; the line is skipped"
                ));
                partial = true;
            }
        }
    }
    anyhow::ensure!(
        refused.is_empty(),
        "{}{}\nnothing is written, for these lines do not say whose calls they are, and a Sidecar without them would be too \
         narrow: mend the lines",
        refused.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join("\n"),
        if refused.len() > SHOWN {
            format!("\n… and {} more", refused.len() - SHOWN)
        } else {
            String::new()
        }
    );
    Ok(partial)
}

/// The workload of this name, or of the pod of this name.
pub(super) fn find(name: &str, snapshot: &Snapshot, subjects: &[Subject]) -> Option<WorkloadId> {
    let (namespace, name) = name.split_once('/')?;
    // Where workloads of several kinds share a name, the one that a Sidecar can serve is meant.
    let named = subjects.iter().filter(|s| s.id.namespace == namespace && s.id.name == name);
    let workload =
        named.min_by_key(|s| s.data_plane.why_no_sidecar().is_some()).map(|s| s.id.clone());
    let pods = snapshot.cluster.pods().iter();
    workload.or_else(|| {
        pods.filter(|p| p.workload.namespace == namespace && *p.name == *name)
            .map(|p| p.workload.clone())
            .next()
    })
}

impl ChoiceOptions {
    /// The workloads asked for.
    ///
    /// # Errors
    /// When a workload that is named is not there.
    pub(super) fn chosen(
        &self,
        gathered: &Gathered,
    ) -> anyhow::Result<impl Fn(&WorkloadId) -> bool + use<>> {
        let find = |name: &String| {
            find(name, &gathered.snapshot, &gathered.subjects).with_context(|| {
                format!("no workload and no pod is called {name}; name it NAMESPACE/NAME as `sidecarta status` shows it")
            })
        };
        let only = self.workload.iter().map(find).collect::<anyhow::Result<Vec<_>>>()?;
        let (namespace, exclude) = (self.view.namespace.clone(), self.exclude.clone());
        Ok(move |id: &WorkloadId| {
            let excluded = |e: &String| match e.split_once('/') {
                Some((n, name)) => id.namespace == n && id.name == name,
                None => id.namespace == *e,
            };
            namespace.as_ref().is_none_or(|n| *n == id.namespace)
                && (only.is_empty() || only.contains(id))
                && !exclude.iter().any(excluded)
        })
    }
}

impl ReadyOptions {
    pub(super) fn apply(&self, options: &mut generation::GenerateOptions) {
        options.least =
            Thresholds { min_coverage: self.min_coverage, min_confidence: self.min_confidence };
        options.include_unready = self.include_unready;
        options.include_incomplete = self.include_incomplete;
    }
}

pub(super) fn run(options: &Options) -> anyhow::Result<Outcome> {
    let gathered = gather(&options.source, &options.source.cluster)?;
    let chosen = options.choice.chosen(&gathered)?;
    let mut how = generation::GenerateOptions {
        group_by: match options.group_by {
            By::Workload => GroupBy::Workload,
            By::App => GroupBy::App,
            By::Namespace => GroupBy::Namespace,
        },
        namespace_default: options.namespace_default,
        adopt: options.adopt,
        ..generation::GenerateOptions::default()
    };
    options.ready.apply(&mut how);
    let outcomes = outcomes(&gathered, &how, &chosen);
    let (mut written, mut unready, mut known) = (0, 0, 0);
    let mut withheld: BTreeMap<Cause, usize> = BTreeMap::new();
    for outcome in &outcomes {
        let Some(manifest) = &outcome.manifest else {
            let why = outcome.withheld.as_ref();
            unready += usize::from(why.is_some_and(|w| w.unready));
            known += usize::from(why.is_some_and(|w| w.known));
            let all: Vec<String> = outcome.workloads.iter().map(ToString::to_string).collect();
            if let Some(why) = why {
                *withheld.entry(why.code).or_default() += all.len();
            }
            // A reason for each is for `explain`; a few are shown at once.
            if withheld.values().sum::<usize>() > SHOWN {
                continue;
            }
            output::say(format_args!(
                "withheld: {}: {}",
                all.join(", "),
                why.map_or("no reason was given", |w| &w.reason)
            ));
            continue;
        };
        for gap in &outcome.gaps {
            output::warn(format_args!(
                "{}/{} is written though this call is not kept for sure: {gap}",
                manifest.namespace(),
                manifest.name()
            ));
        }
        if manifest.hosts().all(|h| h == SILENT) {
            output::say(format_args!(
                "note: {}/{} gets {SILENT}: nothing is known that it calls in the mesh",
                manifest.namespace(),
                manifest.name()
            ));
        }
        let text = manifest.to_yaml(&outcome.remarks)?;
        match &options.output {
            Some(dir) => write(dir, manifest.namespace(), manifest.name(), &text)?,
            None => output::print(&format!("---\n{text}"))?,
        }
        written += 1;
    }
    let below =
        options.output.as_ref().map(|d| format!(" below {}", d.display())).unwrap_or_default();
    let sidecars = if written == 1 { "Sidecar" } else { "Sidecars" };
    output::say(format_args!("{written} {sidecars} written{below}"));
    if !withheld.is_empty() {
        let causes: Vec<String> =
            withheld.iter().map(|(code, n)| format!("{n} {}", code.name())).collect();
        let n = withheld.values().sum::<usize>();
        let workloads = if n == 1 { "workload" } else { "workloads" };
        output::say(format_args!(
            "{n} {workloads} withheld ({}): `sidecarta explain --cluster PATH... NAMESPACE/NAME` says why, and what is known",
            causes.join(", ")
        ));
    }
    if unready > 0 {
        output::say(format_args!(
            "{unready} workloads are not ready: watch them for longer, or pass --include-unready"
        ));
    }
    Ok(match () {
        () if known > 0 => Outcome::Unready,
        () if gathered.partial => Outcome::Partial,
        () => Outcome::Done,
    })
}

/// Generates for the chosen workloads. Groups are formed over all, so that a choice changes no
/// Sidecar.
pub(super) fn outcomes(
    gathered: &Gathered,
    how: &generation::GenerateOptions,
    chosen: &impl Fn(&WorkloadId) -> bool,
) -> Vec<generation::GroupOutcome> {
    let near: std::collections::BTreeSet<&str> = gathered
        .subjects
        .iter()
        .filter(|s| chosen(&s.id))
        .map(|s| s.id.namespace.as_str())
        .collect();
    let subjects: Vec<Subject> = gathered
        .subjects
        .iter()
        .filter(|s| near.contains(s.id.namespace.as_str()))
        .cloned()
        .collect();
    let input = GenerateInput {
        cluster: &gathered.snapshot.cluster,
        meshes: &gathered.snapshot.meshes,
        learned: &gathered.known,
        options: how,
    };
    let mut all = generate(&input, &subjects);
    all.retain(|o| o.workloads.iter().any(chosen));
    all
}

/// Writes one file whole or not at all.
fn write(dir: &Path, namespace: &str, name: &str, text: &str) -> anyhow::Result<()> {
    valid::namespace(namespace)
        .and_then(|()| valid::object_name(name))
        .with_context(|| format!("cannot make a file name of {namespace:?}/{name:?}"))?;
    let dir = dir.join(namespace);
    fs::create_dir_all(&dir)
        .with_context(|| format!("cannot create the directory {}", dir.display()))?;
    let path = dir.join(format!("{name}.yaml"));
    let new = dir.join(format!(".{name}.yaml.new"));
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, &path))
        .with_context(|| format!("cannot write {}; nothing of it was changed", path.display()))
}
