//! Asking a recorder.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use hyper::{Method, StatusCode, Uri};

use crate::http::{Answer, Http};
use crate::memory::Memory;

/// How long an answer may take: a large cluster has some hundred megabytes.
const WITHIN: Duration = Duration::from_secs(120);
/// Where Kubernetes puts the token of a pod's ServiceAccount.
const POD_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// A recorder, in place of a store.
#[derive(Debug, Args)]
pub(super) struct RecorderOptions {
    /// Ask this recorder in place of a store
    #[arg(long, value_name = "URL", env = "SIDECARTA_RECORDER")]
    recorder: Option<String>,
    /// File with the token to show to the recorder: `kubectl create token NAME > FILE`
    #[arg(long, value_name = "FILE", env = "SIDECARTA_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// Authority that signed the recorder's certificate, in PEM; those of the system without it
    #[arg(long, value_name = "FILE", env = "SIDECARTA_CA_FILE")]
    ca_file: Option<PathBuf>,
}

impl RecorderOptions {
    pub(super) fn is_given(&self) -> bool {
        self.recorder.is_some()
    }

    /// All records of a namespace, or of all.
    pub(super) fn memory(&self, namespace: Option<&str>) -> anyhow::Result<Memory> {
        let answer = self.ask(Method::GET, &format!("/v1/records{}", query(namespace)), Vec::new())?;
        Memory::read(&*answer.body).context("the recorder's answer cannot be read")
    }

    /// What the recorder's answers lack, for what it does not see of the cluster. A store lacks nothing of the kind.
    pub(super) fn limits(&self, namespace: Option<&str>) -> anyhow::Result<Vec<String>> {
        #[derive(serde::Deserialize)]
        struct Mesh {
            limits: Vec<String>,
        }
        if !self.is_given() {
            return Ok(Vec::new());
        }
        let answer = self.ask(Method::GET, &format!("/v1/mesh{}", query(namespace)), Vec::new())?;
        let mesh: Mesh = serde_json::from_slice(&answer.body).context("the recorder's answer cannot be read")?;
        Ok(mesh.limits)
    }

    /// Asks, and gives what is answered well.
    pub(super) fn ask(&self, method: Method, path: &str, body: Vec<u8>) -> anyhow::Result<Answer> {
        let url = self.recorder.as_deref().context("no recorder is named: pass --recorder URL")?;
        let to: Uri = format!("{}{path}", url.trim_end_matches('/')).parse().with_context(|| format!("{url} is no URL"))?;
        anyhow::ensure!(to.scheme().is_some(), "{url} is no URL: it begins with https:// or http://");
        let token = match &self.token_file {
            Some(file) => std::fs::read_to_string(file).with_context(|| format!("cannot read the token {}", file.display()))?,
            None => std::fs::read_to_string(POD_TOKEN).unwrap_or_default(),
        };
        let bearer = format!("Bearer {}", token.trim());
        let mut headers = vec![("content-type", "application/json")];
        if !token.trim().is_empty() {
            headers.push(("authorization", &bearer));
        }
        let http = Http::new(self.ca_file.as_deref())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let answer = runtime.block_on(http.send(method, &to, &headers, body, WITHIN))?;
        match answer.status {
            StatusCode::OK => Ok(answer),
            StatusCode::UNAUTHORIZED => {
                anyhow::bail!("the recorder does not know who you are ({}); pass --token-file", answer.words())
            }
            _ => anyhow::bail!("the recorder answers {}", answer.words()),
        }
    }
}

/// Restricts a request to a namespace.
pub(super) fn query(namespace: Option<&str>) -> String {
    namespace.map(|n| format!("?namespace={n}")).unwrap_or_default()
}
