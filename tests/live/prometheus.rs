//! A real Prometheus scrapes the metrics and evaluates the alerting rules of the project.

#![allow(clippy::unwrap_used, clippy::print_stderr)] // a test that cannot go on should say where

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use sidecarta::model::{Source, Spans};

use crate::api::Api;
use crate::world::{REQUEST, World, call, eventually, get, possible, serve};

/// The project's rules.
const RULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus-rules.yaml");

/// Whether a program of Prometheus is installed. If not, this prints that the test did not run; in
/// CI the test fails.
fn installed(program: &str) -> bool {
    let is = Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success());
    if !is {
        assert!(std::env::var_os("CI").is_none(), "{program} is not installed: run `./setup test`");
        // This bypasses the test harness, which hides the output of tests that pass.
        let _ =
            writeln!(std::io::stderr(), "NOT RUN: {program} is not installed: run `./setup test`");
    }
    is
}

/// A process that is killed when this value is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(world: &World, command: &str) -> Running {
    let mut command = world.node.command(command);
    command
        .env("KUBECONFIG", world.kubeconfig.as_ref().unwrap())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Running(command.spawn().unwrap())
}

/// The answer of Prometheus.
fn asked(world: &World, path: &str) -> Value {
    let (code, body) = get(&world.node, "127.0.0.1:9090", &format!("/api/v1/{path}"));
    assert_eq!(code, 200, "{path}: {body}");
    serde_json::from_str::<Value>(&body).unwrap()["data"].take()
}

/// Metrics by their full names with the names of their labels, as docs/metrics.md documents them.
fn documented() -> BTreeMap<String, Option<String>> {
    let text = include_str!("../../docs/metrics.md");
    let section = text.split_once("## Metrics").unwrap().1;
    let (mut all, mut prefix) = (BTreeMap::new(), "");
    for row in section.lines().filter_map(|l| l.strip_prefix("| ")) {
        let names = row.split_once(" |").unwrap().0.split('`').skip(1).step_by(2);
        for name in names {
            match name.strip_suffix('…') {
                Some(of) => prefix = of,
                None => {
                    let (name, label) = name
                        .strip_suffix('}')
                        .and_then(|n| n.split_once('{'))
                        .map_or((name, None), |(n, l)| (n, Some(l)));
                    all.insert(format!("{prefix}{name}"), label.map(str::to_owned));
                }
            }
        }
    }
    all
}

#[test]
fn prometheus_scrapes_agent_and_recorder_and_fires_the_rules() {
    if !possible() || !installed("prometheus") {
        return;
    }
    let mut world = World::new();
    let (web, _cart) = world.web_and_cart();
    let db = world.node.bridged("db", 12);
    world.object("db", "db-1", &["10.244.1.12"], &json!({}));
    world.service("db", "10.96.0.12", &[("10.244.1.12", 5432)]);
    serve(&db, "0.0.0.0:5432");
    let api = Api::start(&mut world);
    api.add_objects(&world);
    let program = env!("CARGO_BIN_EXE_sidecarta");
    let store = world.path("store");
    let _recorder = start(
        &world,
        &format!(
            "{program} recorder --no-auth --address 127.0.0.1:15098 --listen 127.0.0.1:15097 --settle 10ms --store {}",
            store.display()
        ),
    );
    let _agent =
        world.start("agent --to http://127.0.0.1:15098 --capture any", "--listen 127.0.0.1:15099");
    let target = |job: &str, port: u16| json!({"job_name": job, "static_configs": [{"targets": [format!("127.0.0.1:{port}")]}]});
    let config = json!({
        "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"},
        "rule_files": [RULES],
        "scrape_configs": [target("sidecarta-agent", 15099), target("sidecarta-recorder", 15097)],
    });
    let file = world.path("prometheus.yml");
    std::fs::write(&file, config.to_string()).unwrap();
    let _prometheus = start(
        &world,
        &format!(
            "prometheus --config.file={} --storage.tsdb.path={} --web.listen-address=127.0.0.1:9090",
            file.display(),
            world.path("tsdb").display()
        ),
    );
    eventually("Prometheus", || get(&world.node, "127.0.0.1:9090", "/-/ready").0 == 200);
    let up = || {
        let targets = asked(&world, "targets?state=active");
        let of = |t: &Value| {
            (
                t["labels"]["job"].as_str().unwrap().to_owned(),
                t["health"].as_str().unwrap().to_owned(),
            )
        };
        targets["activeTargets"].as_array().unwrap().iter().map(of).collect::<BTreeSet<_>>()
    };
    let both =
        ["sidecarta-agent", "sidecarta-recorder"].map(|job| (job.to_owned(), "up".to_owned()));
    eventually("both targets", || up() == both.clone().into());

    call(&web, "10.244.1.11:8080", REQUEST);
    let value = |metric: &str| -> Option<f64> {
        let found = asked(&world, &format!("query?query={metric}"));
        found["result"][0]["value"][1].as_str()?.parse().ok()
    };
    eventually("the edge", || value("sidecarta_recorder_edges_total").is_some_and(|n| n >= 1.0));
    // The names are exactly the documented ones.
    let documented = documented();
    assert!(documented.len() > 25, "{documented:?}");
    for (metric, label) in &documented {
        let series = || {
            asked(&world, &format!("query?query={metric}"))["result"].as_array().unwrap().clone()
        };
        // The last change is visible after the next scrape.
        eventually(&format!("the documented {metric}"), || !series().is_empty());
        for one in series() {
            let labels: BTreeSet<&str> =
                one["metric"].as_object().unwrap().keys().map(String::as_str).collect();
            let expected =
                ["__name__", "instance", "job"].into_iter().chain(label.as_deref()).collect();
            assert_eq!(labels, expected, "{metric}");
        }
    }
    let names = asked(&world, "label/__name__/values");
    let own = names
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .filter(|n| n.starts_with("sidecarta_"));
    let undocumented: Vec<&str> = own.filter(|n| !documented.contains_key(*n)).collect();
    assert!(undocumented.is_empty(), "{undocumented:?}");

    // The rule on losses agrees with the definition of a loss.
    let rules: Value = sidecarta::yaml::from_str(&std::fs::read_to_string(RULES).unwrap()).unwrap();
    let all =
        rules["groups"].as_array().unwrap().iter().flat_map(|g| g["rules"].as_array().unwrap());
    let losses = all.clone().find(|r| r["alert"] == "SidecartaLossesGrow").unwrap()["expr"]
        .as_str()
        .unwrap();
    let not_lost: BTreeSet<&str> = losses.split('"').nth(1).unwrap().split('|').collect();
    let events = asked(&world, "label/event/values?match%5B%5D=sidecarta_agent_events_total");
    for event in events.as_array().unwrap().iter().filter_map(Value::as_str) {
        let counters = [(event.to_owned(), 1)].into();
        let source = Source {
            source: String::new(),
            label: String::new(),
            spans: Spans::default(),
            counters,
        };
        assert_eq!(source.losses().next().is_none(), not_lost.contains(event), "{event}");
    }

    // A dependency that was not accepted makes the rule fire.
    let firing = || -> BTreeSet<String> {
        let alerts = asked(&world, "alerts");
        let firing = alerts["alerts"].as_array().unwrap().iter().filter(|a| a["state"] == "firing");
        firing.map(|a| a["labels"]["alertname"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(firing(), BTreeSet::new());
    let accept = format!("{program} accept --recorder http://127.0.0.1:15098");
    let accepted = world.node.command(&accept).output().unwrap();
    assert!(
        String::from_utf8_lossy(&accepted.stdout).contains("shop/web: 1 dependencies accepted"),
        "{accepted:?}"
    );
    call(&web, "10.244.1.12:5432", REQUEST);
    eventually("the alert", || firing() == BTreeSet::from(["SidecartaNewDependency".to_owned()]));
}

#[test]
fn each_rule_fires_when_it_should_and_not_before() {
    if !installed("promtool") {
        return;
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/live/prometheus-rules.test.yaml");
    for args in [vec!["check", "rules", RULES], vec!["test", "rules", file]] {
        let out = Command::new("promtool").args(&args).output().unwrap();
        let said = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success() && said.contains("SUCCESS"), "{args:?}: {said}");
    }
    // The test has each rule.
    let rules: Value = sidecarta::yaml::from_str(&std::fs::read_to_string(RULES).unwrap()).unwrap();
    let tested = std::fs::read_to_string(file).unwrap();
    let all =
        rules["groups"].as_array().unwrap().iter().flat_map(|g| g["rules"].as_array().unwrap());
    for name in all.map(|r| r["alert"].as_str().unwrap()) {
        let cases = tested.matches(&format!("alertname: {name}\n")).count();
        assert!(cases >= 2, "{name} is tested {cases} times: once firing, once not");
    }
}
