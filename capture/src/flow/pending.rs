//! A head that comes in several segments.
//!
//! Owns the joining of its segments. Must never have more than [`MAX_HEAD`] bytes of a head.

use super::head::{self, MAX_HEAD};
use crate::decode::Segment;
use crate::observation::{ConnectionNames, Content};

/// A head whose segments are being joined.
#[derive(Debug)]
pub(super) struct PendingHead {
    content: Content,
    bytes: Vec<u8>,
    /// Sequence number of the byte that comes next.
    next: u32,
}

/// State of joining a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JoinState {
    /// More segments may belong to it.
    Open,
    /// It was read to its end.
    Whole,
    /// It ends before its end was read.
    Incomplete,
}

impl PendingHead {
    /// Begins with the first segment of a head.
    pub(super) fn new(content: Content, s: &Segment<'_>) -> Self {
        let bytes = s.payload[..s.payload.len().min(MAX_HEAD)].to_vec();
        let next = s.tcp.seq.wrapping_add(s.payload.len() as u32);
        Self { content, bytes, next }
    }

    /// The bytes that are joined so far.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Appends a segment, and reads the head again.
    pub(super) fn join(&mut self, s: &Segment<'_>, names: &mut ConnectionNames) -> JoinState {
        // Bytes of this segment that are there already: retransmissions overlap.
        let overlap = self.next.wrapping_sub(s.tcp.seq);
        let Some(new) = s.payload.get(overlap as usize..).filter(|n| !n.is_empty()) else {
            // A retransmission, or a gap. A gap ends the head, as the lost segment may never come.
            let is_gap = (overlap as i32) < 0;
            return if is_gap { JoinState::Incomplete } else { JoinState::Open };
        };
        let room = MAX_HEAD - self.bytes.len();
        self.bytes.extend_from_slice(&new[..new.len().min(room)]);
        self.next = s.tcp.seq.wrapping_add(s.payload.len() as u32);
        if head::read(self.content, &self.bytes, names) {
            return JoinState::Whole;
        }
        if s.cut || self.bytes.len() >= MAX_HEAD { JoinState::Incomplete } else { JoinState::Open }
    }
}
