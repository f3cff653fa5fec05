//! A real Prometheus scrapes the metrics and evaluates the alerting rules of the project.

#![allow(clippy::unwrap_used, clippy::print_stderr)] // a test that cannot go on should say where

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use sidecarta::model::{Source, Spans};

use crate::api::Api;
use crate::netns::Net;
use crate::world::{Agent, REQUEST, World, call, eventually, get, possible, serve};

const PROGRAM: &str = env!("CARGO_BIN_EXE_sidecarta");
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

/// A mesh with an agent, a recorder and a Prometheus that scrapes both. They end with this value.
struct Monitored {
    _prometheus: Running,
    _agent: Agent,
    _recorder: Running,
    _api: Api,
    _called: [Net; 2],
    web: Net,
    world: World,
}

impl Monitored {
    fn new() -> Self {
        let mut world = World::new();
        let (web, cart) = world.web_and_cart();
        let db = world.pod("db", 12);
        world.service("db", "10.96.0.12", &[("10.244.1.12", 5432)]);
        serve(&db, "0.0.0.0:5432");
        let api = Api::start(&mut world);
        api.add_objects(&world);
        let recorder = start(
            &world,
            &format!(
                "{PROGRAM} recorder --no-auth --address 127.0.0.1:15098 \
                 --listen 127.0.0.1:15097 --settle 10ms --store {}",
                world.path("store").display()
            ),
        );
        let to = "agent --to http://127.0.0.1:15098 --capture any";
        let agent = world.start(to, "--listen 127.0.0.1:15099");
        let prometheus = prometheus(&world);
        Self {
            _prometheus: prometheus,
            _agent: agent,
            _recorder: recorder,
            _api: api,
            _called: [cart, db],
            web,
            world,
        }
    }

    /// The targets of Prometheus, and how they are.
    fn targets(&self) -> BTreeSet<(String, String)> {
        let targets = asked(&self.world, "targets?state=active");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let of = |t: &Value| (text(&t["labels"]["job"]), text(&t["health"]));
        targets["activeTargets"].as_array().unwrap().iter().map(of).collect()
    }

    /// The series of a metric.
    fn series(&self, metric: &str) -> Vec<Value> {
        let found = asked(&self.world, &format!("query?query={metric}"));
        found["result"].as_array().unwrap().clone()
    }

    /// The value of a metric that has one series.
    fn value(&self, metric: &str) -> Option<f64> {
        self.series(metric).first()?["value"][1].as_str()?.parse().ok()
    }

    /// Names of the rules that fire.
    fn firing(&self) -> BTreeSet<String> {
        let alerts = asked(&self.world, "alerts");
        let firing = alerts["alerts"].as_array().unwrap().iter().filter(|a| a["state"] == "firing");
        firing.map(|a| a["labels"]["alertname"].as_str().unwrap().to_owned()).collect()
    }

    fn assert_metrics_are_exactly_the_documented_ones(&self) {
        let documented = documented();
        assert!(documented.len() > 25, "{documented:?}");
        for (metric, label) in &documented {
            // The last change is visible after the next scrape.
            eventually(&format!("the documented {metric}"), || !self.series(metric).is_empty());
            for one in self.series(metric) {
                let labels: BTreeSet<&str> =
                    one["metric"].as_object().unwrap().keys().map(String::as_str).collect();
                let expected =
                    ["__name__", "instance", "job"].into_iter().chain(label.as_deref()).collect();
                assert_eq!(labels, expected, "{metric}");
            }
        }
        let names = asked(&self.world, "label/__name__/values");
        let names = names.as_array().unwrap().iter().filter_map(Value::as_str);
        let own = names.filter(|n| n.starts_with("sidecarta_"));
        let undocumented: Vec<&str> = own.filter(|n| !documented.contains_key(*n)).collect();
        assert!(undocumented.is_empty(), "{undocumented:?}");
    }

    /// The rule on losses agrees with the definition of a loss.
    fn assert_rule_on_losses_excludes_what_is_no_loss(&self) {
        let rules = rules();
        let losses = rules.iter().find(|r| r["alert"] == "SidecartaLossesGrow").unwrap();
        let losses = losses["expr"].as_str().unwrap();
        let not_lost: BTreeSet<&str> = losses.split('"').nth(1).unwrap().split('|').collect();
        let path = "label/event/values?match%5B%5D=sidecarta_agent_events_total";
        let events = asked(&self.world, path);
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
    }

    fn accept(&self) {
        let accept = format!("{PROGRAM} accept --recorder http://127.0.0.1:15098");
        let accepted = self.world.node.command(&accept).output().unwrap();
        assert!(
            String::from_utf8_lossy(&accepted.stdout).contains("shop/web: 1 dependencies accepted"),
            "{accepted:?}"
        );
    }
}

/// A Prometheus that is ready, with the project's rules.
fn prometheus(world: &World) -> Running {
    let target = |job: &str, port: u16| {
        json!({"job_name": job,
        "static_configs": [{"targets": [format!("127.0.0.1:{port}")]}]})
    };
    let often = "200ms";
    let config = json!({
        "global": {
            "scrape_interval": often, "scrape_timeout": often, "evaluation_interval": often,
        },
        "rule_files": [RULES],
        "scrape_configs": [target("sidecarta-agent", 15099), target("sidecarta-recorder", 15097)],
    });
    let file = world.path("prometheus.yml");
    std::fs::write(&file, config.to_string()).unwrap();
    let prometheus = start(
        world,
        &format!(
            "prometheus --config.file={} --storage.tsdb.path={} \
             --web.listen-address=127.0.0.1:9090",
            file.display(),
            world.path("tsdb").display()
        ),
    );
    eventually("Prometheus", || get(&world.node, "127.0.0.1:9090", "/-/ready").0 == 200);
    prometheus
}

/// The rules of the project, of all groups.
fn rules() -> Vec<Value> {
    let rules: Value = sidecarta::yaml::from_str(&std::fs::read_to_string(RULES).unwrap()).unwrap();
    let groups = rules["groups"].as_array().unwrap().iter();
    groups.flat_map(|g| g["rules"].as_array().unwrap().clone()).collect()
}

#[test]
fn prometheus_scrapes_agent_and_recorder_and_fires_the_rules() {
    if !possible() || !installed("prometheus") {
        return;
    }
    let mesh = Monitored::new();
    let both = ["sidecarta-agent", "sidecarta-recorder"].map(|job| (job.into(), "up".into()));
    eventually("both targets", || mesh.targets() == both.clone().into());
    call(&mesh.web, "10.244.1.11:8080", REQUEST);
    eventually("the edge", || {
        mesh.value("sidecarta_recorder_edges_total").is_some_and(|n| n >= 1.0)
    });
    mesh.assert_metrics_are_exactly_the_documented_ones();
    mesh.assert_rule_on_losses_excludes_what_is_no_loss();
    // A dependency that was not accepted makes the rule fire.
    assert_eq!(mesh.firing(), BTreeSet::new());
    mesh.accept();
    call(&mesh.web, "10.244.1.12:5432", REQUEST);
    let new = BTreeSet::from(["SidecartaNewDependency".to_owned()]);
    eventually("the alert", || mesh.firing() == new);
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
    let tested = std::fs::read_to_string(file).unwrap();
    for name in rules().iter().map(|r| r["alert"].as_str().unwrap()) {
        let cases = tested.matches(&format!("alertname: {name}\n")).count();
        assert!(cases >= 2, "{name} is tested {cases} times: once firing, once not");
    }
}
