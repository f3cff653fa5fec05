//! Where what is known is asked for: in a store, or of a recorder, named or found in the cluster.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use hyper::{Method, StatusCode, Uri};

use crate::http::{Answer, Http, Trust};
use crate::memory::{Decided, Memory};
use crate::present::NodeUnverified;
use crate::reach::{self, Unreached};
use crate::view::ViewError;

/// How long an answer may take: a large cluster has some hundred megabytes.
const WITHIN: Duration = Duration::from_secs(120);
/// Where Kubernetes puts the token of a pod's ServiceAccount.
const POD_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// The store where none is named.
pub(super) const STORE: &str = "sidecarta-store";

/// A recorder, in place of a store.
#[derive(Debug, Args)]
pub(super) struct RecorderOptions {
    /// Ask this recorder in place of a store. Where neither is named and there is no
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
    /// File with the token to show to the recorder (`kubectl create token NAME > FILE`); of a
    /// recorder that is found in the cluster, the kubeconfig's own without it
    #[arg(long, value_name = "FILE", env = "SIDECARTA_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// Authority that signed the recorder's certificate, in PEM; without it the ConfigMap
    /// sidecarta-ca of a recorder that is found in the cluster, else those of the system
    #[arg(long, value_name = "FILE", env = "SIDECARTA_CA_FILE")]
    ca_file: Option<PathBuf>,
}

/// Where what is known is.
pub(super) enum Place {
    /// In a store.
    Store(PathBuf),
    /// A recorder has it.
    Recorder(Box<Recorder>),
}

/// A recorder that is asked.
pub(super) struct Recorder {
    url: String,
    token: String,
    http: Http,
    runtime: tokio::runtime::Runtime,
    /// Where it was found; absent where it was named.
    found: Option<reach::Recorder>,
}

/// What the answers of a recorder lack.
#[derive(serde::Deserialize)]
pub(super) struct Limits {
    /// In words.
    pub limits: Vec<String>,
    /// What it keeps apart; recorders of old versions do not say.
    #[serde(default)]
    pub unverified: Vec<NodeUnverified>,
}

impl RecorderOptions {
    /// Whether a recorder is asked, whatever is here.
    pub(super) fn is_given(&self) -> bool {
        self.recorder.is_some() || self.context.is_some()
    }

    /// Where to ask: a recorder or a store that is named, the store that is here, the recorder of
    /// the cluster.
    pub(super) fn place(&self, store: Option<&Path>) -> anyhow::Result<Place> {
        if let Some(url) = &self.recorder {
            return Ok(Place::Recorder(Box::new(self.named(url)?)));
        }
        if let Some(store) = store {
            return Ok(Place::Store(store.to_owned()));
        }
        if self.context.is_none() && Path::new(STORE).exists() {
            return Ok(Place::Store(STORE.into()));
        }
        match self.find() {
            Ok(recorder) => Ok(Place::Recorder(Box::new(recorder))),
            // Nothing speaks of a cluster: what is missing is the store, and opening it says what
            // to do.
            Err(e)
                if matches!(
                    e.downcast_ref(),
                    Some(Unreached::Kubeconfig(ViewError::Nowhere { .. }))
                ) =>
            {
                Ok(Place::Store(STORE.into()))
            }
            Err(e) if self.context.is_none() => {
                Err(e.context(format!("there is no {STORE} here, and no recorder could be found")))
            }
            Err(e) => Err(e),
        }
    }

    fn named(&self, url: &str) -> anyhow::Result<Recorder> {
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
        Ok(Recorder {
            url,
            token,
            http: Http::new(self.ca_file.as_deref())?,
            runtime: runtime()?,
            found: None,
        })
    }

    fn find(&self) -> anyhow::Result<Recorder> {
        let runtime = runtime()?;
        let find = async {
            let config = reach::config(self.context.as_deref()).await?;
            let recorder = reach::Recorder::find(config.clone(), &self.recorder_namespace).await?;
            let authority = match &self.ca_file {
                Some(_) => None,
                None => recorder.authority().await?,
            };
            let (pod, _) = recorder.pod().await?;
            // Last: whether there is a recorder matters more than who asks.
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
        let way = recorder.clone();
        let streams = move || {
            let way = way.clone();
            async move { way.stream().await }
        };
        Ok(Recorder {
            url: recorder.url(),
            token,
            http: Http::through(streams, trust)?,
            runtime,
            found: Some(recorder),
        })
    }
}

impl Recorder {
    /// All records of a namespace, or of all.
    pub(super) fn memory(&self, namespace: Option<&str>) -> anyhow::Result<Memory> {
        let answer =
            self.ask(Method::GET, &format!("/v1/records{}", query(namespace)), Vec::new())?;
        let mut memory =
            Memory::read(&*answer.body).context("the recorder's answer cannot be read")?;
        memory.decided = self.decided(namespace)?;
        Ok(memory)
    }

    /// What was accepted of a namespace, or of all.
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

    /// What its answers lack, for what it does not see of the cluster, and what it keeps apart.
    pub(super) fn limits(&self, namespace: Option<&str>) -> anyhow::Result<Limits> {
        let answer = self.ask(Method::GET, &format!("/v1/mesh{}", query(namespace)), Vec::new())?;
        serde_json::from_slice(&answer.body).context("the recorder's answer cannot be read")
    }

    /// Asks, and gives what is answered well.
    pub(super) fn ask(&self, method: Method, path: &str, body: Vec<u8>) -> anyhow::Result<Answer> {
        good(self.answer(method, path, body)?)
    }

    /// Asks, and gives what is answered, well or not.
    fn answer(&self, method: Method, path: &str, body: Vec<u8>) -> anyhow::Result<Answer> {
        let to: Uri = format!("{}{path}", self.url)
            .parse()
            .with_context(|| format!("{}{path} is no URL", self.url))?;
        let bearer = format!("Bearer {}", self.token.trim());
        let mut headers = vec![("content-type", "application/json")];
        if !self.token.trim().is_empty() {
            headers.push(("authorization", &bearer));
        }
        let answer = self.runtime.block_on(self.http.send(method, &to, &headers, body, WITHIN));
        let said = |found: &reach::Recorder| self.runtime.block_on(found.failure());
        answer.map_err(|e| match self.found.as_ref().and_then(said) {
            Some(why) => anyhow::anyhow!("{e} ({why})"),
            None => e.into(),
        })
    }
}

fn good(answer: Answer) -> anyhow::Result<Answer> {
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

/// Restricts a request to a namespace.
pub(super) fn query(namespace: Option<&str>) -> String {
    namespace.map(|n| format!("?namespace={n}")).unwrap_or_default()
}
