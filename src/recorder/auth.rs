//! Who calls, and what for: agents by their ServiceAccount's token, people by their own.
//!
//! Owns the questions to the API server (TokenReview, SubjectAccessReview), how many of them
//! strangers may cause, and a short memory of its answers. Must never let anyone read a namespace whose Sidecars they could not read in
//! Kubernetes, nor an agent speak for pods of another node.

mod memory;
mod pace;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Client};

use memory::{Lanes, Memory, Secret};
use pace::Pace;

/// How long an answer counts. A token that is revoked is good for that much longer.
const REMEMBERED: Duration = Duration::from_secs(60);
/// How long it counts that a token is not valid. One that becomes valid does so that much later.
const REFUSED: Duration = Duration::from_secs(10);
/// How long it is known of a token that it was valid once: such ones are asked about at once.
const VALID_ONCE: Duration = Duration::from_secs(3600);
/// Longest token that the API server is asked about. A ServiceAccount's has one or two kilobytes.
const MAX_TOKEN: usize = 16 * 1024;
/// Questions about strange tokens that are not valid, a second and at once: of one address, and of
/// all.
const STRANGERS: (f64, f64) = (5.0, 20.0);
/// See [`STRANGERS`].
const ALL_STRANGERS: (f64, f64) = (100.0, 200.0);
/// Questions what one caller may do, a second and at once.
const RIGHTS: (f64, f64) = (20.0, 200.0);
/// Questions to the API server at once.
const QUESTIONS: usize = 16;
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
    /// It was asked too much for them already.
    #[error("{0}")]
    TooMany(String),
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
    callers: Memory<Secret, Caller>,
    /// Why a token is not valid.
    refused: Memory<Secret, Denied>,
    valid_once: Memory<Secret, ()>,
    nodes: Memory<String, String>,
    readers: Memory<(Caller, Option<String>), bool>,
    lanes: Lanes,
    strangers: Pace<IpAddr>,
    all_strangers: Pace<()>,
    rights: Pace<String>,
}

impl Gate {
    /// With the rights to create TokenReviews and SubjectAccessReviews, and to get pods in the
    /// agents' namespace.
    pub fn new(client: Client, agents: Agents) -> Self {
        Self {
            client,
            agents,
            callers: Memory::of(REMEMBERED),
            refused: Memory::of(REFUSED),
            valid_once: Memory::of(VALID_ONCE),
            nodes: Memory::of(REMEMBERED),
            readers: Memory::of(REMEMBERED),
            lanes: Lanes::new(QUESTIONS),
            strangers: Pace::new(STRANGERS),
            all_strangers: Pace::new(ALL_STRANGERS),
            rights: Pace::new(RIGHTS),
        }
    }

    /// The node whose agent has this token. `peer`: the address that it came from, where it is
    /// known; it is held against how much may be asked for one address.
    ///
    /// # Errors
    /// When it is no agent's.
    pub async fn agent(&self, token: Option<&str>, peer: Option<IpAddr>) -> Result<String, Denied> {
        let caller = self.caller(token, true, peer).await?;
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

    /// The person who has this token. `peer`: as for [`Gate::agent`].
    ///
    /// # Errors
    /// When nobody has.
    pub async fn person(
        &self,
        token: Option<&str>,
        peer: Option<IpAddr>,
    ) -> Result<Caller, Denied> {
        self.caller(token, false, peer).await
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
                if !self.rights.spend(&caller.name) {
                    let why = format!("too many questions what {} may do", caller.name);
                    return Err(Denied::TooMany(why));
                }
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

    async fn caller(
        &self,
        token: Option<&str>,
        agent: bool,
        peer: Option<IpAddr>,
    ) -> Result<Caller, Denied> {
        let Some(token) = token.filter(|t| !t.is_empty()) else {
            return Err(Denied::Unknown("no token: send `Authorization: Bearer TOKEN`".to_owned()));
        };
        if token.len() > MAX_TOKEN {
            return Err(Denied::Unknown(format!("the token is longer than {MAX_TOKEN} bytes")));
        }
        let key = self.lanes.secret(token, agent);
        if let Some(known) = self.remembered(&key) {
            return known;
        }
        // One question about a token at a time, and one after another is not asked again.
        let lane = self.lanes.lane(key);
        let _lane = lane.enter().await;
        if let Some(known) = self.remembered(&key) {
            return known;
        }
        let strange = self.valid_once.get(&key).is_none();
        if strange && !self.spend(peer) {
            return Err(Denied::TooMany("too many tokens that are not valid".to_owned()));
        }
        let _question = self.lanes.question().await;
        let answer = self.review(token, agent).await;
        match &answer {
            Ok(caller) => {
                self.callers.put(key, caller.clone());
                self.valid_once.put(key, ());
            }
            Err(denied @ Denied::Unknown(_)) => {
                self.refused.put(key, denied.clone());
                self.valid_once.forget(&key);
            }
            Err(_) => {}
        }
        // Only what is not valid costs.
        if strange && !matches!(answer, Err(Denied::Unknown(_))) {
            peer.iter().for_each(|peer| self.strangers.give_back(peer));
            self.all_strangers.give_back(&());
        }
        answer
    }

    /// Takes a question about a strange token; whether there was one, for its address and in all.
    fn spend(&self, peer: Option<IpAddr>) -> bool {
        if peer.is_some_and(|peer| !self.strangers.spend(&peer)) {
            return false;
        }
        let all = self.all_strangers.spend(&());
        if !all {
            peer.iter().for_each(|peer| self.strangers.give_back(peer));
        }
        all
    }

    fn remembered(&self, key: &Secret) -> Option<Result<Caller, Denied>> {
        self.callers.get(key).map(Ok).or_else(|| self.refused.get(key).map(Err))
    }

    /// Asks whose token it is.
    async fn review(&self, token: &str, agent: bool) -> Result<Caller, Denied> {
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
        Ok(Caller {
            name: user.username.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
        })
    }
}

fn unavailable(error: &kube::Error) -> Denied {
    Denied::Unavailable(error.to_string())
}
