//! How many bytes of memory gathered observations may take.
//!
//! Owns the limits, and the estimate of what a call takes. Must never count anything.

use super::Call;

/// Bytes of memory that gathered observations may take, as [`call_bytes`] and [`lookup_bytes`]
/// estimate them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The calls of one pod, while there is room for all pods. Its lookups may take a quarter of
    /// that.
    pub share: usize,
    /// One pod in any case, whatever other pods take.
    pub least: usize,
    /// All pods together, beyond what each has in any case.
    pub total: usize,
    /// One batch. A larger one is cut into several, between pods. So a batch stays far below what a
    /// recorder takes (128 MiB of text, 16 MiB of it compressed), even where each byte of a name
    /// takes six in JSON.
    pub batch: usize,
}

impl Budget {
    /// No limit, for a program that learns from what is gathered without sending it.
    pub const UNBOUNDED: Self = Self {
        share: usize::MAX / 2,
        least: usize::MAX / 2,
        total: usize::MAX / 2,
        batch: usize::MAX,
    };
}

impl Default for Budget {
    fn default() -> Self {
        const KIB: usize = 1_024;
        Self { share: 2_048 * KIB, least: 64 * KIB, total: 12_288 * KIB, batch: 4_096 * KIB }
    }
}

/// Bytes that a pod takes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PodBytes {
    pub calls: usize,
    pub lookups: usize,
}

impl PodBytes {
    pub(super) fn all(self) -> usize {
        self.calls + self.lookups
    }
}

/// Bytes of memory that an edge takes, about.
pub(super) fn call_bytes(call: &Call) -> usize {
    const WITHOUT_NAMES: usize = 384;
    WITHOUT_NAMES + call.names().map(|name| 48 + name.len()).sum::<usize>()
}

/// Bytes of memory that a lookup takes, about.
pub(super) fn lookup_bytes(question: &str) -> usize {
    160 + question.len()
}
