use std::path::Path;

use serde_json::json;

use super::*;
use crate::scope::everything;
use crate::snapshot::{self, Builders, Report};

/// A VirtualService `front.shop` that leads to the Service `cart.shop`.
const OBJECTS: &str = "
kind: Pod
apiVersion: v1
metadata: {namespace: shop, name: web, labels: {app: web}}
spec: {containers: [{name: istio-proxy, args: [proxy, sidecar]}]}
status: {phase: Running, podIP: 10.0.0.1}
---
kind: Service
apiVersion: v1
metadata: {namespace: shop, name: cart}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}
---
kind: VirtualService
apiVersion: networking.istio.io/v1
metadata: {namespace: shop, name: front}
spec:
  hosts: [front.example]
  http: [{route: [{destination: {host: cart.shop.svc.cluster.local, port: {number: 80}}}]}]
";

const CART: &str = "cart.shop.svc.cluster.local";
const TIME: &str = "2026-01-01T00:00:00Z";

/// What was learned of a workload that called the Service cart and looked up these hosts.
fn calls_to_cart(looked_up: &[&str]) -> Learned {
    let workload = json!({"namespace": "shop", "kind": "Pod", "name": "web"});
    let dependency = json!({"workload": workload, "port": 80, "protocol": "TCP",
        "destination": {"type": "service", "namespace": "shop", "name": "cart", "host": CART,
            "port": 80},
        "connections": 9, "firstSeen": TIME, "lastSeen": TIME, "evidence": {}});
    let lookups = looked_up.iter().map(|host| {
        json!({"workload": workload, "host": host, "connections": 1, "firstSeen": TIME,
            "lastSeen": TIME})
    });
    Learned {
        dependencies: vec![serde_json::from_value(dependency).expect("a dependency")],
        lookups: lookups.map(|l| serde_json::from_value(l).expect("a lookup")).collect(),
        ..Learned::default()
    }
}

fn plan_of(learned: &Learned) -> CallPlan {
    let (mut builders, mut report) = (Builders::both(None), Report::default());
    snapshot::read(Path::new("test.yaml"), OBJECTS.as_bytes(), &mut builders, &mut report);
    let snapshot = builders.build(report);
    assert_eq!(snapshot.report.problems, Vec::<String>::new());
    let mesh = snapshot.meshes.first();
    let egress = [everything()];
    let full = Scope::new(mesh, "shop", &egress, crate::scope::policy(mesh, None));
    let pod = mesh.pod("shop", "web").expect("the pod is in the mesh");
    let client = Client { namespace: "shop", labels: &pod.labels, address: Some("10.0.0.1") };
    let mut planner = Planner::new(&full, client);
    planner.learn(learned);
    learned.declared.iter().for_each(|d| planner.declare(d));
    planner.finish()
}

/// Host and origin of each call.
fn hosts_of(plan: &CallPlan) -> Vec<(&str, Origin)> {
    plan.calls.iter().map(|p| (p.call.host.as_str(), p.origin)).collect()
}

#[test]
fn without_lookups_every_host_that_leads_to_the_service_is_possible() {
    let plan = plan_of(&calls_to_cart(&[]));
    assert_eq!(hosts_of(&plan), [(CART, Origin::Learned), ("front.example", Origin::Possible)]);
}

#[test]
fn a_host_that_leads_to_the_service_is_rejected_if_only_the_service_was_looked_up() {
    let plan = plan_of(&calls_to_cart(&[CART]));
    assert_eq!(hosts_of(&plan), [(CART, Origin::Learned)]);
    assert!(plan.rejected.contains_key("front.example"), "{:?}", plan.rejected);
}

#[test]
fn the_service_is_rejected_if_only_a_host_that_leads_to_it_was_looked_up() {
    let plan = plan_of(&calls_to_cart(&["front.example"]));
    assert_eq!(hosts_of(&plan), [("front.example", Origin::Addressed)]);
    assert!(plan.rejected.contains_key(CART), "{:?}", plan.rejected);
}

#[test]
fn a_declared_port_that_the_service_lacks_is_a_gap() {
    let call = DeclaredCall { host: "cart".into(), port: Some(81), ..DeclaredCall::default() };
    let plan = plan_of(&Learned { declared: vec![call], ..Learned::default() });
    let why: Vec<&str> = plan.gaps.iter().map(|gap| gap.why.as_str()).collect();
    assert!(why[0].contains("has no port 81 (it has 80)"), "{why:?}");
}
