//! Requests and results that all readers of inputs have in common.
//!
//! Owns the messages about inputs that cannot be read. Must never read an input.

/// Why an input cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It cannot be opened or read.
    #[error("cannot read {path}: {error}")]
    Open {
        /// Path of the input.
        path: String,
        /// Error of the system.
        error: std::io::Error,
    },
    /// It is empty.
    #[error("{path} is empty (0 bytes): the capture was not written, or not yet")]
    Empty {
        /// Path of the input.
        path: String,
    },
    /// It is no capture.
    #[error(
        "{path} is not a capture: {found}; captures are made by \
         `tcpdump -w FILE` and end in .pcap or .pcapng"
    )]
    NotACapture {
        /// Path of the input.
        path: String,
        /// What it seems to be.
        found: String,
    },
    /// Its header is refused.
    #[error("{path} cannot be opened as a capture: {reason}")]
    Refused {
        /// Path of the input.
        path: String,
        /// Message of the reader.
        reason: String,
    },
}

/// Result of reading frames.
pub(super) enum ReadOutcome {
    /// Frames were delivered, and there may be more.
    More,
    /// There are no more frames.
    End,
    /// After the frames delivered, it cannot be read further. Contains the reason.
    Damaged(String),
}

/// How much is read at a time. At least one frame is read, where there is one.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadLimit {
    /// Number of frames, at most.
    pub frames: usize,
    /// Bytes of frames, approximately.
    pub bytes: usize,
}
