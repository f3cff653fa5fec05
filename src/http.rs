//! Requests to other services: the recorder, webhooks, Alertmanager.
//!
//! Owns the client: TLS with the system's or a given authority, a limit of time, a limit of what an answer may hold. Must never retry:
//! whoever sends knows what a repetition means.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{HeaderMap, Method, Request, StatusCode, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// Bytes of an answer that are read.
const MAX_ANSWER: usize = 256 * 1024 * 1024;
/// Where systems keep the authorities that they trust (Debian, Fedora, Alpine).
const AUTHORITIES: [&str; 3] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// Seconds of `Retry-After` (RFC 9110 §10.2.3), where it is there as such.
    pub fn retry_after(&self) -> Option<Duration> {
        let seconds = self.headers.get("retry-after")?.to_str().ok()?.trim().parse().ok()?;
        Some(Duration::from_secs(seconds))
    }

    /// The beginning of the body, for people.
    pub fn words(&self) -> String {
        let text = String::from_utf8_lossy(&self.body[..self.body.len().min(300)]).into_owned();
        let text = serde_json::from_slice::<serde_json::Value>(&self.body)
            .ok()
            .and_then(|v| v.get("error").or(v.get("message"))?.as_str().map(str::to_owned))
            .unwrap_or(text);
        format!("{}: {}", self.status, text.trim())
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unanswered(String);

/// A client. A clone shares its connections.
#[derive(Clone)]
pub struct Http(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Http")
    }
}

impl Http {
    /// Trusts the authorities in this file, else those of the system.
    ///
    /// # Errors
    /// When the file holds none.
    pub fn new(authority: Option<&Path>) -> Result<Self, Unanswered> {
        let mut roots = RootCertStore::empty();
        let files: Vec<&Path> = authority.map_or_else(|| AUTHORITIES.map(Path::new).to_vec(), |a| vec![a]);
        let found = files.into_iter().find(|p| p.exists() || authority.is_some());
        if let Some(path) = found {
            let fail = |e: &dyn std::fmt::Display| Unanswered(format!("cannot use the authorities in {}: {e}", path.display()));
            let all: Vec<CertificateDer<'_>> =
                CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|e| fail(&e))?;
            if authority.is_some() && all.is_empty() {
                return Err(fail(&"it holds no certificate"));
            }
            // One that cannot be used is one that is not trusted.
            roots.add_parsable_certificates(all);
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| Unanswered(e.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        Ok(Self(Client::builder(TokioExecutor::new()).pool_max_idle_per_host(1).build(connector)))
    }

    /// Sends a request and reads the answer, within a time.
    ///
    /// # Errors
    /// When there is no answer within that time, whatever the reason.
    pub async fn send(
        &self,
        method: Method,
        to: &Uri,
        headers: &[(&str, &str)],
        body: Vec<u8>,
        within: Duration,
    ) -> Result<Answer, Unanswered> {
        let mut request = Request::builder().method(method).uri(to);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::from(body)).map_err(|e| Unanswered(format!("no request can be made for {to}: {e}")))?;
        let exchange = async {
            let response =
                self.0.request(request).await.map_err(|e| Unanswered(format!("{to} does not answer: {}", chain(&e))))?;
            let (status, headers) = (response.status(), response.headers().clone());
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|e| Unanswered(format!("the answer of {to} cannot be read: {e}")))?.to_bytes();
            Ok(Answer { status, headers, body })
        };
        match tokio::time::timeout(within, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(Unanswered(format!("{to} does not answer within {within:?}"))),
        }
    }
}

/// An error with its causes: the first alone says no more than that a request failed.
fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        words.push_str(": ");
        words.push_str(&e.to_string());
        cause = e.source();
    }
    words
}
