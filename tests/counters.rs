//! The documents and the alerting rules agree with the definition of each counter.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};

use sidecarta::model::counter::{self, CountedBy, Counter};
use sidecarta_capture::loss::CaptureCounters;

/// Rows of the tables of events: unit and whether it is a loss, by name.
fn documented() -> BTreeMap<&'static str, (&'static str, &'static str)> {
    let text = include_str!("../docs/metrics.md");
    let events = text.split("## Events").nth(1).unwrap().split("## Metrics").next().unwrap();
    let rows = events.lines().filter(|l| l.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        (cells[1].trim_matches('`'), (cells[2], cells[3]))
    })
    .collect()
}

#[test]
fn each_counter_is_documented_with_its_unit_and_whether_it_is_a_loss() {
    let documented = documented();
    let names: BTreeSet<&str> = counter::ALL.iter().map(|c| c.name).collect();
    assert_eq!(documented.keys().copied().collect::<BTreeSet<_>>(), names);
    for Counter { name, unit, is_loss, .. } in counter::ALL {
        let want = (unit.to_string(), if *is_loss { "yes" } else { "no" });
        assert_eq!(documented[name], (&*want.0, want.1), "{name}");
    }
}

#[test]
fn the_alerting_rule_excludes_exactly_the_counters_that_are_no_loss() {
    let rules = include_str!("../deploy/prometheus-rules.yaml");
    let list = rules.split("events_total{event!~\"").nth(1).unwrap().split('"').next().unwrap();
    let passed: BTreeSet<&str> = list.split('|').collect();
    let agents = counter::ALL.iter().filter(|c| c.by <= CountedBy::Agent);
    let facts: BTreeSet<&str> = agents.filter(|c| !c.is_loss).map(|c| c.name).collect();
    assert_eq!(passed, facts);
}

#[test]
fn every_counter_of_the_capture_layer_is_defined() {
    let reported: BTreeSet<&str> =
        CaptureCounters::default().named().iter().map(|(name, _)| *name).collect();
    let defined = counter::ALL.iter().filter(|c| c.by == CountedBy::Capture).map(|c| c.name);
    assert_eq!(reported, defined.collect());
}
