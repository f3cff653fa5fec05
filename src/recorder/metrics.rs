//! The metrics of the recorder.
//!
//! Owns their names (`docs/metrics.md` lists them). Must never count: it reads counters.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::app::App;
use super::courier::DeliveryCounters;
use super::engine::EngineProgress;
use crate::serve::Door;
use crate::verify::CHECK_COUNTERS;
use crate::view::KindStatus;

/// Reads all counters when it is scraped.
pub(super) struct RecorderMetrics {
    pub app: Arc<App>,
    pub delivered: Arc<DeliveryCounters>,
    pub door: Arc<Door>,
}

impl fmt::Debug for RecorderMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecorderMetrics")
    }
}

impl Collector for RecorderMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let progress = self.app.engine.progress();
        self.counters(&mut encoder, &progress)?;
        self.refusals(&mut encoder)?;
        checked_lines(&mut encoder, &progress)?;
        self.gauges(&mut encoder, &progress)
    }
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, n: u64) -> fmt::Result {
    let descriptor = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    ConstCounter::new(n).encode(descriptor)
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, n: u64) -> fmt::Result {
    let descriptor = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(i64::try_from(n).unwrap_or(i64::MAX)).encode(descriptor)
}

impl RecorderMetrics {
    fn counters(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        progress: &EngineProgress,
    ) -> fmt::Result {
        let mut counter = |name, help, n| counter(encoder, name, help, n);
        let p = progress;
        counter("batches_acknowledged", "Batches that are on the disk", p.queued)?;
        counter("batches_repeated", "Batches sent again that were there already", p.repeated)?;
        counter("batches_merged", "Batches resolved and merged", p.merged)?;
        counter(
            "batches_merged_late",
            "Of these, before the view of the cluster had passed their time",
            p.merged_late,
        )?;
        counter(
            "batches_unreadable",
            "Acknowledged batches that could not be read again: lost",
            p.unreadable,
        )?;
        counter("alerts", "Alerts raised", p.alerts)?;
        let d = &self.delivered;
        counter(
            "alert_outbox_reads",
            "Times that all alerts were read to deliver them",
            d.reads.load(Ordering::Relaxed),
        )?;
        counter(
            "alerts_delivered",
            "Deliveries of alerts to sinks",
            d.delivered.load(Ordering::Relaxed),
        )?;
        counter(
            "alert_failures",
            "Deliveries that failed and are tried again",
            d.failed.load(Ordering::Relaxed),
        )?;
        counter(
            "alerts_refused",
            "Deliveries that a sink refused for good",
            d.refused.load(Ordering::Relaxed),
        )?;
        counter("edges", "Edges in merged batches", p.edges)?;
        let (ended, refused) = self.door.turned_away();
        counter("connections_ended", "Connections ended to make room for another", ended)?;
        counter("connections_refused", "Connections closed at once for want of room", refused)
    }

    fn refusals(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let c = &self.app.counters;
        let by_reason = [
            ("unknown", &c.unknown),
            ("forbidden", &c.forbidden),
            ("malformed", &c.malformed),
            ("oversized", &c.oversized),
            ("busy", &c.busy),
            ("unavailable", &c.unavailable),
        ];
        let help = "Requests refused, by reason";
        let mut family = encoder.encode_descriptor("refused", help, None, MetricType::Counter)?;
        for (reason, n) in by_reason {
            let n = ConstCounter::new(n.load(Ordering::Relaxed));
            n.encode(family.encode_family(&[("reason", reason)])?)?;
        }
        Ok(())
    }

    fn gauges(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        progress: &EngineProgress,
    ) -> fmt::Result {
        let status = self.app.view.status();
        let help = "Objects of the cluster known, by kind";
        let mut family = encoder.encode_descriptor("objects", help, None, MetricType::Gauge)?;
        for (kind, s) in &status.kinds {
            if let KindStatus::Synced { objects } = s {
                let n = i64::try_from(*objects).unwrap_or(i64::MAX);
                ConstGauge::new(n).encode(family.encode_family(&[("kind", kind.as_str())])?)?;
            }
        }
        let help = "Seconds since the agent of a node was heard, of nodes with pods";
        let mut family =
            encoder.encode_descriptor("agent_silent_seconds", help, None, MetricType::Gauge)?;
        for (node, age) in self.app.agent_ages() {
            let n = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
            ConstGauge::new(n).encode(family.encode_family(&[("node", node.as_str())])?)?;
        }
        let mut gauge = |name, help, n| gauge(encoder, name, help, n);
        gauge("connections", "Connections that are open", self.door.open() as u64)?;
        gauge("batches_waiting", "Batches on the disk that wait to be resolved", progress.waiting)?;
        let lines = progress.unverified.iter().map(|summary| summary.amount(None).lines);
        gauge(
            "unverified_lines",
            "Lines about pods that the API server does not know: nothing is learned from them",
            lines.fold(0, u64::saturating_add),
        )?;
        gauge(
            "view_synced",
            "1 when the view of the cluster is complete",
            u64::from(status.synced),
        )?;
        gauge(
            "view_behind_seconds",
            "For how long a kind of objects could not be watched",
            status.behind.map_or(0, |behind| behind.as_secs()),
        )
    }
}

fn checked_lines(encoder: &mut DescriptorEncoder<'_>, progress: &EngineProgress) -> fmt::Result {
    let help = "What was refused, corrected or unverified when batches were checked: the names are \
                those of `sidecarta status`";
    let mut family = encoder.encode_descriptor("checked_lines", help, None, MetricType::Counter)?;
    for event in CHECK_COUNTERS {
        let n = progress.checked.get(event).copied().unwrap_or(0);
        ConstCounter::new(n).encode(family.encode_family(&[("event", event)])?)?;
    }
    Ok(())
}
