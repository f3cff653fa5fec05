//! Connections: plain or TLS, bounded in number and in patience.
//!
//! Owns sockets and certificates. A client that is slow or silent costs a connection for a limited
//! time, never more. Must never look into a request.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Connections at once. An agent has one.
const MAX_CONNECTIONS: usize = 4_096;
/// How long a client may take for its handshake, and for the head of a request.
const HEAD: Duration = Duration::from_secs(10);
/// How long open requests may take when the server ends.
const FAREWELL: Duration = Duration::from_secs(10);
/// How often the files of the certificate are looked at.
const LOOK: Duration = Duration::from_secs(10);

/// Files of a certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub struct Files {
    /// The chain.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// A certificate that follows its files.
pub struct Certificate {
    files: Files,
    known: Mutex<Known>,
}

struct Known {
    looked: Instant,
    changed: Option<(SystemTime, SystemTime)>,
    config: Arc<ServerConfig>,
}

impl Certificate {
    /// Reads the files.
    ///
    /// # Errors
    /// When they hold no certificate with its key.
    pub fn read(files: Files) -> Result<Self, String> {
        let changed = times(&files);
        let config = load(&files)?;
        Ok(Self { files, known: Mutex::new(Known { looked: Instant::now(), changed, config }) })
    }

    /// What to serve with now. Files that have become unreadable change nothing, and are told in
    /// the log.
    fn current(&self) -> Arc<ServerConfig> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.looked.elapsed() >= LOOK {
            known.looked = Instant::now();
            let changed = times(&self.files);
            if changed != known.changed {
                match load(&self.files) {
                    Ok(config) => {
                        known.config = config;
                        known.changed = changed;
                        tracing::info!(certificate = %self.files.certificate.display(), "the certificate was read again");
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the certificate has changed and cannot be read: the old one stays in use")
                    }
                }
            }
        }
        Arc::clone(&known.config)
    }
}

fn times(files: &Files) -> Option<(SystemTime, SystemTime)> {
    let of = |p: &Path| std::fs::metadata(p).and_then(|m| m.modified()).ok();
    Some((of(&files.certificate)?, of(&files.key)?))
}

fn load(files: &Files) -> Result<Arc<ServerConfig>, String> {
    let fail = |path: &Path, why: String| format!("cannot use {}: {why}", path.display());
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(&files.certificate).and_then(Iterator::collect);
    let chain = chain.map_err(|e| fail(&files.certificate, e.to_string()))?;
    let key =
        PrivateKeyDer::from_pem_file(&files.key).map_err(|e| fail(&files.key, e.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| fail(&files.certificate, e.to_string()))?;
    Ok(Arc::new(config))
}

/// Serves until `stopped` turns true; then open requests may end.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    certificate: Option<Arc<Certificate>>,
    mut stopped: watch::Receiver<bool>,
) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { break };
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // No descriptor left, or a connection that is gone already.
                    tracing::debug!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = ended(&mut stopped) => break,
        };
        let (app, certificate, stopped) = (app.clone(), certificate.clone(), stopped.clone());
        connections.spawn(async move {
            let _place = place;
            match certificate {
                None => talk(stream, app, stopped).await,
                Some(certificate) => {
                    let acceptor = TlsAcceptor::from(certificate.current());
                    if let Ok(Ok(stream)) =
                        tokio::time::timeout(HEAD, acceptor.accept(stream)).await
                    {
                        talk(stream, app, stopped).await;
                    }
                }
            }
        });
        while connections.try_join_next().is_some() {}
    }
    let all = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(FAREWELL, all).await;
}

/// Waits for the word to end.
async fn ended(stopped: &mut watch::Receiver<bool>) {
    // Without anybody who could say it, it is said.
    let _ = stopped.wait_for(|s| *s).await;
}

async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    app: Router,
    mut stopped: watch::Receiver<bool>,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // How a client leaves is its own affair.
        _ = connection.as_mut() => return,
        () = ended(&mut stopped) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}
