//! Workloads: the top controllers of pods, which is what a Sidecar is written for.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Merge, Time};

/// Transport protocol as Kubernetes spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP: recorded and shown, never a reason for an egress host (Envoy does not capture it).
    Udp,
    /// SCTP: as UDP.
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// A workload by name: the top controller (Deployment, StatefulSet, DaemonSet, CronJob, Job,
/// Rollout or any other owner), or a bare Pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WorkloadId {
    /// Namespace of the workload.
    pub namespace: String,
    /// Kind of its top controller, `Pod` for a bare one.
    pub kind: String,
    /// Name of its top controller.
    pub name: String,
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)?;
        if self.kind != "Deployment" && self.kind != "Pod" {
            write!(f, " ({})", self.kind)?;
        }
        Ok(())
    }
}

/// How a pod takes part in the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataPlane {
    /// No proxy: a Sidecar does nothing for it.
    Uninjected,
    /// Its own istio-proxy container: the case that Sidecars are for.
    Sidecar,
    /// A gateway's Envoy: Sidecars do not apply.
    Gateway,
    /// A waypoint's Envoy: Sidecars do not apply.
    Waypoint,
    /// Captured by ztunnel: Sidecars do not apply.
    Ambient,
    /// On the host network: never captured, its address is the node's.
    HostNetwork,
}

impl DataPlane {
    /// Why no Sidecar is written, `None` where one is.
    pub fn why_no_sidecar(self) -> Option<&'static str> {
        match self {
            Self::Sidecar => None,
            Self::Uninjected => {
                Some("its pods have no istio-proxy container, so a Sidecar would do nothing")
            }
            Self::Gateway => Some("it is a gateway: Sidecars do not apply to gateways"),
            Self::Waypoint => Some("it is a waypoint: Sidecars do not apply to waypoints"),
            Self::Ambient => Some("its pods are in ambient mode: Sidecars do not apply"),
            Self::HostNetwork => Some("its pods use the host network and are never captured"),
        }
    }
}

/// What is known of a workload itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// Which one.
    #[serde(flatten)]
    pub id: WorkloadId,
    /// Labels that select its pods and do not change with a rollout; empty where none are known.
    pub selector: BTreeMap<String, String>,
    /// How its pods take part in the mesh (of the pod seen last).
    pub data_plane: DataPlane,
    /// When one of its pods was last seen.
    pub last_seen: Time,
}

impl Merge for Workload {
    fn merge(&mut self, other: &Self) {
        // The later sighting describes the workload; at equal times the greater value, so that
        // order does not matter.
        let later = (other.last_seen, other.data_plane, &other.selector)
            > (self.last_seen, self.data_plane, &self.selector);
        if later {
            *self = other.clone();
        }
    }
}
