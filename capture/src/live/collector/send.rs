//! Reports to the receiver.
//!
//! Owns when observations are sent, and the spans in which interfaces were watched. Must never wait
//! for the receiver.

use std::sync::mpsc::{SyncSender, TrySendError};

use super::buffer::{CHUNK, separate_spans};
use super::{CollectError, Collector, CollectorReport, nanos};
use crate::live::report::ReportKind;
use crate::observation::{Nanos, Observation};

impl Collector {
    /// Reports what is due, in parts, as far as the receiver takes it. The rest is reported at the
    /// next tick.
    pub(super) fn report_due(
        &mut self,
        now: Nanos,
        out: &SyncSender<CollectorReport>,
    ) -> Result<(), CollectError> {
        loop {
            let (limit, before) = (self.buffer.room(), self.buffer.len());
            let (buffer, mut spans) = (&mut self.buffer, Vec::new());
            let mut take = |o| separate_spans(o, buffer, &mut spans);
            if let Some(from) = self.round {
                self.round = self.meter.report_changed_some(now, from, limit, &mut take);
            } else {
                self.meter.report_fresh_some(now, nanos(self.config.patience), limit, &mut take);
            }
            self.spans(spans, now);
            let added = self.buffer.len().saturating_sub(before);
            self.send_buffered(now, out)?;
            if added < limit || added == 0 {
                return Ok(());
            }
        }
    }

    /// Sends buffered observations, as far as the receiver takes them.
    pub(super) fn send_buffered(
        &mut self,
        now: Nanos,
        out: &SyncSender<CollectorReport>,
    ) -> Result<(), CollectError> {
        loop {
            let report = self.report(now, ReportKind::Tick);
            match out.try_send(report) {
                Ok(()) if self.buffer.len() < CHUNK => return Ok(()),
                Ok(()) => {}
                // It is sent with the next report.
                Err(TrySendError::Full(CollectorReport { observations, over, .. })) => {
                    self.buffer.put_back(observations, over);
                    return Ok(());
                }
                Err(TrySendError::Disconnected(_)) => return Err(CollectError::ReceiverGone),
            }
        }
    }

    pub(super) fn report(&mut self, now: Nanos, kind: ReportKind) -> CollectorReport {
        self.status.counters = self.meter.counters();
        self.status.any = self.any.is_some();
        self.status.watched = self.watched.iter().map(|(i, w)| (*i, w.name.clone())).collect();
        self.status.unheard = self.buffer.unheard;
        let (observations, over) = self.buffer.take();
        CollectorReport {
            now,
            observations,
            over,
            status: self.status.clone(),
            last: kind == ReportKind::Last,
        }
    }

    /// Converts the totals that were just reported to spans, and buffers them.
    pub(super) fn spans(&mut self, spans: Vec<Observation>, now: Nanos) {
        // What was lost until now must be known before the time until now counts as watched.
        if !spans.is_empty() {
            self.ask_dropped();
        }
        for span in spans {
            if let Some(span) = self.span(span, now) {
                self.buffer.push(span);
            }
        }
    }

    /// The difference of an interface's totals to its last report. The time span is the time in
    /// which it was watched, even where no packet came.
    pub(super) fn span(&mut self, observation: Observation, now: Nanos) -> Option<Observation> {
        let Observation::Interface(mut span) = observation else { return Some(observation) };
        let unheard = self.buffer.take_unheard(span.interface);
        // An interface without packets shows no owner.
        let watched = self.watched.get_mut(&span.interface.index).filter(|_| span.packets > 0)?;
        span.first = watched.reported_until.min(now);
        span.last = now;
        let total = span.packets;
        span.packets = total.saturating_sub(watched.packets);
        span.lost = std::mem::take(&mut watched.lost) + unheard;
        watched.reported_until = now;
        watched.packets = total;
        Some(Observation::Interface(span))
    }
}
