//! Reports of inputs: how much was read, and what is wrong with them.
//!
//! Owns the values that the reader's user sees. Must never read an input.

use std::sync::atomic::AtomicU64;

use crate::observation::Nanos;

/// What was read of an input, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceReport {
    /// Path of the input; `-` for standard input.
    pub path: String,
    /// Format: `pcap` or `pcapng`, with the compression after a comma. Empty before it is opened.
    pub format: String,
    /// Number of frames delivered.
    pub packets: u64,
    /// Bytes of the frames delivered.
    pub bytes: u64,
    /// Packet time of the first frame.
    pub first: Option<Nanos>,
    /// What is wrong with the input, where something is.
    pub damage: Option<Damage>,
}

/// What is wrong with an input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// It is whole and contains no packet. Not a loss.
    #[error("it contains no packet")]
    NoPacket,
    /// It cannot be read to its end: the reason, and how much of it is used.
    #[error("{0}")]
    NotReadToEnd(String),
}

/// How much was read so far. Shared between threads.
#[derive(Debug, Default)]
pub struct ReadProgress {
    /// Number of frames delivered.
    pub packets: AtomicU64,
    /// Bytes of the frames delivered, plus 16 bytes of record header each. Comparable with `total`.
    pub bytes: AtomicU64,
    /// Bytes of all input files; of plain files only, up to the first input that is compressed or a
    /// pipe.
    pub total: AtomicU64,
}
