//! Devices that show other frames than a plain pod's, or fewer: tagged frames, and answers that do
//! not pass the node's side.
//!
//! Tagged frames are put on the pods' interfaces as they are, so that the kernel needs no VLAN
//! devices. What a netkit device's messages look like is tested beside their parser, as many
//! kernels have none.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use std::process::Command;

use serde_json::json;
use sidecarta_testkit::frame::{Tcp, tagged};

use crate::frames::send;
use crate::netns::ip;
use crate::world::{REQUEST, World, call, expected, possible, serve};

/// Sends the tagged frames of a call, as a pod with its own VLAN sends and receives them.
fn tagged_frames_are_learned(tags: u8, more: &str) {
    let mut world = World::new();
    let (web, cart) = (world.pod("web", 10), world.pod("cart", 11));
    world.service("cart", "10.96.0.11", &[("10.244.1.11", 8080)]);
    let (client, server) = (([10, 244, 1, 10], 40_000), ([10, 244, 1, 11], 8080));
    let agent = world.agent(more);
    let put = |net, tcp: Tcp<'_>, from, to| send(net, vec![tagged(&tcp.frame(from, to), tags)]);
    put(&web, Tcp { seq: 7, syn: true, ..Tcp::default() }, client, server);
    put(&cart, Tcp { seq: 7, ack: Some(8), syn: true, ..Tcp::default() }, server, client);
    let request = Tcp { seq: 8, ack: Some(8), psh: true, payload: REQUEST, ..Tcp::default() };
    put(&web, request, client, server);
    assert_eq!(agent.end(), Some(0));
    assert_eq!(world.learned(), expected(&[("web -> cart:80", 1)]), "{:?}", world.counters());
    let counters = world.counters();
    assert_eq!((counters["connections"], counters["learned"]), (1, 1), "{counters:?}");
    assert_eq!(world.evidence("http-authority", 80), ["cart"], "{:?}", world.rows());
}

#[test]
fn frames_with_a_vlan_tag_are_learned_from() {
    if possible() {
        tagged_frames_are_learned(1, "");
    }
}

#[test]
fn frames_with_two_vlan_tags_are_learned_from() {
    if possible() {
        tagged_frames_are_learned(2, "");
    }
}

#[test]
fn tagged_frames_are_learned_from_by_one_handle_for_all() {
    if possible() {
        tagged_frames_are_learned(1, "--capture any");
    }
}

/// The pod sends through its interface and receives the answers on another path, as where a network
/// plugin redirects them past the host's side (Cilium's host routing). Here they come over a second
/// interface that does not lead to the node.
#[test]
fn calls_are_learned_from_what_a_pod_sends_alone() {
    if !possible() {
        return;
    }
    let mut world = World::new();
    let web = world.node.routed("web", "10.9.0.10");
    let far = world.node.routed("far", "10.9.0.11");
    world.object("web", "web-1", &["10.9.0.10"], &json!({}));
    world.object("far", "far-1", &["10.9.0.11"], &json!({}));
    world.service("far", "10.96.0.11", &[("10.9.0.11", 8080)]);
    ip(&format!("-n {} link add back type veth peer name back netns {}", far.ns, web.ns));
    for ns in [&far.ns, &web.ns] {
        ip(&format!("-n {ns} link set back up"));
        let loose = "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.back.rp_filter=0 \
                     net.ipv4.conf.eth0.rp_filter=0";
        let out =
            Command::new("ip").args(["netns", "exec", ns]).args(loose.split(' ')).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    ip(&format!("-n {} addr add 10.9.1.11/24 dev back", far.ns));
    ip(&format!("-n {} addr add 10.9.1.10/24 dev back", web.ns));
    ip(&format!("-n {} route add 10.9.0.10/32 via 10.9.1.10 dev back src 10.9.0.11", far.ns));
    // An answer that came by the node all the same would not arrive.
    world.node.nft(
        "table ip t { chain c { type filter hook forward priority 0; \
                    ip saddr 10.9.0.11 drop\n}\n}\n",
    );
    serve(&far, "0.0.0.0:8080");
    let agent = world.agent("");
    (0..3).for_each(|_| call(&web, "10.9.0.11:8080", b"GET / HTTP/1.1\r\nHost: far\r\n\r\n"));
    assert_eq!(agent.end(), Some(0));
    assert_eq!(world.learned(), expected(&[("web -> far:80", 3)]), "{:?}", world.counters());
    let counters = world.counters();
    assert_eq!((counters["connections"], counters["learned"]), (3, 3), "{counters:?}");
    assert!(!counters.contains_key("midway") && !counters.contains_key("guessed"), "{counters:?}");
    assert_eq!(world.evidence("http-authority", 80), ["far"], "{:?}", world.rows());
}

/// Of a call: what opens it, the request, and what closes it. The answer is there all the same, for
/// the request acknowledges it.
#[test]
fn direction_in_reads_only_what_a_pod_sends() {
    if !possible() {
        return;
    }
    // The pods here say the request again as their answer, which begins as one does.
    for (direction, packets) in [("in", 3 * (3 + 1)), ("inout", 3 * (5 + 1))] {
        let mut world = World::new();
        let (web, _cart) = world.web_and_cart();
        let agent = world.agent(&format!("--sample 1000000 --direction {direction}"));
        (0..3).for_each(|_| call(&web, "10.244.1.11:8080", REQUEST));
        assert_eq!(agent.end(), Some(0));
        assert_eq!(world.learned(), expected(&[("web -> cart:80", 3)]), "{:?}", world.counters());
        assert_eq!(world.counters()["packets"], packets, "{direction}: {:?}", world.counters());
        assert_eq!(world.rows()[0]["unanswered"], 0, "{direction}: {:?}", world.rows());
        assert_eq!(world.evidence("http-authority", 80), ["cart"], "{direction}");
    }
    let refused = Command::new(env!("CARGO_BIN_EXE_sidecarta"))
        .args([
            "agent",
            "--node",
            "n1",
            "--to",
            "-",
            "--pods",
            &World::new().snapshot(),
            "--direction",
            "in",
            "--capture",
            "any",
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        refused.status.code() == Some(1) && said.contains("leave `--capture any` out"),
        "{said}"
    );
}
