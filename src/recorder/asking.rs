//! What a request brings, before it is answered: who asks, the body, the question.
//!
//! Owns the order: who asks is known before anything of the body is read. Every refusal is JSON,
//! whatever part of a request is the reason. Must never tell a stranger more than that they are
//! one.

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

use super::app::{App, Refusal, token};
use super::engine::Refused;
use super::places::{Kept, MAX_WORDS, NoBody, OfCaller, Read};
use crate::model::valid;
use crate::serve::ServedConnection;

/// Who asks: an agent on a node, or a person by name; nobody where everybody may do everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Who(pub Option<String>);

/// Finds out who asks, before anything else of a request is looked at; and takes the place of the
/// answer, until it is sent.
pub(super) async fn identify(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response {
    let brings = request.uri().path() == "/v1/batches";
    let connection = request.extensions().get::<Arc<ServedConnection>>().cloned();
    // Without the body: it is nobody's business yet.
    let found = who(&app, request.headers().clone(), connection, brings).await;
    let who = match found {
        Ok(who) => who,
        Err(refusal) => return app.refuse(refusal).into_response(),
    };
    let caller = who.0.clone();
    request.extensions_mut().insert(who);
    if brings {
        return next.run(request).await;
    }
    let Some(place) = app.places.answer(caller.as_deref()).await else {
        return app.refuse(Refused::Busy.into()).into_response();
    };
    let (head, body) = next.run(request).await.into_parts();
    Response::from_parts(head, Body::new(Kept::new(body, place)))
}

async fn who(
    app: &App,
    headers: HeaderMap,
    connection: Option<Arc<ServedConnection>>,
    brings: bool,
) -> Result<Who, Refusal> {
    let Some(gate) = &app.gate else { return Ok(Who(None)) };
    let peer: Option<IpAddr> = connection.as_ref().map(|c| c.peer());
    let who = if brings {
        format!("agent {}", gate.agent(token(&headers), peer).await?)
    } else {
        format!("user {}", gate.person(token(&headers), peer).await?.name)
    };
    if let Some(connection) = connection {
        connection.prove();
    }
    Ok(Who(Some(who)))
}

/// Reads the body of a request within its bounds, in a place of its caller.
pub(super) async fn body(
    app: &App,
    who: Option<&Who>,
    body: Body,
    most: usize,
) -> Result<(Read, Option<OfCaller>), Refusal> {
    let caller = match who.and_then(|w| w.0.as_deref()) {
        Some(caller) => Some(app.places.body_of(caller).ok_or(NoBody::Busy)?),
        None => None,
    };
    Ok((app.places.read(body, most).await?, caller))
}

impl From<NoBody> for Refusal {
    fn from(none: NoBody) -> Self {
        let status = match none {
            NoBody::Long(_) => StatusCode::PAYLOAD_TOO_LARGE,
            NoBody::Late(_) | NoBody::Broken(_) => StatusCode::REQUEST_TIMEOUT,
            NoBody::Busy => StatusCode::TOO_MANY_REQUESTS,
        };
        Self::new(status, none.to_string())
    }
}

/// What is asked for.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Wanted {
    namespace: Option<String>,
}

impl Wanted {
    /// The namespace; `None`: all.
    pub fn namespace(self) -> Option<String> {
        self.namespace.filter(|n| !n.is_empty())
    }
}

/// No question is asked about what is no name of a namespace.
fn checked(namespace: Option<&str>) -> Result<(), Refusal> {
    match namespace {
        Some(name) if !name.is_empty() => {
            valid::namespace(name).map_err(|e| Refusal::new(StatusCode::BAD_REQUEST, e.to_string()))
        }
        _ => Ok(()),
    }
}

impl FromRequestParts<Arc<App>> for Wanted {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refusal> {
        let Query(wanted) = Query::<Self>::try_from_uri(&parts.uri)
            .map_err(|e| app.refuse(Refusal::new(StatusCode::BAD_REQUEST, e.body_text())))?;
        checked(wanted.namespace.as_deref()).map_err(|r| app.refuse(r))?;
        Ok(wanted)
    }
}

/// A body in JSON.
pub(super) struct Said<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequest<Arc<App>> for Said<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Refusal> {
        let said = async {
            let (head, stream) = request.into_parts();
            if !is_json(&head.headers) {
                return Err(Refusal::new(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    "send `Content-Type: application/json`",
                ));
            }
            let who = head.extensions.get::<Who>();
            let (read, _place) = body(app, who, stream, MAX_WORDS).await?;
            serde_json::from_slice(&read.bytes).map(Self).map_err(|e| {
                let status = match e.classify() {
                    serde_json::error::Category::Data => StatusCode::UNPROCESSABLE_ENTITY,
                    _ => StatusCode::BAD_REQUEST,
                };
                Refusal::new(status, format!("the body is not as it should be: {e}"))
            })
        };
        said.await.map_err(|r| app.refuse(r))
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// Of a path that there is not.
pub(super) async fn nowhere(State(app): State<Arc<App>>) -> Refusal {
    app.refuse(Refusal::new(
        StatusCode::NOT_FOUND,
        "there is no such path; openapi.yaml lists those that there are",
    ))
}

/// Of a method that a path does not have.
pub(super) async fn not_so(State(app): State<Arc<App>>) -> Refusal {
    app.refuse(Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "the path does not have this method; `Allow` lists those that it has",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_namespaces() {
        assert!([Some("shop"), Some("a-1"), Some(""), None].map(checked).iter().all(Result::is_ok));
        let long = "a".repeat(64);
        for odd in [&*long, "Shop", "a/b", "a.b", "a b", "\0", "a-"] {
            assert!(checked(Some(odd)).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn kinds_of_json() {
        let of = |kind: &str| {
            is_json(&HeaderMap::from_iter([(header::CONTENT_TYPE, kind.parse().unwrap())]))
        };
        assert!(of("application/json") && of("Application/JSON; charset=utf-8"));
        assert!(of("application/merge-patch+json"));
        assert!(!of("text/plain") && !of("application/jsonx") && !is_json(&HeaderMap::new()));
    }
}
