//! Which pod sent from an address at a time, and which pod's interface was watched.
//!
//! Owns the source side of a connection. Must never decide by a destination, and never guess: an
//! address without a known holder gives a result of its own.

use std::net::IpAddr;

use sidecarta_capture::observation::{self, CommonAddress, Connection, InterfaceSpan, Lookup};

use crate::cluster::{Cluster, Holder, Pod};
use crate::model::{DataPlane, OwnedBy, Time, counter};

/// The holder of a source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribution<'a> {
    /// This pod had the address.
    Pod(&'a Pod),
    /// A node had it, or a pod on the host network. It is never attributed to a workload.
    Node,
    /// Several pods claim it.
    Contested,
    /// It lies in the pods' range, and no known pod had it then.
    UnknownPod,
    /// It is outside the cluster.
    Outside,
}

/// The holder of a source address at a packet time.
pub fn attribute(cluster: &Cluster, source: IpAddr, time: Time) -> Attribution<'_> {
    match cluster.holder(source, time) {
        Holder::Pod(pod) if pod.data_plane == DataPlane::HostNetwork => Attribution::Node,
        Holder::Pod(pod) => Attribution::Pod(pod),
        Holder::Contested => Attribution::Contested,
        Holder::Node => Attribution::Node,
        Holder::NobodyInPodRange => Attribution::UnknownPod,
        Holder::Nobody => Attribution::Outside,
    }
}

/// The pod that sent what an observation reports, or the counter that counts the observation
/// instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SenderPod<'a> {
    /// This pod sent it, and it is reported here.
    Pod(&'a Pod),
    /// A node sent it, or a pod that is reported elsewhere. This counter counts it.
    Other(&'static str),
    /// The cluster does not show the sender yet. If it never does, this counter counts it.
    Unknown(&'static str),
}

/// Whether the observations of a pod are reported here. Where `node` is given, only those of pods
/// on that node are.
pub fn is_reported_here(pod: &Pod, node: Option<&str>) -> bool {
    node.is_none_or(|n| *n == *pod.node || pod.node.is_empty())
}

/// The pod that opened a connection.
pub fn connection_sender<'a>(
    cluster: &'a Cluster,
    c: &Connection,
    node: Option<&str>,
) -> SenderPod<'a> {
    let time = Time(c.first);
    match attribute(cluster, c.initiator.ip(), time) {
        Attribution::Pod(pod) if is_reported_here(pod, node) => SenderPod::Pod(pod),
        Attribution::Pod(_) => SenderPod::Other(counter::ELSEWHERE),
        Attribution::Node => SenderPod::Other(counter::FROM_NODE),
        Attribution::Contested => SenderPod::Unknown(counter::CONTESTED),
        Attribution::UnknownPod | Attribution::Outside if node.is_some() => {
            // The agent on the caller's node reports a call from there to a pod of this node.
            match attribute(cluster, c.responder.ip(), time) {
                Attribution::Pod(_) => SenderPod::Unknown(counter::ELSEWHERE),
                _ => SenderPod::Unknown(counter::UNATTRIBUTED),
            }
        }
        Attribution::UnknownPod => SenderPod::Unknown(counter::UNATTRIBUTED),
        Attribution::Outside => SenderPod::Unknown(counter::FROM_OUTSIDE),
    }
}

/// The pod that asked for a name.
pub fn lookup_sender<'a>(cluster: &'a Cluster, l: &Lookup, node: Option<&str>) -> SenderPod<'a> {
    match attribute(cluster, l.client, Time(l.time)) {
        Attribution::Pod(pod) if is_reported_here(pod, node) => SenderPod::Pod(pod),
        Attribution::Pod(_) | Attribution::Node => SenderPod::Other(counter::LOOKUPS_OF_OTHERS),
        Attribution::Outside if node.is_none() => SenderPod::Unknown(counter::LOOKUPS_OF_OTHERS),
        _ => SenderPod::Unknown(counter::LOOKUPS_UNATTRIBUTED),
    }
}

/// The pod that a watched interface belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchedPod<'a> {
    /// The host side of this pod's veth, or its own interface.
    Pod(&'a Pod),
    /// It showed a single conversation, and either end may be the owner.
    OneConversation(&'a Pod, &'a Pod),
    /// It belongs to no pod: it showed packets of several pods, or of none.
    NoPod,
}

/// The pod that a watched interface belongs to: the pod whose addresses are known to be behind it,
/// or else the pod whose address is at one end of all its packets.
///
/// Where the interface showed a single conversation of two pods, the hop limit decides if it can: a
/// packet that a pod sends was not routed yet, and a packet that reaches it from elsewhere usually
/// was.
pub fn watched_pod<'a>(cluster: &'a Cluster, span: &InterfaceSpan) -> WatchedPod<'a> {
    // A pod may have been created or deleted while its interface was watched. Then it had its
    // address only at one end of the span.
    let pod_of = |address: IpAddr| {
        let pod_at = |time| match attribute(cluster, address, time) {
            Attribution::Pod(pod) => Some(pod),
            _ => None,
        };
        pod_at(Time(span.first)).or_else(|| pod_at(Time(span.last)))
    };
    if let Some(owner) = &span.owner {
        let mut pods = owner.addresses.iter().filter_map(|address| pod_of(*address));
        return match pods.next() {
            Some(pod) if pods.all(|p| std::ptr::eq(p, pod)) => WatchedPod::Pod(pod),
            _ => WatchedPod::NoPod,
        };
    }
    let with_pods = |common: &[CommonAddress]| -> Vec<(CommonAddress, &'a Pod)> {
        common.iter().filter_map(|c| Some((*c, pod_of(c.address)?))).collect()
    };
    match (decide(&with_pods(&span.common_v4)), decide(&with_pods(&span.common_v6))) {
        (WatchedPod::Pod(a), WatchedPod::Pod(b)) if !std::ptr::eq(a, b) => WatchedPod::NoPod,
        (WatchedPod::Pod(pod), _) | (_, WatchedPod::Pod(pod)) => WatchedPod::Pod(pod),
        (WatchedPod::OneConversation(a, b), _) | (_, WatchedPod::OneConversation(a, b)) => {
            WatchedPod::OneConversation(a, b)
        }
        _ => WatchedPod::NoPod,
    }
}

/// The evidence of an interface's owner, as records have it.
pub(crate) fn owned_by(by: observation::OwnerEvidence) -> OwnedBy {
    match by {
        observation::OwnerEvidence::Packets => OwnedBy::Packets,
        observation::OwnerEvidence::Neighbour => OwnedBy::Neighbour,
        observation::OwnerEvidence::Route => OwnedBy::Route,
    }
}

/// Decides among the pods that have an address at one end of all packets.
fn decide<'a>(pods: &[(CommonAddress, &'a Pod)]) -> WatchedPod<'a> {
    let is_local = |c: &CommonAddress| c.unrouted > 0 && c.routed == 0;
    match pods {
        [(_, pod)] => WatchedPod::Pod(pod),
        [(a, first), (b, second)] => {
            match (is_local(a) && b.routed > 0, is_local(b) && a.routed > 0) {
                (true, false) => WatchedPod::Pod(first),
                (false, true) => WatchedPod::Pod(second),
                _ => WatchedPod::OneConversation(first, second),
            }
        }
        _ => WatchedPod::NoPod,
    }
}
