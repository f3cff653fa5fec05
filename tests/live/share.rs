//! A pod that calls more than an agent takes of one pod, beside others.

#![allow(clippy::unwrap_used, clippy::print_stderr)] // a test that cannot go on should say where

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use sidecarta_testkit::frame::{datagram, syn};
use sidecarta_testkit::{dns, memory};

use crate::common::expect;
use crate::netns::{Net, inside};
use crate::world::{REQUEST, World, call, metric, possible};

const SCAN: [u8; 4] = [10, 244, 1, 12];
/// Destinations, and as many names.
const MANY: u32 = 200_000;

/// The pod calls [`MANY`] addresses and asks for as many names, through its gateway. Gives how long
/// that took.
fn scan_all(pod: &Net, gateway: [u8; 6]) -> JoinHandle<Duration> {
    inside(&pod.ns, move || {
        let mut interface = pcap::Capture::from_device("eth0").unwrap().open().unwrap();
        let begun = Instant::now();
        for n in 0..MANY {
            let [a, b, c, d] = n.to_be_bytes();
            let port = 20_000 + (n % 40_000) as u16;
            let name = format!("host-{n}.{}.scan{}.example", "x".repeat(40), n % 100);
            let question = dns::question(n as u16, &name);
            for mut frame in [
                syn((SCAN, port), ([11 + a, b, c, d], 443), n),
                datagram((SCAN, port), ([10, 244, 1, 53], 53), &question),
            ] {
                frame[..6].copy_from_slice(&gateway);
                interface.sendpacket(frame.as_slice()).unwrap();
            }
        }
        begun.elapsed()
    })
}

#[test]
fn a_pod_that_scans_takes_neither_memory_nor_the_share_of_others() {
    if !possible() {
        return;
    }
    let mut world = World::new();
    let (web, _cart) = world.web_and_cart();
    let scan = world.pod("scan", 12);
    let agent = world.agent("--sample 1 --listen 127.0.0.1:15099");
    call(&scan, "10.244.1.11:8080", REQUEST);
    let scanning = scan_all(&scan, world.node.mac("br0"));
    let quiet = 60;
    for _ in 0..quiet {
        call(&web, "10.244.1.11:8080", REQUEST);
        std::thread::sleep(Duration::from_millis(50));
    }
    let took = scanning.join().unwrap();
    // By now everything was reported. On a busy machine the kernel drops most of the frames, and
    // the share is not full: then the pod scans again.
    std::thread::sleep(Duration::from_secs(4));
    let folded = |event: &str| {
        metric(&world.node, &format!("sidecarta_agent_events_total{{event=\"{event}\"}}")) > 0
    };
    for _ in 0..10 {
        if folded("connections-folded") && folded("names-folded") {
            break;
        }
        scan_all(&scan, world.node.mac("br0")).join().unwrap();
        std::thread::sleep(Duration::from_secs(4));
    }
    let interfaces = metric(&world.node, "sidecarta_agent_interfaces");
    let peak = memory::kib(agent.id(), "VmHWM").unwrap();
    assert_eq!(agent.end(), Some(0));
    eprintln!("{MANY} destinations and names in {took:?}; the agent took {} MB", peak / 1024);
    assert!(peak < 100 * 1024, "{peak} kB");
    assert_eq!(interfaces, 3);
    let learned = world.learned();
    // A connection that was evicted from the full flow table is found again midway, and counts
    // twice.
    let twice = world.counters().get("midway").copied().unwrap_or(0);
    let calls = learned.get("web -> cart:80").copied().unwrap_or(0);
    assert!((quiet..=quiet + twice).contains(&calls), "{calls}: {:?}", world.counters());
    assert_eq!(learned.get("scan -> cart:80"), Some(&1), "{:?}", world.counters());
    let counters = world.counters();
    assert!(counters["connections-folded"] > 0 && counters["names-folded"] > 0, "{counters:?}");

    let store = world.path("store").display().to_string();
    let status: Value =
        serde_json::from_str(&expect(0, &["status", "-o", "json", "--store", &store])).unwrap();
    let of = |name: &str| {
        let all = status["workloads"].as_array().unwrap();
        all.iter().find(|w| w["workload"]["name"] == name).unwrap()["unknown"].to_string()
    };
    assert!(of("scan").contains("what it calls is not known in full"), "{}", of("scan"));
    assert!(!of("web").contains("not known in full"), "{}", of("web"));
}
