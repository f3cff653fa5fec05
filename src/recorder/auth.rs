//! Who sends a request, and what they may do: agents by their ServiceAccount's token, people by
//! their own.
//!
//! Owns the questions to the API server (TokenReview, SubjectAccessReview), how many of them
//! strangers may cause, and a cache of the answers. Must never let anyone read a namespace whose
//! Sidecars they could not read in Kubernetes, nor an agent send lines about pods of another node.

mod cache;
mod rate;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Client};

use cache::{AnswerCache, QuestionLimits, TokenDigest, TokenUse, answer_cache};
use rate::{Rate, RateLimiter};

/// How long an answer is valid. A token that is revoked works for that much longer.
const VALID_FOR: Duration = Duration::from_secs(60);
/// How long the answer that a token is not valid is valid itself. A token that becomes valid works
/// that much later.
const REFUSED_FOR: Duration = Duration::from_secs(10);
/// How long a token counts as valid once. Questions about such tokens are not limited.
const VALID_ONCE_FOR: Duration = Duration::from_secs(3600);
/// Bytes of the longest token that the API server is asked about. A ServiceAccount's has one or two
/// kilobytes.
const MAX_TOKEN: usize = 16 * 1024;
/// Questions that one address may cause about tokens that are not valid.
const STRANGER: Rate = Rate { per_second: 5.0, burst: 20.0 };
/// Questions that all addresses together may cause about tokens that are not valid.
const ALL_STRANGERS: Rate = Rate { per_second: 100.0, burst: 200.0 };
/// Questions that one caller may cause about their rights.
const RIGHTS: Rate = Rate { per_second: 20.0, burst: 200.0 };
/// Questions to the API server at the same time.
const MAX_QUESTIONS: usize = 16;
/// What the API server adds to the user of a token (pkg/serviceaccount/claims.go in Kubernetes).
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// See [`NODE_NAME`].
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";

/// Why somebody may not do what they asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// There is no token, or none that the API server knows.
    #[error("{0}")]
    Unknown(String),
    /// The caller is known and lacks the right.
    #[error("{0}")]
    Forbidden(String),
    /// The API server cannot be asked.
    #[error("the API server cannot be asked who this is: {0}")]
    Unavailable(String),
    /// They have caused too many questions to the API server.
    #[error("{0}")]
    TooMany(String),
}

/// A user, as the API server names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Caller {
    /// The user name, such as `system:serviceaccount:sidecarta:sidecarta-agent`.
    pub name: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

/// How agents identify themselves.
#[derive(Clone, Debug)]
pub struct AgentAccount {
    /// Namespace and name of their ServiceAccount.
    pub account: (String, String),
    /// The audience that their tokens are made for.
    pub audience: String,
}

/// What a person may do in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Right {
    /// Read what was learned: those who may list its Sidecars.
    Read,
    /// Decide what is accepted: those who may update its Sidecars.
    Decide,
}

impl Right {
    /// The verb on Sidecars that gives the right.
    fn verb(self) -> &'static str {
        match self {
            Self::Read => "list",
            Self::Decide => "update",
        }
    }
}

/// A right of somebody in a namespace, or in all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RightQuestion {
    caller: Caller,
    right: Right,
    namespace: Option<String>,
}

/// Finds out who callers are and what they may do, by asking the API server.
pub struct Authorizer {
    client: Client,
    agents: AgentAccount,
    callers: AnswerCache<TokenDigest, Caller>,
    /// Why a token is not valid.
    refused: AnswerCache<TokenDigest, Denied>,
    valid_once: AnswerCache<TokenDigest, ()>,
    /// The node of each agent's pod.
    nodes: AnswerCache<String, String>,
    rights: AnswerCache<RightQuestion, bool>,
    limits: QuestionLimits,
    strangers: RateLimiter<IpAddr>,
    all_strangers: RateLimiter<()>,
    right_questions: RateLimiter<String>,
}

impl Authorizer {
    /// `client`: with the rights to create TokenReviews and SubjectAccessReviews, and to get pods
    /// in the agents' namespace.
    pub fn new(client: Client, agents: AgentAccount) -> Self {
        Self {
            client,
            agents,
            callers: answer_cache(VALID_FOR),
            refused: answer_cache(REFUSED_FOR),
            valid_once: answer_cache(VALID_ONCE_FOR),
            nodes: answer_cache(VALID_FOR),
            rights: answer_cache(VALID_FOR),
            limits: QuestionLimits::new(MAX_QUESTIONS),
            strangers: RateLimiter::new(STRANGER),
            all_strangers: RateLimiter::new(ALL_STRANGERS),
            right_questions: RateLimiter::new(RIGHTS),
        }
    }

    /// The node whose agent has this token. `peer`: the address that the token came from, where it
    /// is known, so that questions for one address are limited.
    ///
    /// # Errors
    /// When it is not an agent's token.
    pub async fn agent(&self, token: Option<&str>, peer: Option<IpAddr>) -> Result<String, Denied> {
        let caller = self.caller(token, TokenUse::Agent, peer).await?;
        check_account(&caller, &self.agents)?;
        if let Some(node) = claim(&caller, NODE_NAME) {
            return Ok(node.to_owned());
        }
        let Some(pod) = claim(&caller, POD_NAME) else {
            let why = "the token is bound to no pod: an agent's is projected into its pod \
                       (serviceAccountToken)";
            return Err(Denied::Forbidden(why.to_owned()));
        };
        self.node_of(pod).await
    }

    /// The person who has this token. `peer`: as for [`Authorizer::agent`].
    ///
    /// # Errors
    /// When nobody has it.
    pub async fn person(
        &self,
        token: Option<&str>,
        peer: Option<IpAddr>,
    ) -> Result<Caller, Denied> {
        self.caller(token, TokenUse::Person, peer).await
    }

    /// Checks that somebody has a right in a namespace, or in all.
    ///
    /// # Errors
    /// When they lack it, or the API server cannot be asked.
    pub async fn check_right(
        &self,
        caller: &Caller,
        right: Right,
        namespace: Option<&str>,
    ) -> Result<(), Denied> {
        let question = RightQuestion {
            caller: caller.clone(),
            right,
            namespace: namespace.map(str::to_owned),
        };
        let allowed = match self.rights.get(&question) {
            Some(allowed) => allowed,
            None => {
                let allowed = self.ask_right(&question).await?;
                self.rights.insert(question, allowed);
                allowed
            }
        };
        if allowed { Ok(()) } else { Err(lacks_right(caller, right, namespace)) }
    }

    /// Asks the API server for a right.
    async fn ask_right(&self, question: &RightQuestion) -> Result<bool, Denied> {
        let name = &question.caller.name;
        if !self.right_questions.spend(name) {
            return Err(Denied::TooMany(format!("too many questions what {name} may do")));
        }
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &right_review(question)).await;
        let status = answer.map_err(|e| unavailable(&e))?.status;
        Ok(status.is_some_and(|status| status.allowed && !status.denied.unwrap_or(false)))
    }

    /// The node that an agent's pod is on.
    async fn node_of(&self, pod: &str) -> Result<String, Denied> {
        if let Some(node) = self.nodes.get(pod) {
            return Ok(node);
        }
        let (namespace, _) = &self.agents.account;
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let found = api.get(pod).await.map_err(|e| unavailable(&e))?;
        let node = found.spec.and_then(|spec| spec.node_name).filter(|node| !node.is_empty());
        let node = node.ok_or_else(|| Denied::Forbidden(format!("the pod {pod} is on no node")))?;
        self.nodes.insert(pod.to_owned(), node.clone());
        Ok(node)
    }

    /// The user who has a token, from the cache or from the API server.
    async fn caller(
        &self,
        token: Option<&str>,
        token_use: TokenUse,
        peer: Option<IpAddr>,
    ) -> Result<Caller, Denied> {
        let token = checked_token(token)?;
        let digest = self.limits.digest(token, token_use);
        if let Some(answer) = self.cached(&digest) {
            return answer;
        }
        // Only one question about a token is asked at a time. Others wait for its answer.
        let lock = self.limits.token_lock(digest);
        let _guard = lock.lock().await;
        if let Some(answer) = self.cached(&digest) {
            return answer;
        }
        let is_strange = self.valid_once.get(&digest).is_none();
        if is_strange && !self.spend_stranger(peer) {
            return Err(Denied::TooMany("too many tokens that are not valid".to_owned()));
        }
        let _question = self.limits.question().await;
        let answer = self.ask_caller(token, token_use).await;
        match &answer {
            Ok(caller) => {
                self.callers.insert(digest, caller.clone());
                self.valid_once.insert(digest, ());
            }
            Err(denied @ Denied::Unknown(_)) => {
                self.refused.insert(digest, denied.clone());
                self.valid_once.invalidate(&digest);
            }
            Err(_) => {}
        }
        // Only questions about tokens that are not valid count.
        if is_strange && !matches!(answer, Err(Denied::Unknown(_))) {
            self.give_back_stranger(peer);
        }
        answer
    }

    /// Takes a question about a strange token, from the limit of its address and from that of all.
    /// Returns whether there was one in both.
    fn spend_stranger(&self, peer: Option<IpAddr>) -> bool {
        if peer.is_some_and(|peer| !self.strangers.spend(&peer)) {
            return false;
        }
        let has_room = self.all_strangers.spend(&());
        if !has_room && let Some(peer) = peer {
            self.strangers.give_back(&peer);
        }
        has_room
    }

    fn give_back_stranger(&self, peer: Option<IpAddr>) {
        if let Some(peer) = peer {
            self.strangers.give_back(&peer);
        }
        self.all_strangers.give_back(&());
    }

    fn cached(&self, token: &TokenDigest) -> Option<Result<Caller, Denied>> {
        self.callers.get(token).map(Ok).or_else(|| self.refused.get(token).map(Err))
    }

    /// Asks the API server who has a token.
    async fn ask_caller(&self, token: &str, token_use: TokenUse) -> Result<Caller, Denied> {
        let audience = (token_use == TokenUse::Agent).then_some(self.agents.audience.as_str());
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: audience.map(|audience| vec![audience.to_owned()]),
            },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await;
        let status = answer.map_err(|e| unavailable(&e))?.status.unwrap_or_default();
        caller_of(status, audience)
    }
}

/// The token of a request, where it can be one.
fn checked_token(token: Option<&str>) -> Result<&str, Denied> {
    let Some(token) = token.filter(|token| !token.is_empty()) else {
        return Err(Denied::Unknown("no token: send `Authorization: Bearer TOKEN`".to_owned()));
    };
    if token.len() > MAX_TOKEN {
        return Err(Denied::Unknown(format!("the token is longer than {MAX_TOKEN} bytes")));
    }
    Ok(token)
}

/// The user in the answer to a TokenReview. `audience`: the one that the token must be made for.
fn caller_of(status: TokenReviewStatus, audience: Option<&str>) -> Result<Caller, Denied> {
    let user = status.user.filter(|_| status.authenticated == Some(true));
    let Some(user) = user else {
        let why = status.error.unwrap_or_else(|| "the API server does not know it".to_owned());
        return Err(Denied::Unknown(format!("the token is not valid: {why}")));
    };
    // An API server that does not know audiences answers without them (TokenReviewStatus): such an
    // answer is for its own audience only.
    if let Some(audience) = audience
        && !status.audiences.unwrap_or_default().iter().any(|a| a == audience)
    {
        let why = format!("the token is not made for the audience {audience}");
        return Err(Denied::Unknown(why));
    }
    Ok(Caller {
        name: user.username.unwrap_or_default(),
        groups: user.groups.unwrap_or_default(),
        extra: user.extra.unwrap_or_default(),
    })
}

/// Refuses users that are not the ServiceAccount of agents.
fn check_account(caller: &Caller, agents: &AgentAccount) -> Result<(), Denied> {
    let (namespace, name) = &agents.account;
    if caller.name == format!("system:serviceaccount:{namespace}:{name}") {
        return Ok(());
    }
    let why = format!(
        "{} is no agent: agents have the ServiceAccount {namespace}/{name} (--agent-account)",
        caller.name
    );
    Err(Denied::Forbidden(why))
}

/// What the API server adds to a user under this key; `None` where it is empty.
fn claim<'a>(caller: &'a Caller, key: &str) -> Option<&'a str> {
    let value = caller.extra.get(key)?.first()?;
    (!value.is_empty()).then_some(value)
}

/// The question whether somebody may do something with the Sidecars of a namespace.
fn right_review(question: &RightQuestion) -> SubjectAccessReview {
    let RightQuestion { caller, right, namespace } = question;
    let resource = ResourceAttributes {
        group: Some("networking.istio.io".to_owned()),
        resource: Some("sidecars".to_owned()),
        verb: Some(right.verb().to_owned()),
        namespace: namespace.clone(),
        ..ResourceAttributes::default()
    };
    SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(caller.name.clone()),
            groups: Some(caller.groups.clone()),
            extra: Some(caller.extra.clone()),
            resource_attributes: Some(resource),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    }
}

fn lacks_right(caller: &Caller, right: Right, namespace: Option<&str>) -> Denied {
    let location = namespace.map_or_else(
        || "all namespaces (name one with -n)".to_owned(),
        |namespace| format!("the namespace {namespace}"),
    );
    let (name, verb) = (&caller.name, right.verb());
    Denied::Forbidden(format!("{name} may not {verb} sidecars.networking.istio.io in {location}"))
}

fn unavailable(error: &kube::Error) -> Denied {
    Denied::Unavailable(error.to_string())
}

#[cfg(test)]
mod tests;
