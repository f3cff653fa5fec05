//! What a store exports, line by line.
//!
//! Owns the form as NDJSON and its version. Must never read a store.

use serde::{Deserialize, Serialize};

use crate::{Acceptance, Baseline, BatchId, RaisedAlert, Record};

/// Version of the export format.
pub const VERSION: u32 = 1;

/// A line of an export.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExportLine {
    /// The first one.
    Sidecarta(ExportHeader),
    /// A record.
    Row(Box<Record>),
    /// A batch that the store has merged.
    Batch(BatchId),
    /// A part of a queued batch. The parts of one batch follow each other.
    #[serde(rename = "kept")]
    Queued(QueuedPart),
    /// What was accepted of a workload.
    Baseline(Box<Baseline>),
    /// An alert, and how its delivery stands.
    Alert(Box<RaisedAlert>),
    /// Who accepted what.
    Accepted(Acceptance),
    /// Connections and lookups that a batch counted.
    Counted(CountedLine),
    /// The last one.
    End(ExportFooter),
}

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
pub struct ExportHeader {
    /// See [`VERSION`].
    pub version: u32,
    /// What is missing: the export was made of a damaged store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub salvaged: Option<String>,
}

/// A part of a queued batch: the recorder acknowledged it and has not resolved it yet.
#[derive(Debug, Serialize, Deserialize)]
pub struct QueuedPart {
    /// Which batch.
    #[serde(flatten)]
    pub id: BatchId,
    /// Bytes as the agent sent them, compressed, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zstd: Option<String>,
    /// Older programs: its own lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<String>,
}

/// Ledger entries of a batch, or some of them.
#[derive(Debug, Serialize, Deserialize)]
pub struct CountedLine {
    /// Which batch.
    #[serde(flatten)]
    pub id: BatchId,
    /// Two digits for each byte.
    pub bytes: String,
}

/// The last line: how much there is.
#[derive(Debug, Serialize, Deserialize)]
pub struct ExportFooter {
    /// Lines of records, baselines, alerts and what was accepted.
    pub rows: u64,
    /// Number of lines with the identity of a merged batch.
    pub batches: u64,
    /// Lines of queued batches.
    #[serde(rename = "kept", default, skip_serializing_if = "crate::is_zero")]
    pub queued: u64,
    /// Lines of what was counted.
    #[serde(default, skip_serializing_if = "crate::is_zero")]
    pub counted: u64,
}
