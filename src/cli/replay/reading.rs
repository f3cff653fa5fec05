//! One reading of all captures, from their packets to what each capture adds.
//!
//! Owns the loop over the packets, and the question whether the store has merged a capture before.
//! Must never write to the store.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use sidecarta_capture::loss::CaptureCounters;
use sidecarta_capture::meter::{FlowConfig, ListeningPorts, Meter};
use sidecarta_capture::source::{self, CaptureReader, Damage, Digests, SourceReport};

use crate::cli::progress::ProgressLine;
use crate::clock;
use crate::cluster::Cluster;
use crate::learn::{CaptureLearner, Earlier, LearnedCapture};
use crate::model::{BatchId, Ledger, counter};
use crate::store::Store;
use crate::verify;

/// What all readings of one replay have in common.
pub(super) struct ReplayContext<'a> {
    pub cluster: &'a Cluster,
    pub snapshot_digest: u64,
    /// Becomes true where the reading should end early.
    pub cancelled: &'a AtomicBool,
}

/// Whether the store has merged a capture before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MergedBefore {
    No,
    /// It has, and the ledger has the connections that were counted.
    Counted,
    /// It has, by an earlier program that did not record which connections it counted.
    Uncounted,
}

/// The result of reading all captures to their end.
pub(super) struct CaptureReading<'a> {
    reader: CaptureReader,
    digests: Digests,
    /// Counters of the capture layer, by source.
    counters: Vec<CaptureCounters>,
    learner: CaptureLearner<'a>,
}

impl<'a> CaptureReading<'a> {
    /// Reads captures to their end. Waits for the ledger before it counts anything.
    pub fn of(
        reader: CaptureReader,
        context: &ReplayContext<'a>,
        ledger: &'a OnceLock<Ledger>,
    ) -> anyhow::Result<Self> {
        let limits = FlowConfig::default();
        let (sockets, ports) = context.cluster.listening();
        let mut meter = Meter::new(limits, ListeningPorts { sockets, ports });
        let earlier = Earlier { ledger, snapshot: context.snapshot_digest, limits };
        let latest = verify::latest(clock::now());
        let mut learner = CaptureLearner::new(context.cluster, earlier, latest);
        let (reader, digests) = read(reader, &mut meter, &mut learner, context.cancelled)?;
        // The flow table is no longer needed, and storing needs memory of its own.
        let counters = (0..reader.reports().len() as u32).map(|s| meter.counters_of(s)).collect();
        Ok(Self { reader, digests, counters, learner })
    }

    /// Number of captures.
    pub fn len(&self) -> u32 {
        self.reader.reports().len() as u32
    }

    /// How the reading of one capture ended.
    pub fn report(&self, source: u32) -> &SourceReport {
        &self.reader.reports()[source as usize]
    }

    /// For each capture, whether the store has merged it before.
    pub fn merged_before(
        &self,
        store: &Store,
        context: &ReplayContext<'_>,
    ) -> anyhow::Result<Vec<MergedBefore>> {
        let snapshot = context.snapshot_digest;
        let of_source = |source| {
            let capture = self.digests.of(source);
            Ok(if store.has_merged(&BatchId::of_capture(capture, snapshot))? {
                MergedBefore::Counted
            } else if store.has_merged(&BatchId::of_capture_1(capture, snapshot))? {
                MergedBefore::Uncounted
            } else {
                MergedBefore::No
            })
        };
        (0..self.len()).map(of_source).collect()
    }

    /// Paths of the captures whose index is wanted.
    pub fn paths(&self, is_wanted: impl Fn(usize) -> bool) -> Vec<PathBuf> {
        let reports = self.reader.reports().iter().enumerate();
        reports.filter(|(i, _)| is_wanted(*i)).map(|(_, r)| PathBuf::from(&r.path)).collect()
    }

    /// Digests of all captures.
    pub fn digests(&self) -> Vec<u64> {
        (0..self.len()).map(|source| self.digests.of(source)).collect()
    }

    /// What could not be decided, as sorted sentences.
    pub fn notes(&self) -> impl Iterator<Item = &str> {
        self.learner.notes()
    }

    /// Counters of captures of which something was not read. None of them is 0.
    fn losses(&self) -> Vec<(&'static str, u64)> {
        let is_cut = |damage: &Option<Damage>| matches!(damage, Some(Damage::NotReadToEnd(_)));
        let cut = self.reader.reports().iter().filter(|r| is_cut(&r.damage)).count() as u64;
        let not_read = self.reader.errors().len() as u64;
        let both = [(counter::CAPTURES_NOT_READ, not_read), (counter::CAPTURES_CUT, cut)];
        both.into_iter().filter(|(_, n)| *n > 0).collect()
    }

    /// Takes out what one of the captures adds.
    pub fn take(&mut self, source: u32, context: &ReplayContext<'_>) -> LearnedCapture {
        let id = BatchId::of_capture(self.digests.of(source), context.snapshot_digest);
        let named = self.counters[source as usize].named();
        let mut counters: BTreeMap<String, u64> =
            named.into_iter().map(|(name, n)| (name.to_owned(), n)).collect();
        // Losses that belong to no capture are listed with the first.
        let losses = if source == 0 { self.losses() } else { Vec::new() };
        counters.extend(losses.into_iter().map(|(name, n)| (name.to_owned(), n)));
        self.learner.take(source, id, &self.reader.reports()[source as usize].path, counters)
    }
}

/// Reads and learns until all captures end, or until it is cancelled.
fn read(
    reader: CaptureReader,
    meter: &mut Meter,
    learner: &mut CaptureLearner<'_>,
    cancelled: &AtomicBool,
) -> anyhow::Result<(CaptureReader, Digests)> {
    let progress = reader.progress();
    let mut line = ProgressLine::new();
    let mut prefetch = source::spawn(reader)?;
    while let Some(batch) = prefetch.next_batch(cancelled) {
        meter.batch(&batch, &mut |o| learner.observe(o));
        prefetch.recycle(batch);
        line.show(&progress);
    }
    line.clear();
    anyhow::ensure!(!cancelled.load(Ordering::Relaxed), "reading was ended");
    meter.finish(&mut |o| learner.observe(o));
    prefetch.finish().map_err(anyhow::Error::msg)
}
