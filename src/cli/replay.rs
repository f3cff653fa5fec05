//! `sidecarta replay`: captures in, dependencies learned.

mod summary;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use sidecarta_capture::loss::CaptureCounters;
use sidecarta_capture::meter::{FlowConfig, ListeningPorts, Meter};
use sidecarta_capture::source::{self, CaptureReader, Damage, Digests};

use super::output::{self, Format};
use super::progress::ProgressLine;
use super::{ClusterOptions, CommandOutcome, OutputOptions, StoreOptions};
use crate::clock;
use crate::cluster::Cluster;
use crate::learn::{CaptureLearner, Earlier, LearnedCapture, Union};
use crate::model::{Batch, BatchId, Ledger, LedgerEntry, Record, Source, Spans, counter, sums};
use crate::parallel::both;
use crate::snapshot;
use crate::store::{Applied, Store};
use crate::verify;
use summary::Summary;

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
    /// CaptureLearner: files, directories, or `-` for standard input
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

pub(super) fn run(options: &Options) -> anyhow::Result<CommandOutcome> {
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
    let mut partial = super::report_snapshot(&snapshot);
    reader.errors().iter().for_each(output::warn);
    reader.notes().iter().for_each(output::note);
    if reader.reports().is_empty() {
        anyhow::bail!("none of the captures could be read; nothing was learned");
    }
    partial |= !reader.errors().is_empty();
    // A store that cannot be opened ends the reading at once, not after hours.
    let refused = AtomicBool::new(false);
    let (ledger, again) = (OnceLock::new(), OnceLock::new());
    let view = View { cluster: &cluster, snapshot: snapshot.digest, in_vain: &refused };
    let create = || {
        let _unblock = Unblock(&ledger);
        let open = || {
            let store = options.store.create()?;
            let _ = ledger.set(store.ledger()?);
            anyhow::Ok(store)
        };
        open().inspect_err(|_| refused.store(true, Ordering::Relaxed))
    };
    let (store, reading) = both(create, || Reading::of(reader, &view, &ledger));
    let mut store = store?;
    let mut reading = reading?;
    let mut held = reading.held(&store, &view)?;
    // What a program of before learned of some of the captures is noted first, so that the others
    // count nothing of it.
    let before: Vec<PathBuf> = reading.paths(|source| held[source] == Held::Uncounted);
    if !before.is_empty() && held.contains(&Held::Not) && before.iter().all(|p| p.is_file()) {
        let noted = OnceLock::from(store.ledger()?);
        let mut old = Reading::of(CaptureReader::open(&before), &view, &noted)?;
        for source in 0..old.len() {
            let taught = old.take(source, &view);
            store.apply_counted(&empty(taught.batch.id), &taught.counted)?;
        }
        let _ = again.set(store.ledger()?);
        reading = Reading::of(CaptureReader::open(&captures), &view, &again)?;
        held = reading.held(&store, &view)?;
    }

    let more = held.contains(&Held::Not);
    let mut summary = Summary::default();
    summary.uncounted = if more { store.uncounted()? } else { 0 };
    let mut together = Together::default();
    let mut writes = Writes::into(store);
    for source in 0..reading.len() {
        let report = &reading.reader.reports()[source as usize];
        let path = report.path.clone();
        if let Some(damage) = &report.damage {
            output::warn(format_args!("{path}: {damage}"));
            partial |= *damage != Damage::NoPacket;
        }
        let taught = reading.take(source, &view);
        let is_new = match held[source as usize] {
            Held::Not => writes.add(&taught.batch, &taught.counted)?,
            Held::Counted => {
                together.add(&taught, &path);
                false
            }
            // Nothing of it counts, and from here on it is noted what it counted.
            Held::Uncounted => {
                writes.add(&empty(taught.batch.id.clone()), &taught.counted)?;
                false
            }
        };
        if !is_new {
            summary.already_held.push(path);
        }
        summary.add(taught);
    }
    let mut store = writes.end()?;
    if let Some((batch, counted)) = together.batch(&reading.digests(), snapshot.digest, more)
        && store.apply_counted(&batch, &counted)? == Applied::New
    {
        summary.together = true;
    }
    store.close()?;
    summary.summarise();
    summary.notes.extend(reading.learned.notes().map(str::to_owned));
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
        return Ok(CommandOutcome::Mismatch);
    }
    let (packets, connections) = (count(counter::PACKETS), count(counter::CONNECTIONS));
    if packets > 0 && count(counter::USED) == 0 {
        output::warn(format_args!(
            "not one of {packets} packets could be used: {}; capture on the interfaces of pods, or of nodes without encryption",
            unused(&summary)
        ));
        partial = true;
    } else if connections > 0 && count(counter::FROM_NODE) == connections {
        output::note(
            "all connections are of nodes: where a network plugin wraps the packets of pods in a way that is not read, capture on the \
             interfaces of pods",
        );
    }
    // The process ends: the system takes its memory back at once, which is quicker than piece by
    // piece.
    std::mem::forget((summary, reading));
    std::mem::forget((ledger, again));
    std::mem::forget(cluster);
    Ok(if partial { CommandOutcome::Partial } else { CommandOutcome::Done })
}

/// What the packets were that could not be used, in words.
fn unused(summary: &Summary) -> String {
    let all = [
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
    let count = |name: &str| summary.counters.get(name).copied().unwrap_or(0);
    let found = all.iter().filter(|(name, _)| count(name) > 0);
    found.map(|(name, what)| format!("{} {what}", count(name))).collect::<Vec<_>>().join(", ")
}

/// What captures are read with.
struct View<'a> {
    cluster: &'a Cluster,
    /// Digest of the snapshot.
    snapshot: u64,
    /// Turns true where the reading is not wanted any more.
    in_vain: &'a AtomicBool,
}

/// How a capture stands with the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    Not,
    /// It was learned, and which connections it counted is noted.
    Counted,
    /// It was learned by a program that did not note which connections it counted.
    Uncounted,
}

/// What one reading of the captures gave.
struct Reading<'a> {
    reader: CaptureReader,
    digests: Digests,
    /// Of the capture layer, by source.
    counters: Vec<CaptureCounters>,
    learned: CaptureLearner<'a>,
}

impl<'a> Reading<'a> {
    /// Reads captures to their end.
    fn of(
        reader: CaptureReader,
        view: &View<'a>,
        ledger: &'a OnceLock<Ledger>,
    ) -> anyhow::Result<Self> {
        let limits = FlowConfig::default();
        let (sockets, ports) = view.cluster.listening();
        let mut meter = Meter::new(limits, ListeningPorts { sockets, ports });
        let earlier = Earlier { ledger, snapshot: view.snapshot, limits };
        let latest = verify::latest(clock::now());
        let mut learned = CaptureLearner::new(view.cluster, earlier, latest);
        let (reader, digests) = read(reader, &mut meter, &mut learned, view.in_vain)?;
        // The flow table is no longer needed, and storing wants memory of its own.
        let counters = (0..reader.reports().len() as u32).map(|s| meter.counters_of(s)).collect();
        Ok(Self { reader, digests, counters, learned })
    }

    fn len(&self) -> u32 {
        self.reader.reports().len() as u32
    }

    fn held(&self, store: &Store, view: &View<'_>) -> anyhow::Result<Vec<Held>> {
        let of = |source| {
            let capture = self.digests.of(source);
            Ok(if store.has_merged(&BatchId::of_capture(capture, view.snapshot))? {
                Held::Counted
            } else if store.has_merged(&BatchId::of_capture_1(capture, view.snapshot))? {
                Held::Uncounted
            } else {
                Held::Not
            })
        };
        (0..self.len()).map(of).collect()
    }

    fn paths(&self, wanted: impl Fn(usize) -> bool) -> Vec<PathBuf> {
        let reports = self.reader.reports().iter().enumerate();
        reports.filter(|(i, _)| wanted(*i)).map(|(_, r)| PathBuf::from(&r.path)).collect()
    }

    fn digests(&self) -> Vec<u64> {
        (0..self.len()).map(|source| self.digests.of(source)).collect()
    }

    /// CaptureLearner of which something was not read, by how; none that is 0.
    fn lost(&self) -> Vec<(&'static str, u64)> {
        let is_cut = |damage: &Option<Damage>| matches!(damage, Some(Damage::NotReadToEnd(_)));
        let cut = self.reader.reports().iter().filter(|r| is_cut(&r.damage)).count() as u64;
        let not_read = self.reader.errors().len() as u64;
        let both = [(counter::CAPTURES_NOT_READ, not_read), (counter::CAPTURES_CUT, cut)];
        both.into_iter().filter(|(_, n)| *n > 0).collect()
    }

    /// What one of the captures has taught.
    fn take(&mut self, source: u32, view: &View<'_>) -> LearnedCapture {
        let id = BatchId::of_capture(self.digests.of(source), view.snapshot);
        let named = self.counters[source as usize].named();
        let mut counters: BTreeMap<String, u64> =
            named.into_iter().map(|(name, n)| (name.to_owned(), n)).collect();
        // What belongs to none of them stands with the first.
        let lost = if source == 0 { self.lost() } else { Vec::new() };
        counters.extend(lost.into_iter().map(|(name, n)| (name.to_owned(), n)));
        self.learned.take(source, id, &self.reader.reports()[source as usize].path, counters)
    }
}

/// What is written to the store: many captures at once, as each write waits for the disk.
struct Writes {
    store: Store,
    waiting: Union,
    /// Batches of captures in `waiting`.
    ids: BTreeSet<BatchId>,
    /// What they counted.
    counted: Vec<(BatchId, Vec<LedgerEntry>)>,
    /// Connections in `counted`.
    connections: usize,
}

impl Writes {
    fn into(store: Store) -> Self {
        Self {
            store,
            waiting: Union::default(),
            ids: BTreeSet::new(),
            counted: Vec::new(),
            connections: 0,
        }
    }

    /// Adds what a capture has taught; false where the store holds it already.
    fn add(&mut self, batch: &Batch, counted: &[LedgerEntry]) -> anyhow::Result<bool> {
        /// Records in one write, about.
        const RECORDS: usize = 16_384;
        /// Counted connections in one write, about.
        const CONNECTIONS: usize = 65_536;
        if self.ids.contains(&batch.id) || self.store.has_merged(&batch.id)? {
            return Ok(false);
        }
        if batch.records.len() >= RECORDS || counted.len() >= CONNECTIONS {
            return Ok(self.store.apply_counted(batch, counted)? == Applied::New);
        }
        self.ids.insert(batch.id.clone());
        self.waiting.add(batch.clone());
        self.counted.push((batch.id.clone(), counted.to_vec()));
        self.connections += counted.len();
        if self.waiting.len() >= RECORDS || self.connections >= CONNECTIONS {
            self.write()?;
        }
        Ok(true)
    }

    fn write(&mut self) -> anyhow::Result<()> {
        let (ids, counted) = (std::mem::take(&mut self.ids), std::mem::take(&mut self.counted));
        self.connections = 0;
        if let Some(batch) = std::mem::take(&mut self.waiting).batch() {
            self.store.apply_together(&batch, &ids, &counted)?;
        }
        Ok(())
    }

    /// Writes what waits. Gives the store back.
    fn end(mut self) -> anyhow::Result<Store> {
        self.write()?;
        Ok(self.store)
    }
}

/// A batch that teaches nothing, and is held.
fn empty(id: BatchId) -> Batch {
    Batch { id, records: Vec::new() }
}

/// Sets an empty ledger where none was set: nobody may wait for one that does not come.
struct Unblock<'a>(&'a OnceLock<Ledger>);

impl Drop for Unblock<'_> {
    fn drop(&mut self) {
        self.0.get_or_init(Ledger::default);
    }
}

/// What captures that are held show in the company of others, and did not show before: a name that
/// another capture has, or the rest of a connection.
#[derive(Default)]
struct Together {
    taught: Union,
    counted: Vec<LedgerEntry>,
    counters: BTreeMap<String, u64>,
    labels: Vec<String>,
    is_new: bool,
}

impl Together {
    fn add(&mut self, taught: &LearnedCapture, path: &str) {
        if taught.counted.is_empty() {
            return;
        }
        self.counted.extend(&taught.counted);
        self.labels.push(path.to_owned());
        self.is_new |= taught.is_new;
        let Batch { id, records } = &taught.batch;
        let mut learned = empty(id.clone());
        for record in records {
            match record {
                Record::Dependency(_) | Record::Workload(_) | Record::Lookups(_) => {
                    learned.records.push(record.clone());
                }
                // That it was watched, its packets and losses were learned with the capture.
                Record::Watch(_) => {}
                Record::Source(s) => {
                    let learned = [
                        counter::CONNECTIONS,
                        counter::LEARNED,
                        counter::FROM_NODE,
                        counter::FROM_OUTSIDE,
                        counter::UNATTRIBUTED,
                        counter::CONTESTED,
                        counter::GUESSED,
                        counter::MIDWAY,
                        counter::STRANGE,
                        counter::UNLISTED,
                    ];
                    for name in learned {
                        let n = s.counters.get(name).copied().unwrap_or(0);
                        sums::add(&mut self.counters, name, n);
                    }
                }
            }
        }
        self.taught.add(learned);
    }

    /// The batch of it, where there is anything; `more`: other captures are new.
    fn batch(
        self,
        captures: &[u64],
        snapshot: u64,
        more: bool,
    ) -> Option<(Batch, Vec<LedgerEntry>)> {
        if !self.is_new && !more {
            return None;
        }
        let mut batch = self.taught.batch()?;
        batch.id = BatchId::of_captures(captures, snapshot);
        if !self.counters.is_empty() {
            batch.records.push(Record::Source(Source {
                source: batch.id.source.clone(),
                label: self.labels.join(", "),
                spans: Spans::default(),
                counters: self.counters,
            }));
        }
        Some((batch, self.counted))
    }
}

/// Reads and learns until the end, or until it is in vain.
fn read(
    reader: CaptureReader,
    meter: &mut Meter,
    learned: &mut CaptureLearner<'_>,
    in_vain: &AtomicBool,
) -> anyhow::Result<(CaptureReader, Digests)> {
    let progress = reader.progress();
    let mut line = ProgressLine::new();
    let mut prefetch = source::spawn(reader)?;
    while let Some(batch) = prefetch.next_batch(in_vain) {
        meter.batch(&batch, &mut |o| learned.observe(o));
        prefetch.recycle(batch);
        line.show(&progress);
    }
    line.clear();
    anyhow::ensure!(!in_vain.load(Ordering::Relaxed), "reading was ended");
    meter.finish(&mut |o| learned.observe(o));
    prefetch.finish().map_err(anyhow::Error::msg)
}
