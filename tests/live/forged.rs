//! A pod that sends with the address of another pod.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use sidecarta_testkit::dns;
use sidecarta_testkit::frame::{datagram, syn};

use crate::common::expect;
use crate::frames::{request, send, syn_ack};
use crate::netns::{Net, inside};
use crate::world::{REQUEST, World, call, expected, possible, serve};

const WEB: [u8; 4] = [10, 244, 1, 10];
const CART: [u8; 4] = [10, 244, 1, 11];
const EVIL: [u8; 4] = [10, 244, 1, 12];
const FAR: [u8; 4] = [10, 9, 0, 5];
/// A pod of another node.
const OTHER: [u8; 4] = [10, 244, 7, 7];

/// All frames by which a pod can pretend that another pod has sent or received something.
fn lies(victim: [u8; 4], target: [u8; 4]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for n in 0..20 {
        let from = |port| (victim, port + n);
        all.push(syn(from(41_000), (target, 9_999), u32::from(n)));
        all.push(datagram(from(42_000), (target, 5_140), b"log"));
        all.push(datagram(from(43_000), (target, 8_080), b"x"));
        all.push(request(from(44_000), (target, 8_080)));
        // As if the target had asked for it.
        all.push(syn_ack((victim, 6_666), (target, 45_000 + n)));
        all.push(datagram((victim, 53), (target, 46_000 + n), &dns::question(n, "evil.example")));
        let answer = dns::answer(n, "evil.example", &[CART]);
        all.push(datagram((victim, 53), (target, 47_000 + n), &answer));
        all.push(datagram(from(48_000), (target, 53), &dns::question(n, "stolen.shop.svc")));
    }
    all
}

fn world() -> (World, [Net; 5]) {
    let mut world = World::new();
    let (web, cart) = world.web_and_cart();
    let evil = world.pod("evil", 12);
    let far = world.node.routed("far", "10.9.0.5");
    let mole = world.node.routed("mole", "10.9.0.6");
    world.object("far", "far-1", &["10.9.0.5"], &json!({}));
    world.object("mole", "mole-1", &["10.9.0.6"], &json!({}));
    world.service("far", "10.96.0.12", &[("10.9.0.5", 9090)]);
    serve(&far, "0.0.0.0:9090");
    // Neither kernel nor bridge drops forged packets.
    for conf in ["all", "default", "br0", "veth-far", "veth-mole"] {
        world.node.run(&format!("sysctl -qw net.ipv4.conf.{conf}.rp_filter=0"));
    }
    (world, [web, cart, evil, far, mole])
}

fn calls(web: &Net, evil: &Net, far: &Net, mole: &Net) {
    for pod in [web, evil, far, mole] {
        call(pod, "10.244.1.11:8080", REQUEST);
    }
}

fn status(world: &World) -> Value {
    let store = world.path("store").display().to_string();
    serde_json::from_str(&expect(0, &["status", "-o", "json", "--store", &store])).unwrap()
}

fn of<'a>(status: &'a Value, name: &str) -> &'a Value {
    let all = status["workloads"].as_array().unwrap();
    all.iter().find(|w| w["workload"]["name"] == name).unwrap_or_else(|| panic!("{name}: {status}"))
}

/// `known`: the node has sent to the pods before, so that it has neighbour entries for them.
fn nothing_is_learned_from_forged_packets(known: bool, more: &str) {
    let (world, [web, cart, evil, far, mole]) = world();
    if known {
        let reach = || {
            for last in [10, 11, 12] {
                let to = SocketAddr::from((Ipv4Addr::new(10, 244, 1, last), 77));
                let _ = TcpStream::connect_timeout(&to, Duration::from_secs(1));
            }
        };
        inside(&world.node.ns, reach).join().unwrap();
    }
    let agent = world.agent(&format!("--sample 1 {more}"));
    calls(&web, &evil, &far, &mole);
    send(&evil, [lies(WEB, CART), lies(FAR, CART), lies(CART, WEB), lies(OTHER, WEB)].concat());
    send(&mole, [lies(FAR, CART), lies(WEB, CART), lies(OTHER, FAR)].concat());
    // With its own address it may send anything; nothing is learned of the receiver from that.
    let own =
        |n: u16| datagram((EVIL, 53), (WEB, 47_100 + n), &dns::answer(n, "evil.example", &[CART]));
    send(&evil, (0..20).map(own).collect());
    calls(&web, &evil, &far, &mole);
    assert_eq!(agent.end(), Some(0));
    drop(cart);

    let (learned, counters) = (world.learned(), world.counters());
    let want = expected(&[
        ("web -> cart:80", 2),
        ("evil -> cart:80", 2),
        ("far -> cart:80", 2),
        ("mole -> cart:80", 2),
    ]);
    assert_eq!(learned, want, "{counters:?} {:#?}", world.rows());
    assert_eq!(world.evidence("dns-answer", 80), [""; 0], "{:#?}", world.rows());
    assert!(world.evidence("http-authority", 80).iter().all(|h| h == "cart"));
    assert_eq!(counters["forged-source"], 7 * 20 * 8, "{counters:?}");
    assert!(counters["unasked-answers"] >= 1, "{counters:?}");

    let status = status(&world);
    for (name, packets) in [("evil", 4 * 160), ("mole", 3 * 160)] {
        let of = of(&status, name);
        assert_eq!(of["watched"]["pods"], 1, "its own interface is still watched: {of}");
        let unknown = of["unknown"].to_string();
        let words = format!("sent {packets} packets with addresses that are not its own");
        assert!(unknown.contains(&words), "{unknown}");
    }
    for name in ["web", "cart", "far"] {
        let of = of(&status, name);
        assert_eq!(of["watched"]["pods"], 1, "{of}");
        assert!(!of["unknown"].to_string().contains("forged"), "{of}");
    }
    // If the node does not know the owner of an interface, `status` says so.
    let by_packets = |name| of(&status, name)["unknown"].to_string().contains("owner: packets");
    assert_eq!([by_packets("web"), by_packets("evil")], [!known; 2], "{status}");
    assert_eq!([by_packets("far"), by_packets("mole")], [false; 2], "{status}");
}

#[test]
fn nothing_is_learned_of_a_pod_from_packets_forged_with_its_address() {
    if possible() {
        nothing_is_learned_from_forged_packets(true, "");
    }
}

#[test]
fn nothing_is_learned_from_forged_packets_where_the_node_has_no_neighbour_entry() {
    if possible() {
        nothing_is_learned_from_forged_packets(false, "");
    }
}

#[test]
fn nothing_is_learned_from_forged_packets_with_one_handle_for_all_interfaces() {
    if possible() {
        nothing_is_learned_from_forged_packets(true, "--capture any");
    }
}

#[test]
fn forged_packets_raise_an_alert() {
    if !possible() {
        return;
    }
    let (world, [web, _cart, _, _, mole]) = world();
    let (store, snapshot) = (world.path("store").display().to_string(), world.snapshot());
    let run = world.start(&format!("run --cluster {snapshot} --store {store}"), "--settle 0s");
    call(&web, "10.244.1.11:8080", REQUEST);
    call(&mole, "10.244.1.11:8080", REQUEST);
    send(&mole, (0..9).map(|n| syn((WEB, 50_000 + n), (CART, 80), 5)).collect());
    assert_eq!(run.end(), Some(0));
    let alerts: Value =
        serde_json::from_str(&expect(0, &["alerts", "-o", "json", "--store", &store])).unwrap();
    let all = alerts.as_array().unwrap();
    assert_eq!(all.len(), 1, "{alerts}");
    assert_eq!(all[0]["kind"], "forged-source", "{alerts}");
    assert_eq!((&all[0]["workload"]["name"], &all[0]["connections"]), (&json!("mole"), &json!(9)));
    let text = all[0]["text"].as_str().unwrap();
    assert!(text.contains("sent 9 packets with addresses that are not its own"), "{text}");
    assert_eq!(world.dependencies(), expected(&[("web -> cart:80", 1), ("mole -> cart:80", 1)]));
}
