//! Pods, observations and batches for tests.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use sidecarta_capture::observation::{
    Connection, ConnectionNames, Content, InterfaceId, InterfaceSpan, Orientation, Transport,
};

use crate::model::{DataPlane, Pod, Span, Time, WorkloadId};
use crate::observed::{Gatherer, Observed, write};

/// A pod of node `n1`, with the only address 10.0.0.1.
pub(crate) fn pod(name: &str) -> Pod {
    Pod {
        name: name.into(),
        uid: format!("uid-{name}").into(),
        workload: WorkloadId {
            namespace: "shop".to_owned(),
            kind: "Deployment".to_owned(),
            name: name.to_owned(),
        },
        labels: Arc::new(BTreeMap::from([("app".to_owned(), name.to_owned())])),
        selector: Arc::default(),
        data_plane: DataPlane::Sidecar,
        start: Time(1),
        end: Time::MAX,
        addresses: [IpAddr::from([10, 0, 0, 1])].into(),
        node: "n1".into(),
        proxy_since: None,
        capture: Arc::default(),
    }
}

/// A connection of that pod to port `to` of 10.0.0.2, which begins at `first` nanoseconds.
pub(crate) fn connection(port: u16, to: u16, first: i64) -> Connection {
    Connection {
        initiator: SocketAddr::from(([10, 0, 0, 1], port)),
        responder: SocketAddr::from(([10, 0, 0, 2], to)),
        transport: Transport::Tcp,
        orientation: Orientation::Handshake,
        from_start: true,
        answered: true,
        refused: false,
        first,
        last: first + 5,
        packets: 3,
        content: Content::Http1,
        names: ConnectionNames { authority: Some(format!("s{to}")), ..ConnectionNames::default() },
        interface: InterfaceId { source: 0, index: 2 },
        isn: None,
        closed: false,
        is_new: true,
    }
}

/// A connection of the pod with this SNI.
pub fn named(port: u16, host: &str) -> Connection {
    let names = ConnectionNames { sni: Some(host.to_owned()), ..ConnectionNames::default() };
    Connection { names, ..connection(40_000, port, 5) }
}

/// The totals of an interface that was watched for 4 nanoseconds.
pub fn span() -> InterfaceSpan {
    InterfaceSpan {
        interface: InterfaceId { source: 0, index: 2 },
        first: 1,
        last: 5,
        lost: 0,
        packets: 2,
        common_v4: Vec::new(),
        common_v6: Vec::new(),
        owner: None,
        forged: 0,
        claimed: Vec::new(),
    }
}

/// Batches as an agent writes them.
pub fn written(batches: &[Observed]) -> Vec<u8> {
    let mut text = Vec::new();
    batches.iter().for_each(|b| write(b, &mut text).unwrap());
    text
}

/// Two batches, with an edge and a watched interface each.
pub fn two_batches() -> Vec<Observed> {
    let mut gatherer = Gatherer::new("n1", "boot");
    let mut batches = Vec::new();
    for n in 0..2 {
        gatherer.count("learned", 1);
        gatherer.connection(&pod("a"), &connection(40_000, 80 + n, 5), || Span::ALWAYS);
        gatherer.watch(&pod("a"), &span());
        batches.extend(gatherer.take(Time(9)));
    }
    batches
}

/// A batch with one edge.
pub fn one_edge() -> Observed {
    let mut gatherer = Gatherer::new("n1", "boot");
    gatherer.connection(&pod("web"), &connection(40_000, 80, 5), || Span::ALWAYS);
    gatherer.take(Time(9)).unwrap()
}
