//! Requests to other services: the recorder, webhooks, Alertmanager.
//!
//! Owns the client: TLS with the system's or a given authority, a limit of time, a limit of an
//! answer's size. Must never retry: only the sender knows whether a request may be repeated. Must
//! never print more of a URL than scheme, host and port: paths of webhooks are secrets.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{HeaderMap, Method, Request, StatusCode, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::time::Instant;
use tower::service_fn;
use tower::util::BoxCloneSyncService;

/// Bytes of an answer that are read at most.
const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;
/// Bytes of an answer that are read if only its status matters.
const MAX_BEGINNING_BYTES: usize = 16 * 1024;

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub struct HttpAnswer {
    /// The status, of success or not.
    pub status: StatusCode,
    /// All headers.
    pub headers: HeaderMap,
    /// The body, or its beginning.
    pub body: Bytes,
}

impl HttpAnswer {
    /// How long to wait by the header `Retry-After` (RFC 9110 §10.2.3). It has seconds or a date; a
    /// date is compared with the answer's own `Date`.
    pub fn retry_after(&self) -> Option<Duration> {
        let text = |name| Some(self.headers.get(name)?.to_str().ok()?.trim());
        let date = |text| {
            jiff::fmt::rfc2822::parse(text).ok().map(|date| SystemTime::from(date.timestamp()))
        };
        let wait = text("retry-after")?;
        if let Ok(seconds) = wait.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let now = text("date").and_then(date).unwrap_or_else(SystemTime::now);
        Some(date(wait)?.duration_since(now).unwrap_or_default())
    }

    /// The status and the beginning of the body, for people. Of a JSON body, its `error` or
    /// `message`.
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

/// The authorities whose certificates a client trusts.
#[derive(Clone, Copy, Debug)]
pub enum Trust<'a> {
    /// The authorities of the system.
    System,
    /// Those in this file, in PEM.
    File(&'a Path),
    /// Those in this text, in PEM.
    Pem(&'a str),
}

/// A connection over a socket or over a forwarded port.
trait NetStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> NetStream for T {}

impl Connection for Box<dyn NetStream> {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

type BoxedError = Box<dyn std::error::Error + Send + Sync>;
/// Makes connections for the client.
type Connector = BoxCloneSyncService<Uri, TokioIo<Box<dyn NetStream>>, BoxedError>;

/// An HTTP client. Clones share its connections.
#[derive(Clone)]
pub struct Http(Client<HttpsConnector<Connector>, Full<Bytes>>);

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Http")
    }
}

impl Http {
    /// A client that trusts the authorities in this file, else those of the system.
    ///
    /// # Errors
    /// When the file contains none.
    pub fn new(authority: Option<&Path>) -> Result<Self, Unanswered> {
        let mut net = HttpConnector::new();
        // Without this it would refuse https URLs.
        net.enforce_http(false);
        let connector = service_fn(move |to: Uri| {
            let mut net = net.clone();
            async move {
                let stream = tower::Service::call(&mut net, to).await?;
                Ok(TokioIo::new(Box::new(stream.into_inner()) as Box<dyn NetStream>))
            }
        });
        let trust = authority.map_or(Trust::System, Trust::File);
        Self::with_connector(BoxCloneSyncService::new(connector), trust)
    }

    /// A client that uses these streams for all requests, whatever their host.
    ///
    /// # Errors
    /// When the file or the text of `trust` contains no authority.
    pub fn through<S, F, E>(streams: S, trust: Trust<'_>) -> Result<Self, Unanswered>
    where
        S: Fn() -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<DuplexStream, E>> + Send + 'static,
        E: Into<BoxedError>,
    {
        let connector = service_fn(move |_: Uri| {
            let stream = streams();
            async move {
                Ok(TokioIo::new(Box::new(stream.await.map_err(Into::into)?) as Box<dyn NetStream>))
            }
        });
        Self::with_connector(BoxCloneSyncService::new(connector), trust)
    }

    fn with_connector(connector: Connector, trust: Trust<'_>) -> Result<Self, Unanswered> {
        let mut roots = RootCertStore::empty();
        let (origin, read) = match trust {
            Trust::Pem(text) => (
                "the cluster".to_owned(),
                CertificateDer::pem_slice_iter(text.as_bytes()).collect(),
            ),
            Trust::File(path) => (path.display().to_string(), read_pem(path)),
            // Files of the system that cannot be read are skipped: their authorities are not
            // trusted.
            Trust::System => (String::new(), Ok(rustls_native_certs::load_native_certs().certs)),
        };
        let fail = |e: &dyn std::fmt::Display| {
            Unanswered(format!("cannot use the authorities in {origin}: {e}"))
        };
        let all = read.map_err(|e: pem::Error| fail(&e))?;
        if !matches!(trust, Trust::System) && all.is_empty() {
            return Err(fail(&"it contains no certificate"));
        }
        // Certificates that cannot be used are skipped: they are not trusted.
        roots.add_parsable_certificates(all);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| Unanswered(e.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let builder = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1();
        let connector = builder.wrap_connector(connector);
        Ok(Self(Client::builder(TokioExecutor::new()).pool_max_idle_per_host(1).build(connector)))
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// When there is no whole answer within the time `within`, whatever the reason.
    pub async fn send(
        &self,
        method: Method,
        to: &Uri,
        headers: &[(&str, &str)],
        body: Vec<u8>,
        within: Duration,
    ) -> Result<HttpAnswer, Unanswered> {
        let exchange = async {
            let (mut answer, body) = self.begin(method, to, headers, body).await?;
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
            answer.body = body
                .map_err(|e| {
                    Unanswered(format!("the answer of {} cannot be read: {e}", origin(to)))
                })?
                .to_bytes();
            Ok(answer)
        };
        match tokio::time::timeout(within, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(Unanswered(format!("{} does not answer within {within:?}", origin(to)))),
        }
    }

    /// Sends a request of whose answer only the status matters. Only the beginning of the body is
    /// read, and it is no error if the body breaks off or takes too long.
    ///
    /// # Errors
    /// When there is no status within the time `within`, whatever the reason.
    pub async fn notify(
        &self,
        method: Method,
        to: &Uri,
        headers: &[(&str, &str)],
        body: Vec<u8>,
        within: Duration,
    ) -> Result<HttpAnswer, Unanswered> {
        let until = Instant::now() + within;
        let (mut answer, mut body) =
            match tokio::time::timeout_at(until, self.begin(method, to, headers, body)).await {
                Ok(begun) => begun?,
                Err(_) => {
                    return Err(Unanswered(format!(
                        "{} does not answer within {within:?}",
                        origin(to)
                    )));
                }
            };
        let mut read = Vec::new();
        while read.len() < MAX_BEGINNING_BYTES {
            let Ok(Some(Ok(frame))) = tokio::time::timeout_at(until, body.frame()).await else {
                break;
            };
            if let Some(data) = frame.data_ref() {
                read.extend_from_slice(&data[..data.len().min(MAX_BEGINNING_BYTES - read.len())]);
            }
        }
        answer.body = read.into();
        Ok(answer)
    }

    /// Sends a request and reads the head of the answer.
    async fn begin(
        &self,
        method: Method,
        to: &Uri,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<(HttpAnswer, Incoming), Unanswered> {
        let mut request = Request::builder().method(method).uri(to);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::from(body));
        let request = request
            .map_err(|e| Unanswered(format!("no request can be made for {}: {e}", origin(to))))?;
        let answer = self.0.request(request).await;
        let answer = answer
            .map_err(|e| Unanswered(format!("{} does not answer: {}", origin(to), chain(&e))))?;
        let (head, body) = answer.into_parts();
        Ok((HttpAnswer { status: head.status, headers: head.headers, body: Bytes::new() }, body))
    }
}

fn read_pem(path: &Path) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    CertificateDer::pem_file_iter(path).and_then(Iterator::collect)
}

/// Scheme, host and port of a URL. Path and query may be secrets and are not printed.
fn origin(to: &Uri) -> String {
    let port = to.port_u16().map(|p| format!(":{p}")).unwrap_or_default();
    format!("{}://{}{port}", to.scheme_str().unwrap_or("http"), to.host().unwrap_or_default())
}

/// An error with all its causes: the outermost alone only says that a request failed.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        words.push_str(": ");
        words.push_str(&e.to_string());
        cause = e.source();
    }
    words
}
