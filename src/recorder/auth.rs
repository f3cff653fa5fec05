//! Who calls, and what for: agents by their ServiceAccount's token, people by their own.
//!
//! Owns the questions to the API server (TokenReview, SubjectAccessReview) and a short memory of
//! its answers. Must never let anyone read a namespace whose Sidecars they could not read in
//! Kubernetes, nor an agent speak for pods of another node.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Client};

/// How long an answer counts. A token that is revoked is good for that much longer.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Answers remembered at once.
const MAX_REMEMBERED: usize = 4_096;
/// Keys of what the API server says of a token besides its user (pkg/serviceaccount/claims.go in
/// Kubernetes).
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";

/// Why somebody may not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No token, or none that the API server knows.
    #[error("{0}")]
    Unknown(String),
    /// Known, and not allowed.
    #[error("{0}")]
    Forbidden(String),
    /// The API server cannot be asked.
    #[error("the API server cannot be asked who this is: {0}")]
    Unavailable(String),
}

/// A user, as the API server names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Caller {
    /// Name.
    pub name: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

/// What agents are.
#[derive(Clone, Debug)]
pub struct Agents {
    /// Namespace and name of their ServiceAccount.
    pub account: (String, String),
    /// The audience that their tokens are made for.
    pub audience: String,
}

/// Asks the API server.
pub struct Gate {
    client: Client,
    agents: Agents,
    callers: Memory<(String, bool), Caller>,
    nodes: Memory<String, String>,
    readers: Memory<(Caller, Option<String>), bool>,
}

impl Gate {
    /// With the rights to create TokenReviews and SubjectAccessReviews, and to get pods in the
    /// agents' namespace.
    pub fn new(client: Client, agents: Agents) -> Self {
        Self {
            client,
            agents,
            callers: Memory::default(),
            nodes: Memory::default(),
            readers: Memory::default(),
        }
    }

    /// The node whose agent has this token.
    ///
    /// # Errors
    /// When it is no agent's.
    pub async fn agent(&self, token: Option<&str>) -> Result<String, Denied> {
        let caller = self.caller(token, true).await?;
        let (namespace, name) = &self.agents.account;
        let account = format!("system:serviceaccount:{namespace}:{name}");
        if caller.name != account {
            let why = format!(
                "{} is no agent: agents have the ServiceAccount {namespace}/{name} (--agent-account)",
                caller.name
            );
            return Err(Denied::Forbidden(why));
        }
        let claim =
            |key: &str| caller.extra.get(key).and_then(|v| v.first()).filter(|v| !v.is_empty());
        if let Some(node) = claim(NODE_NAME) {
            return Ok(node.clone());
        }
        let Some(pod) = claim(POD_NAME) else {
            let why = "the token is bound to no pod: an agent's is projected into its pod (serviceAccountToken)".to_owned();
            return Err(Denied::Forbidden(why));
        };
        if let Some(node) = self.nodes.get(pod) {
            return Ok(node);
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let found = api.get(pod).await.map_err(|e| unavailable(&e))?;
        let node = found.spec.and_then(|s| s.node_name).filter(|n| !n.is_empty());
        let node = node.ok_or_else(|| Denied::Forbidden(format!("the pod {pod} is on no node")))?;
        self.nodes.put(pod.clone(), node.clone());
        Ok(node)
    }

    /// The person who has this token.
    ///
    /// # Errors
    /// When nobody has.
    pub async fn person(&self, token: Option<&str>) -> Result<Caller, Denied> {
        self.caller(token, false).await
    }

    /// Whether they may read what is known of a namespace, or of all.
    ///
    /// # Errors
    /// When they may not.
    pub async fn may_read(&self, caller: &Caller, namespace: Option<&str>) -> Result<(), Denied> {
        self.may(caller, "list", namespace).await
    }

    /// Whether they may decide what counts as accepted in a namespace: those who may write its
    /// Sidecars.
    ///
    /// # Errors
    /// When they may not.
    pub async fn may_decide(&self, caller: &Caller, namespace: Option<&str>) -> Result<(), Denied> {
        self.may(caller, "update", namespace).await
    }

    async fn may(
        &self,
        caller: &Caller,
        verb: &str,
        namespace: Option<&str>,
    ) -> Result<(), Denied> {
        let key = (
            Caller { name: format!("{verb} {}", caller.name), ..caller.clone() },
            namespace.map(str::to_owned),
        );
        let allowed = match self.readers.get(&key) {
            Some(allowed) => allowed,
            None => {
                let review = SubjectAccessReview {
                    spec: SubjectAccessReviewSpec {
                        user: Some(caller.name.clone()),
                        groups: Some(caller.groups.clone()),
                        extra: Some(caller.extra.clone()),
                        resource_attributes: Some(ResourceAttributes {
                            group: Some("networking.istio.io".to_owned()),
                            resource: Some("sidecars".to_owned()),
                            verb: Some(verb.to_owned()),
                            namespace: namespace.map(str::to_owned),
                            ..ResourceAttributes::default()
                        }),
                        ..SubjectAccessReviewSpec::default()
                    },
                    ..SubjectAccessReview::default()
                };
                let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
                let answer = api
                    .create(&PostParams::default(), &review)
                    .await
                    .map_err(|e| unavailable(&e))?;
                let allowed =
                    answer.status.is_some_and(|s| s.allowed && !s.denied.unwrap_or(false));
                self.readers.put(key, allowed);
                allowed
            }
        };
        if allowed {
            return Ok(());
        }
        let place = namespace.map_or_else(
            || "all namespaces (name one with -n)".to_owned(),
            |n| format!("the namespace {n}"),
        );
        Err(Denied::Forbidden(format!(
            "{} may not {verb} sidecars.networking.istio.io in {place}",
            caller.name
        )))
    }

    async fn caller(&self, token: Option<&str>, agent: bool) -> Result<Caller, Denied> {
        let Some(token) = token.filter(|t| !t.is_empty()) else {
            return Err(Denied::Unknown("no token: send `Authorization: Bearer TOKEN`".to_owned()));
        };
        let key = (token.to_owned(), agent);
        if let Some(caller) = self.callers.get(&key) {
            return Ok(caller);
        }
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: agent.then(|| vec![self.agents.audience.clone()]),
            },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let status = api
            .create(&PostParams::default(), &review)
            .await
            .map_err(|e| unavailable(&e))?
            .status
            .unwrap_or_default();
        let user = status.user.filter(|_| status.authenticated == Some(true));
        let Some(user) = user else {
            let why = status.error.unwrap_or_else(|| "the API server does not know it".to_owned());
            return Err(Denied::Unknown(format!("the token is not valid: {why}")));
        };
        let audience = &self.agents.audience;
        // An API server that knows no audiences answers without them (TokenReviewStatus): such an
        // answer is for its own audience only.
        if agent && !status.audiences.unwrap_or_default().contains(audience) {
            return Err(Denied::Unknown(format!(
                "the token is not made for the audience {audience}"
            )));
        }
        let caller = Caller {
            name: user.username.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
        };
        self.callers.put(key, caller.clone());
        Ok(caller)
    }
}

fn unavailable(error: &kube::Error) -> Denied {
    Denied::Unavailable(error.to_string())
}

/// Answers for a while.
struct Memory<K, V>(Mutex<HashMap<K, (Instant, V)>>);

impl<K, V> Default for Memory<K, V> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<K: std::hash::Hash + Eq, V: Clone> Memory<K, V> {
    fn get(&self, key: &K) -> Option<V> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(key).filter(|(at, _)| at.elapsed() < REMEMBERED).map(|(_, v)| v.clone())
    }

    fn put(&self, key: K, value: V) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_REMEMBERED {
            known.retain(|_, (at, _)| at.elapsed() < REMEMBERED);
            // All of them are fresh: whoever makes so many may ask again.
            if known.len() >= MAX_REMEMBERED {
                known.clear();
            }
        }
        known.insert(key, (Instant::now(), value));
    }
}
