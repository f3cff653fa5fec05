//! The parts of a pod and of a controller from which the indexes are made.
//!
//! Owns those parts. They are a tenth of a pod as the API server sends it, and a live view of a
//! whole cluster stores nothing else. Must never decide which pod has an address.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::objects::{self, Labels, addresses, named_ports, read};
use super::owner::{Owner, controller_of, lasting, stable};
use super::pool::Pool;
use super::proxy::{capture_scope, dns_domain, proxy, proxy_since};
use super::{CaptureScope, Time};
use crate::model::DataPlane;

/// API times have whole seconds.
pub(super) const SECOND: i64 = 1_000_000_000;

/// The part of a pod that the indexes need.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodBrief {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub uid: Arc<str>,
    pub labels: Labels,
    pub owner: Option<Owner>,
    pub data_plane: DataPlane,
    pub host_network: bool,
    pub capture: Arc<CaptureScope>,
    /// When its proxy began to run; `None` if it was restarted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_since: Option<Time>,
    /// The cluster's DNS domain, with which its proxy or istiod is started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<Arc<str>>,
    pub node: Arc<str>,
    pub host: Option<IpAddr>,
    /// In the order of its status.
    pub addresses: Arc<[IpAddr]>,
    /// Ports with a name, for Services whose endpoints are derived from selectors.
    pub ports: Box<[(Arc<str>, u16)]>,
    /// Addresses and ranges that cannot be read, each with the name of its field.
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    pub unreadable: Box<[String]>,
    life: Life,
}

/// From which times the interval is computed in which a pod had its addresses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Life {
    start: Time,
    /// Its phase says that it ended.
    terminal: bool,
    /// All its containers have ended, or none is known.
    over: bool,
    /// End of its last container.
    finished: Option<Time>,
    deletion: Option<Time>,
    /// When the first of its containers ran, if its status says so: it had its addresses by then.
    up: Option<Time>,
}

/// When a pod had its addresses.
pub(super) struct Interval {
    pub start: Time,
    pub end: Time,
    /// The end is that of its last container, not the time at which its deletion was noticed.
    pub exact: bool,
}

impl PodBrief {
    pub(crate) fn new(pod: &objects::PodObject, pool: &mut Pool) -> Self {
        let objects::PodObject { metadata, spec, status } = pod;
        let containers = &status.container_statuses;
        let started = |s: &objects::ContainerStatus| {
            let (running, terminated) = (s.state.running.as_ref(), s.state.terminated.as_ref());
            running.and_then(|r| r.started_at).or(terminated.and_then(|t| t.started_at))
        };
        let life = Life {
            start: status.start_time.or(metadata.creation_timestamp).unwrap_or(Time::MIN),
            terminal: matches!(status.phase.as_str(), "Succeeded" | "Failed"),
            over: containers.iter().all(|s| s.state.terminated.is_some()),
            finished: containers
                .iter()
                .filter_map(|s| s.state.terminated.as_ref()?.finished_at)
                .max(),
            deletion: metadata.deletion_timestamp,
            up: containers.iter().filter_map(started).min(),
        };
        let mut unreadable = BTreeSet::new();
        let mut refuse = |field: &str, text: &str| {
            unreadable.insert(format!("{field} {text:?}"));
        };
        let capture = capture_scope(pod, &mut refuse);
        let host = read(&status.host_ip, |text| refuse("hostIP", text));
        let addresses = addresses(pod, |text| refuse("podIP", text));
        Self {
            namespace: pool.word(&metadata.namespace),
            name: metadata.name.as_str().into(),
            uid: metadata.uid.as_str().into(),
            labels: pool.labels(Arc::clone(&metadata.labels)),
            owner: controller_of(metadata, pool),
            data_plane: if spec.host_network { DataPlane::HostNetwork } else { data_plane(pod) },
            host_network: spec.host_network,
            capture: pool.capture(capture),
            proxy_since: proxy_since(pod),
            domain: dns_domain(pod).map(|domain| pool.word(&domain)),
            node: pool.word(&spec.node_name),
            host,
            addresses: addresses.into(),
            ports: named_ports(pod).map(|(name, number)| (pool.word(name), number)).collect(),
            unreadable: unreadable.into_iter().collect(),
            life,
        }
    }

    /// A pod that was read from a store, with strings that other pods have shared with them.
    pub(crate) fn pooled(self, pool: &mut Pool) -> Self {
        Self {
            namespace: pool.word(&self.namespace),
            labels: pool.labels(self.labels),
            owner: self.owner.map(|o| o.pooled(pool)),
            capture: pool.capture(Arc::unwrap_or_clone(self.capture)),
            domain: self.domain.map(|domain| pool.word(&domain)),
            node: pool.word(&self.node),
            ports: self.ports.iter().map(|(name, number)| (pool.word(name), *number)).collect(),
            ..self
        }
    }

    /// When the first of its containers ran, if its status says so.
    pub(super) fn up(&self) -> Option<Time> {
        self.life.up
    }

    /// From its start to its deletion, or, for one that ended, to the end of its last container.
    pub(super) fn interval(&self, deleted: Option<Time>) -> Interval {
        let Life { start, terminal, over, finished, deletion, .. } = self.life;
        // The last status of a deleted pod may still say that it runs, while all its containers
        // have ended.
        let terminal = terminal || deleted.is_some() && over;
        let end = match (terminal, finished, deletion) {
            (true, Some(finished), _) => finished,
            // deletionTimestamp is when the grace period ends at the latest.
            (_, _, Some(deleted)) => deleted,
            // It still runs, or it ended at an unknown time. What it sent is its own, as long as no
            // other pod has the address.
            _ => Time::MAX,
        };
        // API times are cut to whole seconds: the last second still belongs to the pod.
        let end = if end == Time::MAX { end } else { Time(end.0.saturating_add(SECOND)) };
        let end = deleted.map_or(end, |d| d.min(end)).max(start);
        Interval { start, end, exact: terminal && finished.is_some() }
    }
}

/// The part of a controller, of pods or of other controllers, that the indexes need.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ControllerBrief {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub owner: Option<Owner>,
    /// Labels that select its pods across rollouts.
    pub selector: Labels,
    /// It states the selector itself. Otherwise the labels are those of its template.
    pub selects: bool,
    /// The controller whose selector it uses in place of its own.
    pub refers: Option<Owner>,
}

impl ControllerBrief {
    pub(crate) fn new(controller: objects::Controller, pool: &mut Pool) -> Self {
        let objects::Controller { metadata, spec } = controller;
        let own = stable(&spec.selector.labels());
        let selects = !own.is_empty();
        // A Job selects by its own UID, a CronJob not at all: their pods' stable labels come from
        // the template.
        let selector = if own.is_empty() {
            let template = if spec.template.metadata.labels.is_empty() {
                spec.job_template.spec.template
            } else {
                spec.template
            };
            lasting(&template.metadata.labels)
        } else {
            own
        };
        Self {
            namespace: pool.word(&metadata.namespace),
            name: pool.word(&metadata.name),
            owner: controller_of(&metadata, pool),
            selector: pool.labels(Arc::new(selector)),
            selects,
            refers: spec.workload_ref.map(|r| Owner {
                kind: pool.word(if r.kind.is_empty() { "Deployment" } else { &r.kind }),
                name: pool.word(&r.name),
            }),
        }
    }
}

/// How a pod takes part in the mesh.
fn data_plane(pod: &objects::PodObject) -> DataPlane {
    let labels = &pod.metadata.labels;
    if labels
        .get("gateway.networking.k8s.io/gateway-class-name")
        .is_some_and(|c| c.starts_with("istio-waypoint"))
        || labels.get("gateway.istio.io/managed").is_some_and(|c| c == "istio.io-mesh-controller")
    {
        return DataPlane::Waypoint;
    }
    match proxy(&pod.spec) {
        // `istio-proxy proxy router` is a gateway, `proxy sidecar` a sidecar (pilot-agent's node
        // type).
        Some(c) if c.args.iter().any(|a| a == "router") => DataPlane::Gateway,
        Some(c) if c.args.iter().any(|a| a == "waypoint") => DataPlane::Waypoint,
        _ if pod.spec.host_network => DataPlane::HostNetwork,
        Some(_) => DataPlane::Sidecar,
        None if pod
            .metadata
            .annotations
            .get("ambient.istio.io/redirection")
            .is_some_and(|v| v == "enabled")
            || labels.get("istio.io/dataplane-mode").is_some_and(|m| m == "ambient") =>
        {
            DataPlane::Ambient
        }
        None => DataPlane::Uninjected,
    }
}
