//! The recorder's certificate.
//!
//! Owns its files, and when they are read again. Must never serve with a certificate and the key of
//! another.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::serve::Acceptor;

/// How often the files of the certificate are checked for changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Files of a certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub struct CertificateFiles {
    /// The certificate, followed by those of its authorities.
    pub certificate: PathBuf,
    /// The private key of the certificate.
    pub key: PathBuf,
}

/// A certificate that is read again when its files change.
pub struct Certificate {
    files: CertificateFiles,
    loaded: Mutex<LoadedCertificate>,
}

/// The certificate in use.
struct LoadedCertificate {
    /// When the files were last checked.
    checked: Instant,
    modified: Option<ModificationTimes>,
    config: Arc<ServerConfig>,
}

/// When certificate and key were last modified.
type ModificationTimes = (SystemTime, SystemTime);

impl Certificate {
    /// Reads the files.
    ///
    /// # Errors
    /// When they contain no certificate with its key.
    pub fn read(files: CertificateFiles) -> Result<Self, String> {
        let modified = modification_times(&files);
        let config = load(&files)?;
        let loaded = LoadedCertificate { checked: Instant::now(), modified, config };
        Ok(Self { files, loaded: Mutex::new(loaded) })
    }

    /// Makes what [`crate::serve`] needs for TLS.
    pub fn acceptor(self) -> Acceptor {
        let certificate = Arc::new(self);
        Arc::new(move || TlsAcceptor::from(certificate.current()))
    }

    /// What to serve with now. Where changed files cannot be read, the certificate in use stays,
    /// and the log says so.
    fn current(&self) -> Arc<ServerConfig> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.checked.elapsed() >= CHECK_INTERVAL {
            loaded.checked = Instant::now();
            let modified = modification_times(&self.files);
            if modified != loaded.modified {
                match load(&self.files) {
                    Ok(config) => {
                        loaded.config = config;
                        loaded.modified = modified;
                        let certificate = self.files.certificate.display();
                        tracing::info!(%certificate, "the certificate was read again");
                    }
                    Err(error) => tracing::warn!(
                        %error,
                        "the certificate has changed and cannot be read: the old one stays in use"
                    ),
                }
            }
        }
        Arc::clone(&loaded.config)
    }
}

fn modification_times(files: &CertificateFiles) -> Option<ModificationTimes> {
    let of = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
    Some((of(&files.certificate)?, of(&files.key)?))
}

fn load(files: &CertificateFiles) -> Result<Arc<ServerConfig>, String> {
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
