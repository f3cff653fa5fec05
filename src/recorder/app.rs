//! What requests are answered with, and how they are refused.
//!
//! Owns the form of a refusal, and that each is counted. Must never know a path.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::Json;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::auth::{Denied, Gate};
use super::engine::{Engine, Refused};
use super::places::Places;
use crate::view::View;

/// What those who come too early are told to wait.
const WAIT: u64 = 1;

/// Refusals, by reason.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub unknown: AtomicU64,
    pub forbidden: AtomicU64,
    pub malformed: AtomicU64,
    pub oversized: AtomicU64,
    pub busy: AtomicU64,
    pub unavailable: AtomicU64,
}

/// What requests are answered with.
pub(super) struct App {
    pub engine: Engine,
    /// Absent where everybody may do everything.
    pub gate: Option<Gate>,
    pub view: View,
    pub counters: Counters,
    pub places: Places,
}

impl App {
    pub fn new(engine: Engine, gate: Option<Gate>, view: View) -> Self {
        Self { engine, gate, view, counters: Counters::default(), places: Places::new() }
    }

    /// Whether whoever sent these headers may read, or decide, in a namespace or in all; and who
    /// that is, where anybody is asked.
    pub(super) async fn may(
        &self,
        headers: &HeaderMap,
        namespace: Option<&str>,
        decide: bool,
    ) -> Result<Option<String>, Denied> {
        let Some(gate) = &self.gate else { return Ok(None) };
        // Found out already, and remembered.
        let person = gate.person(token(headers), None).await?;
        match decide {
            true => gate.may_decide(&person, namespace).await?,
            false => gate.may_read(&person, namespace).await?,
        }
        Ok(Some(person.name))
    }

    /// Counts a refusal.
    pub fn refuse(&self, refusal: Refusal) -> Refusal {
        let counter = match refusal.status {
            StatusCode::UNAUTHORIZED => &self.counters.unknown,
            StatusCode::FORBIDDEN => &self.counters.forbidden,
            StatusCode::PAYLOAD_TOO_LARGE => &self.counters.oversized,
            StatusCode::TOO_MANY_REQUESTS => &self.counters.busy,
            StatusCode::SERVICE_UNAVAILABLE => &self.counters.unavailable,
            _ => &self.counters.malformed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        refusal
    }
}

/// Why a request is not answered as it was meant.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    why: String,
    /// It is the batch that is refused, whoever brings it: bringing it again is in vain.
    of_batch: bool,
}

impl Refusal {
    pub fn new(status: StatusCode, why: impl Into<String>) -> Self {
        Self { status, why: why.into(), of_batch: false }
    }

    /// The same; of the batch, where it is longer than any may be.
    pub(super) fn of_long_batch(self) -> Self {
        Self { of_batch: self.status == StatusCode::PAYLOAD_TOO_LARGE, ..self }
    }
}

/// Of a batch, whoever brings it.
pub(super) fn of_batch(status: StatusCode, why: String) -> Refusal {
    Refusal { status, why, of_batch: true }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = match self.of_batch {
            true => Json(json!({"error": self.why, "batch": "refused"})),
            false => Json(json!({"error": self.why})),
        };
        match self.status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                (self.status, [(header::RETRY_AFTER, WAIT.to_string())], body).into_response()
            }
            StatusCode::UNAUTHORIZED => {
                (self.status, [(header::WWW_AUTHENTICATE, "Bearer")], body).into_response()
            }
            _ => (self.status, body).into_response(),
        }
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        let status = match denied {
            Denied::Unknown(_) => StatusCode::UNAUTHORIZED,
            Denied::Forbidden(_) => StatusCode::FORBIDDEN,
            Denied::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Denied::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
        };
        Self::new(status, denied.to_string())
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        let status = match refused {
            Refused::Busy => StatusCode::TOO_MANY_REQUESTS,
            Refused::Closed(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, refused.to_string())
    }
}

/// The bearer's token.
pub(super) fn token(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ").map(str::trim)
}
