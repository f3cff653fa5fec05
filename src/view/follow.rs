//! One kind's watch: lists, follows, and begins again when it must.

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

use super::kinds::{self, CONTROLLERS, Kind, Slim};
use super::known::State;
use super::shared::Shared;
use super::status::PODS;
use crate::cluster::objects::CheckNames;

/// When to ask again for what is absent or forbidden: somebody has to change the cluster first.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// Objects per page of a list.
const PAGE: u32 = 500;
/// The API server itself gives up on a request after 60 s.
const PATIENCE: Duration = Duration::from_secs(90);

/// Watches every kind of the whole cluster.
pub(super) fn all(client: &Client, shared: &Arc<Shared>, watches: &mut JoinSet<()>) {
    kinds::PODS.follow(client, None, shared, watches);
    kinds::SERVICES.follow(client, None, shared, watches);
    kinds::SLICES.follow(client, None, shared, watches);
    kinds::NODES.follow(client, None, shared, watches);
    kinds::ENTRIES.follow(client, None, shared, watches);
    kinds::WORKLOAD_ENTRIES.follow(client, None, shared, watches);
    kinds::VIRTUAL_SERVICES.follow(client, None, shared, watches);
    for kind in CONTROLLERS {
        kind.follow(client, None, shared, watches);
    }
}

impl<T: DeserializeOwned + CheckNames + Clone + Debug + Send + Sync + 'static> Kind<T> {
    /// Watches this kind, of the whole cluster or what the fields select of it.
    pub(super) fn follow(
        self,
        client: &Client,
        fields: Option<String>,
        shared: &Arc<Shared>,
        watches: &mut JoinSet<()>,
    ) {
        shared.known().expect(self.name);
        let (client, shared) = (client.clone(), Arc::clone(shared));
        watches.spawn(async move { follow(client, &self, fields, &shared).await });
    }
}

/// Watches a kind for ever.
async fn follow<T>(client: Client, kind: &Kind<T>, fields: Option<String>, shared: &Shared)
where
    T: DeserializeOwned + CheckNames + Clone + Debug + Send + Sync + 'static,
{
    let api: Api<Slim<T>> = Api::all_with(client, &kind.resource());
    let mut config = watcher::Config::default().page_size(PAGE);
    config.field_selector = fields;
    // Grows with errors, and begins anew after two minutes without one. Not sooner: where lists
    // work and watches fail, a list that was complete is no reason to hurry.
    let mut backoff = DefaultBackoff::default();
    loop {
        let end = session(&api, config.clone(), kind, shared).await;
        let pause = match &end {
            End::Is(State::Absent | State::Forbidden(_)) => ASK_AGAIN,
            _ => backoff.next().unwrap_or(ASK_AGAIN),
        };
        if let End::Is(state) = end {
            // Once is enough to say; the status tells the latest reason.
            if !shared.known().is(kind.name, &state) {
                tell(kind, &state, pause);
            }
            shared.change(|known| known.set(kind.name, state));
        }
        sleep(pause).await;
    }
}

/// How a session ended.
enum End {
    /// The server has forgotten the version to go on from: a list makes up for it.
    Outdated,
    /// In this state.
    Is(State),
}

/// Lists a kind and follows it, until something goes wrong. After an error a new list shows that
/// all is well again, and what was missed; a watch that is merely taken up again would show nothing
/// before the next change. A connection that ends in due course is no error, and is taken up.
async fn session<T>(
    api: &Api<Slim<T>>,
    config: watcher::Config,
    kind: &Kind<T>,
    shared: &Shared,
) -> End
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
                    return End::Is(State::failing(format!(
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
                listed.get_or_insert_default().push(shared.known().familiar(kind.name, seen));
            }
            Some(Ok(Event::InitDone)) => {
                let objects = listed.take().unwrap_or_default();
                tracing::debug!(kind = kind.name, objects = objects.len(), "listed");
                shared.change(|known| known.replace(kind.name, objects));
            }
            Some(Ok(Event::Apply(object))) => {
                let seen = kind.seen(object, &mut shared.pool());
                shared.change(|known| known.put(kind.name, seen));
            }
            Some(Ok(Event::Delete(object))) => {
                let seen = kind.seen(object, &mut shared.pool());
                shared.change(|known| known.delete(kind.name, seen));
            }
            Some(Err(error)) => return end(&error),
            None => return End::Is(State::failing("the watch ended".to_owned())),
        }
    }
}

/// The next item of a stream. `Stream` itself is named by no dependency; a bound on what extends it
/// brings its methods along.
async fn next<S: WatchStreamExt>(mut stream: Pin<&mut S>) -> Option<S::Item> {
    poll_fn(|cx| stream.as_mut().poll_next(cx)).await
}

fn end(error: &watcher::Error) -> End {
    use watcher::Error::{
        InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed,
    };
    let status = match error {
        WatchError(status) | InitialListFailed(kube::Error::Api(status)) => status,
        WatchStartFailed(kube::Error::Api(status)) | WatchFailed(kube::Error::Api(status)) => {
            status
        }
        InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error) => {
            return End::Is(State::failing(chain(error)));
        }
        NoResourceVersion => return End::Is(State::failing(error.to_string())),
    };
    match status.code {
        410 => End::Outdated,
        404 => End::Is(State::Absent),
        403 => End::Is(State::Forbidden(status.message.clone())),
        code => End::Is(State::failing(format!("{} ({code} {})", status.message, status.reason))),
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

fn tell<T: DeserializeOwned + CheckNames + Clone + Debug + Send + Sync + 'static>(
    kind: &Kind<T>,
    state: &State,
    pause: Duration,
) {
    let (name, again) = (kind.name, pause.as_secs());
    match state {
        State::Absent if name == PODS => tracing::warn!(
            kind = name,
            "not served, so nothing can be attributed: is this the address of an API server? Asking again in {again} s"
        ),
        State::Absent => tracing::debug!(
            kind = name,
            "the API server does not serve this kind; asking again in {again} s"
        ),
        State::Forbidden(why) => tracing::warn!(
            kind = name,
            "not allowed, so this kind is missing: {why}; allow `list` and `watch` on {}; asking again in {again} s",
            kind.rule()
        ),
        State::Failing { why, .. } => {
            tracing::warn!(
                kind = name,
                "cannot be watched at the moment: {why}; trying again in {} ms",
                pause.as_millis()
            );
        }
        State::Listing | State::Synced => {}
    }
}
