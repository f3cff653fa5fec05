//! Whether enough is known of a workload to write its Sidecar.
//!
//! Owns the estimate and the thresholds. Must never hide the figures behind a verdict.

use serde::Serialize;

use super::known::Known;
use crate::model::{Destination, Merge, Spans};

/// What a person asks for before a Sidecar is written.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Thresholds {
    /// Least time watched, in nanoseconds.
    pub min_coverage: u64,
    /// Least confidence that the next connection is of a dependency already known, 0 to 1.
    pub min_confidence: f64,
}

/// How much is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Readiness {
    /// Time during which one of its pods was watched, in nanoseconds.
    pub watched: u64,
    /// Connections to anything but the mesh's own machinery.
    pub connections: u64,
    /// Dependencies seen in a single connection.
    pub seen_once: u64,
    /// The estimated chance that the next connection is of a dependency already known. `None`
    /// without a connection.
    pub confidence: Option<f64>,
    /// Connections beyond its share, of which it is not known where they went one by one.
    #[serde(skip_serializing_if = "is_zero")]
    pub folded: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Readiness {
    /// Of what is known.
    pub fn of(known: &Known) -> Self {
        let mut spans = Spans::default();
        known.watches.iter().for_each(|w| spans.merge(&w.spans));
        let (mut connections, mut seen_once) = (0u64, 0u64);
        for d in known
            .dependencies
            .iter()
            .chain(&known.past)
            .filter(|d| !matches!(d.key.destination, Destination::Infrastructure { .. }))
        {
            connections = connections.saturating_add(d.tally.connections);
            seen_once += u64::from(d.tally.connections == 1);
        }
        let folded =
            known.watches.iter().fold(0u64, |n, w| n.saturating_add(w.folded.connections()));
        let watched = spans.total();
        let mut out = Self { watched, connections, seen_once, confidence: None, folded };
        out.confidence = out.chance_that_next_is_new().map(|new| 1.0 - new);
        out
    }

    /// Good-Turing: the chance that the next observation is of a kind not seen yet is about (kinds
    /// seen once) / (observations).
    pub fn chance_that_next_is_new(&self) -> Option<f64> {
        (self.connections > 0).then(|| self.seen_once as f64 / self.connections as f64)
    }

    /// Why it is not enough; `None` when it is.
    pub fn lacks(&self, least: &Thresholds) -> Option<String> {
        if self.folded > 0 {
            return Some(format!(
                "not ready: {} connections went beyond what an agent takes of one pod, and are not known one by one: the list                  is incomplete; declare what it calls with --calls, and pass --include-unready",
                self.folded
            ));
        }
        if self.watched < least.min_coverage {
            let seconds = |n: u64| n / 1_000_000_000;
            return Some(format!(
                "not ready: watched for {} s of the {} s asked for",
                seconds(self.watched),
                seconds(least.min_coverage)
            ));
        }
        match self.confidence {
            Some(c) if c < least.min_confidence => Some(format!(
                "not ready: {} of {} connections were the only one of their dependency, so the next one is known with a chance of \
                 {:.2}, below the {:.2} asked for",
                self.seen_once, self.connections, c, least.min_confidence
            )),
            _ => None,
        }
    }
}
