//! The input of `generate`, `explain` and `forecast`: the snapshot, what was learned, and declared
//! calls.
//!
//! Owns reading and joining them. Must never decide what a Sidecar lists.

use std::collections::BTreeMap;
use std::fs;
use std::io::BufRead;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use foldhash::HashMap;

use super::super::duration::nanoseconds;
use super::super::remote::{RecorderOptions, STORE};
use super::super::{ClusterOptions, output, report_snapshot};
use super::SHOWN;
use crate::clock;
use crate::generate::{
    self as generation, DeclaredCall, Learned, Subject, UnreadableCall, subjects,
};
use crate::model::{Dependency, Time, WorkloadId};
use crate::records::StoreDefect;
use crate::snapshot::{self, Snapshot};
use crate::verify;

/// Where the input is read from.
#[derive(Debug, Args)]
pub(in crate::cli) struct SourceOptions {
    /// Directory of the store (default: sidecarta-store; with --calls no store is needed)
    #[arg(long, value_name = "DIR", env = "SIDECARTA_STORE")]
    store: Option<PathBuf>,
    #[command(flatten)]
    recorder: RecorderOptions,
    #[command(flatten)]
    pub(in crate::cli) cluster: ClusterOptions,
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

/// Everything that generation works on.
pub(in crate::cli) struct GenerationInput {
    pub(in crate::cli) snapshot: Snapshot,
    pub(in crate::cli) subjects: Vec<Subject>,
    pub(in crate::cli) learned: BTreeMap<WorkloadId, Learned>,
    /// A part of the input could not be read.
    pub(in crate::cli) partial: bool,
}

/// Reads everything that generation works on.
pub(in crate::cli) fn read_input(
    source: &SourceOptions,
    cluster: &ClusterOptions,
) -> anyhow::Result<GenerationInput> {
    let snapshot = snapshot::load_mesh(&cluster.cluster, cluster.cluster_domain.as_deref())?;
    let mut partial = report_snapshot(&snapshot.report);
    snapshot.report.not_given().iter().for_each(output::note);
    let (mut learned, mut stored) = (BTreeMap::new(), Vec::new());
    // With declared calls a store is optional, unless a store or a recorder is named.
    let has_source =
        source.store.is_some() || source.recorder.is_given() || Path::new(STORE).exists();
    if source.calls.is_empty() || has_source {
        let mut records = source.recorder.source(source.store.as_deref())?.records(None)?;
        if let Some(missing @ StoreDefect::Damaged(_)) = &records.missing {
            anyhow::bail!(
                "{missing}; a Sidecar from what is left could lack hosts that are called: restore \
                 the store from an export, or replay the captures into a new one"
            );
        }
        partial |= records.missing.is_some();
        let seen = records.last_seen(verify::latest(clock::now()));
        stored = std::mem::take(&mut records.workloads);
        learned = records.into_known();
        if let Some(after) = source.drop_stale {
            drop_stale(&mut learned, &seen, after);
        }
    }
    generation::separate_past_proxy(&snapshot.cluster, &mut learned);
    let subjects = subjects(&snapshot.cluster, &stored);
    if !source.calls.is_empty() {
        let names = WorkloadNames::new(&snapshot, &subjects);
        for file in &source.calls {
            partial |= read_declared(file, &names, &mut learned)?;
        }
    }
    Ok(GenerationInput { snapshot, subjects, learned, partial })
}

/// Removes stale dependencies, and names each of them.
fn drop_stale(
    learned: &mut BTreeMap<WorkloadId, Learned>,
    seen: &BTreeMap<WorkloadId, Time>,
    after: u64,
) {
    for (id, seen) in seen {
        let Some(learned) = learned.get_mut(id) else { continue };
        let (stale, fresh): (Vec<Dependency>, _) = std::mem::take(&mut learned.dependencies)
            .into_iter()
            .partition(|d| d.is_stale(*seen, after));
        learned.dependencies = fresh;
        for d in stale {
            let (to, port, last) =
                (&d.key.destination, d.key.port, output::moment(d.tally.last_seen));
            output::note(format_args!("{id}: {to}:{port} is left out as stale: last seen {last}"));
        }
    }
}

/// Reads a file of declared calls. Returns whether a line names a workload that the snapshot lacks;
/// each such line is reported and skipped. If a line is no call but names a workload, that workload
/// is withheld.
///
/// # Errors
/// When a line is no call and names no workload: it could belong to any workload, so every Sidecar
/// could be too narrow.
fn read_declared(
    file: &Path,
    names: &WorkloadNames<'_>,
    learned: &mut BTreeMap<WorkloadId, Learned>,
) -> anyhow::Result<bool> {
    let open = fs::File::open(file)
        .with_context(|| format!("cannot read the calls {}", file.display()))?;
    let mut partial = false;
    let mut refused: Vec<String> = Vec::new();
    for (n, line) in std::io::BufReader::new(open).lines().enumerate() {
        let position = format!("{}:{}", file.display(), n + 1);
        let line = line.with_context(|| format!("cannot read the calls {position}"))?;
        // Some editors begin a file with a mark of its byte order.
        let line = line.trim_start_matches('\u{feff}');
        if line.trim().is_empty() {
            continue;
        }
        let (workload, call) = match DeclaredCall::read(line) {
            Ok(call) => {
                (call.workload.clone(), Ok(DeclaredCall { from: position.clone(), ..call }))
            }
            Err(UnreadableCall { workload: Some(workload), why }) => (workload, Err(why)),
            Err(UnreadableCall { workload: None, why }) => {
                refused.push(format!("{position}: {why}"));
                continue;
            }
        };
        match (names.find(&workload).cloned(), call) {
            (Some(id), Ok(call)) => learned.entry(id).or_default().declared.push(call),
            (Some(id), Err(why)) => {
                output::warn(format_args!("{position}: {why}: {workload} is withheld for it"));
                learned.entry(id).or_default().unreadable.push(format!("{position}: {why}"));
            }
            (None, _) => {
                output::warn(format_args!(
                    "{position}: no workload and no pod of the snapshot is called {workload}; \
                     the line is skipped"
                ));
                partial = true;
            }
        }
    }
    anyhow::ensure!(refused.is_empty(), "{}", refusal(&refused));
    Ok(partial)
}

/// The message for lines that name no workload.
fn refusal(lines: &[String]) -> String {
    let first = lines.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join("\n");
    let more = match lines.len().saturating_sub(SHOWN) {
        0 => String::new(),
        n => format!("\n… and {n} more"),
    };
    format!(
        "{first}{more}\nnothing is written, for these lines do not say which workload makes the \
         calls, and a Sidecar without them would be too narrow: mend the lines"
    )
}

/// Finds workloads by name.
pub(in crate::cli) struct WorkloadNames<'a> {
    /// By namespace and name.
    workloads: HashMap<(&'a str, &'a str), &'a Subject>,
    /// The workloads of pods, by namespace and name of the pod.
    pods: HashMap<(&'a str, &'a str), &'a WorkloadId>,
}

impl<'a> WorkloadNames<'a> {
    /// The names of all workloads and of all pods of the snapshot.
    pub(in crate::cli) fn new(snapshot: &'a Snapshot, subjects: &'a [Subject]) -> Self {
        let mut workloads: HashMap<(&str, &str), &Subject> = HashMap::default();
        for s in subjects {
            let first = workloads.entry((&s.id.namespace, &s.id.name)).or_insert(s);
            // If workloads of several kinds have this name, take the one that a Sidecar can serve.
            let serves = |s: &Subject| s.data_plane.why_no_sidecar().is_none();
            if serves(s) && !serves(first) {
                *first = s;
            }
        }
        let mut pods: HashMap<(&str, &str), &WorkloadId> = HashMap::default();
        for p in snapshot.cluster.pods() {
            pods.entry((&p.workload.namespace, &p.name)).or_insert(&p.workload);
        }
        Self { workloads, pods }
    }

    /// The workload of this name, or of the pod of this name; `name` is `NAMESPACE/NAME`.
    pub(in crate::cli) fn find(&self, name: &str) -> Option<&'a WorkloadId> {
        let name = name.split_once('/')?;
        let workload = self.workloads.get(&name).map(|s| &s.id);
        workload.or_else(|| self.pods.get(&name).copied())
    }
}
