//! `scope`, `generate`, `explain` and `forecast` as a user types them, on a small mesh with a bit
//! of everything.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod common;
#[path = "scope_cli/generate.rs"]
mod generate;
#[path = "scope_cli/lab.rs"]
mod lab;

use common::{expect, run};
use lab::{Lab, said};
use serde_json::{Value, json};

/// What `scope` gives in JSON.
fn scope(args: &[&str]) -> Value {
    serde_json::from_str(&expect(0, &[&["scope", "-o", "json"], args].concat())).unwrap()
}

/// What `scope` gives for a call of `web-1` under a Sidecar that lists the Service alone, and not
/// the namespace of its VirtualService.
fn scope_of_the_service_alone(lab: &Lab) -> Value {
    let sidecar = lab.file(
        "try.yaml",
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\n\
         metadata: {namespace: shop, name: try}\nspec:\n  \
         egress: [{hosts: ['prod/reviews.prod.svc.cluster.local']}]\n",
    );
    let (mesh, sidecar) = (lab.mesh(), sidecar.display().to_string());
    let call = "reviews.prod:9080";
    scope(&["--cluster", &mesh, "shop/web-1", "--sidecar", &sidecar, "--call", call])
}

#[test]
fn scope_shows_the_route_of_a_call_under_a_given_sidecar() {
    let got = scope_of_the_service_alone(&Lab::new(""));
    assert_eq!(got["sidecar"], json!({"namespace": "shop", "name": "try"}));
    assert_eq!(got["calls"][0]["route"]["virtualServices"], json!([]));
    assert_eq!(
        got["calls"][0]["route"]["clusters"],
        json!(["outbound|9080||reviews.prod.svc.cluster.local"])
    );
}

#[test]
fn scope_says_why_a_virtual_service_is_not_in_scope() {
    let got = scope_of_the_service_alone(&Lab::new(""));
    let missing = got["virtualServicesNotInScope"].as_array().unwrap();
    assert!(missing.iter().any(|m| m["virtualService"] == "central/reviews"
        && m["why"].as_str().unwrap().contains("central/reviews.prod")));
}

#[test]
fn scope_without_a_sidecar_has_the_virtual_service_of_a_central_namespace() {
    let lab = Lab::new("");
    let got = scope(&["--cluster", &lab.mesh(), "shop/web", "--call", "http://reviews.prod:9080"]);
    assert_eq!(got["sidecar"], Value::Null);
    assert_eq!(got["calls"][0]["route"]["virtualServices"], json!(["central/reviews"]));
}

#[test]
fn the_table_of_scope_names_the_virtual_service_of_a_call() {
    let lab = Lab::new("");
    let call = ["--call", "reviews.prod:9080"];
    let table = expect(0, &[&["scope", "--cluster", &lab.mesh(), "shop/web"], &call[..]].concat());
    assert!(table.contains("by central/reviews"), "{table}");
}

#[test]
fn scope_says_what_is_wrong_with_its_arguments() {
    let lab = Lab::new("");
    let mesh = lab.mesh();
    for (args, part) in [
        (vec!["scope", "--cluster", &mesh, "web"], "write NAMESPACE/POD"),
        (vec!["scope", "--cluster", &mesh, "shop/none"], "of shop there are"),
        (vec!["scope", "--cluster", &mesh, "shop/web", "--call", "reviews"], "is no call"),
        (vec!["scope", "--cluster", &mesh, "shop/web", "--sidecar", &mesh], "is no Sidecar"),
    ] {
        let out = run(&args);
        assert_eq!(out.status.code(), Some(1), "{args:?}");
        let said = said(&out);
        assert!(said.contains(part), "{part} is missing in {said}");
    }
}

/// Runs a command on the calls of `web` to `reviews` and to a host that nobody has.
fn with_calls(command: &[&str], subject: &[&str]) -> std::process::Output {
    let lab = Lab::new("");
    let calls = [("shop/web", "reviews.prod", 9080), ("shop/web", "nowhere.example.test", 80)];
    let (mesh, calls) = (lab.mesh(), lab.calls(&calls));
    let source = ["--cluster", &mesh, "--calls", &calls];
    run(&[command, &source[..], subject].concat())
}

/// What it prints, where it succeeds.
fn printed(command: &[&str], subject: &[&str]) -> String {
    let out = with_calls(command, subject);
    assert_eq!(out.status.code(), Some(0), "{}", said(&out));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn the_forecast_has_fewer_clusters_after_than_today() {
    let got: Value = serde_json::from_str(&printed(&["forecast", "-o", "json"], &[])).unwrap();
    let totals = &got["totals"];
    assert!(
        totals["after"]["clusters"].as_u64() < totals["before"]["clusters"].as_u64(),
        "{totals}"
    );
    assert_eq!(totals["today"], totals["before"], "nothing applies today");
}

#[test]
fn explain_names_what_asks_for_each_host_and_what_is_not_covered() {
    let text = printed(&["explain"], &["shop/web"]);
    assert!(
        text.contains("central/reviews.prod.svc.cluster.local")
            && text.contains("VirtualService central/reviews"),
        "{text}"
    );
    assert!(text.contains("not covered") && text.contains("nowhere.example.test"), "{text}");
}

#[test]
fn explain_of_one_host_has_no_other() {
    let one = printed(&["explain"], &["shop/web", "reviews.prod.svc.cluster.local"]);
    assert!(one.contains("central/reviews.prod") && !one.contains("nowhere"), "{one}");
}

#[test]
fn explain_of_a_host_that_concerns_no_call_fails() {
    let none = with_calls(&["explain"], &["shop/web", "details"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(said(&none).contains("concerns details"));
}

/// What `scope` gives where a Sidecar has egress hosts that istiod's validation refuses.
fn scope_with_refused_hosts() -> std::process::Output {
    let odd = "apiVersion: networking.istio.io/v1\nkind: Sidecar\n\
               metadata: {namespace: data, name: odd}\nspec:\n  egress: [{hosts: \
               ['prod/reviews', 'a/b/c.d', 'prod/rev.*.x', \
               'prod/ratings.prod.svc.cluster.local']}]\n";
    let out = run(&["scope", "--cluster", &Lab::new(odd).mesh(), "data/db"]);
    assert_eq!(out.status.code(), Some(0));
    out
}

#[test]
fn objects_that_istiod_refuses_are_named_with_the_rule() {
    let said = said(&scope_with_refused_hosts());
    for part in [
        "Sidecar data/odd: istiod's validation refuses it",
        "short names",
        "exactly one slash",
        "left-most label",
    ] {
        assert!(said.contains(part), "{part} is missing in {said}");
    }
}

/// As istiod treats it.
#[test]
fn of_an_object_that_istiod_refuses_the_entries_that_mean_something_count() {
    let out = scope_with_refused_hosts();
    assert!(String::from_utf8_lossy(&out.stdout).contains("ratings.prod.svc.cluster.local"));
}
