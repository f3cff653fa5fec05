//! `sidecarta replay`: captures in, dependencies learned.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use serde::Serialize;
use sidecarta_capture::meter::{Config, KnownPorts, Meter};
use sidecarta_capture::observation::Observation;
use sidecarta_capture::source::{self, Digests, Reader};

use super::output::{self, Format};
use super::progress::Line;
use super::{ClusterOptions, Outcome, OutputOptions, StoreOptions};
use crate::learn::{Learner, counter};
use crate::model::{
    Batch, BatchId, DependencyKey, Destination, Merge, Record, Source, Spans, Tally, WorkloadId,
};
use crate::parallel::{both, stream};
use crate::snapshot;
use crate::store::Applied;

const EXAMPLE: &str = "\
Examples:
  sidecarta replay --cluster cluster.yaml veth5f577e0f.pcap
  sidecarta replay --cluster snapshot/ --store staging captures/*.pcapng.zst
  tcpdump -i any -w - | sidecarta replay --cluster cluster.yaml -";

/// Learn from captures
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Options {
    #[command(flatten)]
    cluster: ClusterOptions,
    #[command(flatten)]
    store: StoreOptions,
    #[command(flatten)]
    output: OutputOptions,
    /// Captures: files, directories, or `-` for standard input
    #[arg(value_name = "CAPTURE")]
    captures: Vec<PathBuf>,
}

/// `--cluster PATH... CAPTURE...` reads naturally, and a parser gives all of it to `--cluster`.
/// Behind the first path, a snapshot is a directory or ends in .yaml, .yml or .json; the first that
/// does neither, and all behind it, are captures. Where that leaves no capture, the last path is
/// one.
fn divide(cluster: &[PathBuf], captures: &[PathBuf]) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let snapshot = |p: &PathBuf| {
        let named = p.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        (named || p.is_dir()) && !source::is_capture(p)
    };
    let behind = cluster.iter().skip(1).take_while(|p| snapshot(p)).count();
    let (snapshots, rest) = cluster.split_at((1 + behind).min(cluster.len()));
    let mut snapshots = snapshots.to_vec();
    let mut found = [rest, captures].concat();
    if found.is_empty() && snapshots.len() > 1 {
        found.extend(snapshots.pop());
    }
    (snapshots, found)
}

pub(super) fn run(options: &Options) -> anyhow::Result<Outcome> {
    let (snapshots, captures) = divide(&options.cluster.cluster, &options.captures);
    anyhow::ensure!(
        !captures.is_empty(),
        "no capture is named: `sidecarta replay --cluster {} CAPTURE...`",
        snapshots[0].display()
    );
    let (loaded, reader) = both(
        || snapshot::load(&snapshots, Some(&options.cluster.cluster_domain)),
        || Reader::open(&captures),
    );
    let (cluster, snapshot) = loaded?;
    let mut partial = super::report_snapshot(&snapshot);
    reader.errors().iter().for_each(output::warn);
    reader.notes().iter().for_each(output::note);
    if reader.reports().is_empty() {
        anyhow::bail!("none of the captures could be read; nothing was learned");
    }
    partial |= !reader.errors().is_empty();
    let (sockets, ports) = cluster.listening();
    let mut meter = Meter::new(Config::default(), KnownPorts { sockets, ports });
    let mut learner = Learner::new(&cluster);
    // A store that cannot be opened ends the reading at once, not after hours.
    let refused = AtomicBool::new(false);
    let create = || options.store.create().inspect_err(|_| refused.store(true, Ordering::Relaxed));
    let (store, read) = both(create, || read(reader, &mut meter, &mut learner, &refused));
    let mut store = store?;
    let (reader, digests) = read?;
    let totals: BTreeMap<String, u64> =
        meter.counters().named().into_iter().map(|(name, n)| (name.to_owned(), n)).collect();
    // The flow table is no longer needed, and storing wants memory of its own.
    drop(meter);

    let mut summary = Summary::default();
    let reports = reader.reports();
    for (i, report) in reports.iter().enumerate() {
        if let Some(damage) = &report.damage {
            output::warn(format_args!("{}: {damage}", report.path));
            partial |= report.packets > 0 || damage != "it holds no packet";
        }
        let id = batch_id(digests.of(i as u32), snapshot.digest);
        // Losses are counted for all captures together; the first source carries them.
        let counters = if i == 0 { totals.clone() } else { BTreeMap::new() };
        let batch = learner.take(i as u32, id, &report.path, counters);
        let applied = store.apply(&batch)?;
        summary.add(batch);
        if applied == Applied::AlreadyHeld {
            summary.already_held.push(report.path.clone());
        }
    }
    store.close()?;
    summary.summarise();
    summary.notes.extend(learner.notes().map(str::to_owned));
    match options.output.output {
        Format::Table => output::print(&summary.to_text())?,
        format => output::data(format, &summary)?,
    }
    let count = |name: &str| summary.counters.get(name).copied().unwrap_or(0);
    if count(counter::CONNECTIONS) > 0 && count(counter::STRANGE) == count(counter::CONNECTIONS) {
        let example = summary.strange_example(&cluster);
        output::warn(format_args!(
            "not one of the {} connections has an end that the snapshot knows{example}: most likely the snapshot is of another \
             cluster or another time",
            count(counter::CONNECTIONS)
        ));
        return Ok(Outcome::Mismatch);
    }
    // The process ends: the system takes its memory back at once, which is quicker than piece by
    // piece.
    std::mem::forget((summary, learner));
    std::mem::forget(cluster);
    Ok(if partial { Outcome::Partial } else { Outcome::Done })
}

/// Reads and learns until the end, or until it is in vain.
fn read(
    reader: Reader,
    meter: &mut Meter,
    learner: &mut Learner<'_>,
    in_vain: &AtomicBool,
) -> anyhow::Result<(Reader, Digests)> {
    let progress = reader.progress();
    let mut line = Line::new();
    let mut prefetch = source::spawn(reader)?;
    while let Some(batch) = prefetch.next_batch(in_vain) {
        meter.batch(&batch, &mut |o| learner.observe(o));
        prefetch.recycle(batch);
        line.show(&progress);
    }
    line.clear();
    anyhow::ensure!(!in_vain.load(Ordering::Relaxed), "reading was ended");
    // Of a capture that ends with many connections under way, learning from these takes longer than
    // anything else behind its end.
    let mut beside = learner.beside();
    let mut share = |o: Observation, sink: &mut dyn FnMut(Observation)| {
        if learner.may_share(&o) { sink(o) } else { learner.observe(o) }
    };
    stream(|sink| meter.finish(&mut |o| share(o, sink)), |o| beside.observe(o));
    learner.absorb(beside);
    prefetch.finish().map_err(anyhow::Error::msg)
}

/// The same capture with the same snapshot is the same batch for ever; another snapshot may resolve
/// it better, so it counts as new.
fn batch_id(capture: u64, snapshot: u64) -> BatchId {
    BatchId { source: format!("capture:{capture:016x}:{snapshot:016x}"), sequence: 0 }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Missed {
    workload: String,
    destination: String,
    port: u16,
    #[serde(flatten)]
    tally: Tally,
}

/// What a replay did.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    captures: u64,
    already_held: Vec<String>,
    counters: BTreeMap<String, u64>,
    workloads: u64,
    dependencies: BTreeMap<&'static str, u64>,
    scope_misses: Vec<Missed>,
    ambiguous: Vec<String>,
    unresolved: Vec<String>,
    notes: Vec<String>,
    #[serde(skip)]
    seen: Spans,
    /// The batch of the only capture so far: within one, no dependency comes twice.
    #[serde(skip)]
    only: Option<Batch>,
    /// Dependencies of several captures.
    #[serde(skip)]
    merged: HashMap<DependencyKey, (Tally, Option<Tally>)>,
    #[serde(skip)]
    known: BTreeSet<WorkloadId>,
}

impl Summary {
    fn add(&mut self, batch: Batch) {
        self.captures += 1;
        for record in &batch.records {
            match record {
                Record::Source(s) => {
                    self.seen.merge(&s.spans);
                    for (name, n) in &s.counters {
                        *self.counters.entry(name.clone()).or_default() += n;
                    }
                }
                Record::Workload(w) => {
                    self.known.insert(w.id.clone());
                }
                _ => {}
            }
        }
        if self.captures == 1 {
            self.only = Some(batch);
        } else {
            self.only.take().into_iter().chain([batch]).for_each(|batch| self.merge(batch));
        }
    }

    fn merge(&mut self, batch: Batch) {
        for record in batch.records {
            let Record::Dependency(d) = record else { continue };
            let both = |(tally, missed): &mut (Tally, Option<Tally>)| {
                tally.merge(&d.tally);
                missed.merge(&d.scope_miss);
            };
            self.merged.entry(d.key).and_modify(both).or_insert((d.tally, d.scope_miss));
        }
    }

    fn summarise(&mut self) {
        self.workloads = self.known.len() as u64;
        self.dependencies.clear();
        self.scope_misses.clear();
        self.ambiguous.clear();
        self.unresolved.clear();
        let mut remarkable: Vec<_> = Vec::new();
        let only =
            self.only.iter().flat_map(|batch| &batch.records).filter_map(|record| match record {
                Record::Dependency(d) => Some((&d.key, d.tally, d.scope_miss)),
                _ => None,
            });
        for (key, tally, missed) in
            only.chain(self.merged.iter().map(|(key, (tally, missed))| (key, *tally, *missed)))
        {
            *self.dependencies.entry(key.destination.kind()).or_default() += 1;
            if missed.is_some()
                || matches!(
                    key.destination,
                    Destination::Ambiguous { .. } | Destination::Unresolved { .. }
                )
            {
                remarkable.push((key, tally, missed));
            }
        }
        remarkable.sort_by_key(|(key, ..)| *key);
        for (key, tally, missed) in remarkable {
            let (workload, destination) = (key.workload.to_string(), key.destination.to_string());
            let (port, n) = (key.port, tally.connections);
            match &key.destination {
                Destination::Ambiguous { .. } => {
                    self.ambiguous
                        .push(format!("{workload}: {n} connections to one of {destination}"));
                }
                Destination::Unresolved { why, .. } => {
                    self.unresolved.push(format!(
                        "{workload}: {n} connections to {destination}:{port}: {why}"
                    ));
                }
                _ => {}
            }
            if let Some(tally) = missed {
                self.scope_misses.push(Missed { workload, destination, port, tally });
            }
        }
    }

    fn strange_example(&self, cluster: &crate::cluster::Cluster) -> String {
        match cluster.pods().iter().flat_map(|p| &*p.addresses).next() {
            Some(address) => format!(" (it holds pods such as {address})"),
            None => " (it holds no pod)".to_owned(),
        }
    }

    fn to_text(&self) -> String {
        let count = |name: &str| self.counters.get(name).copied().unwrap_or(0);
        let mut out = String::new();
        let mut line = |text: String| output::line(&mut out, text);
        line(format!(
            "packets       {} read, {} used, {} of no IP, {} of other protocols",
            count("packets"),
            count("used"),
            count("not-ip"),
            count("other-transport") + count("later-fragments") + count("not-unicast")
        ));
        line(format!(
            "connections   {} in all: {} of pods, {} from nodes, {} from outside the cluster",
            count(counter::CONNECTIONS),
            count(counter::LEARNED),
            count(counter::FROM_NODE),
            count(counter::FROM_OUTSIDE)
        ));
        let kinds: Vec<String> =
            self.dependencies.iter().map(|(k, n)| format!("{n} {k}")).collect();
        let kinds = if kinds.is_empty() { "none".to_owned() } else { kinds.join(", ") };
        line(format!("dependencies  {kinds}; of {} workloads", self.workloads));
        let source = Source {
            source: String::new(),
            label: String::new(),
            spans: Spans::default(),
            counters: self.counters.clone(),
        };
        let losses = super::status::losses(&source);
        line(format!(
            "lost          {}",
            if losses.is_empty() { "nothing".to_owned() } else { losses.join(", ") }
        ));
        for m in &self.scope_misses {
            line(format!(
                "scope miss    {} reached {}:{} at the Service's own address {} times: its Envoy had no configuration for it",
                m.workload, m.destination, m.port, m.tally.connections
            ));
        }
        self.ambiguous.iter().for_each(|a| line(format!("ambiguous     {a}")));
        self.unresolved.iter().for_each(|u| line(format!("unresolved    {u}")));
        self.notes.iter().for_each(|n| line(format!("note          {n}")));
        for path in &self.already_held {
            line(format!(
                "unchanged     {path} was learned before, with this snapshot: nothing changed"
            ));
        }
        out
    }
}
