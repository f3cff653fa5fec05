//! Bodies of requests.
//!
//! Owns their forms. Must never let what came from the wire be read as anything but text.

use serde_json::{Value, json};

use super::config::WebhookForm;
use super::words::{cut, hex, reason};
use crate::model::Alert;
use crate::text;

/// Lines of a message, at most: nobody reads more.
const LINES: usize = 20;
/// Bytes of a line, before it is escaped. Slack cuts a message at 40,000 characters.
const LINE: usize = 300;
/// Bytes of a label's value.
const LABEL: usize = 256;
/// Bytes of an annotation's value.
const ANNOTATION: usize = 1024;

impl WebhookForm {
    /// The body with these alerts: valid JSON, whatever names they have.
    pub fn body(self, alerts: &[Alert]) -> Vec<u8> {
        let body = match self {
            Self::Json => {
                json!({"version": 1, "alerts": alerts.iter().map(alert).collect::<Vec<_>>()})
            }
            // Names contain `_` and `*`, which must not make words bold or italic.
            Self::Slack => json!({"text": lines(alerts), "mrkdwn": false}),
        };
        body.to_string().into_bytes()
    }
}

fn alert(alert: &Alert) -> Value {
    let mut body = json!({
        "id": alert.id(),
        "kind": alert.kind,
        "text": text::annotation(&alert.text()),
        "workload": alert.workload,
        "destination": alert.destination,
        "port": alert.port,
        "protocol": alert.protocol,
        "firstSeen": alert.first_seen,
        "lastSeen": alert.last_seen,
        "connections": alert.connections,
        "raised": alert.raised,
    });
    if let Some(dependencies) = alert.dependencies {
        body["dependencies"] = json!(dependencies);
    }
    body
}

fn lines(alerts: &[Alert]) -> String {
    let mut lines: Vec<String> =
        alerts.iter().take(LINES).map(|a| text::chat(&cut(&a.text(), LINE))).collect();
    if alerts.len() > LINES {
        lines.push(format!("… and {} more", alerts.len() - LINES));
    }
    lines.join("\n")
}

/// The body of Alertmanager's `POST /api/v2/alerts`.
pub(super) fn alertmanager(alerts: &[Alert]) -> Vec<u8> {
    let all: Vec<Value> = alerts.iter().map(alertmanager_alert).collect();
    Value::from(all).to_string().into_bytes()
}

/// An alert for Alertmanager. Its labels are the parts of its id, so that it is one alert there. It
/// has no `endsAt`: a clock that differs from Alertmanager's must not resolve an open alert.
fn alertmanager_alert(alert: &Alert) -> Value {
    let mut labels = json!({
        "alertname": format!("Sidecarta{}", reason(alert.kind)),
        "severity": "warning",
        "namespace": bounded(&alert.workload.namespace),
        "workload_kind": bounded(&alert.workload.kind),
        "workload": bounded(&alert.workload.name),
    });
    if let Some(destination) = &alert.destination {
        labels["destination"] = json!(bounded(&destination.to_string()));
        labels["port"] = json!(alert.port.to_string());
    }
    let summary = cut(&text::annotation(&alert.text()), ANNOTATION);
    let description = format!(
        "{} connections, the first at {}, the last so far at {}.",
        alert.connections, alert.first_seen, alert.last_seen
    );
    json!({
        "labels": labels,
        "annotations": {"summary": summary, "description": description},
        "startsAt": alert.raised,
    })
}

/// A label's value. One that is too long or escaped ends in a digest, so that two destinations do
/// not become one.
fn bounded(value: &str) -> String {
    let shown = text::line(value);
    if shown.len() <= LABEL && shown == value {
        value.to_owned()
    } else {
        format!("{} {}", cut(&shown, LABEL - 9), hex(value.as_bytes(), 4))
    }
}
