//! The time in which a pod was watched: what an agent vouches for, and what nobody saw.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use std::time::Duration;

use serde_json::Value;

use crate::common::expect;
use crate::world::{REQUEST, World, call, expected, possible};

/// The status of a workload of the store that a world has imported, in JSON.
pub fn status_of(world: &World, workload: &str) -> Value {
    let store = world.path("store").display().to_string();
    let status = expect(0, &["status", "-o", "json", "--store", &store]);
    let status: Value = serde_json::from_str(&status).unwrap();
    let all = status["workloads"].as_array().unwrap();
    all.iter().find(|w| w["workload"]["name"] == workload).unwrap().clone()
}

#[test]
fn a_time_without_an_agent_is_a_gap() {
    if !possible() {
        return;
    }
    let mut world = World::new();
    let (web, _cart) = world.web_and_cart();
    for seen in 1..=2 {
        let agent = world.agent("");
        call(&web, "10.244.1.11:8080", REQUEST);
        assert_eq!(agent.end(), Some(0));
        assert_eq!(world.learned(), expected(&[("web -> cart:80", seen)]));
        std::thread::sleep(Duration::from_secs(2));
    }
    let web = status_of(&world, "web");
    let watched = &web["watched"];
    assert_eq!((&watched["gaps"], &watched["lost"]), (&1.into(), &0.into()), "{web}");
    assert!(watched["gapNanoseconds"].as_u64() >= Some(2_000_000_000), "{web}");
    assert_eq!(watched["spans"].as_array().unwrap().len(), 2, "{web}");
}
