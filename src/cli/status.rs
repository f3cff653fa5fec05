//! `sidecarta status`.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;

use super::output::{self, Format};
use super::{Outcome, OutputOptions, StoreOptions, ViewOptions, generate::known};
use crate::generate::Known;
use crate::generate::readiness::Readiness;
use crate::model::{DataPlane, Destination, Grade, Merge, Source, Spans, Tally, WorkloadId};

const EXAMPLE: &str = "\
Example:
  sidecarta status
  sidecarta status -n bookinfo -o json";

/// Show per workload what was watched, what is known, and what is not
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Options {
    #[command(flatten)]
    store: StoreOptions,
    #[command(flatten)]
    view: ViewOptions,
    #[command(flatten)]
    output: OutputOptions,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    workloads: Vec<WorkloadStatus>,
    sources: Vec<Source>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct WorkloadStatus {
    workload: WorkloadId,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_plane: Option<DataPlane>,
    watched: Watched,
    connections: u64,
    midway: u64,
    guessed: u64,
    dependencies: BTreeMap<&'static str, u64>,
    evidence: BTreeMap<Grade, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chance_that_next_is_new: Option<f64>,
    scope_misses: Vec<Missed>,
    unknown: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Watched {
    pods: u64,
    pods_from_start: u64,
    nanoseconds: u64,
    spans: Spans,
    packets: u64,
}

#[derive(Debug, Serialize)]
struct Missed {
    destination: Destination,
    port: u16,
    #[serde(flatten)]
    tally: Tally,
}

pub(super) fn run(options: &Options) -> anyhow::Result<Outcome> {
    let store = options.store.existing()?;
    let namespace = options.view.namespace.as_deref();
    let mut known = known(&store, namespace)?;
    let mut planes: BTreeMap<WorkloadId, DataPlane> = BTreeMap::new();
    for w in store.workloads(namespace)? {
        known.entry(w.id.clone()).or_default();
        planes.insert(w.id, w.data_plane);
    }
    let workloads = known.iter().map(|(id, k)| one(id, planes.get(id).copied(), k)).collect();
    let status = Status { workloads, sources: store.sources()? };
    match options.output.output {
        Format::Table => output::print(&table(&status))?,
        format => output::data(format, &status)?,
    }
    Ok(Outcome::Done)
}

fn one(id: &WorkloadId, data_plane: Option<DataPlane>, known: &Known) -> WorkloadStatus {
    let mut spans = Spans::default();
    known.watches.iter().for_each(|w| spans.merge(&w.spans));
    let mut dependencies: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut evidence: BTreeMap<Grade, u64> = BTreeMap::new();
    let (mut scope_misses, mut unknown) = (Vec::new(), Vec::new());
    let (mut connections, mut midway, mut guessed) = (0, 0, 0);
    for d in &known.dependencies {
        *dependencies.entry(d.key.destination.kind()).or_default() += 1;
        connections += d.tally.connections;
        midway += d.midway;
        guessed += d.guessed;
        for (grade, e) in &d.evidence {
            *evidence.entry(*grade).or_default() += e.tally.connections;
        }
        if let Some(tally) = d.scope_miss {
            scope_misses.push(Missed { destination: d.key.destination.clone(), port: d.key.port, tally });
        }
        match &d.key.destination {
            Destination::Ambiguous { .. } => {
                unknown.push(format!("{} connections: one of {}", d.tally.connections, d.key.destination));
            }
            Destination::Unresolved { why, .. } => {
                unknown.push(format!("{} connections to {}:{}: {why}", d.tally.connections, d.key.destination, d.key.port))
            }
            _ => {}
        }
    }
    if known.watches.is_empty() {
        unknown.push("none of its pods was watched on its own interface".to_owned());
    }
    WorkloadStatus {
        workload: id.clone(),
        data_plane,
        watched: Watched {
            pods: known.watches.len() as u64,
            pods_from_start: known.watches.iter().filter(|w| w.from_start()).count() as u64,
            nanoseconds: spans.total(),
            spans,
            packets: known.watches.iter().map(|w| w.packets).sum(),
        },
        connections,
        midway,
        guessed,
        dependencies,
        evidence,
        chance_that_next_is_new: Readiness::of(known).chance_that_next_is_new(),
        scope_misses,
        unknown,
    }
}

fn table(status: &Status) -> String {
    if status.workloads.is_empty() {
        return "the store knows no workload yet: `sidecarta replay` fills it\n".to_owned();
    }
    let mut t = output::table(&[
        "WORKLOAD",
        "MESH",
        "WATCHED",
        "PODS",
        "CONNECTIONS",
        "MIDWAY",
        "DEPENDENCIES",
        "NEXT IS NEW",
        "BEST EVIDENCE",
    ]);
    for w in &status.workloads {
        let plane = w.data_plane.map_or_else(|| "?".to_owned(), |p| format!("{p:?}").to_lowercase());
        let watched = if w.watched.pods == 0 { "no".to_owned() } else { output::duration(w.watched.nanoseconds) };
        let kinds: Vec<String> = w.dependencies.iter().map(|(k, n)| format!("{n} {k}")).collect();
        t.add_row([
            w.workload.to_string(),
            plane,
            watched,
            format!("{} ({} from start)", w.watched.pods, w.watched.pods_from_start),
            w.connections.to_string(),
            w.midway.to_string(),
            if kinds.is_empty() { "none".to_owned() } else { kinds.join(", ") },
            w.chance_that_next_is_new.map_or_else(|| "-".to_owned(), |p| format!("{:.1} %", 100.0 * p)),
            w.evidence.keys().next().map_or("-", |g| g.describe()).to_owned(),
        ]);
    }
    let mut out = output::render(&t);
    for w in &status.workloads {
        for m in &w.scope_misses {
            out.push_str(&format!(
                "scope miss: {} reached {}:{} at the Service's own address {} times, last {}: its Sidecar lacks the host\n",
                w.workload,
                m.destination,
                m.port,
                m.tally.connections,
                output::moment(m.tally.last_seen)
            ));
        }
    }
    for w in &status.workloads {
        for u in &w.unknown {
            out.push_str(&format!("not known: {}: {u}\n", w.workload));
        }
    }
    for s in &status.sources {
        let losses = losses(s);
        if !losses.is_empty() {
            out.push_str(&format!("lost: {}: {}\n", s.label, losses.join(", ")));
        }
    }
    out
}

/// Counters of a source that are losses, in words. The rest tells what was read.
pub(super) fn losses(source: &Source) -> Vec<String> {
    /// Counters that are no loss: totals, and traffic that concerns no workload.
    const NO_LOSS: [&str; 15] = [
        "packets",
        "bytes",
        "used",
        "not-ip",
        "other-transport",
        "later-fragments",
        "not-unicast",
        "repeated-sightings",
        "connections",
        "learned",
        "from-node",
        "from-outside",
        "from-elsewhere",
        "midway",
        "neither-end-known",
    ];
    let lost = source.counters.iter().filter(|(name, n)| **n > 0 && !NO_LOSS.contains(&name.as_str()));
    lost.map(|(name, n)| format!("{name} {n}")).collect()
}
