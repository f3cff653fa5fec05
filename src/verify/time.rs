//! Which times can be true.
//!
//! Owns the limits, and moving a time or a span within them. Must never read anything else of a
//! line.

use crate::model::{Merge, Span, Spans, Time};

pub(super) const SECOND: i64 = 1_000_000_000;
/// How far a node's clock may be ahead of ours, in nanoseconds: five minutes, as Kerberos allows
/// (RFC 4120, section 5.9.1).
pub(super) const MAX_SKEW: i64 = 300 * SECOND;
/// How much older than its pod's start a connection may be, in nanoseconds. Where nobody watched
/// when an address changed hands, the start is that of the first container, and init containers
/// call before it.
const EARLY: i64 = 3_600 * SECOND;
/// Nothing was seen of a pod before there was Kubernetes: 2014-06-06, its first commit.
pub(super) const KUBERNETES: Time = Time(1_402_012_800 * SECOND);

/// The latest time that can be true now.
pub fn latest(now: Time) -> Time {
    Time(now.0.saturating_add(MAX_SKEW))
}

/// When something about a pod can have been seen.
pub(super) struct TimeBounds {
    /// The earliest time at which the pod can have been watched.
    watched: Time,
    /// The earliest time at which it can have called.
    called: Time,
    now: Time,
}

impl TimeBounds {
    /// For a pod that started at this time; [`Time::MIN`] where that is not known.
    pub fn of_pod(start: Time, now: Time) -> Self {
        let watched = start.max(KUBERNETES).min(now);
        let early = Time(start.0.saturating_sub(EARLY));
        Self { watched, called: early.max(KUBERNETES).min(now), now }
    }

    /// For an interface of a node.
    pub fn of_node(now: Time) -> Self {
        Self { watched: KUBERNETES, called: KUBERNETES, now }
    }

    /// Moves a time to one that can be true. True: it was moved.
    pub fn correct(&self, time: &mut Time) -> bool {
        let before = *time;
        if *time > latest(self.now) {
            *time = self.now;
        } else if *time < self.called {
            *time = self.watched;
        }
        *time != before
    }

    /// What of these spans can be true. True: that is less than all of them. A span that begins a
    /// little before the pod's start is cut without being counted as corrected: the start has whole
    /// seconds.
    pub fn correct_spans(&self, spans: Spans) -> (Spans, bool) {
        let is_late = |time: Time| time > latest(self.now);
        let mut corrected = false;
        let mut out = Spans::default();
        for span in spans.0 {
            corrected |= is_late(span.to) || span.from < self.called || span.to < span.from;
            let from = span.from.max(self.watched);
            let to = if is_late(span.to) { self.now.max(from) } else { span.to };
            if from <= to && !is_late(from) {
                out.0.push(Span { from, to });
            }
        }
        out.merge(&Spans::default());
        (out, corrected)
    }
}
