//! Pods that exist before the agent, that are created and deleted, on every kind of network.

#![allow(clippy::unwrap_used, clippy::print_stderr)] // a test that cannot go on should say where

use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::netns::inside;
use crate::world::{REQUEST, World, call, expected, possible, serve};

/// Pods behind a bridge and pods with their own routes call each other by IPv4 and IPv6.
fn every_kind_of_network(more: &str) {
    let mut world = World::new();
    let (web, cart) = (world.node.bridged("web", 10), world.node.bridged("cart", 11));
    let far = world.node.routed("far", "10.9.0.5");
    world.object("web", "web-1", &["10.244.1.10", "fd00:1::a"], &json!({}));
    world.object("cart", "cart-1", &["10.244.1.11", "fd00:1::b"], &json!({}));
    world.object("far", "far-1", &["10.9.0.5"], &json!({}));
    world.service("cart", "10.96.0.11", &[("10.244.1.11", 8080), ("fd00:1::b", 8080)]);
    world.service("far", "10.96.0.12", &[("10.9.0.5", 9090)]);
    serve(&cart, "[::]:8080");
    serve(&far, "0.0.0.0:9090");
    let agent = world.agent(more);
    call(&web, "10.244.1.11:8080", REQUEST);
    call(&web, "[fd00:1::b]:8080", REQUEST);
    call(&web, "10.9.0.5:9090", b"not http");
    call(&far, "10.244.1.11:8080", REQUEST);
    assert_eq!(agent.end(), Some(0));
    let want = expected(&[("far -> cart:80", 1), ("web -> cart:80", 2), ("web -> far:80", 1)]);
    assert_eq!(world.learned(), want, "{:?}", world.counters());
    let counters = world.counters();
    assert_eq!((counters["connections"], counters["learned"]), (4, 4), "{counters:?}");
    for lost in
        ["midway", "guessed", "unattributed", "from-outside", "ring-dropped", "interfaces-failed"]
    {
        assert!(!counters.contains_key(lost), "{counters:?}");
    }
}

#[test]
fn pods_of_every_kind_of_network_are_learned() {
    if possible() {
        every_kind_of_network("");
    }
}

#[test]
fn one_handle_for_all_interfaces_learns_the_same() {
    if possible() {
        every_kind_of_network("--capture any");
    }
}

#[test]
fn the_first_connection_of_a_new_pod_is_learned() {
    if !possible() {
        return;
    }
    let mut world = World::new();
    let cart = world.pod("cart", 11);
    world.service("cart", "10.96.0.11", &[("10.244.1.11", 8080)]);
    for n in 0..4 {
        world.object(
            &format!("new{n}"),
            &format!("new{n}-1"),
            &[&format!("10.244.1.{}", 20 + n)],
            &json!({}),
        );
    }
    serve(&cart, "0.0.0.0:8080");
    let agent = world.agent("--log debug");
    for n in 0..4u8 {
        // Packet sockets by the interface that they are bound to: the fifth field
        // (net/packet/af_packet.c).
        let watch = inside(&world.node.ns, move || {
            let until = Instant::now() + Duration::from_secs(3);
            let mut seen: Vec<(u32, Instant)> = Vec::new();
            while Instant::now() < until && seen.len() < 2 + usize::from(n) {
                let text = std::fs::read_to_string("/proc/thread-self/net/packet").unwrap();
                for line in text.lines().skip(1) {
                    let index = line.split_whitespace().nth(4).unwrap().parse().unwrap();
                    if index != 0 && !seen.iter().any(|(i, _)| *i == index) {
                        seen.push((index, Instant::now()));
                    }
                }
                std::thread::sleep(Duration::from_micros(100));
            }
            seen
        });
        let new = world.node.bridged(&format!("new{n}"), 20 + n);
        call(&new, "10.244.1.11:8080", REQUEST);
        let index = world.node.index(&new.host_side);
        let seen = watch.join().unwrap();
        let opened = seen
            .iter()
            .find(|(i, _)| *i == index)
            .unwrap_or_else(|| panic!("{} is not opened: {seen:?}", new.host_side))
            .1;
        let took = opened.saturating_duration_since(new.up);
        eprintln!("opened {took:?} after the command that brought {} up began", new.host_side);
        assert!(took < Duration::from_secs(1));
    }
    assert!(agent.log().contains("watched interface=veth-new0"), "{}", agent.log());
    assert_eq!(agent.end(), Some(0));
    let want: Vec<(String, u64)> = (0..4).map(|n| (format!("new{n} -> cart:80"), 1)).collect();
    assert_eq!(world.learned(), want.into_iter().collect(), "{:?}", world.counters());
}

#[test]
fn the_last_connection_of_a_deleted_pod_is_learned() {
    if !possible() {
        return;
    }
    let mut world = World::new();
    world.cart();
    let pods: Vec<_> = (0..5u8).map(|n| world.node.bridged(&format!("old{n}"), 30 + n)).collect();
    for n in 0..5 {
        world.object(
            &format!("old{n}"),
            &format!("old{n}-1"),
            &[&format!("10.244.1.{}", 30 + n)],
            &json!({}),
        );
    }
    let agent = world.agent("");
    for pod in &pods {
        call(pod, "10.244.1.11:8080", REQUEST);
        // The node itself refuses this: no other pod's interface sees it.
        let refused = || {
            TcpStream::connect_timeout(&"10.244.1.1:77".parse().unwrap(), Duration::from_secs(1))
                .is_err()
        };
        assert!(inside(&pod.ns, refused).join().unwrap());
        let over = Instant::now();
        world.node.ip(&format!("link del {}", pod.host_side));
        eprintln!(
            "deleting {} took {:?} after its last connection, all in all",
            pod.host_side,
            over.elapsed()
        );
    }
    assert_eq!(agent.end(), Some(0));
    let want: Vec<(String, u64)> = (0..5)
        .flat_map(|n| [(format!("old{n} -> cart:80"), 1), (format!("old{n} -> 10.244.1.1:77"), 1)])
        .collect();
    assert_eq!(world.learned(), want.into_iter().collect(), "{:?}", world.counters());
}
