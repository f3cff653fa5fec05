use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use sidecarta_capture::observation::{
    Connection, ConnectionNames, Content, InterfaceId, Orientation, Transport,
};

use super::*;
use crate::attribute::{Attribution, attribute};
use crate::cluster::Cluster;
use crate::model::{ServicePort, Unresolved};
use crate::snapshot;

const SNAPSHOT: &str = r#"
kind: Node
metadata: {name: n1}
spec: {podCIDR: 10.1.0.0/24}
---
kind: Pod
metadata: {namespace: shop, name: cart-1, labels: {app: cart},
  creationTimestamp: "2026-01-01T00:00:00Z"}
spec: {containers: [{name: cart}, {name: istio-proxy, args: [proxy, sidecar]}]}
status: {phase: Running, podIP: 10.1.0.5, startTime: "2026-01-01T00:00:00Z"}
---
kind: Pod
metadata: {namespace: shop, name: job-old, labels: {app: job}}
spec: {containers: [{name: job}]}
status: {phase: Succeeded, podIP: 10.1.0.6, startTime: "2026-01-01T00:00:00Z",
  containerStatuses: [{state: {terminated: {finishedAt: "2026-01-01T01:00:00Z"}}}]}
---
kind: Pod
metadata: {namespace: shop, name: db-0, labels: {app: db}}
spec: {containers: [{name: db}]}
status: {phase: Running, podIP: 10.1.0.6, startTime: "2026-01-01T02:00:00Z"}
---
kind: Service
metadata: {namespace: shop, name: db}
spec: {clusterIP: 10.96.0.7, ports: [{name: sql, port: 5432, targetPort: 5000}]}
---
kind: Service
metadata: {namespace: shop, name: db-read}
spec: {clusterIP: 10.96.0.8, ports: [{name: sql, port: 6432, targetPort: 5000}]}
---
kind: Service
metadata: {namespace: shop, name: alias}
spec: {type: ExternalName, externalName: db.shop.svc.cluster.local, ports: [{port: 5432}]}
---
kind: EndpointSlice
metadata: {namespace: shop, name: db-x, labels: {kubernetes.io/service-name: db}}
endpoints: [{addresses: [10.1.0.6]}]
ports: [{name: sql, port: 5000}]
---
kind: EndpointSlice
metadata: {namespace: shop, name: db-read-x, labels: {kubernetes.io/service-name: db-read}}
endpoints: [{addresses: [10.1.0.6]}]
ports: [{name: sql, port: 5000}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {namespace: ext, name: wiki}
spec: {hosts: ["*.wikipedia.org"], addresses: [240.240.0.9],
  ports: [{number: 443, name: tls, protocol: TLS}]}
"#;

/// After all pods of the snapshot have started.
const LATE: i64 = 1_767_240_000_000_000_000;

fn cluster() -> Cluster {
    let mut report = snapshot::Report::default();
    let mut builders = snapshot::Builders::addresses(None);
    snapshot::read(Path::new("test.yaml"), SNAPSHOT.as_bytes(), &mut builders, &mut report);
    let snapshot = builders.build(report);
    assert_eq!(snapshot.report.problems, Vec::<String>::new());
    snapshot.cluster
}

fn call(to: &str, names: ConnectionNames) -> Connection {
    Connection {
        initiator: SocketAddr::from(([10, 1, 0, 5], 40_000)),
        responder: to.parse().unwrap(),
        transport: Transport::Tcp,
        orientation: Orientation::Handshake,
        from_start: true,
        answered: true,
        refused: false,
        first: LATE,
        last: LATE,
        packets: 3,
        content: Content::Unknown,
        names,
        interface: InterfaceId { source: 0, index: 0 },
        isn: None,
        closed: false,
        is_new: true,
    }
}

fn resolved(connection: &Connection) -> CallResolution {
    let cluster = cluster();
    let Attribution::Pod(pod) = attribute(&cluster, connection.initiator.ip(), Time(LATE)) else {
        panic!("no pod")
    };
    resolve(&cluster, pod, &crate::observed::call(connection).to_call(), Time(connection.first))
}

fn named(authority: &str) -> ConnectionNames {
    ConnectionNames { authority: Some(authority.to_owned()), ..ConnectionNames::default() }
}

fn service(name: &str, port: u16) -> Destination {
    Destination::Service(ServicePort {
        namespace: "shop".into(),
        name: name.into(),
        host: format!("{name}.shop.svc.cluster.local"),
        port,
    })
}

#[test]
fn two_services_behind_one_endpoint_stay_ambiguous_until_a_name_decides() {
    let r = resolved(&call("10.1.0.6:5000", ConnectionNames::default()));
    let Destination::Ambiguous { candidates } = &r.destination else { panic!("{r:?}") };
    assert_eq!(
        candidates.iter().map(|c| (c.name.as_str(), c.port)).collect::<Vec<_>>(),
        [("db", 5432), ("db-read", 6432)]
    );
    let r = resolved(&call("10.1.0.6:5000", named("db-read:6432")));
    assert_eq!((r.destination, r.port), (service("db-read", 6432), 6432));
    assert!(r.grades.contains_key(&Grade::HttpAuthority));
}

#[test]
fn the_services_own_address_is_a_scope_miss_of_an_injected_pod() {
    let r = resolved(&call("10.96.0.7:5432", ConnectionNames::default()));
    assert_eq!((r.destination, r.port, r.scope_miss), (service("db", 5432), 5432, true));
    assert_eq!(r.grades.keys().collect::<Vec<_>>(), [&Grade::ServiceAddress]);
    let r = resolved(&call("10.96.0.7:9999", ConnectionNames::default()));
    assert!(matches!(
        r.destination,
        Destination::Unresolved { why: Unresolved::NoServicePort, .. }
    ));
}

#[test]
fn an_alias_leads_to_its_target_and_is_remembered() {
    let r = resolved(&call("10.96.0.7:5432", named("alias:5432")));
    assert_eq!(r.destination, service("db", 5432));
    assert_eq!(r.addressed, BTreeSet::from(["alias.shop.svc.cluster.local".to_owned()]));
}

#[test]
fn unknown_addresses_say_why() {
    let why = |to| match resolved(&call(to, ConnectionNames::default())).destination {
        Destination::Unresolved { why, .. } => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(why("10.1.0.77:80"), Unresolved::NoPodThen);
    assert_eq!(why("10.96.0.99:80"), Unresolved::NoService);
    let sni = ConnectionNames {
        sni: Some("outbound_.80_._.gone.shop.svc.cluster.local".into()),
        ..ConnectionNames::default()
    };
    let r = resolved(&call("10.1.0.6:80", sni));
    assert!(matches!(
        r.destination,
        Destination::Unresolved { why: Unresolved::UnknownMeshHost, .. }
    ));
}

#[test]
fn wildcard_entries_keep_the_host_as_listed() {
    let sni =
        ConnectionNames { sni: Some("en.wikipedia.org".into()), ..ConnectionNames::default() };
    for to in ["203.0.113.9:443", "240.240.0.9:443"] {
        let Destination::External { host, namespace, entry_host, .. } =
            resolved(&call(to, sni.clone())).destination
        else {
            panic!("not external")
        };
        assert_eq!(host.as_deref(), Some("en.wikipedia.org"));
        assert_eq!(
            (namespace.as_deref(), entry_host.as_deref()),
            (Some("ext"), Some("*.wikipedia.org"))
        );
    }
}

#[test]
fn an_address_belongs_to_a_pod_only_from_its_start_to_its_end() {
    let cluster = cluster();
    let at = |text: &str| match attribute(
        &cluster,
        "10.1.0.6".parse().unwrap(),
        text.parse().unwrap(),
    ) {
        Attribution::Pod(pod) => pod.name.to_string(),
        other => format!("{other:?}"),
    };
    assert_eq!(at("2025-12-31T23:59:59Z"), "UnknownPod");
    assert_eq!(at("2026-01-01T00:30:00Z"), "job-old");
    assert_eq!(at("2026-01-01T01:30:00Z"), "UnknownPod");
    assert_eq!(at("2026-01-01T02:00:00Z"), "db-0");
    // The first address of a node's range is the node's own.
    assert_eq!(attribute(&cluster, "10.1.0.1".parse().unwrap(), Time(LATE)), Attribution::Node);
    assert_eq!(
        attribute(&cluster, "198.51.100.1".parse().unwrap(), Time(LATE)),
        Attribution::Outside
    );
}

#[test]
fn a_pod_called_by_its_address_is_no_service() {
    let r = resolved(&call("10.1.0.6:5000", named("10.1.0.6:5000")));
    assert_eq!(r.destination.kind(), "pod");
    assert!(!r.scope_miss);
}

#[test]
fn datagrams_of_which_nothing_shows_who_calls_are_one_destination_that_nobody_decides_on() {
    let undecided = Connection {
        transport: Transport::Udp,
        orientation: Orientation::Undecided,
        ..call("10.1.0.6:50000", ConnectionNames::default())
    };
    let r = resolved(&undecided);
    let why = Some(Unresolved::Undirected);
    assert_eq!((&r.destination, r.port), (&Destination::Others { domain: None, why }, 0));
    assert!(!r.destination.is_decidable());
}
