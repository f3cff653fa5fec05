//! Conformance: random meshes with what istiod's own code selected (tests/scope-cases/FORMAT.md),
//! compared with the model. A difference is printed as a sentence. SIDECARTA_SCOPE_CASES names a
//! directory with other scope.jsonl and calls.jsonl.

#![allow(clippy::expect_used)] // a test that cannot go on should say where

mod common;

use common::cases::{self, Case};
use serde_json::{Value, json};
use sidecarta::generate::minimal::{
    Demand, Instance, Minimal, SILENT, UnroutedHttp, Widening, minimal,
};
use sidecarta::mesh::Sidecar;
use sidecarta::scope::clusters::ProxySize;
use sidecarta::scope::report::ScopeReport;
use sidecarta::scope::{Client, Route, Scope, ScopeCall, everything, listeners, policy};

/// Differences shown before the rest is only counted.
const SHOWN: usize = 40;

fn client(case: &Case) -> Client<'_> {
    Client {
        namespace: &case.client.namespace,
        labels: &case.client.labels,
        address: Some(&case.client.ip),
    }
}

/// The lines in which two values differ, by path.
fn differences(path: &str, want: &Value, got: &Value, out: &mut Vec<String>) {
    match (want, got) {
        (Value::Object(w), Value::Object(g)) => {
            for key in w.keys().chain(g.keys().filter(|k| !w.contains_key(*k))) {
                let none = Value::Null;
                differences(
                    &format!("{path}.{key}"),
                    w.get(key).unwrap_or(&none),
                    g.get(key).unwrap_or(&none),
                    out,
                );
            }
        }
        (Value::Array(w), Value::Array(g))
            if path.contains("listeners")
                && w.len() == g.len()
                && !w.is_empty()
                && w[0].is_object()
                && w[0].get("hosts").is_some() =>
        {
            for (i, (w, g)) in w.iter().zip(g).enumerate() {
                differences(&format!("{path}[{i}]"), w, g, out);
            }
        }
        (Value::Array(w), Value::Array(g)) if w != g => {
            let missing: Vec<String> =
                w.iter().filter(|x| !g.contains(x)).map(ToString::to_string).collect();
            let surplus: Vec<String> =
                g.iter().filter(|x| !w.contains(x)).map(ToString::to_string).collect();
            out.push(format!(
                "{path}: istiod has {} that the model lacks; the model has {}",
                missing.join(" "),
                surplus.join(" ")
            ));
        }
        _ if want != got => out.push(format!("{path}: istiod says {want}, the model {got}")),
        _ => {}
    }
}

fn report(all: Vec<(String, Vec<String>)>, total: usize) {
    let wrong: Vec<_> = all.into_iter().filter(|(_, d)| !d.is_empty()).collect();
    let mut text = String::new();
    let mut left = SHOWN;
    for (id, found) in &wrong {
        for line in found.iter().take(3.min(left)) {
            text.push_str(&format!("{id}: {line}\n"));
            left -= 1;
        }
    }
    assert!(wrong.is_empty(), "{} of {total} cases differ from istiod:\n{text}", wrong.len());
}

#[test]
fn every_scope_is_what_istiod_selects() {
    let mut all = Vec::new();
    for line in cases::read("scope.jsonl") {
        let mesh = cases::mesh(&line["mesh"]);
        for case in line["cases"].as_array().expect("cases") {
            let case = Case::new(case);
            let client = client(&case);
            let sidecar = mesh.applied(client.namespace, client.labels);
            let egress = listeners(sidecar);
            let scope = Scope::new(&mesh, client.namespace, &egress, policy(&mesh, sidecar));
            let got =
                serde_json::to_value(ScopeReport::new(&scope, &client, sidecar)).expect("json");
            let mut want = case.expect.clone();
            // Route configurations are compared through calls.
            want.as_object_mut().expect("object").remove("routes");
            let mut found = Vec::new();
            differences("", &want, &got, &mut found);
            all.push((case.id.clone(), found));
        }
    }
    let total = all.len();
    assert!(total >= 100, "only {total} cases were found");
    report(all, total);
}

/// Runs a check on every call case, with the scope of all hosts under what applies to its client.
fn each_call_case(
    mut check: impl for<'m> FnMut(&Value, &Case, &Scope<'m>, Option<&'m Sidecar>) -> Vec<String>,
) {
    let mut all = Vec::new();
    for line in cases::read("calls.jsonl") {
        let mesh = cases::mesh(&line["mesh"]);
        let case = Case::new(&line);
        let client = client(&case);
        let egress = [everything()];
        let sidecar = mesh.applied(client.namespace, client.labels);
        let full = Scope::new(&mesh, client.namespace, &egress, policy(&mesh, sidecar));
        all.push((case.id.clone(), check(&line, &case, &full, sidecar)));
    }
    let total = all.len();
    assert!(total >= 100, "only {total} cases were found");
    report(all, total);
}

#[test]
fn every_call_takes_the_route_that_istiod_gives_it() {
    each_call_case(|line, case, full, _| {
        let client = client(case);
        let mut found = Vec::new();
        for call in line["calls"].as_array().expect("calls") {
            let wanted: ScopeCall = cases::call(call);
            let got = serde_json::to_value(Route::of(&full.treat(&client, &wanted), full.mesh))
                .expect("json");
            let path = format!(
                "{}:{} {} to {}",
                wanted.host,
                wanted.port,
                wanted.protocol.name(),
                wanted.address
            );
            differences(&path, &call["route"], &got, &mut found);
        }
        differences("full", &line["full"], &json!(full.size(client.labels)), &mut found);
        found
    });
}

/// What a list has that nothing proves.
fn unproved(found: &Minimal) -> Vec<String> {
    let mut wrong = Vec::new();
    if found.widening >= Widening::Port {
        wrong.push(format!("widened to {:?}: {:?}", found.widening, found.hosts));
    }
    let unexplained =
        found.hosts.iter().filter(|h| *h != SILENT && !found.reasons.contains_key(*h));
    wrong.extend(unexplained.map(|h| format!("{h} can be left out")));
    wrong
}

/// The size of the reference's list.
fn reference(line: &Value) -> ProxySize {
    let of = |key: &str| line["reference"][key].as_u64().expect("number");
    ProxySize { clusters: of("clusters"), endpoints: of("endpoints") }
}

#[test]
fn generated_lists_are_proved_and_no_larger_than_the_references() {
    let (mut ours, mut theirs) = (ProxySize::default(), ProxySize::default());
    each_call_case(|line, case, full, sidecar| {
        let calls: Vec<ScopeCall> =
            line["calls"].as_array().expect("calls").iter().map(cases::call).collect();
        let pod = full.mesh.pod(full.namespace, &case.client.pod).expect("pod");
        let instances = [Instance::new(pod, true)];
        let demand = Demand {
            full,
            bound: &[],
            carried: sidecar,
            instances: &instances,
            calls: &calls,
            implied: &[],
            assumed: &[],
            unrouted_http: UnroutedHttp::default(),
        };
        let found = minimal(&demand);
        let reference = reference(line);
        if found.after.clusters > reference.clusters || found.after.endpoints > reference.endpoints
        {
            let (id, after, hosts) = (&case.id, found.after, &found.hosts);
            println!("{id}: {after:?} {hosts:?}, reference {reference:?}");
        }
        theirs += reference;
        ours += found.after;
        unproved(&found)
    });
    println!("ours {ours:?}, references {theirs:?}");
    assert!(
        ours.clusters <= theirs.clusters && ours.endpoints <= theirs.endpoints,
        "ours {ours:?}, references {theirs:?}"
    );
}
