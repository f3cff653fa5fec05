//! What all sinks have in common: why an alert was not delivered, names of kinds, digests, cutting
//! of texts.
//!
//! Owns the words and their lengths. Must never know a sink.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::model::AlertKind;

/// Longest wait that a receiver may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(3600);

/// Why alerts were not delivered. Contains no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AlertUndelivered {
    /// All of them should be delivered again later. Those that were delivered now are not doubled
    /// by it.
    #[error("{why}")]
    Later {
        /// The reason.
        why: String,
        /// How long the receiver asks to wait, an hour at most; [`backoff`](super::backoff) may be
        /// longer.
        after: Option<Duration>,
    },
    /// Some of them never will be; the others are delivered.
    #[error("{0}")]
    Never(String),
}

impl AlertUndelivered {
    pub(super) fn later(why: impl Into<String>, after: Option<Duration>) -> Self {
        Self::Later { why: why.into(), after: after.map(|a| a.min(LONGEST_ASKED)) }
    }
}

/// The name of a kind in one word, as Kubernetes and Prometheus want it.
pub(super) fn reason(kind: AlertKind) -> &'static str {
    match kind {
        AlertKind::NewDependency => "NewDependency",
        AlertKind::ScopeMiss => "ScopeMiss",
        AlertKind::Ambiguous => "AmbiguousDestination",
        AlertKind::CoverageLost => "CoverageLost",
        AlertKind::NewWorkload => "NewWorkload",
        AlertKind::ForgedSource => "ForgedSource",
        AlertKind::BlockedCall => "BlockedCall",
    }
}

/// SHA-256. Parts of an alert's id come from the wire: with a lesser digest, a caller could choose
/// a name that hides one alert behind another.
pub(super) fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// The first bytes of the digest, two digits each.
pub(super) fn hex(bytes: &[u8], length: usize) -> String {
    digest(bytes).iter().take(length).map(|b| format!("{b:02x}")).collect()
}

/// The beginning of a text, `limit` bytes at most, with an ellipsis where something is missing.
pub(super) fn cut(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let mut end = limit.saturating_sub('…'.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}
