//! Outlets: where an agent's batches go.
//!
//! Owns delivery. A batch is delivered when it is durable at its destination; until then the agent
//! retains it. Must never deliver a part of a batch.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use hyper::{Method, StatusCode, Uri};
use tokio::runtime::Handle;

use crate::http::{Http, HttpAnswer};
use crate::learn;
use crate::novelty::{self, AlertPatience};
use crate::observed::{self, Observed};
use crate::store::{Store, StoreError};
use crate::view::View;

/// Why a batch was not delivered.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The delivery has not ended yet: call again with the same batch.
    #[error("it is on its way")]
    UnderWay,
    /// Trying again later may succeed.
    #[error("{why}")]
    Later {
        /// Why the attempt failed.
        why: String,
        /// When to try again, if the receiver has said so.
        after: Option<Duration>,
        /// The batch itself may be the cause: another one may succeed.
        batch_suspect: bool,
    },
    /// The receiver will never accept this batch. It may accept others.
    #[error("{0}")]
    Refused(String),
    /// No batch can be delivered any more: the agent has to end.
    #[error("{0}")]
    Never(String),
}

impl DeliveryError {
    /// Trying again later may succeed, and the batch is not the cause.
    fn later(why: impl ToString) -> Self {
        Self::Later { why: why.to_string(), after: None, batch_suspect: false }
    }
}

/// A destination of batches.
pub trait Outlet: Send {
    /// Delivers a batch. To deliver it again after a failure does no harm: it counts once.
    ///
    /// # Errors
    /// See [`DeliveryError`].
    fn deliver(&mut self, batch: &Observed) -> Result<(), DeliveryError>;
}

/// A file that batches are appended to.
#[derive(Debug)]
pub struct ToFile {
    path: PathBuf,
    file: File,
}

impl ToFile {
    /// Opens a file to append to.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        // A killed agent may have left a line without its end. The next line must not continue it.
        let length = file.seek(SeekFrom::End(0))?;
        if length > 0 {
            let mut last = [0];
            file.seek(SeekFrom::Start(length - 1))?;
            io::Read::read_exact(&mut file, &mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
            }
        }
        Ok(Self { path: path.to_owned(), file })
    }
}

impl Outlet for ToFile {
    fn deliver(&mut self, batch: &Observed) -> Result<(), DeliveryError> {
        let later = |e: io::Error| {
            DeliveryError::later(format!("cannot write {}: {e}", self.path.display()))
        };
        let mut text = Vec::new();
        observed::write(batch, &mut text).map_err(later)?;
        let before = self.file.seek(SeekFrom::End(0)).map_err(later)?;
        let written = self.file.write_all(&text).and_then(|()| self.file.sync_data());
        written.map_err(|e| {
            // Remove what was written: the whole batch will be written again.
            let _ = self.file.set_len(before);
            later(e)
        })
    }
}

/// Writes batches to standard output.
#[derive(Debug, Default)]
pub struct ToStdout;

impl Outlet for ToStdout {
    fn deliver(&mut self, batch: &Observed) -> Result<(), DeliveryError> {
        let mut text = Vec::new();
        let written = observed::write(batch, &mut text).and_then(|()| {
            let mut out = io::stdout().lock();
            out.write_all(&text)?;
            out.flush()
        });
        // Trying again would be wrong: a part may be written, and cannot be removed.
        written.map_err(|e| DeliveryError::Never(format!("cannot write to standard output: {e}")))
    }
}

/// Sends batches to a recorder over HTTP.
#[derive(Debug)]
pub struct ToRecorder {
    http: Http,
    to: Uri,
    token: PathBuf,
    runtime: Handle,
}

/// How long the recorder may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

impl ToRecorder {
    /// Posts to `url`. The file `token` is read for each request, since Kubernetes renews it.
    ///
    /// # Errors
    /// When `url` is no URL of http or https, or the authority's certificate cannot be used.
    pub fn new(
        url: &str,
        token: PathBuf,
        authority: Option<&Path>,
        runtime: Handle,
    ) -> anyhow::Result<Self> {
        let to: Uri = format!("{}/v1/batches", url.trim_end_matches('/'))
            .parse()
            .map_err(|e| anyhow::anyhow!("{url}: {e}"))?;
        anyhow::ensure!(
            matches!(to.scheme_str(), Some("http" | "https")),
            "{url} begins with neither https:// nor http://"
        );
        Ok(Self { http: Http::new(authority)?, to, token, runtime })
    }
}

impl Outlet for ToRecorder {
    fn deliver(&mut self, batch: &Observed) -> Result<(), DeliveryError> {
        let mut text = Vec::new();
        observed::write(batch, &mut text).map_err(DeliveryError::later)?;
        let body = zstd::encode_all(text.as_slice(), 1).map_err(DeliveryError::later)?;
        // A missing token is no error here: a recorder without authentication needs none.
        let token = std::fs::read_to_string(&self.token).unwrap_or_default();
        let bearer = format!("Bearer {}", token.trim());
        let mut headers =
            vec![("content-type", "application/x-ndjson"), ("content-encoding", "zstd")];
        if !token.trim().is_empty() {
            headers.push(("authorization", &bearer));
        }
        let request = self.http.send(Method::POST, &self.to, &headers, body, ANSWER_TIMEOUT);
        let answer = self.runtime.block_on(request).map_err(DeliveryError::later)?;
        match answer.status {
            s if s.is_success() => Ok(()),
            StatusCode::BAD_REQUEST if version_read(&answer) < observed::VERSION => {
                Err(DeliveryError::later(format!(
                    "the recorder reads batches up to version {}, and this agent writes version \
                     {}: upgrade the recorder; until then batches wait",
                    version_read(&answer),
                    observed::VERSION
                )))
            }
            s if is_refused_for_good(s, &answer.body) => {
                Err(DeliveryError::Refused(answer.words()))
            }
            s => Err(DeliveryError::Later {
                why: format!("the recorder answers {}", answer.words()),
                after: answer.retry_after(),
                batch_suspect: s == StatusCode::INTERNAL_SERVER_ERROR
                    || s == StatusCode::REQUEST_TIMEOUT,
            }),
        }
    }
}

/// The newest version of batches that the recorder reads. A recorder that does not name one is
/// older than version 2.
fn version_read(answer: &HttpAnswer) -> u32 {
    let header = answer.headers.get(observed::VERSION_HEADER);
    header.and_then(|v| v.to_str().ok()?.trim().parse().ok()).unwrap_or(1)
}

/// Whether the recorder will refuse this batch however often it is sent. With 401 and 403 the batch
/// is not the cause: the token will be renewed, or somebody will grant the right. Where the cause
/// is the batch after all, the answer says `"batch": "refused"`.
fn is_refused_for_good(status: StatusCode, body: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct RefusalBody {
        batch: Option<String>,
    }
    let said = || serde_json::from_slice::<RefusalBody>(body).ok()?.batch;
    matches!(
        status,
        StatusCode::BAD_REQUEST
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNSUPPORTED_MEDIA_TYPE
            | StatusCode::UNPROCESSABLE_ENTITY
    ) || status.is_client_error() && said().is_some_and(|batch| batch == "refused")
}

/// Runs a slow outlet on a thread of its own, so that the pipeline reads packets while a recorder
/// does not answer.
#[derive(Debug)]
pub struct DeliveryThread {
    batches: Sender<Arc<Observed>>,
    results: Receiver<Result<(), DeliveryError>>,
    /// Whether a batch was handed to the thread whose result has not come yet.
    is_under_way: bool,
}

/// How long `deliver` waits for the result before it returns [`DeliveryError::UnderWay`]. Most
/// deliveries take less.
const RESULT_WAIT: Duration = Duration::from_millis(100);

impl DeliveryThread {
    /// Starts the thread. It ends when this value is dropped, after a delivery that it has begun.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn new(mut outlet: impl Outlet + 'static) -> io::Result<Self> {
        let (batches, todo) = channel::<Arc<Observed>>();
        let (done, results) = channel();
        let work = move || {
            while let Ok(batch) = todo.recv() {
                if done.send(outlet.deliver(&batch)).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("delivery".to_owned()).spawn(work)?;
        Ok(Self { batches, results, is_under_way: false })
    }
}

impl Outlet for DeliveryThread {
    /// The caller passes the same batch until its result is there.
    fn deliver(&mut self, batch: &Observed) -> Result<(), DeliveryError> {
        let dead =
            || DeliveryError::Never("the thread that delivers has ended; this is a bug".into());
        if !self.is_under_way {
            self.batches.send(Arc::new(batch.clone())).map_err(|_| dead())?;
            self.is_under_way = true;
        }
        match self.results.recv_timeout(RESULT_WAIT) {
            Ok(result) => {
                self.is_under_way = false;
                result
            }
            Err(RecvTimeoutError::Timeout) => Err(DeliveryError::UnderWay),
            Err(RecvTimeoutError::Disconnected) => Err(dead()),
        }
    }
}

/// Learns from batches in this process, and stores what is learned.
#[derive(Debug)]
pub struct ToStore {
    store: Store,
    view: View,
}

impl ToStore {
    /// Resolves batches with this view of the cluster.
    pub fn new(mut store: Store, view: View) -> Self {
        store.retain();
        Self { store, view }
    }
}

impl Outlet for ToStore {
    fn deliver(&mut self, batch: &Observed) -> Result<(), DeliveryError> {
        if !self.view.status().synced {
            return Err(DeliveryError::later("the view of the cluster is not complete yet"));
        }
        let records = learn::batch(&self.view.current(), batch);
        // Alerts must name what is stored, so the folded records are used for both.
        let records = self.store.fold(records).map_err(store_failure)?;
        self.store.apply(&records).map_err(store_failure)?;
        let new = novelty::raise_from_batch(
            &mut self.store,
            &records,
            batch.made,
            AlertPatience::default(),
        )
        .map_err(|e| DeliveryError::Never(e.to_string()))?;
        for alert in new {
            tracing::warn!(alert = %alert.id(), "{}", alert.text());
        }
        Ok(())
    }
}

/// A full disk may have room later. After any other error the store writes nothing more.
fn store_failure(e: StoreError) -> DeliveryError {
    match e {
        StoreError::DiskFull { .. } => DeliveryError::later(e),
        _ => DeliveryError::Never(e.to_string()),
    }
}
