//! Unverified lines: lines of agents about pods that the API server does not know. They are stored
//! and not learned until it does.
//!
//! Owns their summary. Must never contain the lines themselves.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{BatchId, Time};

/// Summary of the unverified lines of one batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnverifiedBatch {
    /// Identity of the batch that had the lines.
    pub id: BatchId,
    /// The node whose agent sent it.
    pub node: String,
    /// When it was stored as unverified, by the recorder's clock.
    pub since: Time,
    /// Bytes of its text, unpacked.
    pub bytes: u64,
    /// How much there is, by the namespaces that its pods are said to be of. What is said to be of
    /// too many namespaces stands under the empty name.
    pub namespaces: BTreeMap<String, UnverifiedAmount>,
}

/// How much is unverified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnverifiedAmount {
    /// Pods, of this batch alone: two batches may speak of the same.
    pub pods: u64,
    /// Lines about them: connection edges, names asked for, interfaces watched.
    pub lines: u64,
}

impl UnverifiedBatch {
    /// In all namespaces, or in one.
    pub fn amount(&self, namespace: Option<&str>) -> UnverifiedAmount {
        let of = |n: &str| namespace.is_none_or(|wanted| wanted == n);
        let chosen = self.namespaces.iter().filter(|(n, _)| of(n));
        chosen.fold(UnverifiedAmount::default(), |sum, (_, a)| UnverifiedAmount {
            pods: sum.pods.saturating_add(a.pods),
            lines: sum.lines.saturating_add(a.lines),
        })
    }
}
