//! Capture files and streams, merged by packet time into batches of frames.
//!
//! Owns opening, decompressing and merging of inputs, and the report how each ended. Must never
//! read the bytes of a frame, nor drop a frame silently. An input that is cut or damaged gives the
//! frames before the damage, and a report of it.
//!
//! libpcap (crate `pcap`) reads classic pcap. `pcap-parser` reads pcapng, since libpcap refuses a
//! file whose interfaces differ in link type or snap length, which only shows at the end of the
//! file. For compressed input and pipes, a thread sniffs and decompresses the input, and feeds a
//! pipe.
//!
//! At most `MAX_OPEN` inputs are open at a time. Where more inputs overlap in time, the others are
//! parked (`parked`): nothing of them is open between two reads. So neither descriptors nor memory
//! limit the number of captures.

mod active;
mod classic;
mod digest;
mod input;
mod ng;
mod outcome;
mod parked;
mod plan;
mod prefetch;
mod report;
mod sniff;
mod stdio;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub use digest::Digests;
pub use outcome::SourceError;
pub use prefetch::{Prefetch, spawn};
pub use report::{Damage, ReadProgress, SourceReport};
pub use sniff::is_capture;

use crate::frame::FrameBatch;
use crate::observation::Nanos;
use active::{ActiveInput, InputSource};
use input::OpenInput;
use outcome::ReadLimit;
use parked::{ParkedInput, UnpackedFiles};
use plan::InputPlan;

/// Frames per batch. The reading core writes to a batch again when it was recycled. By then it
/// should have left the other core's own caches: fetching lines from there costs more than from the
/// cache that both share. Half as many frames made reading slower by a tenth, a quarter as many by
/// a fourth. More gain nothing.
const BATCH_FRAMES: usize = 4096;
/// Bytes per batch, for captures of large frames.
const BATCH_BYTES: usize = 1024 * 1024;
/// Inputs that are open at a time. Each takes up to three descriptors, a buffer of 1 MiB and the
/// memory of a decompressor.
const MAX_OPEN: usize = 16;
/// Frames read ahead of an open input, for merging. They are copied twice, so that more gain
/// little.
const AHEAD_FRAMES: usize = 64;
/// Bytes read ahead of an input at a time, for merging.
const AHEAD_BYTES: usize = 256 * 1024;
/// Bytes read ahead of all inputs together. Each input may have [`MIN_AHEAD_BYTES`] in any case.
const TOTAL_AHEAD_BYTES: usize = 32 * 1024 * 1024;
/// Bytes read ahead of a parked input, at least. Opening the file for less would cost more than
/// reading.
const MIN_AHEAD_BYTES: usize = 4 * 1024;

/// An input that was found and has not begun.
struct PlannedInput {
    path: PathBuf,
    first: Nanos,
    id: u32,
}

/// Reads several inputs as one stream of batches, in the order of packet time. Frames of one input
/// stay in the order of the input.
pub struct CaptureReader {
    /// Inputs that have not begun, the latest first.
    planned: Vec<PlannedInput>,
    /// Inputs that have begun, indexed by source.
    active: Vec<Option<Box<ActiveInput>>>,
    /// Packet time of the next frame of each active input, and its source.
    next_times: BinaryHeap<Reverse<(Nanos, u32)>>,
    /// Number of inputs that are open.
    open: usize,
    /// Bytes of memory for frames that were read ahead.
    ahead_bytes: usize,
    unpacked: UnpackedFiles,
    reports: Vec<SourceReport>,
    errors: Vec<SourceError>,
    notes: Vec<String>,
    progress: Arc<ReadProgress>,
}

impl CaptureReader {
    /// Finds the inputs: files, directories (searched for captures) and `-`. Inputs that cannot be
    /// read are listed in [`CaptureReader::errors`].
    ///
    /// Sources are numbered by the packet time of their first frame, then by path, so that the
    /// order of the arguments does not matter.
    pub fn open(paths: &[PathBuf]) -> Self {
        let mut plan = InputPlan::new();
        for path in paths {
            plan.add(path);
        }
        plan.found.sort();
        let mut reader = Self {
            planned: Vec::new(),
            active: Vec::new(),
            next_times: BinaryHeap::new(),
            open: 0,
            ahead_bytes: 0,
            unpacked: UnpackedFiles::default(),
            reports: Vec::new(),
            errors: plan.errors,
            notes: plan.notes,
            progress: Arc::default(),
        };
        for (i, (first, path)) in plan.found.iter().enumerate() {
            reader.planned.push(PlannedInput { path: path.clone(), first: *first, id: i as u32 });
            reader.reports.push(SourceReport {
                path: path.display().to_string(),
                format: String::new(),
                packets: 0,
                bytes: 0,
                first: None,
                damage: None,
            });
            if plan.is_plain {
                let size = fs::metadata(path).map_or(0, |m| m.len());
                reader.progress.total.fetch_add(size, Ordering::Relaxed);
            }
        }
        reader.planned.reverse();
        reader.active.resize_with(reader.reports.len(), || None);
        reader
    }

    /// Inputs that cannot be read at all.
    pub fn errors(&self) -> &[SourceError] {
        &self.errors
    }

    /// Remarks on the inputs that are no errors.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Reports of all inputs, indexed by
    /// [`InterfaceId::source`](crate::observation::InterfaceId::source).
    pub fn reports(&self) -> &[SourceReport] {
        &self.reports
    }

    /// How much was read so far.
    pub fn progress(&self) -> Arc<ReadProgress> {
        Arc::clone(&self.progress)
    }

    /// Fills a batch with the next frames. False where all inputs have ended.
    pub fn next_batch(&mut self, batch: &mut FrameBatch) -> bool {
        batch.clear();
        while !is_full(batch) {
            self.begin_due();
            match self.next_times.len() {
                0 if self.planned.is_empty() => break,
                0 => {}
                1 if self.planned.is_empty() => self.fill_alone(batch),
                _ => self.merge(batch),
            }
        }
        let packets = batch.len() as u64;
        self.progress.packets.fetch_add(packets, Ordering::Relaxed);
        self.progress.bytes.fetch_add(batch.byte_len() as u64 + 16 * packets, Ordering::Relaxed);
        !batch.is_empty()
    }

    /// Begins each planned input whose first frame comes next.
    fn begin_due(&mut self) {
        while let Some(next) = self.planned.last() {
            if self.next_times.peek().is_some_and(|Reverse((head, _))| *head < next.first) {
                return;
            }
            let Some(PlannedInput { path, id, .. }) = self.planned.pop() else { return };
            match self.source(&path) {
                Ok(source) => {
                    self.reports[id as usize].format = source.format();
                    self.open += usize::from(source.is_open());
                    self.read_ahead(Box::new(ActiveInput::new(id, source)));
                }
                Err(error) => {
                    self.reports[id as usize].damage =
                        Some(Damage::NotReadToEnd(error.to_string()));
                    self.errors.push(error);
                }
            }
        }
    }

    fn source(&mut self, path: &Path) -> Result<InputSource, SourceError> {
        let regular = || fs::metadata(path).is_ok_and(|m| m.is_file());
        if self.open >= MAX_OPEN
            && regular()
            && let Some(parked) = ParkedInput::open(path, &mut self.unpacked)?
        {
            return Ok(InputSource::Parked(Box::new(parked)));
        }
        Ok(InputSource::Open(OpenInput::open(path)?))
    }

    /// Reads ahead of an input whose frames were all delivered. Closes it at its end.
    fn read_ahead(&mut self, mut active: Box<ActiveInput>) {
        self.ahead_bytes -= active.memory_bytes();
        let limit = match active.source {
            InputSource::Open(_) => ReadLimit { frames: AHEAD_FRAMES, bytes: AHEAD_BYTES },
            InputSource::Parked(_) => {
                let share = TOTAL_AHEAD_BYTES.saturating_sub(self.ahead_bytes) / MAX_OPEN;
                ReadLimit { frames: usize::MAX, bytes: share.clamp(MIN_AHEAD_BYTES, AHEAD_BYTES) }
            }
        };
        active.refill(&mut self.reports[active.id as usize], limit);
        match active.head() {
            Some(head) => {
                self.ahead_bytes += active.memory_bytes();
                self.next_times.push(Reverse((head, active.id)));
                let index = active.id as usize;
                self.active[index] = Some(active);
            }
            None => self.open -= usize::from(active.source.is_open()),
        }
    }

    /// Reads the only input that is left, straight into the batch.
    fn fill_alone(&mut self, batch: &mut FrameBatch) {
        let first = self.next_times.pop();
        let Some(mut active) = first.and_then(|Reverse((_, id))| self.active[id as usize].take())
        else {
            return;
        };
        for frame in active.pending.frames().skip(active.next_index) {
            batch.push(frame);
        }
        active.next_index = active.pending.len();
        let report = &mut self.reports[active.id as usize];
        while !is_full(batch) {
            let limit = ReadLimit {
                frames: BATCH_FRAMES.saturating_sub(batch.len()),
                bytes: BATCH_BYTES.saturating_sub(batch.byte_len()),
            };
            if !active.read(report, limit, |frame| batch.push(frame)) {
                break;
            }
        }
        // Reads ahead, so that an input that has ended is closed.
        self.read_ahead(active);
    }

    /// Delivers frames of the input with the earliest frame, until another input's frame is
    /// earlier.
    fn merge(&mut self, batch: &mut FrameBatch) {
        let Some(Reverse((head, id))) = self.next_times.pop() else { return };
        let Some(mut active) = self.active[id as usize].take() else { return };
        let mut next = Some(head);
        while let Some(head) = next
            && !is_full(batch)
            && self.next_times.peek().is_none_or(|Reverse(other)| (head, id) <= *other)
            && self.planned.last().is_none_or(|planned| head < planned.first)
        {
            if let Some(frame) = active.pending.get(active.next_index) {
                batch.push(frame);
            }
            active.next_index += 1;
            next = active.head();
        }
        match next {
            Some(head) => {
                self.next_times.push(Reverse((head, id)));
                self.active[id as usize] = Some(active);
            }
            None => self.read_ahead(active),
        }
    }
}

fn is_full(batch: &FrameBatch) -> bool {
    batch.len() >= BATCH_FRAMES || batch.byte_len() >= BATCH_BYTES
}
