//! What the recorder tells of itself.
//!
//! Owns the names of its metrics (`docs/metrics.md` lists them).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::app::App;
use super::courier::Counters as Delivered;
use crate::serve::Door;
use crate::view::KindStatus;

/// Reads on a scrape.
pub(super) struct Metrics {
    pub app: Arc<App>,
    pub delivered: Arc<Delivered>,
    pub door: Arc<Door>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let p = self.app.engine.progress();
        let mut counter = |name: &str, help: &str, n: u64| {
            let descriptor = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(n).encode(descriptor)
        };
        counter("batches_acknowledged", "Batches that are on the disk", p.kept)?;
        counter("batches_repeated", "Batches sent again that were there already", p.repeated)?;
        counter("batches_merged", "Batches resolved and merged", p.settled)?;
        counter(
            "batches_merged_late",
            "Of these, before the view of the cluster had passed their time",
            p.settled_late,
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
            d.looks.load(Ordering::Relaxed),
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
        counter("connections_refused", "Connections closed at once for want of room", refused)?;
        let c = &self.app.counters;
        let refusals = [
            ("unknown", &c.unknown),
            ("forbidden", &c.forbidden),
            ("malformed", &c.malformed),
            ("oversized", &c.oversized),
            ("busy", &c.busy),
            ("unavailable", &c.unavailable),
        ];
        let mut refused = encoder.encode_descriptor(
            "refused",
            "Requests refused, by reason",
            None,
            MetricType::Counter,
        )?;
        for (reason, n) in refusals {
            ConstCounter::new(n.load(Ordering::Relaxed))
                .encode(refused.encode_family(&[("reason", reason)])?)?;
        }
        let mut checked = encoder.encode_descriptor(
            "checked_lines",
            "What was refused, corrected or kept apart when batches were checked: the names are those of `sidecarta status`",
            None,
            MetricType::Counter,
        )?;
        for event in crate::verify::COUNTED {
            let n = p.checked.get(event).copied().unwrap_or(0);
            ConstCounter::new(n).encode(checked.encode_family(&[("event", event)])?)?;
        }
        let status = self.app.view.status();
        let mut objects = encoder.encode_descriptor(
            "objects",
            "Objects of the cluster known, by kind",
            None,
            MetricType::Gauge,
        )?;
        for (kind, s) in &status.kinds {
            if let KindStatus::Synced { objects: n } = s {
                let n = i64::try_from(*n).unwrap_or(i64::MAX);
                ConstGauge::new(n).encode(objects.encode_family(&[("kind", kind.as_str())])?)?;
            }
        }
        let mut gauge = |name: &str, help: &str, n: u64| {
            let descriptor = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(i64::try_from(n).unwrap_or(i64::MAX)).encode(descriptor)
        };
        gauge("connections", "Connections that are open", self.door.open() as u64)?;
        gauge("batches_waiting", "Batches on the disk that wait to be resolved", p.waiting)?;
        let lines = p.unverified.iter().map(|u| u.amount(None).lines);
        gauge(
            "unverified_lines",
            "Lines about pods that the API server does not know: they teach nothing",
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
            status.behind.map_or(0, |b| b.as_secs()),
        )
    }
}
