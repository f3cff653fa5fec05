//! What a meter reports beside the connections that end: what is fresh, what changed, and all that
//! is left at the end.
//!
//! Owns which parts of the meter report when. Must never process a frame.

use super::{Meter, questions};
use crate::observation::{InterfaceId, InterfaceSpan, Nanos, Observation};

impl Meter {
    /// Reports the questions asked up to `until` whose answers were not seen.
    fn report_unanswered(&mut self, until: Nanos, sink: &mut impl FnMut(Observation)) {
        let (open, unasked) = self.questions.expire(until);
        self.counters.current.unasked_answers += unasked;
        open.into_iter().for_each(|l| sink(Observation::Lookup(l)));
    }

    /// Adds the owner and the forged packets of an interface to its totals.
    fn complete(&mut self, mut span: InterfaceSpan) -> InterfaceSpan {
        let index = span.interface.index;
        span.owner = self.owners.owner(index);
        if let Some((forged, claimed)) = self.owners.take_forged(index) {
            (span.forged, span.claimed) = (forged, claimed);
        }
        span
    }

    fn report_interfaces(&mut self, sink: &mut impl FnMut(Observation)) {
        for span in self.interfaces.report() {
            sink(Observation::Interface(self.complete(span)));
        }
    }

    /// Reports each new connection once, as soon as its names are final, it is closed, or it is
    /// `patience` nanoseconds old. Of connections reported before, reports new later hosts at once.
    /// Needs [`FlowConfig::live`](crate::meter::FlowConfig::live). `now`: packet time reached.
    pub fn report_fresh(
        &mut self,
        now: Nanos,
        patience: Nanos,
        sink: &mut impl FnMut(Observation),
    ) {
        self.report_fresh_some(now, patience, usize::MAX, sink);
    }

    /// Same as [`Meter::report_fresh`], with about `limit` reports. The others come with the next
    /// call.
    pub fn report_fresh_some(
        &mut self,
        now: Nanos,
        patience: Nanos,
        limit: usize,
        sink: &mut impl FnMut(Observation),
    ) {
        self.table.expire_until(now, &mut self.counters.current, sink);
        self.table.report_fresh(now, (patience, limit), &self.answers, sink);
    }

    /// Adapts all times, after the clock of the packet times was set by `step` nanoseconds to
    /// `now`.
    pub fn rebase(&mut self, now: Nanos, step: Nanos) {
        self.table.rebase(now, step);
        self.answers.shift(step);
        self.questions.shift(step);
        self.owners.rebase(now, step);
    }

    /// Removes an interface, and reports its totals a last time.
    pub fn forget(&mut self, id: InterfaceId, sink: &mut impl FnMut(Observation)) {
        if let Some(span) = self.interfaces.forget(id) {
            sink(Observation::Interface(self.complete(span)));
        }
        self.owners.forget(id.index);
    }

    /// Reports all connections that changed since their last report, unanswered questions, and the
    /// totals of interfaces. For a source that does not end. `now`: packet time reached.
    pub fn report_changed(&mut self, now: Nanos, sink: &mut impl FnMut(Observation)) {
        self.table.expire_until(now, &mut self.counters.current, sink);
        self.table.report(Some(now), &self.answers, sink);
        self.report_unanswered(now.saturating_sub(questions::PATIENCE_NANOS), sink);
        self.report_interfaces(sink);
    }

    /// Same as [`Meter::report_changed`], for about `limit` connections at a time. The first call
    /// has `from` 0. Each further call has what the last one returned, until one returns `None`.
    pub fn report_changed_some(
        &mut self,
        now: Nanos,
        from: u32,
        limit: usize,
        sink: &mut impl FnMut(Observation),
    ) -> Option<u32> {
        self.table.expire_until(now, &mut self.counters.current, sink);
        let next = self.table.report_some(now, (from, limit), &self.answers, sink);
        if next.is_none() {
            self.report_unanswered(now.saturating_sub(questions::PATIENCE_NANOS), sink);
            self.report_interfaces(sink);
        }
        next
    }

    /// Reports everything that was not reported, at the end of the input.
    pub fn finish(&mut self, sink: &mut impl FnMut(Observation)) {
        self.counters.current.incomplete_head += self.table.unfinished();
        self.table.report(None, &self.answers, sink);
        self.report_unanswered(Nanos::MAX, sink);
        self.report_interfaces(sink);
    }
}
