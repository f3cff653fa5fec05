//! Counters of each source.
//!
//! Owns which set of counters is the current one. Must never count.

use crate::loss::CaptureCounters;

/// Counters of each source. A frame is counted for its source. A source that does not end has any
/// number of interfaces, and one set of counters.
#[derive(Default)]
pub(super) struct SourceCounters {
    /// The source that [`SourceCounters::current`] counts for.
    source: u32,
    pub current: CaptureCounters,
    /// Counters of the other sources, indexed by source.
    others: Vec<CaptureCounters>,
}

impl SourceCounters {
    /// Makes `current` the counters of this source.
    #[inline(always)]
    pub(super) fn select(&mut self, source: u32) {
        if source != self.source {
            self.swap(source);
        }
    }

    #[cold]
    fn swap(&mut self, source: u32) {
        let last = source.max(self.source) as usize;
        if self.others.len() <= last {
            self.others.resize(last + 1, CaptureCounters::default());
        }
        std::mem::swap(&mut self.others[self.source as usize], &mut self.current);
        std::mem::swap(&mut self.others[source as usize], &mut self.current);
        self.source = source;
    }

    /// Counters of one source. `None` where nothing was counted for it.
    pub(super) fn of(&self, source: u32) -> Option<&CaptureCounters> {
        if source == self.source { Some(&self.current) } else { self.others.get(source as usize) }
    }

    /// Counters of all sources together.
    pub(super) fn sum(&self) -> CaptureCounters {
        let mut all = self.current.clone();
        // The entry of the current source is empty there.
        self.others.iter().for_each(|c| all.add(c));
        all
    }
}
