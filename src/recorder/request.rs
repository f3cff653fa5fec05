//! What is read of a request before its handler runs: the caller, the body, the query.
//!
//! Owns the order: the caller is identified before anything of the body is read. Every refusal is
//! JSON, whatever part of a request is the reason. Must never say more to a stranger than that they
//! are not known.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::app::{App, RequestRefusal, token};
use super::engine::EngineUnavailable;
use super::slots::{AnswerBody, BodyError, BufferedBody, CallerSlot, MAX_JSON};
use crate::model::valid;
use crate::serve::ServedConnection;

/// Who sent a request: `agent NODE` or `user NAME`; `None` where callers are not authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CallerName(pub Option<String>);

/// Identifies the caller before anything else of a request is read, and takes the slot of the
/// answer until it is sent.
pub(super) async fn identify(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response {
    let sender = match request.uri().path() {
        "/v1/batches" => Sender::Agent,
        _ => Sender::Person,
    };
    let connection = request.extensions().get::<Arc<ServedConnection>>().cloned();
    // Without the body, which is not read before the caller is known.
    let found = caller(&app, request.headers().clone(), connection, sender).await;
    let caller = match found {
        Ok(caller) => caller,
        Err(refusal) => return app.refuse(refusal).into_response(),
    };
    let name = caller.0.clone();
    request.extensions_mut().insert(caller);
    if sender == Sender::Agent {
        return next.run(request).await;
    }
    let Some(slot) = app.slots.answer(name.as_deref()).await else {
        return app.refuse(EngineUnavailable::Busy.into()).into_response();
    };
    let (head, body) = next.run(request).await.into_parts();
    Response::from_parts(head, Body::new(AnswerBody::new(body, slot)))
}

/// Who may send a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sender {
    Agent,
    Person,
}

async fn caller(
    app: &App,
    headers: HeaderMap,
    connection: Option<Arc<ServedConnection>>,
    sender: Sender,
) -> Result<CallerName, RequestRefusal> {
    let Some(authorizer) = &app.authorizer else { return Ok(CallerName(None)) };
    let peer: Option<IpAddr> = connection.as_ref().map(|c| c.peer());
    let name = match sender {
        Sender::Agent => format!("agent {}", authorizer.agent(token(&headers), peer).await?),
        Sender::Person => format!("user {}", authorizer.person(token(&headers), peer).await?.name),
    };
    if let Some(connection) = connection {
        connection.prove();
    }
    Ok(CallerName(Some(name)))
}

/// Reads the body of a request, of `max_bytes` at most, in a slot of its caller.
pub(super) async fn read_body(
    app: &App,
    caller: Option<&CallerName>,
    body: Body,
    max_bytes: usize,
) -> Result<(BufferedBody, Option<CallerSlot>), RequestRefusal> {
    let slot = match caller.and_then(|caller| caller.0.as_deref()) {
        Some(name) => Some(app.slots.body_of(name).ok_or(BodyError::Busy)?),
        None => None,
    };
    Ok((app.slots.read(body, max_bytes).await?, slot))
}

impl From<BodyError> for RequestRefusal {
    fn from(error: BodyError) -> Self {
        let status = match error {
            BodyError::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::TooSlow(_) | BodyError::Broken(_) => StatusCode::REQUEST_TIMEOUT,
            BodyError::Busy => StatusCode::TOO_MANY_REQUESTS,
        };
        Self::new(status, error.to_string())
    }
}

/// The query of a request: one namespace, or all.
#[derive(Debug, Default, Deserialize)]
pub(super) struct NamespaceQuery {
    namespace: Option<String>,
}

impl NamespaceQuery {
    /// The namespace; `None`: all.
    pub fn namespace(self) -> Option<String> {
        self.namespace.filter(|n| !n.is_empty())
    }
}

/// Refuses what cannot be the name of a namespace, before anybody is asked about it.
fn check_namespace(namespace: Option<&str>) -> Result<(), RequestRefusal> {
    match namespace {
        Some(name) if !name.is_empty() => valid::namespace(name)
            .map_err(|e| RequestRefusal::new(StatusCode::BAD_REQUEST, e.to_string())),
        _ => Ok(()),
    }
}

impl FromRequestParts<Arc<App>> for NamespaceQuery {
    type Rejection = RequestRefusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, RequestRefusal> {
        let Query(query) = Query::<Self>::try_from_uri(&parts.uri)
            .map_err(|e| app.refuse(RequestRefusal::new(StatusCode::BAD_REQUEST, e.body_text())))?;
        check_namespace(query.namespace.as_deref()).map_err(|r| app.refuse(r))?;
        Ok(query)
    }
}

/// A body in JSON.
pub(super) struct JsonBody<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequest<Arc<App>> for JsonBody<T> {
    type Rejection = RequestRefusal;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, RequestRefusal> {
        let parsed = parse_json(request, app).await;
        parsed.map(Self).map_err(|r| app.refuse(r))
    }
}

async fn parse_json<T: DeserializeOwned>(request: Request, app: &App) -> Result<T, RequestRefusal> {
    let (head, stream) = request.into_parts();
    if !is_json(&head.headers) {
        return Err(RequestRefusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "send `Content-Type: application/json`",
        ));
    }
    let caller = head.extensions.get::<CallerName>();
    let (body, _slot) = read_body(app, caller, stream, MAX_JSON).await?;
    serde_json::from_slice(&body.bytes).map_err(|e| {
        let status = match e.classify() {
            serde_json::error::Category::Data => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::BAD_REQUEST,
        };
        RequestRefusal::new(status, format!("the body is not as it should be: {e}"))
    })
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// The answer to a path that does not exist.
pub(super) async fn no_such_path(State(app): State<Arc<App>>) -> RequestRefusal {
    app.refuse(RequestRefusal::new(
        StatusCode::NOT_FOUND,
        "there is no such path; openapi.yaml lists those that there are",
    ))
}

/// The answer to a method that a path does not have.
pub(super) async fn no_such_method(State(app): State<Arc<App>>) -> RequestRefusal {
    app.refuse(RequestRefusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "the path does not have this method; `Allow` lists those that it has",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_takes_only_names_that_a_namespace_can_have() {
        for good in [Some("shop"), Some("a-1"), Some(""), None] {
            assert!(check_namespace(good).is_ok(), "{good:?}");
        }
        let long = "a".repeat(64);
        for bad in [&*long, "Shop", "a/b", "a.b", "a b", "\0", "a-"] {
            assert!(check_namespace(Some(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_body_is_json_by_its_content_type() {
        let is_json_type = |kind: &str| {
            is_json(&HeaderMap::from_iter([(header::CONTENT_TYPE, kind.parse().unwrap())]))
        };
        assert!(is_json_type("application/json"));
        assert!(is_json_type("Application/JSON; charset=utf-8"));
        assert!(is_json_type("application/merge-patch+json"));
        assert!(!is_json_type("text/plain") && !is_json_type("application/jsonx"));
        assert!(!is_json(&HeaderMap::new()));
    }
}
