//! Chooses the source of records for a read command: a local store, a recorder by URL, or the
//! recorder that is found through the kubeconfig.
//!
//! Owns the requests to a recorder. Must never change what it answers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use hyper::{Method, StatusCode, Uri};

use crate::http::{Http, HttpAnswer, Trust};
use crate::model::Alert;
use crate::present::NodeUnverified;
use crate::reach::{self, FoundRecorder, Unreached};
use crate::records::{Decided, Records};
use crate::view::ViewError;

/// How long an answer may take: that of a large cluster has some hundred megabytes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// Where Kubernetes puts the token of a pod's ServiceAccount.
const POD_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// The directory of the store if none is named.
pub(super) const STORE: &str = "sidecarta-store";

/// Which recorder is asked, in place of a store.
#[derive(Debug, Args)]
pub(super) struct RecorderOptions {
    /// Ask this recorder in place of a store. If neither is named and there is no
    /// ./sidecarta-store, the recorder of the kubeconfig's cluster is asked, through the API server
    #[arg(long, value_name = "URL", env = "SIDECARTA_RECORDER")]
    recorder: Option<String>,
    /// Ask the recorder in the cluster of this context of the kubeconfig
    #[arg(long, value_name = "NAME", conflicts_with_all = ["recorder", "store"])]
    context: Option<String>,
    /// Namespace of the recorder in the cluster
    #[arg(
        long,
        value_name = "NS",
        default_value = "sidecarta",
        env = "SIDECARTA_RECORDER_NAMESPACE"
    )]
    recorder_namespace: String,
    /// File with the token for the recorder (`kubectl create token NAME > FILE`); a recorder that
    /// is found in the cluster gets the kubeconfig's own token without it
    #[arg(long, value_name = "FILE", env = "SIDECARTA_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// Authority that signed the recorder's certificate, in PEM [default: the ConfigMap
    /// sidecarta-ca of a recorder that is found in the cluster, else those of the system]
    #[arg(long, value_name = "FILE", env = "SIDECARTA_CA_FILE")]
    ca_file: Option<PathBuf>,
}

/// Where records are read.
pub(super) enum RecordSource {
    /// The store in this directory.
    Store(PathBuf),
    /// A recorder.
    Recorder(Box<RecorderClient>),
}

/// A client of a recorder's API.
pub(super) struct RecorderClient {
    url: String,
    token: String,
    http: Http,
    runtime: tokio::runtime::Runtime,
    /// The recorder in the cluster, if it was found through the kubeconfig.
    found: Option<FoundRecorder>,
}

/// What the answers of a recorder lack.
#[derive(serde::Deserialize)]
pub(super) struct RecorderLimits {
    /// One sentence for each limit.
    pub limits: Vec<String>,
    /// Lines about pods that the API server does not know. Old recorders do not send it.
    #[serde(default)]
    pub unverified: Vec<NodeUnverified>,
}

impl RecorderOptions {
    /// Whether the options name a recorder or a context.
    pub(super) fn is_given(&self) -> bool {
        self.recorder.is_some() || self.context.is_some()
    }

    /// The source of records. In this order: the recorder or the store that is named, the store in
    /// the working directory, the recorder of the cluster.
    pub(super) fn source(&self, store: Option<&Path>) -> anyhow::Result<RecordSource> {
        if let Some(url) = &self.recorder {
            return Ok(RecordSource::Recorder(Box::new(self.named(url)?)));
        }
        if let Some(store) = store {
            return Ok(RecordSource::Store(store.to_owned()));
        }
        if self.context.is_none() && Path::new(STORE).exists() {
            return Ok(RecordSource::Store(STORE.into()));
        }
        match self.find() {
            Ok(recorder) => Ok(RecordSource::Recorder(Box::new(recorder))),
            // There is no kubeconfig: so the store is what is missing. The error of opening it
            // says what to do.
            Err(e)
                if matches!(
                    e.downcast_ref(),
                    Some(Unreached::Kubeconfig(ViewError::Nowhere { .. }))
                ) =>
            {
                Ok(RecordSource::Store(STORE.into()))
            }
            Err(e) if self.context.is_none() => {
                Err(e.context(format!("there is no {STORE} here, and no recorder could be found")))
            }
            Err(e) => Err(e),
        }
    }

    fn named(&self, url: &str) -> anyhow::Result<RecorderClient> {
        let url = url.trim_end_matches('/').to_owned();
        let to: Uri = url.parse().with_context(|| format!("{url} is no URL"))?;
        anyhow::ensure!(
            to.scheme().is_some(),
            "{url} is no URL: it begins with https:// or http://"
        );
        let token = match &self.token_file {
            Some(file) => read(file)?,
            None => std::fs::read_to_string(POD_TOKEN).unwrap_or_default(),
        };
        Ok(RecorderClient {
            url,
            token,
            http: Http::new(self.ca_file.as_deref())?,
            runtime: runtime()?,
            found: None,
        })
    }

    fn find(&self) -> anyhow::Result<RecorderClient> {
        let runtime = runtime()?;
        let find = async {
            let config = reach::config(self.context.as_deref()).await?;
            let recorder = FoundRecorder::find(config.clone(), &self.recorder_namespace).await?;
            let authority = match &self.ca_file {
                Some(_) => None,
                None => recorder.authority().await?,
            };
            let (pod, _) = recorder.pod().await?;
            // The token comes last: first the user should hear whether there is a recorder.
            let token = match &self.token_file {
                Some(file) => read(file)?,
                None => reach::token(&config).await?,
            };
            anyhow::Ok((token, recorder, authority, pod))
        };
        let (token, recorder, authority, pod) = runtime.block_on(find)?;
        super::output::note(format_args!("asks {recorder}, pod {pod}"));
        let trust = match (&self.ca_file, &authority) {
            (Some(file), _) => Trust::File(file),
            (None, Some(pem)) => Trust::Pem(pem),
            (None, None) => Trust::System,
        };
        let path = recorder.clone();
        let streams = move || {
            let path = path.clone();
            async move { path.stream().await }
        };
        Ok(RecorderClient {
            url: recorder.url(),
            token,
            http: Http::through(streams, trust)?,
            runtime,
            found: Some(recorder),
        })
    }
}

impl RecorderClient {
    /// All records of a namespace, or of all namespaces.
    pub(super) fn records(&self, namespace: Option<&str>) -> anyhow::Result<Records> {
        let answer =
            self.ask(Method::GET, &format!("/v1/records{}", query(namespace)), Vec::new())?;
        let mut records =
            Records::read(&*answer.body).context("the recorder's answer cannot be read")?;
        records.decided = self.decided(namespace)?;
        Ok(records)
    }

    /// The alerts about a namespace, or about all.
    pub(super) fn alerts(&self, namespace: Option<&str>) -> anyhow::Result<Vec<Alert>> {
        let answer =
            self.ask(Method::GET, &format!("/v1/alerts{}", query(namespace)), Vec::new())?;
        serde_json::from_slice(&answer.body).context("the recorder's answer cannot be read")
    }

    /// What was accepted in a namespace, or in all.
    fn decided(&self, namespace: Option<&str>) -> anyhow::Result<Decided> {
        let path = format!("/v1/baselines{}", query(namespace));
        let answer = self.answer(Method::GET, &path, Vec::new())?;
        // A recorder that is older than this program has no such path.
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(Decided::default());
        }
        let answer = good(answer)?;
        serde_json::from_slice(&answer.body).context("the recorder's answer cannot be read")
    }

    /// What the recorder's answers lack: objects that it cannot watch, and unverified lines.
    pub(super) fn limits(&self, namespace: Option<&str>) -> anyhow::Result<RecorderLimits> {
        let answer = self.ask(Method::GET, &format!("/v1/mesh{}", query(namespace)), Vec::new())?;
        serde_json::from_slice(&answer.body).context("the recorder's answer cannot be read")
    }

    /// Sends a request.
    ///
    /// # Errors
    /// When the status of the answer is not 200.
    pub(super) fn ask(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> anyhow::Result<HttpAnswer> {
        good(self.answer(method, path, body)?)
    }

    /// Sends a request, and returns the answer whatever its status.
    fn answer(&self, method: Method, path: &str, body: Vec<u8>) -> anyhow::Result<HttpAnswer> {
        let to: Uri = format!("{}{path}", self.url)
            .parse()
            .with_context(|| format!("{}{path} is no URL", self.url))?;
        let bearer = format!("Bearer {}", self.token.trim());
        let mut headers = vec![("content-type", "application/json")];
        if !self.token.trim().is_empty() {
            headers.push(("authorization", &bearer));
        }
        let request = self.http.send(method, &to, &headers, body, ANSWER_TIMEOUT);
        let answer = self.runtime.block_on(request);
        let failure = |found: &FoundRecorder| self.runtime.block_on(found.failure());
        answer.map_err(|e| match self.found.as_ref().and_then(failure) {
            Some(why) => anyhow::anyhow!("{e} ({why})"),
            None => e.into(),
        })
    }
}

/// The answer if its status is 200, else an error with its text.
fn good(answer: HttpAnswer) -> anyhow::Result<HttpAnswer> {
    match answer.status {
        StatusCode::OK => Ok(answer),
        StatusCode::UNAUTHORIZED => {
            anyhow::bail!(
                "the recorder does not know who you are ({}); pass --token-file",
                answer.words()
            )
        }
        _ => anyhow::bail!("the recorder answers {}", answer.words()),
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn read(token: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(token)
        .with_context(|| format!("cannot read the token {}", token.display()))
}

/// The query that restricts a request to a namespace; empty for all.
pub(super) fn query(namespace: Option<&str>) -> String {
    namespace.map(|n| format!("?namespace={n}")).unwrap_or_default()
}
