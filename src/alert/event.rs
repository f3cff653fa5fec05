//! Alerts as Kubernetes Events.
//!
//! Owns the form of an Event, and what the API server's answer means. An alert is one Event: its
//! name is made of the alert's id, and to tell it again extends its series.
//! (`kube::runtime::events::Recorder` names Events by the clock: after a restart each would come
//! twice.) Must never write anything but Events, nor read anything but the metadata of the
//! workload. The rights that it needs are with [`Sinks::new`](super::Sinks::new).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{
    Api, ApiResource, DynamicObject, GroupVersionKind, ObjectMeta, Patch, PatchParams, PostParams,
};
use kube::core::Status;
use serde_json::json;

use super::words::{Undelivered, cut, hex, reason};
use crate::model::{Alert, Time, WorkloadId, valid};
use crate::text;

/// Bytes of a note that the API server takes.
const NOTE: usize = 1024;
/// Who tells, for the API server.
const REPORTER: &str = "sidecarta";
/// How soon rights that are missing may be there.
const RIGHTS: Duration = Duration::from_secs(300);
/// Bytes that are told of an answer.
const WORDS: usize = 300;

/// Where Events go.
pub(super) struct Events {
    client: kube::Client,
    within: Duration,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}

/// Why there is no Event.
enum Failure {
    /// No other would fare better now.
    All(Undelivered),
    /// It is about this one.
    One(Undelivered),
}

impl Events {
    pub(super) fn new(client: kube::Client, within: Duration) -> Self {
        Self { client, within }
    }

    /// One Event after the other.
    ///
    /// # Errors
    /// See [`Undelivered`].
    pub(super) async fn deliver(&self, alerts: &[Alert]) -> Result<(), Undelivered> {
        let mut uids = BTreeMap::new();
        let (mut later, mut never) = (None, None);
        for alert in alerts {
            if valid::namespace(&alert.workload.namespace).is_err() {
                never = Some(Undelivered::Never(
                    "event: the workload's namespace cannot be one".to_owned(),
                ));
                continue;
            }
            let uid = match uids.get(&alert.workload) {
                Some(uid) => Option::clone(uid),
                None => {
                    let uid = self.uid(&alert.workload).await;
                    uids.insert(&alert.workload, uid.clone());
                    uid
                }
            };
            match self.tell(alert, uid).await {
                Ok(()) => {}
                Err(Failure::All(e)) => return Err(e),
                Err(Failure::One(e @ Undelivered::Later { .. })) => later = Some(e),
                Err(Failure::One(e)) => never = Some(e),
            }
        }
        later.or(never).map_or(Ok(()), Err)
    }

    async fn tell(&self, alert: &Alert, uid: Option<String>) -> Result<(), Failure> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &alert.workload.namespace);
        let event = event(alert, uid);
        let params =
            PostParams { field_manager: Some(REPORTER.to_owned()), ..PostParams::default() };
        match self.ask(api.create(&params, &event)).await? {
            Ok(_) => Ok(()),
            Err(status) if status.is_already_exists() => self.again(&api, &event, alert).await,
            Err(status) => Err(failure(&status)),
        }
    }

    /// Extends the series of an Event that is there, which also keeps it for another while (the API
    /// server forgets Events after an hour). By what the alert knows, so that it is no matter how
    /// often it is delivered.
    async fn again(&self, api: &Api<Event>, event: &Event, alert: &Alert) -> Result<(), Failure> {
        let count = i32::try_from(alert.connections).unwrap_or(i32::MAX).max(2);
        let last = micro(alert.last_seen.max(alert.raised));
        let patch = Patch::Merge(json!({"series": {"count": count, "lastObservedTime": last}}));
        let params =
            PatchParams { field_manager: Some(REPORTER.to_owned()), ..PatchParams::default() };
        let name = event.metadata.name.as_deref().unwrap_or_default();
        match self.ask(api.patch(name, &params, &patch)).await? {
            // Forgotten in between: it has to be made again.
            Err(status) if status.code == 404 => {
                Err(Failure::One(Undelivered::later("event: it has just been removed", None)))
            }
            // The Event is there, and that is what counts.
            _ => Ok(()),
        }
    }

    /// The UID of a workload, where it may be known: an Event does well without.
    async fn uid(&self, workload: &WorkloadId) -> Option<String> {
        let (group, version, plural) =
            served(&workload.kind).filter(|_| valid::object_name(&workload.name).is_ok())?;
        let resource = ApiResource::from_gvk_with_plural(
            &GroupVersionKind::gvk(group, version, &workload.kind),
            plural,
        );
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &workload.namespace, &resource);
        let found = self.ask(api.get_metadata(&workload.name)).await;
        found.ok()?.ok()?.metadata.uid
    }

    /// What the API server answers; a failure where it does not.
    async fn ask<T>(
        &self,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<Result<T, Box<Status>>, Failure> {
        match tokio::time::timeout(self.within, request).await {
            Ok(Ok(done)) => Ok(Ok(done)),
            Ok(Err(kube::Error::Api(status))) => Ok(Err(status)),
            Ok(Err(e)) => {
                Err(Failure::All(Undelivered::later(cut(&format!("event: {e}"), WORDS), None)))
            }
            Err(_) => {
                let why = format!("event: the API server does not answer within {:?}", self.within);
                Err(Failure::All(Undelivered::later(why, None)))
            }
        }
    }
}

fn failure(status: &Status) -> Failure {
    let details = status.details.as_ref();
    let why = cut(&format!("event: {} ({})", status.message, status.code), WORDS);
    let after = details
        .map(|d| d.retry_after_seconds)
        .filter(|s| *s > 0)
        .map(|s| Duration::from_secs(s.into()));
    match status.code {
        // A namespace that is being deleted takes nothing any more; rights may be granted.
        403 if details
            .is_some_and(|d| d.causes.iter().any(|c| c.reason == "NamespaceTerminating")) =>
        {
            Failure::One(Undelivered::Never(why))
        }
        401 | 403 => {
            let hint = "it needs the right to create events in events.k8s.io";
            Failure::One(Undelivered::later(format!("{why}; {hint}"), Some(RIGHTS)))
        }
        409 => Failure::One(Undelivered::later(why, after)),
        408 | 425 | 429 => Failure::All(Undelivered::later(why, after)),
        400..500 => Failure::One(Undelivered::Never(why)),
        _ => Failure::All(Undelivered::later(why, after)),
    }
}

/// Group, version and plural of the kinds of workloads.
fn served(kind: &str) -> Option<(&'static str, &'static str, &'static str)> {
    Some(match kind {
        "Deployment" => ("apps", "v1", "deployments"),
        "StatefulSet" => ("apps", "v1", "statefulsets"),
        "DaemonSet" => ("apps", "v1", "daemonsets"),
        "ReplicaSet" => ("apps", "v1", "replicasets"),
        "Job" => ("batch", "v1", "jobs"),
        "CronJob" => ("batch", "v1", "cronjobs"),
        "Rollout" => ("argoproj.io", "v1alpha1", "rollouts"),
        "Pod" => ("", "v1", "pods"),
        _ => return None,
    })
}

fn event(alert: &Alert, uid: Option<String>) -> Event {
    let workload = &alert.workload;
    let version = served(&workload.kind).map(|(group, version, _)| {
        if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
    });
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{REPORTER}.{}", hex(alert.id().as_bytes(), 16))),
            namespace: Some(workload.namespace.clone()),
            ..ObjectMeta::default()
        },
        type_: Some("Warning".to_owned()),
        reason: Some(reason(alert.kind).to_owned()),
        action: Some("Observe".to_owned()),
        note: Some(cut(&text::annotation(&alert.text()), NOTE)),
        event_time: Some(micro(alert.raised)),
        reporting_controller: Some(REPORTER.to_owned()),
        reporting_instance: Some(REPORTER.to_owned()),
        regarding: Some(ObjectReference {
            api_version: version,
            kind: Some(workload.kind.clone()),
            namespace: Some(workload.namespace.clone()),
            name: Some(workload.name.clone()),
            uid,
            ..ObjectReference::default()
        }),
        ..Event::default()
    }
}

fn micro(time: Time) -> MicroTime {
    // All that 64 bits of nanoseconds hold is a time.
    MicroTime(Timestamp::from_nanosecond(time.0.into()).unwrap_or_default())
}
