//! Reports of the flow table: all changed flows, or new flows soon.
//!
//! Owns the order and the moment of reports. Must never report in hash order.

use super::FlowTable;
use crate::flow::answers::DnsAnswers;
use crate::flow::later_hosts::HostSelection;
use crate::observation::{Nanos, Observation};

/// Packets from different interfaces can arrive out of order, by up to the block timeout of the
/// kernel's rings. Before this age, in nanoseconds, it is open which of two sightings came first.
const LATE_NANOS: Nanos = 300_000_000;

impl FlowTable {
    /// Reports all changed flows, by the time of their first packet. `until`: the packet time
    /// reached, where the source does not end.
    pub(crate) fn report(
        &mut self,
        until: Option<Nanos>,
        answers: &DnsAnswers,
        sink: &mut impl FnMut(Observation),
    ) {
        let mut order: Vec<(Nanos, u32)> =
            self.slots.iter().map(|(slot, entry)| (entry.first, slot)).collect();
        let ends = |slot| {
            self.slots.get(slot).map(|(hot, entry)| (entry.ends(&hot.key), hot.key.transport()))
        };
        order.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| ends(a.1).cmp(&ends(b.1))));
        for (_, slot) in order {
            self.report_one(slot, until, answers, sink);
        }
    }

    /// Reports about `limit` changed flows, beginning with slot `from`, by slot. Returns the slot
    /// to continue with, where there are more.
    pub(crate) fn report_some(
        &mut self,
        now: Nanos,
        (from, limit): (u32, usize),
        answers: &DnsAnswers,
        sink: &mut impl FnMut(Observation),
    ) -> Option<u32> {
        let mut reported = 0;
        for slot in from..self.slots.end() {
            if reported >= limit {
                return Some(slot);
            }
            self.report_one(slot, Some(now), answers, &mut |o| {
                reported += 1;
                sink(o);
            });
        }
        None
    }

    fn report_one(
        &mut self,
        slot: u32,
        until: Option<Nanos>,
        answers: &DnsAnswers,
        sink: &mut impl FnMut(Observation),
    ) {
        let live = self.config.live;
        self.set_dns_names(slot, answers);
        let Some((hot, entry)) = self.slots.get_mut(slot) else { return };
        let is_late = |now: Nanos| now.saturating_sub(entry.first) < LATE_NANOS;
        let is_too_early = live && !entry.reported && until.is_some_and(is_late);
        if !is_too_early {
            entry.report(hot, sink);
        }
    }

    /// Reports each new flow once, as soon as its names are final, it is closed, or it is
    /// `patience` nanoseconds old. Of flows reported before, reports new later hosts. About `limit`
    /// reports at a time.
    pub(crate) fn report_fresh(
        &mut self,
        now: Nanos,
        (patience, limit): (Nanos, usize),
        answers: &DnsAnswers,
        sink: &mut impl FnMut(Observation),
    ) {
        let mut reported = 0;
        for _ in 0..self.fresh.len() {
            if reported >= limit {
                return;
            }
            let mut sink = |o| {
                reported += 1;
                sink(o);
            };
            let Some((slot, since)) = self.fresh.pop_front() else { return };
            self.set_dns_names(slot, answers);
            let Some((hot, entry)) = self.slots.get_mut(slot) else { continue };
            // The slot may be another flow's by now, which has an entry of its own.
            if entry.reported || entry.translated_duplicate || entry.forged {
                entry.report_later_hosts(hot, HostSelection::New, &mut sink);
                continue;
            }
            let age = now.saturating_sub(since);
            if age < LATE_NANOS || !(entry.names_final || entry.closed || age >= patience) {
                self.fresh.push_back((slot, since));
                continue;
            }
            entry.report(hot, &mut sink);
        }
    }

    /// Sets the DNS names of a new flow. The answer may have been read after the connection, since
    /// it was seen on another interface.
    fn set_dns_names(&mut self, slot: u32, answers: &DnsAnswers) {
        let Some((hot, entry)) =
            self.slots.get(slot).filter(|(_, entry)| self.config.live && !entry.reported)
        else {
            return;
        };
        let (initiator, responder) = entry.ends(&hot.key);
        let dns = answers.names(initiator.ip(), responder.ip(), entry.first);
        if let Some((_, entry)) = self.slots.get_mut(slot).filter(|_| !dns.is_empty()) {
            entry.set_dns(dns);
        }
    }
}
