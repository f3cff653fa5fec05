//! The recorder's certificate.
//!
//! Owns its files, and when they are read again. Must never serve with half of a renewal.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::serve::Acceptor;

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

    /// As what [`crate::serve`] makes TLS with.
    pub fn acceptor(self) -> Acceptor {
        let known = Arc::new(self);
        Arc::new(move || TlsAcceptor::from(known.current()))
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
