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

/// The pod that an observation belongs to, where it is reported here. The names are those of
/// counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose<'a> {
    /// It belongs to this pod.
    Pod(&'a Pod),
    /// It belongs to nothing that is reported here. It is counted under this name.
    Other(&'static str),
    /// The cluster does not show its pod yet. It is counted under this name if the cluster never
    /// does.
    Unknown(&'static str),
}

/// Whether the observations of a pod are reported here. Where `node` is given, only those of pods
/// on that node are.
pub fn is_told(pod: &Pod, node: Option<&str>) -> bool {
    node.is_none_or(|n| *n == *pod.node || pod.node.is_empty())
}

/// The pod that a connection belongs to.
pub fn caller<'a>(cluster: &'a Cluster, c: &Connection, node: Option<&str>) -> Whose<'a> {
    let time = Time(c.first);
    match attribute(cluster, c.initiator.ip(), time) {
        Attribution::Pod(pod) if is_told(pod, node) => Whose::Pod(pod),
        Attribution::Pod(_) => Whose::Other(counter::ELSEWHERE),
        Attribution::Node => Whose::Other(counter::FROM_NODE),
        Attribution::Contested => Whose::Unknown(counter::CONTESTED),
        Attribution::UnknownPod | Attribution::Outside if node.is_some() => {
            // The agent on the caller's node reports a call from there to a pod of this node.
            match attribute(cluster, c.responder.ip(), time) {
                Attribution::Pod(_) => Whose::Unknown(counter::ELSEWHERE),
                _ => Whose::Unknown(counter::UNATTRIBUTED),
            }
        }
        Attribution::UnknownPod => Whose::Unknown(counter::UNATTRIBUTED),
        Attribution::Outside => Whose::Unknown(counter::FROM_OUTSIDE),
    }
}

/// The pod that a lookup belongs to.
pub fn asker<'a>(cluster: &'a Cluster, l: &Lookup, node: Option<&str>) -> Whose<'a> {
    match attribute(cluster, l.client, Time(l.time)) {
        Attribution::Pod(pod) if is_told(pod, node) => Whose::Pod(pod),
        Attribution::Pod(_) | Attribution::Node => Whose::Other(counter::LOOKUPS_OF_OTHERS),
        Attribution::Outside if node.is_none() => Whose::Unknown(counter::LOOKUPS_OF_OTHERS),
        _ => Whose::Unknown(counter::LOOKUPS_UNATTRIBUTED),
    }
}

/// The pod that a watched interface belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watched<'a> {
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
pub fn watched<'a>(cluster: &'a Cluster, span: &InterfaceSpan) -> Watched<'a> {
    // A pod may have been created or deleted while its interface was watched, so that only one end
    // of the span has it.
    let holder = |c: &CommonAddress| {
        let then = |time| match attribute(cluster, c.address, time) {
            Attribution::Pod(pod) => Some(pod),
            _ => None,
        };
        then(Time(span.first)).or_else(|| then(Time(span.last)))
    };
    if let Some(owner) = &span.owner {
        let of =
            |address: &IpAddr| holder(&CommonAddress { address: *address, unrouted: 0, routed: 0 });
        let mut pods = owner.addresses.iter().filter_map(of);
        return match pods.next() {
            Some(pod) if pods.all(|p| std::ptr::eq(p, pod)) => Watched::Pod(pod),
            _ => Watched::NoPod,
        };
    }
    let v4: Vec<(CommonAddress, &Pod)> =
        span.common_v4.iter().filter_map(|c| Some((*c, holder(c)?))).collect();
    let v6: Vec<(CommonAddress, &Pod)> =
        span.common_v6.iter().filter_map(|c| Some((*c, holder(c)?))).collect();
    match (decide(&v4), decide(&v6)) {
        (Watched::Pod(a), Watched::Pod(b)) if !std::ptr::eq(a, b) => Watched::NoPod,
        (Watched::Pod(pod), _) | (_, Watched::Pod(pod)) => Watched::Pod(pod),
        (Watched::OneConversation(a, b), _) | (_, Watched::OneConversation(a, b)) => {
            Watched::OneConversation(a, b)
        }
        _ => Watched::NoPod,
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

fn decide<'a>(pods: &[(CommonAddress, &'a Pod)]) -> Watched<'a> {
    let local = |c: &CommonAddress| c.unrouted > 0 && c.routed == 0;
    match pods {
        [(_, pod)] => Watched::Pod(pod),
        [(a, first), (b, second)] => match (local(a) && b.routed > 0, local(b) && a.routed > 0) {
            (true, false) => Watched::Pod(first),
            (false, true) => Watched::Pod(second),
            _ => Watched::OneConversation(first, second),
        },
        _ => Watched::NoPod,
    }
}
