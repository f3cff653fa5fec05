//! What handlers of requests need, and how a request is refused.
//!
//! Owns the form of a refusal, and that each is counted. Must never know a path.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::agents::AgentsHeard;
use super::auth::{Authorizer, Caller, Denied, Right};
use super::engine::{Engine, EngineUnavailable};
use super::slots::RequestSlots;
use crate::clock;
use crate::view::View;

/// Seconds after which a client may try again.
const RETRY_AFTER_SECONDS: u64 = 1;

/// Refused requests, by reason.
#[derive(Debug, Default)]
pub(super) struct RefusalCounters {
    pub unknown: AtomicU64,
    pub forbidden: AtomicU64,
    pub malformed: AtomicU64,
    pub oversized: AtomicU64,
    pub busy: AtomicU64,
    pub unavailable: AtomicU64,
}

/// What handlers of requests need.
pub(super) struct App {
    pub engine: Engine,
    /// `None` where everybody may do everything.
    pub authorizer: Option<Authorizer>,
    pub view: View,
    pub counters: RefusalCounters,
    pub slots: RequestSlots,
    pub agents: AgentsHeard,
}

impl App {
    pub fn new(
        engine: Engine,
        authorizer: Option<Authorizer>,
        view: View,
        agents: AgentsHeard,
    ) -> Self {
        let (counters, slots) = (RefusalCounters::default(), RequestSlots::new());
        Self { engine, authorizer, view, counters, slots, agents }
    }

    /// How long ago each agent was heard, by node.
    pub fn agent_ages(&self) -> BTreeMap<String, Duration> {
        self.agents.ages(&self.view.current(), clock::now())
    }

    /// Checks that the sender of these headers has a right in a namespace, or in all. Returns the
    /// sender's name, where senders are authenticated.
    pub async fn check_right(
        &self,
        headers: &HeaderMap,
        right: Right,
        namespace: Option<&str>,
    ) -> Result<Option<String>, Denied> {
        let Some(authorizer) = &self.authorizer else { return Ok(None) };
        // The answer is in the cache: the request was identified before.
        let person: Caller = authorizer.person(token(headers), None).await?;
        authorizer.check_right(&person, right, namespace).await?;
        Ok(Some(person.name))
    }

    /// Counts a refusal.
    pub fn refuse(&self, refusal: RequestRefusal) -> RequestRefusal {
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

/// Why a request is refused.
#[derive(Debug)]
pub(super) struct RequestRefusal {
    status: StatusCode,
    why: String,
    subject: RefusalSubject,
}

/// What is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RefusalSubject {
    /// The request: another sender, or the same one later, may have success.
    Request,
    /// The batch: it is refused for good, whoever sends it.
    Batch,
}

impl RequestRefusal {
    pub fn new(status: StatusCode, why: impl Into<String>) -> Self {
        Self { status, why: why.into(), subject: RefusalSubject::Request }
    }

    /// A refusal of the batch itself, whoever sends it.
    pub fn of_batch(status: StatusCode, why: impl Into<String>) -> Self {
        Self { status, why: why.into(), subject: RefusalSubject::Batch }
    }

    /// Makes the refusal of a body one of the batch where the body is too long: it is too long
    /// whoever sends it.
    pub fn of_batch_if_too_long(self) -> Self {
        match self.status {
            StatusCode::PAYLOAD_TOO_LARGE => Self { subject: RefusalSubject::Batch, ..self },
            _ => self,
        }
    }
}

impl IntoResponse for RequestRefusal {
    fn into_response(self) -> Response {
        let body = match self.subject {
            RefusalSubject::Batch => Json(json!({"error": self.why, "batch": "refused"})),
            RefusalSubject::Request => Json(json!({"error": self.why})),
        };
        match self.status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                (self.status, [(header::RETRY_AFTER, RETRY_AFTER_SECONDS.to_string())], body)
                    .into_response()
            }
            StatusCode::UNAUTHORIZED => {
                (self.status, [(header::WWW_AUTHENTICATE, "Bearer")], body).into_response()
            }
            _ => (self.status, body).into_response(),
        }
    }
}

impl From<Denied> for RequestRefusal {
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

impl From<EngineUnavailable> for RequestRefusal {
    fn from(unavailable: EngineUnavailable) -> Self {
        let status = match unavailable {
            EngineUnavailable::Busy => StatusCode::TOO_MANY_REQUESTS,
            EngineUnavailable::Closed(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, unavailable.to_string())
    }
}

/// The bearer token of a request.
pub(super) fn token(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ").map(str::trim)
}
