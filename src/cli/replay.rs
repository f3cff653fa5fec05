//! `sidecarta replay`: captures in, dependencies learned.
//!
//! Owns the order of the steps: reading, storing, printing. Must never decide what a capture adds.

mod joint;
mod reading;
mod summary;
mod writes;

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use sidecarta_capture::source::{self, CaptureReader, Damage};

use super::output::{self, Format};
use super::{ClusterOptions, CommandOutcome, OutputOptions, StoreOptions};
use crate::cluster::Cluster;
use crate::model::{Batch, BatchId, Ledger, counter};
use crate::parallel::both;
use crate::snapshot;
use crate::store::{Applied, Store};
use joint::JointBatch;
use reading::{CaptureReading, MergedBefore, ReplayContext};
use summary::Summary;
use writes::CaptureWrites;

const EXAMPLE: &str = "\
Examples:
  sidecarta replay --cluster cluster.yaml veth5f577e0f.pcap
  sidecarta replay --cluster snapshot/ --store staging captures/*.pcapng.zst
  tcpdump -i any -w - | sidecarta replay --cluster cluster.yaml -";

/// Learn from captures
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct ReplayOptions {
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

/// Separates snapshots from captures, since `--cluster PATH... CAPTURE...` reads naturally, and a
/// parser gives all of it to `--cluster`. Behind the first path, a snapshot is a directory or ends
/// in .yaml, .yml or .json. The first path that is neither, and all behind it, are captures. Where
/// that leaves no capture, the last path is one.
fn divide(cluster: &[PathBuf], captures: &[PathBuf]) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let is_snapshot = |path: &PathBuf| {
        let is_yaml_or_json =
            path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        (is_yaml_or_json || path.is_dir()) && !source::is_capture(path)
    };
    let behind_first = cluster.iter().skip(1).take_while(|path| is_snapshot(path)).count();
    let (snapshots, rest) = cluster.split_at((1 + behind_first).min(cluster.len()));
    let mut snapshots = snapshots.to_vec();
    let mut captures = [rest, captures].concat();
    if captures.is_empty() && snapshots.len() > 1 {
        captures.extend(snapshots.pop());
    }
    (snapshots, captures)
}

pub(super) fn run(options: &ReplayOptions) -> anyhow::Result<CommandOutcome> {
    let (snapshots, captures) = divide(&options.cluster.cluster, &options.captures);
    anyhow::ensure!(
        !captures.is_empty(),
        "no capture is named: `sidecarta replay --cluster {} CAPTURE...`",
        snapshots[0].display()
    );
    let (loaded, reader) = both(
        || snapshot::load(&snapshots, options.cluster.cluster_domain.as_deref()),
        || CaptureReader::open(&captures),
    );
    let (cluster, snapshot) = loaded?;
    let mut is_partial = super::report_snapshot(&snapshot);
    reader.errors().iter().for_each(output::warn);
    reader.notes().iter().for_each(output::note);
    if reader.reports().is_empty() {
        anyhow::bail!("none of the captures could be read; nothing was learned");
    }
    is_partial |= !reader.errors().is_empty();
    // A store that cannot be opened ends the reading at once, not after hours.
    let store_failed = AtomicBool::new(false);
    let (ledger, second_ledger) = (OnceLock::new(), OnceLock::new());
    let context = ReplayContext {
        cluster: &cluster,
        snapshot_digest: snapshot.digest,
        cancelled: &store_failed,
    };
    let open_store = || {
        let _unblock = UnblockLedger(&ledger);
        let open = || {
            let store = options.store.create()?;
            let _ = ledger.set(store.ledger()?);
            anyhow::Ok(store)
        };
        open().inspect_err(|_| store_failed.store(true, Ordering::Relaxed))
    };
    let (store, reading) = both(open_store, || CaptureReading::of(reader, &context, &ledger));
    let mut store = store?;
    let mut reading = reading?;
    let mut merged_before = reading.merged_before(&store, &context)?;
    if record_uncounted(&mut store, &reading, &merged_before, &context)? {
        let _ = second_ledger.set(store.ledger()?);
        let reader = CaptureReader::open(&captures);
        reading = CaptureReading::of(reader, &context, &second_ledger)?;
        merged_before = reading.merged_before(&store, &context)?;
    }
    let mut summary = Summary::default();
    is_partial |= store_captures(store, &mut reading, &merged_before, &context, &mut summary)?;
    summary.summarise();
    summary.notes.extend(reading.notes().map(str::to_owned));
    match options.output.output {
        Format::Table => output::print(&summary.to_text())?,
        format => output::data(format, &summary)?,
    }
    let outcome = judge(&summary, &cluster, is_partial);
    // The process ends: the system takes its memory back at once, which is quicker than piece by
    // piece.
    std::mem::forget((summary, reading));
    std::mem::forget((ledger, second_ledger));
    std::mem::forget(cluster);
    Ok(outcome)
}

/// Records in the ledger what earlier programs counted of some of the captures, before the other
/// captures are stored: these count nothing of it. True: the ledger changed, so that all captures
/// must be read again. Pipes cannot be read twice; nothing is done where one would have to be.
fn record_uncounted<'a>(
    store: &mut Store,
    reading: &CaptureReading<'a>,
    merged_before: &[MergedBefore],
    context: &ReplayContext<'a>,
) -> anyhow::Result<bool> {
    let uncounted: Vec<PathBuf> =
        reading.paths(|source| merged_before[source] == MergedBefore::Uncounted);
    let has_new = merged_before.contains(&MergedBefore::No);
    if uncounted.is_empty() || !has_new || !uncounted.iter().all(|path| path.is_file()) {
        return Ok(false);
    }
    let ledger = OnceLock::from(store.ledger()?);
    let mut reading = CaptureReading::of(CaptureReader::open(&uncounted), context, &ledger)?;
    for source in 0..reading.len() {
        let learned = reading.take(source, context);
        store.apply_counted(&empty_batch(learned.batch.id), &learned.counted)?;
    }
    Ok(true)
}

/// Stores what each capture adds, and closes the store. True: part of a capture was not read.
fn store_captures(
    mut store: Store,
    reading: &mut CaptureReading<'_>,
    merged_before: &[MergedBefore],
    context: &ReplayContext<'_>,
    summary: &mut Summary,
) -> anyhow::Result<bool> {
    let mut is_partial = false;
    let has_new = merged_before.contains(&MergedBefore::No);
    summary.uncounted = if has_new { store.uncounted()? } else { 0 };
    let mut joint = JointBatch::default();
    let mut writes = CaptureWrites::new(store);
    for source in 0..reading.len() {
        let report = reading.report(source);
        let path = report.path.clone();
        if let Some(damage) = &report.damage {
            output::warn(format_args!("{path}: {damage}"));
            is_partial |= *damage != Damage::NoPacket;
        }
        let learned = reading.take(source, context);
        let is_new = match merged_before[source as usize] {
            MergedBefore::No => writes.add(&learned.batch, &learned.counted)?,
            MergedBefore::Counted => {
                joint.add(&learned, &path);
                false
            }
            // Nothing of it counts. The ledger has its connections from now on.
            MergedBefore::Uncounted => {
                writes.add(&empty_batch(learned.batch.id.clone()), &learned.counted)?;
                false
            }
        };
        if !is_new {
            summary.already_merged.push(path);
        }
        summary.add(learned);
    }
    store = writes.finish()?;
    let joint = joint.into_batch(&reading.digests(), context.snapshot_digest, has_new);
    if let Some((batch, counted)) = joint
        && store.apply_counted(&batch, &counted)? == Applied::New
    {
        summary.together = true;
    }
    store.close()?;
    Ok(is_partial)
}

/// A batch that adds nothing. Its identity is recorded as merged.
fn empty_batch(id: BatchId) -> Batch {
    Batch { id, records: Vec::new() }
}

/// Warns where the captures do not fit the snapshot or could not be used, and chooses the exit
/// code.
fn judge(summary: &Summary, cluster: &Cluster, is_partial: bool) -> CommandOutcome {
    let connections = summary.count(counter::CONNECTIONS);
    if connections > 0 && summary.count(counter::STRANGE) == connections {
        output::warn(format_args!(
            "not one of the {connections} connections has an end that the snapshot knows{}: most \
             likely the snapshot is of another cluster or another time",
            example_of_pods(cluster)
        ));
        return CommandOutcome::Mismatch;
    }
    let packets = summary.count(counter::PACKETS);
    if packets > 0 && summary.count(counter::USED) == 0 {
        output::warn(format_args!(
            "not one of {packets} packets could be used: {}; capture on the interfaces of pods, or \
             of nodes without encryption",
            unusable_packets(summary)
        ));
        return CommandOutcome::Partial;
    }
    if connections > 0 && summary.count(counter::FROM_NODE) == connections {
        output::note(
            "all connections are of nodes: where a network plugin wraps the packets of pods in a \
             way that is not read, capture on the interfaces of pods",
        );
    }
    if is_partial { CommandOutcome::Partial } else { CommandOutcome::Done }
}

/// An address of a pod in the snapshot, for comparison with the captures.
fn example_of_pods(cluster: &Cluster) -> String {
    match cluster.pods().iter().flat_map(|pod| &*pod.addresses).next() {
        Some(address) => format!(" (it has pods such as {address})"),
        None => " (it has no pod)".to_owned(),
    }
}

/// How many packets could not be used, by reason.
fn unusable_packets(summary: &Summary) -> String {
    let reasons = [
        (counter::ENCRYPTED_TUNNEL, "of an encrypted tunnel (WireGuard, ESP)"),
        (counter::NOT_IP, "not of IP"),
        (counter::OTHER_TRANSPORT, "of IP, but neither TCP, UDP nor SCTP"),
        (counter::LATER_FRAGMENTS, "later fragments"),
        (counter::NOT_UNICAST, "of loopback, multicast or broadcast"),
        (counter::BAD_LINK, "cut or broken in the link header"),
        (counter::BAD_NETWORK, "cut or broken in the IP header"),
        (counter::BAD_TRANSPORT, "cut or broken in the transport header"),
        (counter::UNKNOWN_LINK_TYPE, "of a link type that is not read"),
    ];
    let found = reasons.iter().filter(|(name, _)| summary.count(name) > 0);
    found
        .map(|(name, what)| format!("{} {what}", summary.count(name)))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Sets an empty ledger where none was set, so that nobody waits for it in vain.
struct UnblockLedger<'a>(&'a OnceLock<Ledger>);

impl Drop for UnblockLedger<'_> {
    fn drop(&mut self) {
        self.0.get_or_init(Ledger::default);
    }
}
