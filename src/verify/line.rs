//! Lines of a batch: which pod each is about, and what of it can be true.
//!
//! Owns what contradicts itself in a line. Must never read the cluster.

use super::time::TimeBounds;
use crate::model::Tally;
use crate::observed::{AskedName, Edge, WatchedInterface};

/// Most connections, lookups or packets of a line: sums stay far below what fits 64 bits.
pub(super) const MAX_COUNT: u64 = u32::MAX as u64;

/// A line of a batch, which is about one pod.
pub(super) trait PodLine {
    /// The position of its pod among the batch's.
    fn pod(&self) -> u32;

    /// Brings its times and counts within their limits. `Some(true)`: it has changed. `None`: it
    /// contradicts itself, and cannot be true at all.
    fn correct(&mut self, bounds: &TimeBounds) -> Option<bool>;
}

/// Limits a count. True: it was larger.
fn limit(count: &mut u64, most: u64) -> bool {
    let limited = (*count).min(most);
    std::mem::replace(count, limited) != limited
}

impl PodLine for Edge {
    fn pod(&self) -> u32 {
        self.pod
    }

    fn correct(&mut self, bounds: &TimeBounds) -> Option<bool> {
        if !self.openings.is_sorted() || self.last_began() > self.last {
            return None;
        }
        let mut changed = limit(&mut self.connections, MAX_COUNT);
        // These count some of the connections, so none of them can be larger.
        for count in [&mut self.midway, &mut self.guessed, &mut self.unanswered] {
            changed |= limit(count, self.connections);
        }
        let openings = self.openings.iter_mut().map(|opening| &mut opening.began);
        for time in openings.chain([&mut self.last]) {
            changed |= bounds.correct(time);
        }
        self.openings.sort_unstable();
        self.openings.dedup();
        self.last = self.last.max(self.last_began());
        Some(changed)
    }
}

impl PodLine for AskedName {
    fn pod(&self) -> u32 {
        self.pod
    }

    fn correct(&mut self, bounds: &TimeBounds) -> Option<bool> {
        let Tally { connections, first_seen, last_seen } = &mut self.tally;
        if first_seen > last_seen {
            return None;
        }
        let moved = bounds.correct(first_seen) | bounds.correct(last_seen);
        *last_seen = (*last_seen).max(*first_seen);
        Some(moved | limit(connections, MAX_COUNT))
    }
}

impl PodLine for WatchedInterface {
    fn pod(&self) -> u32 {
        self.pod
    }

    fn correct(&mut self, bounds: &TimeBounds) -> Option<bool> {
        let (spans, corrected) = bounds.correct_spans(std::mem::take(&mut self.spans));
        self.spans = spans;
        // An interface that was watched at no time would count as watched. Folded calls count even
        // then.
        let says_something = !self.spans.is_empty() || !self.folded.is_empty() || self.lost > 0;
        says_something.then(|| {
            corrected | limit(&mut self.packets, MAX_COUNT) | limit(&mut self.lost, MAX_COUNT)
        })
    }
}
