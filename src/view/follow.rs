//! The watch of one kind: lists its objects, follows their changes, and lists again after errors.
//!
//! Owns retries and their pauses. Must never change the cache but through `SharedCache::change`.

use std::fmt::Debug;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, DefaultBackoff, Event, watcher};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::cache::WatchState;
use super::kinds::{self, CONTROLLERS, Slim, WatchedKind};
use super::shared::SharedCache;
use super::status::PODS;
use crate::cluster::objects::CheckNames;

/// Longest pause before a kind is listed again, where the backoff gives none.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Objects per page of a list.
const PAGE: u32 = 500;
/// The API server itself gives up on a request after 60 s.
const PATIENCE: Duration = Duration::from_secs(90);

/// The namespace in which the MeshConfig is looked for.
const ISTIO_NAMESPACE: &str = "istio-system";

/// Watches every kind of the whole cluster.
pub(super) fn all(client: &Client, shared: &Arc<SharedCache>, watches: &mut JoinSet<()>) {
    kinds::PODS.follow(client, None, shared, watches);
    kinds::SERVICES.follow(client, None, shared, watches);
    kinds::SLICES.follow(client, None, shared, watches);
    kinds::NODES.follow(client, None, shared, watches);
    kinds::ENTRIES.follow(client, None, shared, watches);
    kinds::WORKLOAD_ENTRIES.follow(client, None, shared, watches);
    kinds::VIRTUAL_SERVICES.follow(client, None, shared, watches);
    kinds::DESTINATION_RULES.follow(client, None, shared, watches);
    kinds::SIDECARS.follow(client, None, shared, watches);
    kinds::NAMESPACES.follow(client, None, shared, watches);
    kinds::CONFIG_MAPS.follow_in(ISTIO_NAMESPACE, client, shared, watches);
    for kind in CONTROLLERS {
        kind.follow(client, None, shared, watches);
    }
}

impl<T: DeserializeOwned + CheckNames + Clone + Debug + Send + Sync + 'static> WatchedKind<T> {
    /// Watches this kind, of the whole cluster or what the fields select of it.
    pub(super) fn follow(
        self,
        client: &Client,
        fields: Option<String>,
        shared: &Arc<SharedCache>,
        watches: &mut JoinSet<()>,
    ) {
        let api = Api::all_with(client.clone(), &self.resource());
        self.spawn(api, fields, shared, watches);
    }

    /// Watches this kind in one namespace.
    fn follow_in(
        self,
        namespace: &str,
        client: &Client,
        shared: &Arc<SharedCache>,
        watches: &mut JoinSet<()>,
    ) {
        let api = Api::namespaced_with(client.clone(), namespace, &self.resource());
        self.spawn(api, None, shared, watches);
    }

    fn spawn(
        self,
        api: Api<Slim<T>>,
        fields: Option<String>,
        shared: &Arc<SharedCache>,
        watches: &mut JoinSet<()>,
    ) {
        shared.cache().expect(self.name);
        let shared = Arc::clone(shared);
        watches.spawn(async move { follow(&api, &self, fields, &shared).await });
    }
}

/// Watches a kind for ever.
async fn follow<T>(
    api: &Api<Slim<T>>,
    kind: &WatchedKind<T>,
    fields: Option<String>,
    shared: &SharedCache,
) where
    T: DeserializeOwned + CheckNames + Clone + Debug + Send + Sync + 'static,
{
    let mut config = watcher::Config::default().page_size(PAGE);
    config.field_selector = fields;
    // The pause grows with errors, and is short again after two minutes without one. Not sooner:
    // where lists work and watches fail, a complete list must not shorten it. It is short at first
    // for a kind that is absent or forbidden as well: an API server that has just started answers
    // so for all kinds, until it has read its own rules.
    let mut backoff = DefaultBackoff::default();
    loop {
        let end = session(api, config.clone(), kind, shared).await;
        let pause = backoff.next().unwrap_or(LONGEST_PAUSE);
        if let SessionEnd::In(state) = end {
            // Each state is logged once. The status shows the latest reason.
            if !shared.cache().is_in_state(kind.name, &state) {
                log_state(kind, &state, pause);
            }
            shared.change(|cache| cache.set_state(kind.name, state));
        }
        sleep(pause).await;
    }
}

/// How a session ended.
enum SessionEnd {
    /// The server no longer has the version to continue from: a new list is needed.
    Outdated,
    /// The kind is in this state from now on.
    In(WatchState),
}

/// Lists a kind and follows it until an error. After an error the next session begins with a list:
/// it shows at once that the server answers again, and what was missed. A watch that merely
/// continued would show nothing before the next change. A connection that the server closes after
/// its usual time is no error, and the watch continues.
async fn session<T>(
    api: &Api<Slim<T>>,
    config: watcher::Config,
    kind: &WatchedKind<T>,
    shared: &SharedCache,
) -> SessionEnd
where
    T: DeserializeOwned + CheckNames + Clone + Debug + Send + Sync + 'static,
{
    let mut events = pin!(watcher(api.clone(), config));
    let mut listed = None;
    loop {
        let event = match listed {
            None => next(events.as_mut()).await,
            Some(_) => match timeout(PATIENCE, next(events.as_mut())).await {
                Ok(event) => event,
                Err(_) => {
                    return SessionEnd::In(WatchState::failing(format!(
                        "no answer within {} s",
                        PATIENCE.as_secs()
                    )));
                }
            },
        };
        match event {
            Some(Ok(Event::Init)) => listed = Some(Vec::new()),
            Some(Ok(Event::InitApply(object))) => {
                let seen = kind.seen(object, &mut shared.pool());
                listed.get_or_insert_default().push(shared.cache().reuse_known(kind.name, seen));
            }
            Some(Ok(Event::InitDone)) => {
                let objects = listed.take().unwrap_or_default();
                tracing::debug!(kind = kind.name, objects = objects.len(), "listed");
                shared.change(|cache| cache.replace(kind.name, objects));
            }
            Some(Ok(Event::Apply(object))) => {
                let seen = kind.seen(object, &mut shared.pool());
                shared.change(|cache| cache.put(kind.name, seen));
            }
            Some(Ok(Event::Delete(object))) => {
                let seen = kind.seen(object, &mut shared.pool());
                shared.change(|cache| cache.delete(kind.name, seen));
            }
            Some(Err(error)) => return end(&error),
            None => return SessionEnd::In(WatchState::failing("the watch ended".to_owned())),
        }
    }
}

/// The next item of a stream. No direct dependency exports the trait `Stream`; the bound on
/// `WatchStreamExt`, which extends it, gives its methods.
async fn next<S: WatchStreamExt>(mut stream: Pin<&mut S>) -> Option<S::Item> {
    poll_fn(|cx| stream.as_mut().poll_next(cx)).await
}

/// How an error ends a session.
fn end(error: &watcher::Error) -> SessionEnd {
    use watcher::Error::{
        InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed,
    };
    let status = match error {
        WatchError(status) | InitialListFailed(kube::Error::Api(status)) => status,
        WatchStartFailed(kube::Error::Api(status)) | WatchFailed(kube::Error::Api(status)) => {
            status
        }
        InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error) => {
            return SessionEnd::In(WatchState::failing(chain(error)));
        }
        NoResourceVersion => return SessionEnd::In(WatchState::failing(error.to_string())),
    };
    match status.code {
        410 => SessionEnd::Outdated,
        404 => SessionEnd::In(WatchState::Absent),
        403 => SessionEnd::In(WatchState::Forbidden(status.message.clone())),
        code => SessionEnd::In(WatchState::failing(format!(
            "{} ({code} {})",
            status.message, status.reason
        ))),
    }
}

/// An error with its causes; the outermost one alone only says that a request failed.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// Logs a state that a kind has entered.
fn log_state<T: DeserializeOwned + CheckNames + Clone + Debug + Send + Sync + 'static>(
    kind: &WatchedKind<T>,
    state: &WatchState,
    pause: Duration,
) {
    let (name, again) = (kind.name, pause.as_millis());
    match state {
        WatchState::Absent if name == PODS => tracing::warn!(
            kind = name,
            "not served, so nothing can be attributed: is this the address of an API server? \
             Asking again in {again} ms"
        ),
        WatchState::Absent => tracing::debug!(
            kind = name,
            "the API server does not serve this kind; asking again in {again} ms"
        ),
        WatchState::Forbidden(why) => tracing::warn!(
            kind = name,
            "not allowed, so this kind is missing: {why}; allow `list` and `watch` on {}; asking \
             again in {again} ms",
            kind.rule()
        ),
        WatchState::Failing { why, .. } => {
            tracing::warn!(
                kind = name,
                "cannot be watched at the moment: {why}; trying again in {again} ms"
            );
        }
        WatchState::Listing | WatchState::Synced => {}
    }
}
