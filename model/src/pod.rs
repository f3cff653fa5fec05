//! A pod, as the indexes of the cluster and the batches of agents have it.
//!
//! Owns the fields of a pod. Must never decide which workload it belongs to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{DataPlane, Time, WorkloadId};

/// Labels, shared: many objects have the same.
pub type Labels = Arc<BTreeMap<String, String>>;

/// A pod, with the time during which it had its addresses. Values that many pods have in common are
/// shared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    /// Name of the pod.
    pub name: Arc<str>,
    /// UID: it distinguishes pods that have the same name at different times. Empty where the
    /// snapshot lacks it, and in batches of old agents.
    #[serde(default = "empty")]
    pub uid: Arc<str>,
    /// Its top controller, or the pod itself where it has none.
    pub workload: WorkloadId,
    /// Labels of the pod.
    pub labels: Labels,
    /// Labels that select its workload's pods and survive a rollout.
    pub selector: Labels,
    /// How it takes part in the mesh.
    pub data_plane: DataPlane,
    /// When it got its addresses; [`Time::MIN`] where the snapshot does not say.
    pub start: Time,
    /// When it lost them; [`Time::MAX`] while it runs.
    pub end: Time,
    /// All its addresses, of IPv4 and IPv6.
    pub addresses: Arc<[IpAddr]>,
    /// The node that it runs on; empty where that is not known.
    pub node: Arc<str>,
    /// When its proxy began to run, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_since: Option<Time>,
    /// Whether its outbound traffic on this port and to this address goes through its proxy.
    pub capture: Arc<CaptureScope>,
}

fn empty() -> Arc<str> {
    Arc::from("")
}

impl Pod {
    /// Whether it had its addresses at this time.
    pub fn runs_at(&self, time: Time) -> bool {
        self.start <= time && time < self.end
    }

    /// Whether its proxy captured connections to this address and port then: it is redirected to
    /// the proxy, and the proxy ran. What init containers send before that goes past it.
    pub fn captures(&self, address: IpAddr, port: u16, at: Time) -> bool {
        self.redirects(address, port) && self.proxy_since.is_none_or(|since| since <= at)
    }

    /// Whether connections to this address and port are redirected to its proxy, as far as its
    /// settings say (annotations `traffic.sidecar.istio.io/…`).
    pub fn redirects(&self, address: IpAddr, port: u16) -> bool {
        self.data_plane == DataPlane::Sidecar && self.capture.includes(address, port)
    }
}

/// Which outbound connections of a pod are redirected to its proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CaptureScope {
    /// Ranges that are; `None`: all.
    pub include_ranges: Option<Vec<IpNet>>,
    /// Ranges that are not.
    pub exclude_ranges: Vec<IpNet>,
    /// Ports that are not.
    pub exclude_ports: BTreeSet<u16>,
    /// Ports captured whatever the range.
    pub include_ports: BTreeSet<u16>,
}

impl CaptureScope {
    /// How many bytes of memory it takes.
    pub fn footprint(&self) -> usize {
        let ranges = self.exclude_ranges.len() + self.include_ranges.as_ref().map_or(0, Vec::len);
        let ports = self.exclude_ports.len() + self.include_ports.len();
        // Of a set of ports: half-empty leaves with room for 11, and what the allocator adds.
        size_of::<Self>() + 2 * ranges * size_of::<IpNet>() + ports.next_multiple_of(11) * 12 + 192
    }

    fn includes(&self, address: IpAddr, port: u16) -> bool {
        if self.exclude_ports.contains(&port)
            || self.exclude_ranges.iter().any(|n| n.contains(&address))
        {
            return false;
        }
        self.include_ports.contains(&port)
            || self.include_ranges.as_ref().is_none_or(|r| r.iter().any(|n| n.contains(&address)))
    }
}
