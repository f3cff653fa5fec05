//! Kinds of destinations and of scope misses that meshes have.

use std::net::SocketAddr;
use std::path::Path;

use super::*;
use crate::attribute::{Attribution, attribute};
use crate::snapshot;

const SNAPSHOT: &str = r#"
kind: Pod
metadata: {namespace: shop, name: web, labels: {app: web}}
spec: {containers: [{name: app}, {name: istio-proxy, args: [proxy, sidecar]}]}
status:
  podIP: 10.1.0.5
  startTime: "2026-01-01T00:00:00Z"
  containerStatuses: [{name: istio-proxy, restartCount: 0,
    state: {running: {startedAt: "2026-01-01T00:05:00Z"}}}]
---
kind: Pod
metadata: {namespace: shop, name: narrow, labels: {app: narrow}}
spec:
  containers: [{name: app}, {name: istio-proxy, args: [proxy, sidecar]}]
  initContainers: [{name: istio-init, args: [istio-iptables, -i, "*", -x, 10.96.0.2/32,
    "-o=9000,9001", -b, "*"]}]
status: {podIP: 10.1.0.6}
---
kind: Pod
metadata: {namespace: pay, name: billing, labels: {app: billing},
  annotations: {ambient.istio.io/redirection: enabled}}
spec: {containers: [{name: app}]}
status: {podIP: 10.1.0.7}
---
kind: Pod
metadata: {namespace: ext, name: ratings, labels: {app: ratings}}
spec: {containers: [{name: app}]}
status: {podIP: 10.1.0.8}
---
kind: Service
metadata: {namespace: shop, name: a}
spec: {clusterIP: 10.96.0.1, ports: [{port: 80}, {port: 9000}]}
status: {loadBalancer: {ingress: [{ip: 198.51.100.7}]}}
---
kind: Service
metadata: {namespace: shop, name: b}
spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}
---
kind: Service
metadata: {namespace: pay, name: billing}
spec: {clusterIP: 10.96.0.3, ports: [{port: 80, targetPort: 8080}], selector: {app: billing}}
---
kind: Service
metadata: {namespace: pay, name: billing-admin}
spec: {clusterIP: 10.96.0.4, ports: [{port: 81, targetPort: 8081}], selector: {app: billing}}
---
kind: Service
metadata: {namespace: shop, name: passed}
spec: {clusterIP: 10.96.0.6, ports: [{port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {namespace: shop, name: passed}
spec: {host: passed, trafficPolicy: {loadBalancer: {simple: PASSTHROUGH}}}
---
kind: Service
metadata: {namespace: vms, name: old}
spec: {clusterIP: 10.96.0.5, ports: [{name: http, port: 80, targetPort: 8080}],
  selector: {app: old}}
---
kind: EndpointSlice
metadata: {namespace: pay, name: billing-x, labels: {kubernetes.io/service-name: billing}}
endpoints: [{addresses: [10.1.0.7]}]
ports: [{port: 8080}]
---
kind: EndpointSlice
metadata: {namespace: pay, name: billing-admin-x,
  labels: {kubernetes.io/service-name: billing-admin}}
endpoints: [{addresses: [10.1.0.7]}]
ports: [{port: 8081}]
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {namespace: vms, name: old-1, labels: {app: old}}
spec: {address: 192.0.2.10, ports: {http: 9090}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {namespace: ext, name: ratings}
spec:
  hosts: [ratings.example]
  resolution: STATIC
  addresses: [10.200.0.7]
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
  workloadSelector: {labels: {app: ratings}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {namespace: ext, name: alias}
spec:
  hosts: [a.global]
  resolution: DNS
  ports: [{number: 80, name: tcp, protocol: TCP}]
  endpoints: [{address: a.shop.svc.cluster.local}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {namespace: ext, name: db-a}
spec: {hosts: [db-a.example], resolution: DNS, addresses: [192.0.2.77],
  ports: [{number: 5432, name: tcp, protocol: TCP}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {namespace: ext, name: db-b}
spec: {hosts: [db-b.example], resolution: DNS,
  ports: [{number: 5433, name: tcp, protocol: TCP}, {number: 80, name: http, protocol: HTTP}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {namespace: ext, name: db-c}
spec: {hosts: [db-c.example], resolution: DNS, ports: [{number: 5433, name: tcp, protocol: TCP}]}
"#;

fn resolved(from: &str, to: &str, names: (&str, &[&str]), at: &str) -> CallResolution {
    let mut report = snapshot::Report::default();
    let mut builders = snapshot::Builders::addresses(None);
    snapshot::read(Path::new("test.yaml"), SNAPSHOT.as_bytes(), &mut builders, &mut report);
    let snapshot = builders.build(report);
    assert_eq!(snapshot.report.problems, Vec::<String>::new());
    let time: Time = at.parse().unwrap();
    let Attribution::Pod(pod) = attribute(&snapshot.cluster, from.parse().unwrap(), time) else {
        panic!("no pod")
    };
    let call = Call {
        responder: to.parse::<SocketAddr>().unwrap(),
        protocol: Protocol::Tcp,
        sni: None,
        authority: Some(names.0.to_owned()).filter(|a| !a.is_empty()),
        dns: names.1.iter().map(|n| (*n).to_owned()).collect(),
    };
    resolve(&snapshot.cluster, pod, &call, time)
}

const WEB: &str = "10.1.0.5";
const LATER: &str = "2026-01-02T00:00:00Z";

/// Destination and port in short, and whether it is a scope miss.
fn seen(from: &str, to: &str, names: (&str, &[&str])) -> (String, u16, bool) {
    let r = resolved(from, to, names, LATER);
    (r.destination.to_string(), r.port, r.scope_miss)
}

fn is(name: &str, port: u16, missed: bool) -> (String, u16, bool) {
    (name.to_owned(), port, missed)
}

#[test]
fn a_call_that_the_proxy_would_have_handled_is_a_scope_miss() {
    assert_eq!(seen(WEB, "10.96.0.1:9000", ("", &[])), is("shop/a", 9000, true));
    // A load balancer's address, before the proxy ran, an excluded port, an excluded range.
    assert_eq!(seen(WEB, "198.51.100.7:9000", ("", &[])), is("shop/a", 9000, false));
    assert!(!resolved(WEB, "10.96.0.1:9000", ("", &[]), "2026-01-01T00:04:00Z").scope_miss);
    assert_eq!(seen("10.1.0.6", "10.96.0.1:9000", ("", &[])), is("shop/a", 9000, false));
    assert_eq!(seen("10.1.0.6", "10.96.0.2:80", ("", &[])), is("shop/b", 80, false));
    assert_eq!(seen("10.1.0.6", "10.96.0.3:80", ("", &[])), is("pay/billing", 80, true));
    // An entry's own address, and one that istiod made up, whatever is excluded.
    assert_eq!(seen(WEB, "10.200.0.7:80", ("", &[])), is("ratings.example", 80, true));
    assert_eq!(
        seen(WEB, "10.200.0.7:80", ("ratings.example", &[])),
        is("ratings.example", 80, true)
    );
    assert_eq!(seen("10.1.0.6", "240.240.0.9:9000", ("", &[])), is("240.240.0.9", 9000, true));
    // The proxy dials the address that was called.
    assert_eq!(seen(WEB, "10.96.0.6:80", ("", &[])), is("shop/passed", 80, false));
    // The proxy may have found that address by the DNS.
    assert_eq!(seen(WEB, "192.0.2.77:5432", ("", &[])), is("db-a.example", 5432, false));
}

#[test]
fn what_the_proxy_dials_for_an_entry_is_no_scope_miss() {
    assert_eq!(seen(WEB, "10.96.0.1:80", ("a.global", &[])), is("a.global", 80, false));
    // The proxy looks the endpoint's name up by itself: that decides nothing.
    let both = is("ext/alias:80 | shop/a:80", 80, false);
    assert_eq!(seen(WEB, "10.96.0.1:80", ("", &["a.shop.svc.cluster.local"])), both);
    assert_eq!(seen(WEB, "10.96.0.1:80", ("a.shop", &[])), is("shop/a", 80, true));
}

#[test]
fn a_tunnel_to_an_ambient_pod_is_for_the_services_in_front_of_it() {
    let all = is("pay/billing:80 | pay/billing-admin:81", 80, false);
    assert_eq!(seen(WEB, "10.1.0.7:15008", ("", &[])), all);
    // Of another pod it is the mesh's own.
    assert_eq!(seen(WEB, "10.1.0.8:15008", ("", &[])).0, "(mesh internal port)");
}

#[test]
fn endpoints_are_found_by_selectors_and_target_ports() {
    assert_eq!(seen(WEB, "10.1.0.8:8080", ("", &[])), is("ratings.example", 80, false));
    assert_eq!(seen(WEB, "192.0.2.10:9090", ("", &[])), is("vms/old", 80, false));
}

#[test]
fn the_port_distinguishes_entries_with_one_address() {
    let names: &[&str] = &["db-a.example", "db-b.example"];
    assert_eq!(seen(WEB, "203.0.113.5:5433", ("", names)), is("db-b.example", 5433, false));
    assert_eq!(seen(WEB, "203.0.113.5:5432", ("", names)), is("db-a.example", 5432, false));
    let names: &[&str] = &["db-c.example", "db-b.example"];
    let both = is("ext/db-b:5433 | ext/db-c:5433", 5433, false);
    assert_eq!(seen(WEB, "203.0.113.5:5433", ("", names)), both);
    // A name on the connection wins.
    assert_eq!(seen(WEB, "203.0.113.5:80", ("db-b.example", &["db-a.example"])).0, "db-b.example");
}
