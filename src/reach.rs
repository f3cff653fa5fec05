//! The path to a recorder in a cluster, for users with a kubeconfig: its Service, a pod that is
//! ready, a stream through the API server (`pods/portforward`), the token, and the authority that
//! signed the recorder's certificate.
//!
//! Owns the requests for these. Must never write to the cluster, nor know what the recorder is
//! asked.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::AUTHORIZATION;
use hyper::{Request, Response};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::ListParams;
use kube::client::{Body, ConfigExt, UpgradeConnectionError};
use kube::{Api, Client, Config};
use tokio::io::DuplexStream;
use tokio::sync::watch;
use tower::{Layer, ServiceExt, service_fn};

use crate::http::chain;
use crate::view::{self, ViewError};

/// Names of `deploy/recorder.yaml`: the Service, its port, and the ConfigMap with the authority
/// that signed the certificate.
const SERVICE: &str = "sidecarta-recorder";
const PORT: &str = "https";
const AUTHORITY: &str = "sidecarta-ca";
const AUTHORITY_FILE: &str = "ca.crt";

/// How long the API server may take to answer one request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// How long to wait for the node's error message after the end of a stream.
const FAILURE_WAIT: Duration = Duration::from_millis(500);

/// Why a recorder cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum Unreached {
    /// There is no configuration of an API server, or it cannot be used.
    #[error(transparent)]
    Kubeconfig(#[from] ViewError),
    /// The user's credentials cannot be read: an exec plugin failed, or a file is missing.
    #[error("the kubeconfig's user cannot be used: {0}")]
    User(Box<dyn std::error::Error + Send + Sync>),
    /// The user has credentials, but no bearer token.
    #[error(
        "the kubeconfig's user has no bearer token, and a recorder takes no other credentials: \
         `kubectl create token NAME > FILE`, and pass --token-file FILE"
    )]
    NoToken,
    /// The user has no right to it (403).
    #[error(
        "the kubeconfig's user may not {verb} in the namespace {namespace} (RBAC: {rule}; \
         deploy/reader.yaml has the least rights)"
    )]
    Forbidden {
        /// What was tried.
        verb: &'static str,
        /// The namespace of the recorder.
        namespace: String,
        /// The rule of RBAC that allows it.
        rule: &'static str,
    },
    /// The API server does not know the user (401).
    #[error(
        "the API server at {server} does not know the kubeconfig's user: log in again, or choose \
         another --context"
    )]
    Unknown {
        /// URL of the API server.
        server: String,
    },
    /// The recorder's Service is not in this namespace.
    #[error(
        "there is no Service {SERVICE} in the namespace {0} of that cluster: --recorder-namespace \
         names another, --context another cluster, --store a store"
    )]
    NoService(String),
    /// The recorder's Service in this namespace selects no pods.
    #[error(
        "the Service {SERVICE} in the namespace {0} has no selector or no port: nothing says which \
         pod is the recorder"
    )]
    NoPods(String),
    /// None of the recorder's pods is ready.
    #[error(
        "no pod of the Service {SERVICE} in the namespace {namespace} is ready{found}: \
         `kubectl -n {namespace} get pods` shows more"
    )]
    NotReady {
        /// The namespace of the recorder.
        namespace: String,
        /// The pods that are not ready, as the message names them.
        found: String,
    },
    /// A request failed for another reason.
    #[error("cannot {what}: the API server at {server} cannot be asked: {error}")]
    Api {
        /// URL of the API server.
        server: String,
        /// What was tried.
        what: &'static str,
        /// The error with its causes.
        error: String,
    },
}

/// A recorder that was found in a cluster.
#[derive(Clone)]
pub struct FoundRecorder {
    client: Client,
    server: String,
    namespace: String,
    selector: String,
    port: ServicePort,
    failure: Arc<watch::Sender<Option<String>>>,
}

impl std::fmt::Display for FoundRecorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the Service {SERVICE} in the namespace {} of {}", self.namespace, self.server)
    }
}

impl FoundRecorder {
    /// Finds the recorder in this namespace.
    ///
    /// # Errors
    /// When the API server cannot be asked, or there is no recorder.
    pub async fn find(config: Config, namespace: &str) -> Result<Self, Unreached> {
        let server = config.cluster_url.to_string();
        let client = view::connect(config)?;
        let api: Api<Service> = Api::namespaced(client.clone(), namespace);
        let asking = ApiQuestion {
            server: &server,
            namespace,
            verb: "get the Service sidecarta-recorder",
            rule: "get services",
        };
        let found = asking.answer(api.get_opt(SERVICE)).await?;
        let spec = found
            .ok_or_else(|| Unreached::NoService(namespace.to_owned()))?
            .spec
            .unwrap_or_default();
        let selector: Vec<String> = spec
            .selector
            .iter()
            .flatten()
            .map(|(label, value)| format!("{label}={value}"))
            .collect();
        let ports = spec.ports.unwrap_or_default();
        let port =
            ports.iter().find(|p| p.name.as_deref() == Some(PORT)).or(ports.first()).cloned();
        let Some(port) = port.filter(|_| !selector.is_empty()) else {
            return Err(Unreached::NoPods(namespace.to_owned()));
        };
        Ok(Self {
            client,
            server,
            namespace: namespace.to_owned(),
            selector: selector.join(","),
            port,
            failure: Arc::new(watch::Sender::new(None)),
        })
    }

    /// The recorder's URL within the cluster. Its certificate names this host.
    pub fn url(&self) -> String {
        format!("https://{SERVICE}.{}.svc:{}", self.namespace, self.port.port)
    }

    /// The authority that signed the recorder's certificate, in PEM, from the ConfigMap that agents
    /// use; `None` if there is none.
    ///
    /// # Errors
    /// When the API server cannot be asked.
    pub async fn authority(&self) -> Result<Option<String>, Unreached> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let rule = "get configmaps, or pass --ca-file";
        let asking = self.asking("get the ConfigMap sidecarta-ca", rule);
        let map = asking.answer(api.get_opt(AUTHORITY)).await?;
        Ok(map.and_then(|m| m.data?.remove(AUTHORITY_FILE)))
    }

    /// A pod that is ready, and the number of its port. Of several pods, the first by name.
    ///
    /// # Errors
    /// When no pod is ready, or pods cannot be listed.
    pub async fn pod(&self) -> Result<(String, u16), Unreached> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let asking = self.asking("list pods", "list pods");
        let mut pods =
            asking.answer(api.list(&ListParams::default().labels(&self.selector))).await?.items;
        pods.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        let port = |pod| port(&self.port, pod);
        let ready = pods
            .iter()
            .filter(|p| ready(p))
            .find_map(|p| Some((p.metadata.name.clone()?, port(p)?)));
        ready.ok_or_else(|| {
            let names: Vec<&str> = pods.iter().filter_map(|p| p.metadata.name.as_deref()).collect();
            let found = if names.is_empty() {
                String::new()
            } else {
                format!(" ({} is not)", names.join(", "))
            };
            Unreached::NotReady { namespace: self.namespace.clone(), found }
        })
    }

    /// The node's message about the last failure of a stream. To be called after a stream has
    /// broken off; waits for a moment, since the message may come after the end of the stream.
    pub async fn failure(&self) -> Option<String> {
        let mut failures = self.failure.subscribe();
        let message = failures.wait_for(Option::is_some);
        tokio::time::timeout(FAILURE_WAIT, message).await.ok()?.ok()?.clone()
    }

    /// A stream to a pod that is ready. If the node cannot reach the pod's port, the stream ends,
    /// and [`failure`](Self::failure) gives the reason.
    ///
    /// # Errors
    /// When no pod is ready, or the user has no right to forward ports.
    pub async fn stream(&self) -> Result<DuplexStream, Unreached> {
        let (pod, port) = self.pod().await?;
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let asking = self.asking("forward ports of pods", "get and create pods/portforward");
        let mut forwarder = asking.answer(api.portforward(&pod, &[port])).await?;
        let stream = forwarder.take_stream(port);
        let (wrong, failure) = (forwarder.take_error(port), Arc::clone(&self.failure));
        tokio::spawn(async move {
            if let Some(why) = async { wrong?.await }.await {
                failure.send_replace(Some(format!("{pod}: {}", why.trim())));
            }
        });
        // The forwarder has a stream for each port that was asked for, so this is never `None`.
        stream.ok_or_else(|| Unreached::NoPods(self.namespace.clone()))
    }

    fn asking(&self, verb: &'static str, rule: &'static str) -> ApiQuestion<'_> {
        ApiQuestion { server: &self.server, namespace: &self.namespace, verb, rule }
    }
}

/// A request to the API server, as error messages describe it.
struct ApiQuestion<'a> {
    server: &'a str,
    namespace: &'a str,
    verb: &'static str,
    rule: &'static str,
}

impl ApiQuestion<'_> {
    async fn answer<T>(
        &self,
        asked: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Unreached> {
        match tokio::time::timeout(ANSWER_TIMEOUT, asked).await {
            Ok(answer) => answer.map_err(|e| self.failed(e)),
            Err(_) => {
                let (server, error) =
                    (self.server.to_owned(), format!("no answer within {ANSWER_TIMEOUT:?}"));
                Err(Unreached::Api { server, what: self.verb, error })
            }
        }
    }

    fn failed(&self, error: kube::Error) -> Unreached {
        let code = match &error {
            kube::Error::Api(status) => status.code,
            kube::Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(status)) => {
                status.as_u16()
            }
            _ => 0,
        };
        let (server, namespace) = (self.server.to_owned(), self.namespace.to_owned());
        match code {
            401 => Unreached::Unknown { server },
            403 => Unreached::Forbidden { verb: self.verb, namespace, rule: self.rule },
            _ => {
                let error = match error {
                    kube::Error::Api(status) => format!("{code} {}", status.message),
                    error => chain(&error),
                };
                Unreached::Api { server, what: self.verb, error }
            }
        }
    }
}

/// The configuration of the kubeconfig, for this context or the current one.
///
/// # Errors
/// When there is none, or it cannot be used.
pub async fn config(context: Option<&str>) -> Result<Config, Unreached> {
    Ok(view::config(None::<&Path>, context).await?)
}

/// The bearer token of the kubeconfig's user: a token, a file, or what an exec plugin gives.
///
/// # Errors
/// When the user has none.
pub async fn token(config: &Config) -> Result<String, Unreached> {
    // The client's layer that adds the credentials to a request. Here it is applied to an empty
    // request, and the token is read from the header that it added.
    let layer =
        config.auth_layer().map_err(|e| Unreached::User(e.into()))?.ok_or(Unreached::NoToken)?;
    let shown = service_fn(|request: Request<Body>| async move {
        let header = request.headers().get(AUTHORIZATION).and_then(|h| h.to_str().ok());
        let token = header.and_then(|h| h.strip_prefix("Bearer ")).map(str::to_owned);
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(Response::new(token))
    });
    let token = layer
        .layer(shown)
        .oneshot(Request::new(Body::empty()))
        .await
        .map_err(Unreached::User)?
        .into_body();
    token.ok_or(Unreached::NoToken)
}

/// Whether a pod is ready and is not being deleted.
fn ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// The pod's port behind a port of a Service. If the Service names it, the name is that of a
/// container's port.
fn port(of: &ServicePort, pod: &Pod) -> Option<u16> {
    let number = match &of.target_port {
        None => of.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => {
            let containers = pod.spec.iter().flat_map(|s| &s.containers);
            let mut ports = containers.flat_map(|c| c.ports.iter().flatten());
            ports.find(|p| p.name.as_ref() == Some(name))?.container_port
        }
    };
    u16::try_from(number).ok()
}
