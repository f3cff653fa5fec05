//! Offline sources: captures of every usual kind, merged by packet time into batches of frames.
//!
//! Owns opening, decompressing, merging, and telling how each input ended. Must never look inside a
//! frame, and never drop one silently: an input that is cut or damaged gives what it holds and says
//! so.
//!
//! Classic pcap is read by libpcap (crate `pcap`). pcapng is read by `pcap-parser`: libpcap refuses
//! a file whose interfaces differ in link type or snap length, which cannot be known before the end
//! of the file. Compressed input and pipes go through a thread that sniffs, decompresses and feeds
//! a pipe.

mod digest;
mod input;
mod ng;
mod prefetch;
mod sniff;
mod stdio;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use digest::Digests;
pub use prefetch::{Prefetch, spawn};
pub use sniff::is_capture;

use crate::frame::{Batch, Frame};
use crate::observation::{InterfaceId, Nanos};
use input::{Input, Next};

/// Frames per batch. A batch that was given back is written again by the reading core: it should
/// have left the other core's own caches by then, for fetching lines from there costs more than
/// from the cache that both share. Half of this made reading slower by a tenth, a quarter of it by
/// a fourth; more gains nothing.
const BATCH_FRAMES: usize = 4096;
/// Bytes per batch, for captures of large frames.
const BATCH_BYTES: usize = 1024 * 1024;
/// Frames asked for at once: the limit of bytes is looked at in between.
const STRIDE: usize = 256;

/// Why an input could not be read at all. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It cannot be opened or read.
    #[error("cannot read {path}: {error}")]
    Open {
        /// The input.
        path: String,
        /// The reason.
        error: std::io::Error,
    },
    /// It holds nothing.
    #[error("{path} is empty (0 bytes): the capture was not written, or not yet")]
    Empty {
        /// The input.
        path: String,
    },
    /// It is no capture.
    #[error(
        "{path} is not a capture: {found}; captures are made by `tcpdump -w FILE` and end in .pcap or .pcapng"
    )]
    NotACapture {
        /// The input.
        path: String,
        /// What it seems to be.
        found: String,
    },
    /// Its header is refused.
    #[error("{path} cannot be opened as a capture: {reason}")]
    Refused {
        /// The input.
        path: String,
        /// What the reader says.
        reason: String,
    },
}

/// How an input ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceReport {
    /// Path, or `-`.
    pub path: String,
    /// Format in words: `pcap`, `pcapng`, with the compression.
    pub format: String,
    /// Frames delivered.
    pub packets: u64,
    /// Bytes of frames delivered.
    pub bytes: u64,
    /// Time of the first frame.
    pub first: Option<Nanos>,
    /// What is wrong with it, in words, where something is.
    pub damage: Option<String>,
}

/// How far reading has come. Shared between threads.
#[derive(Debug, Default)]
pub struct Progress {
    /// Frames delivered.
    pub packets: AtomicU64,
    /// Bytes of frames delivered, with 16 bytes of record header each: comparable with `total`.
    pub bytes: AtomicU64,
    /// Bytes of all plain files; 0 where an input is compressed or a pipe.
    pub total: AtomicU64,
}

struct Planned {
    path: PathBuf,
    first: Nanos,
    id: u32,
}

struct Open {
    input: Input,
    id: u32,
    pending: Batch,
    at: usize,
    ended: bool,
}

/// Several inputs as one stream of batches in packet-time order; within an input its own order is
/// kept.
pub struct Reader {
    /// Not opened yet, latest first.
    planned: Vec<Planned>,
    open: Vec<Open>,
    reports: Vec<SourceReport>,
    errors: Vec<SourceError>,
    notes: Vec<String>,
    progress: Arc<Progress>,
}

impl Reader {
    /// Plans the inputs: files, directories (searched for captures) and `-`. What cannot be read is
    /// kept in [`Reader::errors`].
    ///
    /// Sources are numbered by first packet time, then path, so that the order of the arguments
    /// does not show.
    pub fn open(paths: &[PathBuf]) -> Self {
        let mut reader = Self {
            planned: Vec::new(),
            open: Vec::new(),
            reports: Vec::new(),
            errors: Vec::new(),
            notes: Vec::new(),
            progress: Arc::default(),
        };
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        let mut plain = true;
        for path in paths {
            reader.plan(path, &mut found, &mut seen, &mut plain);
        }
        found.sort();
        for (i, (first, path)) in found.iter().enumerate() {
            reader.planned.push(Planned { path: path.clone(), first: *first, id: i as u32 });
            reader.reports.push(SourceReport {
                path: path.display().to_string(),
                format: String::new(),
                packets: 0,
                bytes: 0,
                first: None,
                damage: None,
            });
            if plain {
                let size = fs::metadata(path).map_or(0, |m| m.len());
                reader.progress.total.fetch_add(size, Ordering::Relaxed);
            }
        }
        reader.planned.reverse();
        reader
    }

    fn plan(
        &mut self,
        path: &Path,
        found: &mut Vec<(Nanos, PathBuf)>,
        seen: &mut HashSet<(u64, u64)>,
        plain: &mut bool,
    ) {
        if path.as_os_str() == "-" {
            *plain = false;
            // Standard input cannot be looked into first: it is opened at once, as if it began
            // before all others.
            if seen.insert((u64::MAX, u64::MAX)) {
                found.push((Nanos::MIN, path.to_owned()));
            }
            return;
        }
        let text = path.display().to_string();
        let meta = match fs::metadata(path) {
            Ok(meta) => meta,
            Err(error) => return self.errors.push(SourceError::Open { path: text, error }),
        };
        if meta.is_dir() {
            return self.plan_directory(path, found, seen, plain);
        }
        use std::os::unix::fs::{FileTypeExt, MetadataExt};
        if !seen.insert((meta.dev(), meta.ino())) {
            return self
                .notes
                .push(format!("{text} is the same file as one given before; it is read once"));
        }
        // Looking into a pipe would take bytes away that the reader needs later.
        if meta.file_type().is_fifo()
            || meta.file_type().is_char_device()
            || meta.file_type().is_socket()
        {
            *plain = false;
            return found.push((Nanos::MIN, path.to_owned()));
        }
        match Input::open(path) {
            Ok(mut input) => {
                *plain &= !input.is_piped();
                let mut first = Nanos::MIN;
                // How it ends is told when it is read.
                let _ = input.read(1, &mut |frame| first = frame.time);
                found.push((first, path.to_owned()));
            }
            Err(error) => self.errors.push(error),
        }
    }

    fn plan_directory(
        &mut self,
        path: &Path,
        found: &mut Vec<(Nanos, PathBuf)>,
        seen: &mut HashSet<(u64, u64)>,
        plain: &mut bool,
    ) {
        let entries = fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let mut entries = match entries {
            Ok(entries) => entries,
            Err(error) => {
                return self
                    .errors
                    .push(SourceError::Open { path: path.display().to_string(), error });
            }
        };
        entries.sort_by_key(fs::DirEntry::path);
        let (mut taken, mut left) = (0, 0);
        for entry in entries {
            let path = entry.path();
            // Links to directories are not followed: they may lead in circles.
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                self.plan_directory(&path, found, seen, plain);
            } else if sniff::is_capture(&path) {
                taken += 1;
                self.plan(&path, found, seen, plain);
            } else {
                left += 1;
            }
        }
        if left > 0 {
            self.notes.push(format!(
                "{}: {taken} captures are read, {left} other files are left alone",
                path.display()
            ));
        }
    }

    /// Inputs that could not be read at all.
    pub fn errors(&self) -> &[SourceError] {
        &self.errors
    }

    /// What was noticed and is no error.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// How the inputs ended so far; index = [`InterfaceId::source`].
    pub fn reports(&self) -> &[SourceReport] {
        &self.reports
    }

    /// How far reading has come.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Fills a batch with the next frames. False: all inputs have ended.
    pub fn next_batch(&mut self, batch: &mut Batch) -> bool {
        batch.clear();
        while batch.len() < BATCH_FRAMES && batch.byte_len() < BATCH_BYTES {
            self.open_due();
            match self.open.len() {
                0 if self.planned.is_empty() => break,
                0 => {}
                1 if self.planned.is_empty() => self.fill_alone(batch),
                _ => self.merge_one(batch),
            }
        }
        let packets = batch.len() as u64;
        self.progress.packets.fetch_add(packets, Ordering::Relaxed);
        self.progress.bytes.fetch_add(batch.byte_len() as u64 + 16 * packets, Ordering::Relaxed);
        !batch.is_empty()
    }

    /// Opens every planned input whose time has come.
    fn open_due(&mut self) {
        while let Some(next) = self.planned.last() {
            let head = self.open.iter().filter_map(Open::head).min();
            if !self.open.is_empty() && head.is_some_and(|h| h < next.first) {
                return;
            }
            let Some(planned) = self.planned.pop() else { return };
            match Input::open(&planned.path) {
                Ok(input) => {
                    self.reports[planned.id as usize].format = input.format();
                    let mut open = Open {
                        input,
                        id: planned.id,
                        pending: Batch::default(),
                        at: 0,
                        ended: false,
                    };
                    open.refill(&mut self.reports[planned.id as usize]);
                    self.open.push(open);
                }
                Err(error) => {
                    self.reports[planned.id as usize].damage = Some(error.to_string());
                    self.errors.push(error);
                }
            }
            self.open.retain(|o| o.head().is_some());
        }
    }

    /// The only input left: straight into the batch.
    fn fill_alone(&mut self, batch: &mut Batch) {
        let Some(open) = self.open.first_mut() else { return };
        if open.head().is_some() {
            for frame in open.pending.frames().skip(open.at) {
                batch.push(frame);
            }
            open.at = open.pending.len();
        }
        let report = &mut self.reports[open.id as usize];
        while batch.len() < BATCH_FRAMES && batch.byte_len() < BATCH_BYTES {
            if !open.read(report, STRIDE, |frame| batch.push(frame)) {
                self.open.clear();
                return;
            }
        }
        // Leave something to look at, so that an ended input is noticed as such.
        if open.head().is_none() {
            open.refill(report);
        }
        self.open.retain(|o| o.head().is_some());
    }

    fn merge_one(&mut self, batch: &mut Batch) {
        let heads = self.open.iter().enumerate().filter_map(|(i, o)| Some((o.head()?, o.id, i)));
        let Some((_, _, i)) = heads.min() else { return };
        let open = &mut self.open[i];
        if let Some(frame) = open.pending.get(open.at) {
            batch.push(frame);
            open.at += 1;
        }
        if open.at == open.pending.len() {
            open.refill(&mut self.reports[open.id as usize]);
            if open.head().is_none() {
                self.open.remove(i);
            }
        }
    }
}

impl Open {
    fn head(&self) -> Option<Nanos> {
        self.pending.get(self.at).map(|f| f.time)
    }

    /// Reads some frames ahead, for merging.
    fn refill(&mut self, report: &mut SourceReport) {
        /// Frames read ahead per input: merging copies twice, so little is gained by more.
        const AHEAD: usize = 64;
        self.at = 0;
        let mut pending = std::mem::take(&mut self.pending);
        pending.clear();
        while pending.len() < AHEAD && self.read(report, AHEAD, |frame| pending.push(frame)) {}
        self.pending = pending;
    }

    /// Reads up to `count` frames. False: the input has ended with them, and the report says how.
    fn read(
        &mut self,
        report: &mut SourceReport,
        count: usize,
        mut take: impl FnMut(Frame<'_>),
    ) -> bool {
        if self.ended {
            return false;
        }
        let id = self.id;
        let next = self.input.read(count, &mut |frame| {
            let interface = InterfaceId { source: id, index: frame.interface.index };
            report.packets += 1;
            report.bytes += frame.data.len() as u64;
            report.first.get_or_insert(frame.time);
            take(Frame { interface, ..frame });
        });
        match next {
            Next::More => true,
            Next::End => {
                self.ended = true;
                if report.packets == 0 {
                    report.damage = Some("it holds no packet".to_owned());
                }
                false
            }
            Next::Damaged(why) => {
                self.ended = true;
                report.damage =
                    Some(format!("{why}; the {} packets before that are used", report.packets));
                false
            }
        }
    }
}
