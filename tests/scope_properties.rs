//! Scoping ends, never panics and obeys its own laws, for any mesh and any Sidecar. The meshes are
//! the recorded ones with objects left out or repeated, so that references dangle and contradict
//! each other.

#![allow(clippy::expect_used)] // a test that cannot go on should say where

mod common;

use std::collections::BTreeSet;

use common::cases;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use serde_json::{Value, json};
use sidecarta::generate::minimal::{Demand, Instance, SILENT, UnroutedHttp, minimal};
use sidecarta::mesh::{Egress, EgressPort};
use sidecarta::scope::{
    CallProtocol, Client, Scope, ScopeCall, ScopeListener, ScopedService, TrafficMode, everything,
};

fn egress() -> impl Strategy<Value = Egress> {
    let namespace = prop_oneof![
        "[.*~]",
        "(shop|pay|edge|data|front|istio-system)",
        "~(shop|pay)?",
        "[a-z/~]{0,4}"
    ];
    let name = prop_oneof![
        Just("*".to_owned()),
        "(web|api|cache|db|queue)\\.(shop|pay|edge|data|front)\\.svc\\.cluster\\.local",
        "\\*\\.(shop\\.svc\\.cluster\\.local|com|example\\.com|net)",
        "(www|api)\\.example\\.com",
        "[a-z*./]{0,8}",
    ];
    let hosts =
        proptest::collection::vec((namespace, name).prop_map(|(a, b)| format!("{a}/{b}")), 0..6);
    let port = proptest::option::weighted(
        0.2,
        (prop_oneof![Just(80u16), Just(5432), any::<u16>()], "(HTTP|TCP|TLS|HTTP_PROXY|x)?"),
    );
    (hosts, port, "(0\\.0\\.0\\.0|127\\.0\\.0\\.1)?").prop_map(|(hosts, port, bind)| Egress {
        port: port.map(|(number, protocol)| EgressPort { number, protocol, name: "p".to_owned() }),
        bind,
        hosts,
        ..Egress::default()
    })
}

fn call() -> impl Strategy<Value = ScopeCall> {
    let host = prop_oneof![
        "(web|api|cache|db|queue|search)\\.(shop|pay|edge|data|front)\\.svc\\.cluster\\.local",
        "(www|api|one)\\.(example\\.com|partner\\.net)",
        "[a-z.*]{0,6}",
    ];
    let port =
        prop_oneof![Just(80u16), Just(443), Just(5432), Just(9080), Just(7000), any::<u16>()];
    let protocol =
        prop_oneof![Just(CallProtocol::Http), Just(CallProtocol::Tls), Just(CallProtocol::Tcp)];
    let address = prop_oneof!["10\\.96\\.0\\.(1[0-9])", "10\\.77\\.0\\.[4-7]", "203\\.0\\.113\\.9"];
    (host, port, protocol, address).prop_map(|(host, port, protocol, a)| ScopeCall {
        host,
        port,
        protocol,
        address: a.parse().expect("an address"),
    })
}

/// The recorded calls, read once.
static CASES: std::sync::LazyLock<Vec<Value>> =
    std::sync::LazyLock::new(|| cases::read("calls.jsonl"));

/// A recorded mesh with some objects left out and some repeated.
fn mutate(line: &Value, keep: &[bool], twice: usize) -> Value {
    let objects = line["mesh"]["objects"].as_array().expect("objects");
    let mut kept: Vec<Value> = objects
        .iter()
        .zip(keep.iter().cycle())
        .filter(|(o, k)| **k || o["kind"] == "Pod")
        .map(|(o, _)| o.clone())
        .collect();
    for _ in 0..twice.min(kept.len()) {
        kept.push(kept[twice % kept.len()].clone());
    }
    let mut mesh = json!({"objects": kept});
    if let Some(config) = line["mesh"].get("meshConfig") {
        mesh["meshConfig"] = config.clone();
    }
    mesh
}

/// Builds a mesh. The snapshot reports repeated objects as contradictions, which are ignored here.
fn build(mesh: &Value) -> sidecarta::mesh::Mesh {
    let (mut builders, mut report) =
        (sidecarta::snapshot::Builders::both(None), sidecarta::snapshot::Report::default());
    sidecarta::snapshot::read(
        std::path::Path::new("mesh.json"),
        cases::list(mesh).to_string().as_bytes(),
        &mut builders,
        &mut report,
    );
    builders.build(report).meshes.into_first()
}

fn each_host_has_one_service(scope: &Scope<'_>) -> Result<(), TestCaseError> {
    let mut seen = BTreeSet::new();
    for s in &scope.services {
        let is_new = seen.insert(s.service.host.as_str());
        prop_assert!(is_new, "{} is there twice", s.service.host);
    }
    Ok(())
}

/// No Service that the client may not see, unless a VirtualService of its own brings it in.
fn services_are_visible(scope: &Scope<'_>, client: &Client<'_>) -> Result<(), TestCaseError> {
    for s in &scope.services {
        let is_own = s.service.namespace == client.namespace;
        prop_assert!(s.service.visible_in(client.namespace) || is_own);
    }
    for s in scope.listeners.iter().flat_map(|l| &l.services) {
        prop_assert!(s.service.visible_in(client.namespace));
    }
    Ok(())
}

fn size_counts_clusters(scope: &Scope<'_>, client: &Client<'_>) -> Result<(), TestCaseError> {
    let count = scope.clusters(client.labels).len();
    prop_assert_eq!(scope.size(client.labels).clusters as usize, count);
    Ok(())
}

fn treatments_are_the_same_twice(
    scope: &Scope<'_>,
    client: &Client<'_>,
    calls: &[ScopeCall],
) -> Result<(), TestCaseError> {
    for call in calls {
        let once = scope.treat(client, call);
        prop_assert_eq!(&once, &scope.treat(client, call));
    }
    Ok(())
}

/// What a scope imports, whoever its client is.
fn imported(scope: &Scope<'_>) -> impl PartialEq + std::fmt::Debug + use<> {
    let of = |all: &[ScopedService<'_>]| -> Vec<_> {
        let all = all.iter();
        all.map(|s| (s.service.order, format!("{:?} {:?}", s.ports, s.aliases))).collect()
    };
    let rules = |l: &ScopeListener<'_>| -> Vec<u32> {
        l.virtual_services.iter().map(|v| v.order).collect()
    };
    let of_listeners: Vec<_> =
        scope.listeners.iter().map(|l| (of(&l.services), rules(l))).collect();
    (of(&scope.services), of_listeners)
}

/// Each call is treated under a list of hosts as with all hosts imported.
fn calls_are_kept(
    scope: &Scope<'_>,
    full: &Scope<'_>,
    client: &Client<'_>,
    calls: &[ScopeCall],
    hosts: &[String],
) -> Result<(), TestCaseError> {
    for call in calls {
        let baseline = full.treat(client, call);
        let is_kept = scope.treat(client, call).keeps(&baseline);
        prop_assert!(is_kept, "{:?} under {:?}", call, hosts);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn any_sidecar_on_any_mesh_has_a_scope(
        n in 0usize..150,
        keep in proptest::collection::vec(proptest::bool::weighted(0.85), 1..40),
        twice in 0usize..4,
        listeners in proptest::collection::vec(egress(), 1..4),
        calls in proptest::collection::vec(call(), 1..8),
    ) {
        let lines = &*CASES;
        let line = &lines[n % lines.len()];
        let mesh = build(&mutate(line, &keep, twice));
        let case = cases::Case::new(line);
        let client = Client {
            namespace: &case.client.namespace,
            labels: &case.client.labels,
            address: Some(&case.client.ip),
        };
        let scope = Scope::new(&mesh, client.namespace, &listeners, TrafficMode::AllowAny);
        each_host_has_one_service(&scope)?;
        services_are_visible(&scope, &client)?;
        size_counts_clusters(&scope, &client)?;
        treatments_are_the_same_twice(&scope, &client, &calls)?;
    }

    #[test]
    fn a_scope_that_another_namespace_shares_is_the_one_it_would_compute(
        n in 0usize..150,
        keep in proptest::collection::vec(proptest::bool::weighted(0.6), 1..40),
        listeners in proptest::collection::vec(egress(), 0..3),
    ) {
        let lines = &*CASES;
        let mesh = build(&mutate(&lines[n % lines.len()], &keep, 0));
        let listeners: Vec<Egress> = listeners.into_iter().chain([everything()]).collect();
        let scope = Scope::new(&mesh, "nobody", &listeners, TrafficMode::AllowAny);
        for namespace in ["shop", "pay", "edge", "data", "front", "istio-system", "another"] {
            let shared = scope.for_namespace(namespace, TrafficMode::RegistryOnly);
            let is_relative = listeners.iter().any(Egress::depends_on_client);
            prop_assert!(shared.is_some() || is_relative || namespace != "another");
            let Some(shared) = shared else { continue };
            let own = Scope::new(&mesh, namespace, &listeners, TrafficMode::RegistryOnly);
            prop_assert_eq!(imported(&shared), imported(&own));
        }
    }

    #[test]
    fn any_calls_on_any_mesh_have_a_list_that_keeps_them(
        n in 0usize..150,
        keep in proptest::collection::vec(proptest::bool::weighted(0.9), 1..40),
        calls in proptest::collection::vec(call(), 0..6),
    ) {
        let lines = &*CASES;
        let line = &lines[n % lines.len()];
        let mesh = build(&mutate(line, &keep, 0));
        let case = cases::Case::new(line);
        let all = [everything()];
        let full = Scope::new(&mesh, &case.client.namespace, &all, TrafficMode::RegistryOnly);
        let pod = mesh.pod(&case.client.namespace, &case.client.pod);
        let pod = pod.expect("the mesh has the client's pod");
        let instances = [Instance::new(pod, true)];
        let demand = Demand {
            full: &full,
            bound: &[],
            carried: None,
            instances: &instances,
            calls: &calls,
            implied: &[],
            assumed: &[],
            unrouted_http: UnroutedHttp::default(),
        };
        let found = minimal(&demand);
        let listed = [Egress { hosts: found.hosts.clone(), ..Egress::default() }];
        let scope = Scope::new(&mesh, &case.client.namespace, &listed, TrafficMode::RegistryOnly);
        let client = instances[0].client();
        calls_are_kept(&scope, &full, &client, &calls, &found.hosts)?;
        for host in found.hosts.iter().filter(|h| *h != SILENT) {
            prop_assert!(found.reasons.contains_key(host), "{} has no reason", host);
        }
        prop_assert!(scope.size(client.labels).clusters <= full.size(client.labels).clusters);
    }
}
