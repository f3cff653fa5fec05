//! An input from its first frame to its end.
//!
//! Owns the frames that were read ahead of it. Must never choose which input is read next.

use super::input::OpenInput;
use super::outcome::{ReadLimit, ReadOutcome};
use super::parked::ParkedInput;
use super::report::{Damage, SourceReport};
use crate::frame::{Frame, FrameBatch};
use crate::observation::{InterfaceId, Nanos};

/// Frames requested at a time. The limit of bytes is checked in between.
const STRIDE_FRAMES: usize = 32;

/// Where the frames of an input come from.
pub(super) enum InputSource {
    Open(OpenInput),
    Parked(Box<ParkedInput>),
}

/// An input that has begun and has not ended.
pub(super) struct ActiveInput {
    pub source: InputSource,
    /// Index of its report.
    pub id: u32,
    /// Frames that were read ahead.
    pub pending: FrameBatch,
    /// Index of the next frame in `pending`.
    pub next_index: usize,
    ended: bool,
}

impl InputSource {
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    pub(super) fn format(&self) -> String {
        match self {
            Self::Open(input) => input.format(),
            Self::Parked(parked) => parked.format(),
        }
    }
}

impl ActiveInput {
    /// An input of which nothing was read.
    pub(super) fn new(id: u32, source: InputSource) -> Self {
        Self { source, id, pending: FrameBatch::default(), next_index: 0, ended: false }
    }

    /// Packet time of the next frame that was read ahead.
    pub(super) fn head(&self) -> Option<Nanos> {
        self.pending.get(self.next_index).map(|f| f.time)
    }

    /// Bytes of memory for frames that were read ahead.
    pub(super) fn memory_bytes(&self) -> usize {
        self.pending.memory_bytes()
    }

    /// Reads frames ahead, for merging.
    pub(super) fn refill(&mut self, report: &mut SourceReport, limit: ReadLimit) {
        self.next_index = 0;
        let mut pending = std::mem::take(&mut self.pending);
        // Frees the memory of an input that once had more than its share.
        if pending.memory_bytes() > 2 * limit.bytes {
            pending = FrameBatch::default();
        }
        pending.clear();
        while pending.len() < limit.frames && pending.byte_len() < limit.bytes {
            let left = ReadLimit {
                frames: limit.frames - pending.len(),
                bytes: limit.bytes - pending.byte_len(),
            };
            let parked = !self.source.is_open();
            if !self.read(report, left, |frame| pending.push(frame)) || parked {
                break;
            }
        }
        self.pending = pending;
    }

    /// Reads frames, not many more than the limit. False where the input has ended. Then the report
    /// says how.
    pub(super) fn read(
        &mut self,
        report: &mut SourceReport,
        limit: ReadLimit,
        mut take: impl FnMut(Frame<'_>),
    ) -> bool {
        if self.ended {
            return false;
        }
        let id = self.id;
        let mut take = |frame: Frame<'_>| {
            let interface = InterfaceId { source: id, index: frame.interface.index };
            report.packets += 1;
            report.bytes += frame.data.len() as u64;
            report.first.get_or_insert(frame.time);
            take(Frame { interface, ..frame });
        };
        let next = match &mut self.source {
            InputSource::Open(input) => input.read(limit.frames.min(STRIDE_FRAMES), &mut take),
            InputSource::Parked(parked) => parked.read(limit, &mut take),
        };
        match next {
            ReadOutcome::More => true,
            ReadOutcome::End => {
                self.ended = true;
                if report.packets == 0 {
                    report.damage = Some(Damage::NoPacket);
                }
                false
            }
            ReadOutcome::Damaged(why) => {
                self.ended = true;
                let used = report.packets;
                report.damage = Some(Damage::NotReadToEnd(format!(
                    "{why}; the {used} packets before that are used"
                )));
                false
            }
        }
    }
}
