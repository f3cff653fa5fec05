use super::*;
use crate::model::{DependencyKey, Protocol, Record};
use crate::novelty::tests::World;

/// A pod `web` with a proxy, the Services `cart` and `stock`, and a Sidecar that has `cart` alone.
const CLUSTER: &str = "
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {app: web}}
spec: {containers: [{name: app}, {name: istio-proxy}]}
status: {phase: Running, podIP: 10.0.0.1, startTime: 1970-01-01T00:00:00Z}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: cart}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: stock}
spec: {clusterIP: 10.96.0.2, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {namespace: shop, name: web}
spec:
  workloadSelector: {labels: {app: web}}
  egress: [{hosts: [./cart.shop.svc.cluster.local]}]
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
";

const STOCK: &str = "stock.shop.svc.cluster.local";
const SECOND: i64 = 1_000_000_000;

/// The ids of the alerts that are new at this second, with these objects.
fn reviewed(world: &mut World, objects: &str, second: i64) -> Vec<String> {
    let file = world.dir.path().join("cluster.yaml");
    std::fs::write(&file, objects).unwrap();
    let (cluster, _) = crate::snapshot::load(&[file], None).unwrap();
    let new = review(&mut world.store, &cluster, Time(second * SECOND)).unwrap();
    new.iter().map(Alert::id).collect()
}

fn web() -> WorkloadId {
    WorkloadId { namespace: "shop".into(), kind: "Pod".into(), name: "web".into() }
}

/// `web` looked a host up once, at second 10.
fn lookup(host: &str) -> Record {
    let tally = Tally::new(1, Time(10 * SECOND), Time(10 * SECOND));
    Record::Lookups(Lookups { workload: web(), host: host.into(), tally })
}

#[test]
fn a_host_that_was_looked_up_never_reached_and_is_not_in_scope_is_a_blocked_call() {
    let mut world = World::new();
    world.learn(vec![lookup(STOCK)]);
    assert_eq!(
        reviewed(&mut world, CLUSTER, 30),
        [""; 0],
        "its connection may come with a later batch"
    );
    assert_eq!(reviewed(&mut world, CLUSTER, 60), ["blocked-call/shop/Pod/web/shop/stock:0"]);
    assert_eq!(reviewed(&mut world, CLUSTER, 120), [""; 0], "it is raised once");
    let text = world.store.alerts(None).unwrap()[0].alert.text();
    let want = "shop/web looked shop/stock up 1 times and never reached it: probably its proxy \
                blocks the call, whose policy is REGISTRY_ONLY and whose Sidecar lacks the host";
    assert_eq!(text, want);
}

#[test]
fn a_host_in_scope_is_no_blocked_call() {
    let mut world = World::new();
    world.learn(vec![lookup("cart.shop.svc.cluster.local")]);
    assert_eq!(reviewed(&mut world, CLUSTER, 60), [""; 0]);
}

#[test]
fn a_host_that_was_reached_is_no_blocked_call() {
    let mut world = World::new();
    world.learn(vec![lookup(STOCK)]);
    let destination = Destination::Service(ServicePort {
        namespace: "shop".into(),
        name: "stock".into(),
        host: STOCK.into(),
        port: 80,
    });
    let key = DependencyKey { workload: web(), destination, port: 80, protocol: Protocol::Tcp };
    let tally = Tally::new(1, Time(11 * SECOND), Time(11 * SECOND));
    world.learn(vec![Record::Dependency(Dependency::new(key, tally))]);
    assert_eq!(reviewed(&mut world, CLUSTER, 60), [""; 0]);
}

#[test]
fn where_the_policy_is_allow_any_nothing_is_blocked() {
    let mut world = World::new();
    world.learn(vec![lookup(STOCK)]);
    assert_eq!(reviewed(&mut world, &CLUSTER.replace("REGISTRY_ONLY", "ALLOW_ANY"), 60), [""; 0]);
}

#[test]
fn the_policy_of_the_mesh_counts_where_the_sidecar_has_none() {
    let policy = "  outboundTrafficPolicy: {mode: REGISTRY_ONLY}\n";
    let config = "---
apiVersion: v1
kind: ConfigMap
metadata: {namespace: istio-system, name: istio}
data: {mesh: 'outboundTrafficPolicy: {mode: REGISTRY_ONLY}'}
";
    let mut world = World::new();
    world.learn(vec![lookup(STOCK)]);
    assert_eq!(reviewed(&mut world, &CLUSTER.replace(policy, ""), 60), [""; 0]);
    let objects = CLUSTER.replace(policy, "") + config;
    assert_eq!(reviewed(&mut world, &objects, 60).len(), 1);
}

#[test]
fn the_alert_ends_when_the_sidecar_has_the_host() {
    let mut world = World::new();
    world.learn(vec![lookup(STOCK)]);
    assert_eq!(reviewed(&mut world, CLUSTER, 60).len(), 1);
    let wider = CLUSTER.replace("[./cart.shop.svc.cluster.local]", "['./*']");
    assert_eq!(reviewed(&mut world, &wider, 90), [""; 0]);
    assert!(world.store.alerts(None).unwrap().is_empty());
}
