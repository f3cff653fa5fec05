//! `sidecarta generate`, and the options that `explain` and `forecast` share with it.

mod input;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};

use super::duration::nanoseconds;
use super::{CommandOutcome, ViewOptions, output};
use crate::generate::group::GroupBy;
use crate::generate::minimal::UnroutedHttp;
use crate::generate::readiness::{StartRule, Thresholds};
use crate::generate::{self as generation, Cause, GenerateInput, SILENT, Subject, generate};
use crate::model::{WorkloadId, valid};

pub(super) use input::{GenerationInput, SourceOptions, WorkloadNames, read_input};

const EXAMPLE: &str = "\
Examples:
  sidecarta generate --cluster cluster.yaml                      # a stream on standard output
  sidecarta generate --cluster cluster.yaml --output sidecars    # one file per \
workload, for a pull request
  sidecarta generate --cluster cluster.yaml --calls calls.jsonl --workload shop/web   \
# from declared calls

Each Sidecar is proved: every call keeps its route, and no host can be left out. A workload that is
not ready is withheld and listed with the reason, and gives exit code 5.";

/// Which workloads get a Sidecar.
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
    /// Least confidence, 0 to 1, that the next connection is of a known dependency
    /// (Good-Turing estimate, from 30 connections on; a workload with fewer must have been watched
    /// 7 times as long)
    #[arg(long, value_name = "SHARE", value_parser = share,
        default_value_t = Thresholds::CAREFUL.min_confidence)]
    min_confidence: f64,
    /// Write Sidecars of workloads of which no pod was watched from its start: somebody knows what
    /// they call only then
    #[arg(long)]
    allow_unseen_start: bool,
    /// Write Sidecars of workloads that are not ready all the same
    #[arg(long)]
    include_unready: bool,
    /// Write Sidecars of workloads with a known call that the Sidecar is not sure to keep; each
    /// such call is named
    #[arg(long)]
    include_incomplete: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum GroupByOption {
    Workload,
    App,
    Namespace,
}

/// Write one Sidecar per workload
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct GenerateCommandOptions {
    #[command(flatten)]
    source: SourceOptions,
    #[command(flatten)]
    choice: ChoiceOptions,
    #[command(flatten)]
    ready: ReadyOptions,
    /// Which workloads share a Sidecar
    #[arg(long, value_enum, default_value_t = GroupByOption::Workload)]
    group_by: GroupByOption,
    /// Also a default Sidecar per namespace, the union of its workloads: a safety net for new ones
    #[arg(long)]
    namespace_default: bool,
    /// Keep calls without a route HTTP for the proxy where they are HTTP today, with a host that
    /// makes it listen for HTTP on their port. Without it they become plain TCP: the same answers,
    /// without HTTP's access log and metrics
    #[arg(long)]
    keep_http_passthrough: bool,
    /// Replace Sidecars that Sidecarta did not write; without it their workloads are withheld
    #[arg(long)]
    adopt: bool,
    /// Write one file per workload, NAMESPACE/NAME.yaml, below this directory instead of a stream
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// Messages of one kind that are printed one by one. Of more, the number is printed.
const SHOWN: usize = 20;

/// Reads a share of `--min-confidence`.
fn share(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|s| (0.0..=1.0).contains(s))
        .ok_or_else(|| "a share lies between 0 and 1".to_owned())
}

impl ChoiceOptions {
    /// The condition that the chosen workloads meet.
    ///
    /// # Errors
    /// When a named workload is not in the input.
    pub(super) fn chosen(
        &self,
        input: &GenerationInput,
    ) -> anyhow::Result<impl Fn(&WorkloadId) -> bool + use<>> {
        let only = if self.workload.is_empty() {
            Vec::new()
        } else {
            let names = WorkloadNames::new(&input.snapshot, &input.subjects);
            let find =
                |name: &String| names.find(name).cloned().with_context(|| no_such_workload(name));
            self.workload.iter().map(find).collect::<anyhow::Result<Vec<_>>>()?
        };
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

/// The message for a name that is neither a workload nor a pod.
pub(super) fn no_such_workload(name: &str) -> String {
    format!(
        "no workload and no pod is called {name}; name it NAMESPACE/NAME as `sidecarta status` \
         shows it"
    )
}

impl ReadyOptions {
    /// What a workload must reach.
    fn thresholds(&self) -> Thresholds {
        let start = match self.allow_unseen_start {
            true => StartRule::MayBeUnseen,
            false => StartRule::MustBeSeen,
        };
        Thresholds { start, min_coverage: self.min_coverage, min_confidence: self.min_confidence }
    }

    /// Sets the thresholds of generation as these options say.
    pub(super) fn apply(&self, options: &mut generation::GenerateOptions) {
        options.least = self.thresholds();
        options.include_unready = self.include_unready;
        options.include_incomplete = self.include_incomplete;
    }
}

/// What happened to the workloads, for the summary at the end.
#[derive(Default)]
struct WrittenSummary {
    written: usize,
    /// Withheld Sidecars that more watching would make ready.
    unready: usize,
    /// Withheld Sidecars of workloads of which something is known.
    known: usize,
    /// Withheld workloads by cause.
    withheld: BTreeMap<Cause, usize>,
}

/// Runs `sidecarta generate`.
pub(super) fn run(options: &GenerateCommandOptions) -> anyhow::Result<CommandOutcome> {
    let input = read_input(&options.source, &options.source.cluster)?;
    let chosen = options.choice.chosen(&input)?;
    let mut how = generation::GenerateOptions {
        group_by: match options.group_by {
            GroupByOption::Workload => GroupBy::Workload,
            GroupByOption::App => GroupBy::App,
            GroupByOption::Namespace => GroupBy::Namespace,
        },
        namespace_default: options.namespace_default,
        unrouted_http: match options.keep_http_passthrough {
            true => UnroutedHttp::Stays,
            false => UnroutedHttp::MayBecomeTcp,
        },
        adopt: options.adopt,
        ..generation::GenerateOptions::default()
    };
    options.ready.apply(&mut how);
    let mut summary = WrittenSummary::default();
    for outcome in &outcomes(&input, &how, &chosen) {
        if write_manifest(outcome, options.output.as_deref())? {
            summary.written += 1;
        } else {
            summary.add_withheld(outcome);
        }
    }
    summary.print(options.output.as_deref());
    Ok(match () {
        () if summary.known > 0 => CommandOutcome::Unready,
        () if input.partial => CommandOutcome::Partial,
        () => CommandOutcome::Done,
    })
}

/// Prints a manifest, or writes it to its file, and reports what a reviewer should know of it.
/// Returns false if there is none: the workloads are withheld.
fn write_manifest(outcome: &generation::GroupOutcome, dir: Option<&Path>) -> anyhow::Result<bool> {
    let Some(manifest) = &outcome.manifest else { return Ok(false) };
    let (namespace, name) = (manifest.namespace(), manifest.name());
    for gap in &outcome.gaps {
        output::warn(format_args!(
            "{namespace}/{name} is written though this call is not kept for sure: {gap}"
        ));
    }
    if manifest.hosts().all(|h| h == SILENT) {
        output::note(format_args!(
            "{namespace}/{name} gets {SILENT}: nothing is known that it calls in the mesh"
        ));
    }
    let text = manifest.to_yaml(&outcome.remarks)?;
    match dir {
        Some(dir) => write_file(dir, namespace, name, &text)?,
        None => output::print(&format!("---\n{text}"))?,
    }
    Ok(true)
}

impl WrittenSummary {
    /// Counts withheld workloads, and prints the reason of the first ones. `explain` gives the
    /// reason of each.
    fn add_withheld(&mut self, outcome: &generation::GroupOutcome) {
        let why = outcome.withheld.as_ref();
        self.unready += usize::from(why.is_some_and(|w| w.unready));
        self.known += usize::from(why.is_some_and(|w| w.known));
        let all: Vec<String> = outcome.workloads.iter().map(ToString::to_string).collect();
        if let Some(why) = why {
            *self.withheld.entry(why.code).or_default() += all.len();
        }
        if self.withheld.values().sum::<usize>() <= SHOWN {
            output::say(format_args!(
                "withheld: {}: {}",
                all.join(", "),
                why.map_or("no reason was given", |w| &w.reason)
            ));
        }
    }

    /// Prints the summary to standard error.
    fn print(&self, dir: Option<&Path>) {
        let below = dir.map(|d| format!(" below {}", d.display())).unwrap_or_default();
        let sidecars = if self.written == 1 { "Sidecar" } else { "Sidecars" };
        output::say(format_args!("{} {sidecars} written{below}", self.written));
        if !self.withheld.is_empty() {
            let causes: Vec<String> =
                self.withheld.iter().map(|(code, n)| format!("{n} {}", code.name())).collect();
            let n = self.withheld.values().sum::<usize>();
            let workloads = if n == 1 { "workload" } else { "workloads" };
            output::say(format_args!(
                "{n} {workloads} withheld ({}): `sidecarta explain --cluster PATH... \
                 NAMESPACE/NAME` says why, and what is known",
                causes.join(", ")
            ));
        }
        if self.unready > 0 {
            output::say(format_args!(
                "{} workloads are not ready: watch them for longer, or pass --include-unready",
                self.unready
            ));
        }
    }
}

/// Generates for the chosen workloads. Groups are formed of all workloads in their namespaces, so
/// that a choice changes no Sidecar.
pub(super) fn outcomes(
    input: &GenerationInput,
    how: &generation::GenerateOptions,
    chosen: &impl Fn(&WorkloadId) -> bool,
) -> Vec<generation::GroupOutcome> {
    let chosen_subjects = input.subjects.iter().filter(|s| chosen(&s.id));
    let namespaces: BTreeSet<&str> = chosen_subjects.map(|s| s.id.namespace.as_str()).collect();
    let subjects: Vec<Subject> = input
        .subjects
        .iter()
        .filter(|s| namespaces.contains(s.id.namespace.as_str()))
        .cloned()
        .collect();
    let input = GenerateInput {
        cluster: &input.snapshot.cluster,
        meshes: &input.snapshot.meshes,
        learned: &input.learned,
        options: how,
    };
    let mut all = generate(&input, &subjects);
    all.retain(|o| o.workloads.iter().any(chosen));
    all
}

/// Writes the file `NAMESPACE/NAME.yaml` below a directory, whole or not at all.
fn write_file(dir: &Path, namespace: &str, name: &str, text: &str) -> anyhow::Result<()> {
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    /// `status` says by these thresholds what `generate` would withhold.
    #[test]
    fn without_options_the_thresholds_are_the_careful_ones() {
        #[derive(Parser)]
        struct Options {
            #[command(flatten)]
            ready: ReadyOptions,
        }
        assert_eq!(Options::parse_from(["generate"]).ready.thresholds(), Thresholds::CAREFUL);
    }
}
