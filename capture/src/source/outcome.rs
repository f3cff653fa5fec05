//! What all ways of reading have in common: how much is asked for, and what became of it.
//!
//! Owns the words. Must never read.

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

/// What became of an attempt to read frames.
pub(super) enum ReadOutcome {
    /// Some were handed on, and there may be more.
    More,
    /// There is no further one.
    End,
    /// After those that were handed on, it can be read no further.
    Damaged(String),
}

/// How much is read at once. At least one frame is, where there is one.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadLimit {
    /// Frames.
    pub frames: usize,
    /// Bytes of frames, about.
    pub bytes: usize,
}
