//! Alerts as Kubernetes Events.
//!
//! Owns the form of an Event, and what the API server's answer means. An alert is one Event: its
//! name is made of the alert's id, and delivering the alert again extends its series.
//! (`kube::runtime::events::Recorder` names Events by the clock: after a restart each would come
//! twice.) Must never write anything but Events, nor read anything but the metadata of workloads.
//! [`Sinks::new`](super::Sinks::new) lists the rights that it needs.

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

use super::words::{AlertUndelivered, cut, hex, reason};
use crate::model::{Alert, Time, WorkloadId, valid};
use crate::text;

/// Bytes of an Event's note, at most: the limit of the API server.
const MAX_NOTE: usize = 1024;
/// The controller that reports Events, for the API server.
const REPORTER: &str = "sidecarta";
/// How long to wait until missing rights may have been granted.
const RIGHTS_WAIT: Duration = Duration::from_secs(300);
/// Bytes of an answer that are repeated in an error.
const MAX_WORDS: usize = 300;

/// Writes Events.
pub(super) struct EventSink {
    client: kube::Client,
    timeout: Duration,
}

impl fmt::Debug for EventSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventSink")
    }
}

/// Why an Event was not written.
enum EventFailure {
    /// No other Event would be written now either.
    OfAll(AlertUndelivered),
    /// Others may be written.
    OfOne(AlertUndelivered),
}

impl EventSink {
    pub(super) fn new(client: kube::Client, timeout: Duration) -> Self {
        Self { client, timeout }
    }

    /// Writes one Event after the other.
    ///
    /// # Errors
    /// See [`AlertUndelivered`].
    pub(super) async fn deliver(&self, alerts: &[Alert]) -> Result<(), AlertUndelivered> {
        let mut uids = BTreeMap::new();
        let (mut later, mut never) = (None, None);
        for alert in alerts {
            if valid::namespace(&alert.workload.namespace).is_err() {
                never = Some(AlertUndelivered::Never(
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
            match self.write(alert, uid).await {
                Ok(()) => {}
                Err(EventFailure::OfAll(e)) => return Err(e),
                Err(EventFailure::OfOne(e @ AlertUndelivered::Later { .. })) => later = Some(e),
                Err(EventFailure::OfOne(e)) => never = Some(e),
            }
        }
        later.or(never).map_or(Ok(()), Err)
    }

    async fn write(&self, alert: &Alert, uid: Option<String>) -> Result<(), EventFailure> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &alert.workload.namespace);
        let event = event(alert, uid);
        let params =
            PostParams { field_manager: Some(REPORTER.to_owned()), ..PostParams::default() };
        match self.ask(api.create(&params, &event)).await? {
            Ok(_) => Ok(()),
            Err(status) if status.is_already_exists() => self.extend(&api, &event, alert).await,
            Err(status) => Err(failure(&status)),
        }
    }

    /// Extends the series of an Event that is there. So it also lives longer: the API server
    /// removes Events after an hour. Count and time are the alert's, however often it is delivered.
    async fn extend(
        &self,
        api: &Api<Event>,
        event: &Event,
        alert: &Alert,
    ) -> Result<(), EventFailure> {
        let count = i32::try_from(alert.connections).unwrap_or(i32::MAX).max(2);
        let last = micro(alert.last_seen.max(alert.raised));
        let patch = Patch::Merge(json!({"series": {"count": count, "lastObservedTime": last}}));
        let params =
            PatchParams { field_manager: Some(REPORTER.to_owned()), ..PatchParams::default() };
        let name = event.metadata.name.as_deref().unwrap_or_default();
        match self.ask(api.patch(name, &params, &patch)).await? {
            // Removed in between: the next delivery writes it again.
            Err(status) if status.code == 404 => {
                let why = "event: it has just been removed";
                Err(EventFailure::OfOne(AlertUndelivered::later(why, None)))
            }
            // Extending may fail: the Event is there.
            _ => Ok(()),
        }
    }

    /// The UID of a workload, where it can be read. An Event can do without.
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

    /// Sends a request. Returns the answer of the API server, also one that is an error.
    async fn ask<T>(
        &self,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<Result<T, Box<Status>>, EventFailure> {
        match tokio::time::timeout(self.timeout, request).await {
            Ok(Ok(done)) => Ok(Ok(done)),
            Ok(Err(kube::Error::Api(status))) => Ok(Err(status)),
            Ok(Err(e)) => {
                let why = cut(&format!("event: {e}"), MAX_WORDS);
                Err(EventFailure::OfAll(AlertUndelivered::later(why, None)))
            }
            Err(_) => {
                let why =
                    format!("event: the API server does not answer within {:?}", self.timeout);
                Err(EventFailure::OfAll(AlertUndelivered::later(why, None)))
            }
        }
    }
}

/// What an answer that is an error means.
fn failure(status: &Status) -> EventFailure {
    let why = cut(&format!("event: {} ({})", status.message, status.code), MAX_WORDS);
    let seconds = status.details.as_ref().map(|details| details.retry_after_seconds);
    let after = seconds.filter(|s| *s > 0).map(|s| Duration::from_secs(s.into()));
    match status.code {
        403 if is_namespace_terminating(status) => {
            EventFailure::OfOne(AlertUndelivered::Never(why))
        }
        401 | 403 => {
            let hint = "it needs the right to create events in events.k8s.io";
            let later = AlertUndelivered::later(format!("{why}; {hint}"), Some(RIGHTS_WAIT));
            EventFailure::OfOne(later)
        }
        409 => EventFailure::OfOne(AlertUndelivered::later(why, after)),
        408 | 425 | 429 => EventFailure::OfAll(AlertUndelivered::later(why, after)),
        400..500 => EventFailure::OfOne(AlertUndelivered::Never(why)),
        _ => EventFailure::OfAll(AlertUndelivered::later(why, after)),
    }
}

/// Whether the namespace is being deleted: it takes no Event any more. Missing rights may still be
/// granted.
fn is_namespace_terminating(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// Group, version and plural of a kind of workloads; `None` for one that is not known.
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
        note: Some(cut(&text::annotation(&alert.text()), MAX_NOTE)),
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
    // Every number of nanoseconds in 64 bits is a time that a timestamp can have.
    MicroTime(Timestamp::from_nanosecond(time.0.into()).unwrap_or_default())
}
