//! Metrics, health, signals and rights.

#![allow(clippy::unwrap_used, clippy::print_stderr)] // a test that cannot go on should say where

use serde_json::json;

use crate::world::{REQUEST, World, ask, call, eventually, expected, metric, possible};

/// `CAP_NET_RAW` alone (include/uapi/linux/capability.h: 13).
const NET_RAW: u64 = 1 << 13;

#[test]
fn metrics_and_health_show_what_the_agent_does() {
    if !possible() {
        return;
    }
    let mut world = World::new();
    let (web, _) = world.web_and_cart();
    let agent = world.agent("--listen 127.0.0.1:15099");
    eventually("readiness", || ask(&world.node, "/readyz") == (200, "ready\n".to_owned()));
    assert_eq!(ask(&world.node, "/healthz"), (200, "ok\n".to_owned()));
    call(&web, "10.244.1.11:8080", REQUEST);
    let event = |name: &str| {
        metric(&world.node, &format!("sidecarta_agent_events_total{{event=\"{name}\"}}"))
    };
    eventually("the connection", || {
        event("learned") == 1 && metric(&world.node, "sidecarta_agent_edges_total") == 1
    });
    assert_eq!((event("connections"), event("ring-dropped"), event("unattributed")), (1, 0, 0));
    assert_eq!(metric(&world.node, "sidecarta_agent_interfaces"), 2);
    assert_eq!(metric(&world.node, "sidecarta_agent_view_synced"), 1);
    let (code, text) = ask(&world.node, "/metrics");
    assert_eq!(code, 200);
    assert_open_metrics(&text);
    assert_rights(agent.id());
    assert_eq!(agent.end(), Some(0));
    assert_eq!(world.learned(), expected(&[("web -> cart:80", 1)]));
}

/// Checks the text format: every line is a comment of a known kind or a sample with a number; every
/// sample belongs to the family announced before; the last line is EOF
/// (<https://prometheus.io/docs/specs/om/open_metrics_spec>).
fn assert_open_metrics(text: &str) {
    assert!(text.ends_with("# EOF\n"), "{text}");
    let mut family = String::new();
    let mut families = std::collections::BTreeSet::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.split(' ');
            let (kind, name) = (words.next().unwrap(), words.next());
            assert!(["HELP", "TYPE", "EOF"].contains(&kind), "{line}");
            if kind == "HELP" {
                family = name.unwrap().to_owned();
                assert!(families.insert(family.clone()), "{family} is announced twice");
            }
            continue;
        }
        let (sample, number) = line.rsplit_once(' ').unwrap();
        assert!(sample.starts_with(&family), "{line} does not belong to {family}");
        number.parse::<f64>().unwrap_or_else(|e| panic!("{line}: {e}"));
    }
    assert!(families.len() > 8, "{families:?}");
}

/// Checks that all threads have `CAP_NET_RAW` and no other capability.
fn assert_rights(process: u32) {
    let mut threads = 0;
    for task in std::fs::read_dir(format!("/proc/{process}/task")).unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let set = |name: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap();
            u64::from_str_radix(line.trim(), 16).unwrap()
        };
        assert_eq!(
            (set("CapEff:"), set("CapPrm:"), set("CapInh:")),
            (NET_RAW, NET_RAW, 0),
            "{status}"
        );
        threads += 1;
    }
    assert!(threads >= 3, "{threads} threads");
}

#[test]
fn a_second_signal_aborts_draining() {
    if !possible() {
        return;
    }
    let mut world = World::new();
    world.object("web", "web-1", &["10.244.1.10"], &json!({}));
    // It waits this long before the last batch is resolved.
    let run = world.start(
        &format!("run --cluster {} --store {}", world.snapshot(), world.path("store").display()),
        "--settle 15s",
    );
    run.signal("TERM");
    run.wait_for(0, "draining");
    run.signal("INT");
    let log = run.log.clone();
    assert_eq!(run.ended(), Some(1));
    let said = std::fs::read_to_string(log).unwrap();
    assert!(said.contains("aborted by SIGINT while draining"), "{said}");
}

#[test]
fn without_the_right_to_capture_the_error_says_what_to_do() {
    if !possible() {
        return;
    }
    let mut world = World::new();
    world.object("web", "web-1", &["10.244.1.10"], &json!({}));
    let agent = env!("CARGO_BIN_EXE_sidecarta");
    let out = world.path("out.ndjson").display().to_string();
    let command = format!(
        "setpriv --bounding-set -all --inh-caps -all {agent} agent --node n1 --listen none --pods \
         {} --to {out}",
        world.snapshot()
    );
    let out = world.node.command(&command).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("CAP_NET_RAW") && said.contains("setcap cap_net_raw+ep"), "{said}");
}

/// On one Ctrl-C, the terminal sends a signal, and `sudo` forwards another one.
#[test]
fn the_same_signal_twice_at_once_counts_once() {
    if !possible() {
        return;
    }
    let mut world = World::new();
    world.object("web", "web-1", &["10.244.1.10"], &json!({}));
    let run = world.start(
        &format!("run --cluster {} --store {}", world.snapshot(), world.path("store").display()),
        "--settle 1s",
    );
    run.signal("INT");
    run.wait_for(0, "draining");
    run.signal("INT");
    assert_eq!(run.ended(), Some(0));
}

#[test]
fn an_agent_on_a_node_that_does_not_exist_ends_with_a_message() {
    if !possible() {
        return;
    }
    let mut world = World::new();
    world.object("web", "web-1", &["10.244.1.10"], &json!({"spec": {"nodeName": "n2"}}));
    let (store, snapshot) = (world.path("store").display().to_string(), world.snapshot());
    let out = world.path("out.ndjson").display().to_string();
    for what in [
        format!("run --cluster {snapshot} --store {store}"),
        format!("agent --pods {snapshot} --to {out}"),
    ] {
        let agent = world.begin(&what, "");
        let log = agent.log.clone();
        assert_eq!(agent.ended(), Some(1));
        let said = std::fs::read_to_string(log).unwrap();
        assert!(said.contains("no pod of the snapshot is on a node n1, but on n2"), "{said}");
    }
}

#[test]
fn the_limit_of_descriptors_is_raised_and_logged() {
    if !possible() {
        return;
    }
    let mut world = World::new();
    let (web, _cart) = world.web_and_cart();
    world.through = "prlimit --nofile=24:3000";
    let agent = world.agent("");
    agent.wait_for(0, "limit=3000");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", agent.id())).unwrap();
    let of = limits.lines().find(|l| l.starts_with("Max open files")).unwrap();
    assert_eq!(of.split_whitespace().nth(3), Some("3000"), "{limits}");
    call(&web, "10.244.1.11:8080", REQUEST);
    assert_eq!(agent.end(), Some(0));
    assert_eq!(world.learned(), expected(&[("web -> cart:80", 1)]));
}

/// If descriptors are too few even after the limit was raised, interfaces that cannot be opened are
/// counted and tried again.
#[test]
fn interfaces_without_a_descriptor_are_counted() {
    if !possible() {
        return;
    }
    let mut world = World::new();
    world.web_and_cart();
    for n in 0..20 {
        world.node.bridged(&format!("p{n}"), 100 + n);
    }
    world.through = "prlimit --nofile=24:24";
    let agent = world.agent("");
    agent.wait_for(0, "no handle for one more interface");
    assert_eq!(agent.end(), Some(0));
    assert!(world.counters()["interfaces-not-opened"] > 0, "{:?}", world.counters());
}
