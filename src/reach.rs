//! The way to a recorder within a cluster, for those who have a kubeconfig: its Service, a pod that
//! is ready, a stream through the API server (`pods/portforward`), the token and the authority to
//! go with it.
//!
//! Owns these look-ups. Must never write to the cluster, nor know what is asked of the recorder.

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

/// How long the API server may take to answer one question.
const WITHIN: Duration = Duration::from_secs(20);

/// How long the node's words are waited for behind the end of a stream.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Why there is no way.
#[derive(Debug, thiserror::Error)]
pub enum Unreached {
    /// Nothing says where the API server is, or what says so is no good.
    #[error(transparent)]
    Kubeconfig(#[from] ViewError),
    /// The user's credentials cannot be had: an exec plugin failed, a file is not there.
    #[error("the kubeconfig's user cannot be used: {0}")]
    User(Box<dyn std::error::Error + Send + Sync>),
    /// It has another kind of credentials.
    #[error(
        "the kubeconfig's user has no bearer token, and a recorder takes no other credentials: `kubectl create token NAME > FILE`, and \
         pass --token-file FILE"
    )]
    NoToken,
    /// Not allowed.
    #[error(
        "the kubeconfig's user may not {verb} in the namespace {namespace} (RBAC: {rule}; deploy/reader.yaml has the least rights)"
    )]
    Forbidden {
        /// What was tried.
        verb: &'static str,
        /// Where.
        namespace: String,
        /// What allows it.
        rule: &'static str,
    },
    /// Nobody knows who this is.
    #[error(
        "the API server at {server} does not know the kubeconfig's user: log in again, or choose another --context"
    )]
    Unknown {
        /// The API server.
        server: String,
    },
    /// No such Service.
    #[error(
        "there is no Service {SERVICE} in the namespace {0} of that cluster: --recorder-namespace names another, --context another cluster, \
         --store a store"
    )]
    NoService(String),
    /// Its Service can have no pods.
    #[error(
        "the Service {SERVICE} in the namespace {0} has no selector or no port: nothing says which pod is the recorder"
    )]
    NoPods(String),
    /// Not one of its pods is ready.
    #[error(
        "no pod of the Service {SERVICE} in the namespace {namespace} is ready{found}: `kubectl -n {namespace} get pods` tells more"
    )]
    NotReady {
        /// Where.
        namespace: String,
        /// Those that are not.
        found: String,
    },
    /// Everything else that befalls a request.
    #[error("cannot {what}: the API server at {server} cannot be asked: {error}")]
    Api {
        /// The API server.
        server: String,
        /// What was wanted.
        what: &'static str,
        /// The reason.
        error: String,
    },
}

/// A recorder in a cluster.
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
    /// The one in this namespace.
    ///
    /// # Errors
    /// When it cannot be looked up, or is not there.
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

    /// Its address in the cluster, which its certificate names.
    pub fn url(&self) -> String {
        format!("https://{SERVICE}.{}.svc:{}", self.namespace, self.port.port)
    }

    /// The authority that signed its certificate, in PEM, where the cluster has it for its agents.
    ///
    /// # Errors
    /// When that cannot be looked up.
    pub async fn authority(&self) -> Result<Option<String>, Unreached> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let rule = "get configmaps, or pass --ca-file";
        let asking = self.asking("get the ConfigMap sidecarta-ca", rule);
        let map = asking.answer(api.get_opt(AUTHORITY)).await?;
        Ok(map.and_then(|m| m.data?.remove(AUTHORITY_FILE)))
    }

    /// A pod that is ready, and the number of its port. The first by name, where there are several.
    ///
    /// # Errors
    /// When none is, or they cannot be listed.
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

    /// What was last wrong at the far end of a stream, in the node's words. To be asked where a
    /// stream has broken off: the words may come a moment after its end.
    pub async fn failure(&self) -> Option<String> {
        let mut said = self.failure.subscribe();
        let words = said.wait_for(Option::is_some);
        tokio::time::timeout(LAST_WORDS, words).await.ok()?.ok()?.clone()
    }

    /// A stream to a pod that is ready. What is wrong at its far end closes it, and
    /// [`failure`](Self::failure) tells it.
    ///
    /// # Errors
    /// When there is none, or no right to it.
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
        // There is one for each port that was asked for.
        stream.ok_or_else(|| Unreached::NoPods(self.namespace.clone()))
    }

    fn asking(&self, verb: &'static str, rule: &'static str) -> ApiQuestion<'_> {
        ApiQuestion { server: &self.server, namespace: &self.namespace, verb, rule }
    }
}

/// What is asked of the API server, to say what was wrong with it.
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
        match tokio::time::timeout(WITHIN, asked).await {
            Ok(answer) => answer.map_err(|e| self.failed(e)),
            Err(_) => {
                let (server, error) =
                    (self.server.to_owned(), format!("no answer within {WITHIN:?}"));
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

/// The configuration that a kubeconfig gives.
///
/// # Errors
/// When there is none, or it is no good.
pub async fn config(context: Option<&str>) -> Result<Config, Unreached> {
    Ok(view::config(None::<&Path>, context).await?)
}

/// The bearer token of the kubeconfig's user: a token, a file, or what an exec plugin gives.
///
/// # Errors
/// When the user has none.
pub async fn token(config: &Config) -> Result<String, Unreached> {
    // The layer that puts the credentials into every request of the client, here with nothing
    // behind it.
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

/// Whether a pod is ready and stays so.
fn ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// The number of the pod's port behind that of a Service; a name is that of a container's port.
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
