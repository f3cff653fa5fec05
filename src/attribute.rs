//! Which workload's pod sent from an address at a time, and whose interface was watched.
//!
//! Owns the source side of a connection. Must never look at destinations, and never guess: an
//! address that nobody is known to have held is said to be just that.

use std::net::IpAddr;

use sidecarta_capture::observation::{self, CommonAddress, Connection, InterfaceSpan, Lookup};

use crate::cluster::{Cluster, Holder, Pod};
use crate::model::{DataPlane, OwnedBy, Time, counter};

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribution<'a> {
    /// This pod's.
    Pod(&'a Pod),
    /// A node's, or a pod's on the host network: never blamed on a workload.
    Node,
    /// Several pods claim the address.
    Contested,
    /// A pod's by its address, but no known pod held it then.
    UnknownPod,
    /// From outside the cluster.
    Outside,
}

/// Whose connection it is that came from this address at this time.
pub fn attribute(cluster: &Cluster, source: std::net::IpAddr, time: Time) -> Attribution<'_> {
    match cluster.holder(source, time) {
        Holder::Pod(pod) if pod.data_plane == DataPlane::HostNetwork => Attribution::Node,
        Holder::Pod(pod) => Attribution::Pod(pod),
        Holder::Contested => Attribution::Contested,
        Holder::Node => Attribution::Node,
        Holder::NobodyInPodRange => Attribution::UnknownPod,
        Holder::Nobody => Attribution::Outside,
    }
}

/// Whose an observation is, and whether it is told of here. Names are those of counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose<'a> {
    /// This pod's.
    Pod(&'a Pod),
    /// Nobody's that is told of here: counted under this name.
    Other(&'static str),
    /// Not known. Where no later word of the cluster tells, it is counted under this name.
    Unknown(&'static str),
}

/// Whether pods of this one's node are told of here; `node`: only pods of it are.
pub fn is_told(pod: &Pod, node: Option<&str>) -> bool {
    node.is_none_or(|n| *n == *pod.node || pod.node.is_empty())
}

/// Whose a connection is.
pub fn caller<'a>(cluster: &'a Cluster, c: &Connection, node: Option<&str>) -> Whose<'a> {
    let time = Time(c.first);
    match attribute(cluster, c.initiator.ip(), time) {
        Attribution::Pod(pod) if is_told(pod, node) => Whose::Pod(pod),
        Attribution::Pod(_) => Whose::Other(counter::ELSEWHERE),
        Attribution::Node => Whose::Other(counter::FROM_NODE),
        Attribution::Contested => Whose::Unknown(counter::CONTESTED),
        Attribution::UnknownPod | Attribution::Outside if node.is_some() => {
            // Whoever calls a pod of this node from another one is told of by the agent there.
            match attribute(cluster, c.responder.ip(), time) {
                Attribution::Pod(_) => Whose::Unknown(counter::ELSEWHERE),
                _ => Whose::Unknown(counter::UNATTRIBUTED),
            }
        }
        Attribution::UnknownPod => Whose::Unknown(counter::UNATTRIBUTED),
        Attribution::Outside => Whose::Unknown(counter::FROM_OUTSIDE),
    }
}

/// Whose a look-up is.
pub fn asker<'a>(cluster: &'a Cluster, l: &Lookup, node: Option<&str>) -> Whose<'a> {
    match attribute(cluster, l.client, Time(l.time)) {
        Attribution::Pod(pod) if is_told(pod, node) => Whose::Pod(pod),
        Attribution::Pod(_) | Attribution::Node => Whose::Other(counter::LOOKUPS_OF_OTHERS),
        Attribution::Outside if node.is_none() => Whose::Unknown(counter::LOOKUPS_OF_OTHERS),
        _ => Whose::Unknown(counter::LOOKUPS_UNATTRIBUTED),
    }
}

/// Whose interface it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watched<'a> {
    /// The host side of this pod's veth, or its own interface.
    Pod(&'a Pod),
    /// It has shown one conversation only, and either end could be the owner.
    OneConversation(&'a Pod, &'a Pod),
    /// No pod's: packets of several pods with each other, or of none.
    NoPod,
}

/// Whose interface it was: the pod whose addresses are known to be behind it, or else the one whose
/// address stands at one end of its packets.
///
/// While it has shown a single conversation of two pods, the hop limit decides where it can: what a
/// pod sends has not been routed yet, what reaches it from elsewhere usually has.
pub fn watched<'a>(cluster: &'a Cluster, span: &InterfaceSpan) -> Watched<'a> {
    // A pod may have been created while its interface was watched, or deleted: either end of the
    // span may know it.
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

/// How it is known whose an interface is, in the words of records.
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
