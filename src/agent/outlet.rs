//! Where batches go.
//!
//! Owns delivery. A batch is delivered when it is durable there; until then the agent keeps it.
//! Must never deliver a part of one.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use hyper::{Method, StatusCode, Uri};
use tokio::runtime::Handle;

use crate::http::{Answer, Http};
use crate::learn;
use crate::novelty::{self, AlertPatience};
use crate::observed::{self, Observed};
use crate::store::{Store, StoreError};
use crate::view::View;

/// Why a batch was not delivered.
#[derive(Debug, thiserror::Error)]
pub enum Undelivered {
    /// It is on its way: ask again with the same batch.
    #[error("it is on its way")]
    UnderWay,
    /// It may be delivered later.
    #[error("{why}")]
    Later {
        /// Why not now.
        why: String,
        /// When to try again, where whoever refused has said so.
        after: Option<Duration>,
        /// It may be the batch's own fault: others may be taken.
        of_batch: bool,
    },
    /// This batch will never be taken, others may be.
    #[error("{0}")]
    Refused(String),
    /// It will never be: the agent has to end.
    #[error("{0}")]
    Never(String),
}

/// Takes batches.
pub trait Outlet: Send {
    /// Delivers a batch. Delivering it again after a failure changes nothing more.
    ///
    /// # Errors
    /// See [`Undelivered`].
    fn deliver(&mut self, batch: &Observed) -> Result<(), Undelivered>;
}

/// A file that grows.
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
        // What a killed agent left of a line must not run into the next one.
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
    fn deliver(&mut self, batch: &Observed) -> Result<(), Undelivered> {
        let later = |e: io::Error| Undelivered::Later {
            why: format!("cannot write {}: {e}", self.path.display()),
            after: None,
            of_batch: false,
        };
        let mut text = Vec::new();
        observed::write(batch, &mut text).map_err(later)?;
        let before = self.file.seek(SeekFrom::End(0)).map_err(later)?;
        let written = self.file.write_all(&text).and_then(|()| self.file.sync_data());
        written.map_err(|e| {
            // A part of a batch would be read as a cut one: away with it, the whole of it follows.
            let _ = self.file.set_len(before);
            later(e)
        })
    }
}

/// Standard output.
#[derive(Debug, Default)]
pub struct ToStdout;

impl Outlet for ToStdout {
    fn deliver(&mut self, batch: &Observed) -> Result<(), Undelivered> {
        let mut text = Vec::new();
        let written = observed::write(batch, &mut text).and_then(|()| {
            let mut out = io::stdout().lock();
            out.write_all(&text)?;
            out.flush()
        });
        // A part may be written: it cannot be taken back.
        written.map_err(|e| Undelivered::Never(format!("cannot write to standard output: {e}")))
    }
}

/// A recorder.
#[derive(Debug)]
pub struct ToRecorder {
    http: Http,
    to: Uri,
    token: PathBuf,
    runtime: Handle,
}

/// How long the recorder may take to answer.
const ANSWER: Duration = Duration::from_secs(30);

impl ToRecorder {
    /// Posts to `url`, with what stands in the file `token` at that time: Kubernetes renews it.
    ///
    /// # Errors
    /// When the URL is none, or the authority cannot be used.
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
    fn deliver(&mut self, batch: &Observed) -> Result<(), Undelivered> {
        let later = |why: String| Undelivered::Later { why, after: None, of_batch: false };
        let mut text = Vec::new();
        observed::write(batch, &mut text).map_err(|e| later(e.to_string()))?;
        let body = zstd::encode_all(text.as_slice(), 1).map_err(|e| later(e.to_string()))?;
        // A recorder that asks nobody who they are needs none.
        let token = std::fs::read_to_string(&self.token).unwrap_or_default();
        let bearer = format!("Bearer {}", token.trim());
        let mut headers =
            vec![("content-type", "application/x-ndjson"), ("content-encoding", "zstd")];
        if !token.trim().is_empty() {
            headers.push(("authorization", &bearer));
        }
        let answer =
            self.runtime.block_on(self.http.send(Method::POST, &self.to, &headers, body, ANSWER));
        let answer = answer.map_err(|e| later(e.to_string()))?;
        match answer.status {
            s if s.is_success() => Ok(()),
            StatusCode::BAD_REQUEST if version(&answer) < observed::VERSION => Err(later(format!(
                "the recorder reads batches up to version {}, and this agent writes version {}: \
                 upgrade the recorder; until then batches wait",
                version(&answer),
                observed::VERSION
            ))),
            s if for_good(s, &answer.body) => Err(Undelivered::Refused(answer.words())),
            s => Err(Undelivered::Later {
                why: format!("the recorder answers {}", answer.words()),
                after: answer.retry_after(),
                of_batch: s == StatusCode::INTERNAL_SERVER_ERROR
                    || s == StatusCode::REQUEST_TIMEOUT,
            }),
        }
    }
}

/// The version of batches that a recorder reads. Those that do not say it are of before.
fn version(answer: &Answer) -> u32 {
    let said = answer.headers.get(observed::VERSION_HEADER);
    said.and_then(|v| v.to_str().ok()?.trim().parse().ok()).unwrap_or(1)
}

/// Whether a batch is refused however often it is sent. A token that is not valid (401), or not an
/// agent's (403), is no fault of the batch: it will be renewed, or somebody will set things right.
/// Where it is the batch that may not be brought, the recorder says so.
fn for_good(status: StatusCode, body: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Refusal {
        batch: Option<String>,
    }
    let said = || serde_json::from_slice::<Refusal>(body).ok()?.batch;
    matches!(
        status,
        StatusCode::BAD_REQUEST
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNSUPPORTED_MEDIA_TYPE
            | StatusCode::UNPROCESSABLE_ENTITY
    ) || status.is_client_error() && said().is_some_and(|batch| batch == "refused")
}

/// An outlet that takes its time, on a thread of its own: while a recorder does not answer, packets
/// go on to come.
#[derive(Debug)]
pub struct Aside {
    batches: Sender<Arc<Observed>>,
    results: Receiver<Result<(), Undelivered>>,
    /// One is on its way.
    waits: bool,
}

/// How long a delivery is waited for before it is asked for another time: most take less.
const PROMPT: Duration = Duration::from_millis(100);

impl Aside {
    /// Starts the thread. It ends with this, or with the delivery that it is at.
    ///
    /// # Errors
    /// When there is no thread to be had.
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
        Ok(Self { batches, results, waits: false })
    }
}

impl Outlet for Aside {
    /// A batch that is on its way never changes, so that it is the one that is asked for again.
    fn deliver(&mut self, batch: &Observed) -> Result<(), Undelivered> {
        let dead =
            || Undelivered::Never("the thread that delivers has ended; this is a bug".into());
        if !self.waits {
            self.batches.send(Arc::new(batch.clone())).map_err(|_| dead())?;
            self.waits = true;
        }
        match self.results.recv_timeout(PROMPT) {
            Ok(result) => {
                self.waits = false;
                result
            }
            Err(RecvTimeoutError::Timeout) => Err(Undelivered::UnderWay),
            Err(RecvTimeoutError::Disconnected) => Err(dead()),
        }
    }
}

/// A store in this process: learning and all.
#[derive(Debug)]
pub struct ToStore {
    store: Store,
    view: View,
}

impl ToStore {
    /// Learns with this view of the cluster.
    pub fn new(mut store: Store, view: View) -> Self {
        store.retain();
        Self { store, view }
    }
}

impl Outlet for ToStore {
    fn deliver(&mut self, batch: &Observed) -> Result<(), Undelivered> {
        if !self.view.status().synced {
            return Err(Undelivered::Later {
                why: "the view of the cluster is not complete yet".to_owned(),
                after: None,
                of_batch: false,
            });
        }
        let records = learn::batch(&self.view.current(), batch);
        // What is raised is what is stored.
        let records = match self.store.fold(records) {
            Ok(folded) => folded,
            Err(e @ StoreError::DiskFull { .. }) => {
                return Err(Undelivered::Later {
                    why: e.to_string(),
                    after: None,
                    of_batch: false,
                });
            }
            Err(e) => return Err(Undelivered::Never(e.to_string())),
        };
        match self.store.apply(&records) {
            Ok(_) => {
                let patience = AlertPatience::default();
                let new =
                    novelty::raise_from_batch(&mut self.store, &records, batch.made, patience)
                        .map_err(|e| Undelivered::Never(e.to_string()))?;
                for alert in new {
                    tracing::warn!(alert = %alert.id(), "{}", alert.text());
                }
                Ok(())
            }
            Err(e @ StoreError::DiskFull { .. }) => {
                Err(Undelivered::Later { why: e.to_string(), after: None, of_batch: false })
            }
            Err(e) => Err(Undelivered::Never(e.to_string())),
        }
    }
}
