//! Much traffic, connections older than the agent, addresses of Services, and kernel drops.

#![allow(clippy::unwrap_used, clippy::print_stderr)] // a test that cannot go on should say where

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::coverage::status_of;
use crate::netns::{Net, inside};
use crate::world::{REQUEST, World, call, eventually, exchange, expected, metric, possible, serve};

/// Answers one request per connection as an HTTP server does, on a few threads.
fn serve_many(net: &Net, address: &str) {
    let address: SocketAddr = address.parse().unwrap();
    let listener = inside(&net.ns, move || TcpListener::bind(address).unwrap()).join().unwrap();
    for _ in 0..3 {
        let listener = listener.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            for mut stream in listener.incoming().flatten() {
                if let Ok(1..) = stream.read(&mut buffer) {
                    let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
                }
            }
        });
    }
}

/// Sends a request on its own connection, from the namespace of the calling thread.
fn once(to: SocketAddr) {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(REQUEST).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
}

/// Three services, and four pods that call them.
fn shop() -> (World, Vec<Net>) {
    let mut world = World::new();
    for (n, name) in ["cart", "stock", "pay"].iter().enumerate() {
        let address = format!("10.244.1.{}", 50 + n);
        let net = world.pod(name, 50 + n as u8);
        world.service(name, &format!("10.96.0.{}", 50 + n), &[(&address, 8080)]);
        serve_many(&net, "0.0.0.0:8080");
    }
    let pods = (0..4).map(|n| world.pod(&format!("web{n}"), 10 + n)).collect();
    (world, pods)
}

/// Calls each Service in turn from each pod, `each` times or until `stop`. Returns the calls as
/// they are to be learned.
fn storm(pods: &[Net], each: u64, stop: &Arc<AtomicBool>) -> BTreeMap<String, u64> {
    let threads: Vec<_> = pods
        .iter()
        .enumerate()
        .map(|(pod, net)| {
            let stop = Arc::clone(stop);
            inside(&net.ns, move || {
                let mut done = [0u64; 3];
                for n in 0..each {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let at = (n % 3) as usize;
                    once(SocketAddr::from(([10, 244, 1, 50 + at as u8], 8080)));
                    done[at] += 1;
                }
                (pod, done)
            })
        })
        .collect();
    let mut all = BTreeMap::new();
    for thread in threads {
        let (pod, done) = thread.join().unwrap();
        for (name, n) in ["cart", "stock", "pay"].iter().zip(done) {
            all.insert(format!("web{pod} -> {name}:80"), n);
        }
    }
    all
}

#[test]
fn ten_thousand_connections_are_all_counted() {
    if !possible() {
        return;
    }
    let (world, pods) = shop();
    let agent = world.agent("");
    let begun = Instant::now();
    let done = storm(&pods, 2_502, &Arc::default());
    eprintln!("10,008 connections in {:?}", begun.elapsed());
    assert_eq!(agent.end(), Some(0));
    let (learned, counters) = (world.learned(), world.counters());
    assert!(learned.keys().eq(done.keys()), "every dependency is found: {learned:?}");
    if learned != done {
        assert!(
            counters.get("ring-dropped").is_some_and(|n| *n > 0),
            "lost, and not said: {learned:?} {counters:?}"
        );
        eprintln!("the kernel dropped {} packets", counters["ring-dropped"]);
    }
}

#[test]
fn connections_that_were_complete_at_the_signal_are_delivered() {
    if !possible() {
        return;
    }
    let (world, pods) = shop();
    let agent = world.agent("--ring 4096");
    let stop = Arc::<AtomicBool>::default();
    let timer = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(2));
            stop.store(true, Ordering::SeqCst);
        })
    };
    let done = storm(&pods, u64::MAX, &stop);
    assert_eq!(agent.end(), Some(0));
    timer.join().unwrap();
    assert_eq!(world.learned(), done, "{:?}", world.counters());
}

#[test]
fn a_connection_older_than_the_agent_is_found() {
    if !possible() {
        return;
    }
    let mut world = World::new();
    let (web, cart) = (world.pod("web", 10), world.pod("cart", 11));
    // Its port is above the client's: only the snapshot shows which end is the server.
    world.service("cart", "10.96.0.11", &[("10.244.1.11", 61_999)]);
    serve(&cart, "0.0.0.0:61999");
    let stop = Arc::<AtomicBool>::default();
    let stopped = Arc::clone(&stop);
    let rounds = Arc::<AtomicU64>::default();
    let counted = Arc::clone(&rounds);
    let client = inside(&web.ns, move || {
        let mut stream = TcpStream::connect("10.244.1.11:61999").unwrap();
        while !stopped.load(Ordering::SeqCst) {
            exchange(&mut stream, b"ping");
            counted.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    eventually("the connection", || rounds.load(Ordering::SeqCst) > 2);
    let agent = world.agent("--sample 8");
    let begun = Instant::now();
    eventually("the connection", || world.counters().get("learned") == Some(&1));
    eprintln!("found after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(8));
    assert_eq!(agent.end(), Some(0));
    stop.store(true, Ordering::SeqCst);
    client.join().unwrap();
    assert_eq!(world.learned(), expected(&[("web -> cart:80", 1)]), "{:?}", world.counters());
    let counters = world.counters();
    assert_eq!((counters.get("midway"), counters.get("guessed")), (Some(&1), None), "{counters:?}");
    assert_eq!(world.rows()[0]["midway"], 1);
}

/// The client calls the Service's own address, which the node translates: the client's interface
/// shows that address, the server's interface the translated one.
fn rewritten(more: &str) {
    let mut world = World::new();
    let (web, cart) = (world.node.bridged("web", 10), world.node.bridged("cart", 11));
    let far = world.node.routed("far", "10.9.0.5");
    world.object("web", "web-1", &["10.244.1.10", "fd00:1::a"], &json!({}));
    world.object("cart", "cart-1", &["10.244.1.11", "fd00:1::b"], &json!({}));
    world.object("far", "far-1", &["10.9.0.5"], &json!({}));
    world.service("cart", "10.96.0.11", &[("10.244.1.11", 8080)]);
    world.service("far", "10.96.0.12", &[("10.9.0.5", 9090)]);
    world.service("six", "fd00:96::11", &[("fd00:1::b", 8081)]);
    serve(&cart, "0.0.0.0:8080");
    serve(&cart, "[fd00:1::b]:8081");
    serve(&far, "0.0.0.0:9090");
    world.node.nft(
        "table ip nat {
            chain pre { type nat hook prerouting priority dstnat;
                ip daddr 10.96.0.11 tcp dport 80 dnat to 10.244.1.11:8080
                ip daddr 10.96.0.12 tcp dport 80 dnat to 10.9.0.5:9090
            }
            chain post { type nat hook postrouting priority srcnat;
                oifname br0 ip saddr 10.244.1.0/24 masquerade
            }
        }
        table ip6 nat {
            chain pre { type nat hook prerouting priority dstnat;
                ip6 daddr fd00:96::11 tcp dport 80 dnat to [fd00:1::b]:8081
            }
            chain post { type nat hook postrouting priority srcnat;
                oifname br0 ip6 saddr fd00:1::/64 masquerade
            }
        }",
    );
    let agent = world.agent(more);
    for _ in 0..3 {
        call(&web, "10.96.0.11:80", REQUEST);
        call(&web, "10.96.0.12:80", b"not http");
        call(&web, "[fd00:96::11]:80", REQUEST);
    }
    assert_eq!(agent.end(), Some(0));
    let want = expected(&[("web -> cart:80", 3), ("web -> far:80", 3), ("web -> six:80", 3)]);
    assert_eq!(world.learned(), want, "{:?}", world.counters());
    for row in world.rows() {
        let evidence = row["evidence"].as_array().unwrap();
        let addressed = evidence
            .iter()
            .find(|e| e["grade"] == "service-address")
            .unwrap_or_else(|| panic!("{row}"));
        assert_eq!(addressed["connections"], 3, "{row}");
    }
}

#[test]
fn a_call_to_a_service_address_counts_once() {
    if possible() {
        rewritten("");
    }
}

/// Datagrams have no sequence number by which a translated duplicate could be recognised.
#[test]
fn datagrams_to_a_service_address_count_once() {
    if !possible() {
        return;
    }
    let mut world = World::new();
    let (web, stats) = (world.node.bridged("web", 10), world.node.routed("stats", "10.9.0.5"));
    world.object("web", "web-1", &["10.244.1.10"], &json!({}));
    world.object("stats", "stats-1", &["10.9.0.5"], &json!({}));
    world.service_over("UDP", "stats", "10.96.0.13", &[("10.9.0.5", 9125)]);
    world.node.nft(
        "table ip nat {
            chain pre { type nat hook prerouting priority dstnat;
                ip daddr 10.96.0.13 udp dport 80 dnat to 10.9.0.5:9125
            }
        }",
    );
    let received = inside(&stats.ns, || {
        let socket = UdpSocket::bind("0.0.0.0:9125").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        (0..20).filter(|_| socket.recv(&mut [0; 64]).is_ok()).count()
    });
    let agent = world.agent("--sample 1");
    inside(&web.ns, || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect("10.96.0.13:80").unwrap();
        (0..20).for_each(|_| drop(socket.send(b"hits:1|c")));
    })
    .join()
    .unwrap();
    assert_eq!(received.join().unwrap(), 20);
    assert_eq!(agent.end(), Some(0));
    assert_eq!(world.learned(), expected(&[("web -> stats:80", 1)]), "{:?}", world.counters());
    let evidence = &world.rows()[0]["evidence"];
    assert!(
        evidence.as_array().unwrap().iter().all(|e| e["grade"] == "service-address"),
        "{evidence}"
    );
}

#[test]
fn a_single_datagram_is_seen_and_answers_are_no_calls() {
    if !possible() {
        return;
    }
    let mut world = World::new();
    let (web, stats) = (world.pod("web", 10), world.pod("stats", 13));
    let answering = inside(&stats.ns, || UdpSocket::bind("0.0.0.0:9125").unwrap()).join().unwrap();
    answering.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let server = std::thread::spawn(move || {
        while let Ok((_, client)) = answering.recv_from(&mut [0; 64]) {
            (0..10).for_each(|_| drop(answering.send_to(b"answer", client)));
        }
    });
    let agent = world.agent("--sample 100000");
    // One datagram to a port where nobody listens; then many clients of a server that answers at
    // length.
    inside(&web.ns, || {
        let socket = || UdpSocket::bind("0.0.0.0:0").unwrap();
        socket().send_to(b"x", "10.244.1.13:7000").unwrap();
        (0..300).for_each(|_| drop(socket().send_to(b"hits:1|c", "10.244.1.13:9125")));
    })
    .join()
    .unwrap();
    server.join().unwrap();
    assert_eq!(agent.end(), Some(0));
    let learned = world.learned();
    assert_eq!(learned.get("web -> stats:7000"), Some(&1), "{learned:?}");
    assert!(learned.keys().all(|call| call.starts_with("web -> stats:")), "{learned:?}");
    assert!(learned.len() <= 2, "{learned:?}");
}

#[test]
fn a_call_to_a_service_address_counts_once_with_one_handle_for_all_interfaces() {
    if possible() {
        rewritten("--capture any");
    }
}

#[test]
fn kernel_drops_are_counted_and_later_calls_are_learned() {
    if !possible() {
        return;
    }
    let (mut world, pods) = shop();
    let slow = world.pod("slow", 60);
    serve(&slow, "0.0.0.0:9000");
    let agent = world.agent("--ring 512 --sample 8 --listen 127.0.0.1:15099");
    let rounds = Arc::<AtomicU64>::default();
    agent.signal("STOP");
    // These open while the agent is stopped, after the rings are full.
    storm(&pods, 1_500, &Arc::default());
    let (stop, counted) = (Arc::<AtomicBool>::default(), Arc::clone(&rounds));
    let stopped = Arc::clone(&stop);
    let client = inside(&pods[0].ns, move || {
        let mut stream = TcpStream::connect("10.244.1.60:9000").unwrap();
        while !stopped.load(Ordering::SeqCst) {
            exchange(&mut stream, b"ping");
            counted.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    eventually("the connection", || rounds.load(Ordering::SeqCst) > 2);
    agent.signal("CONT");
    eventually("what was dropped", || {
        metric(&world.node, "sidecarta_agent_events_total{event=\"ring-dropped\"}") > 0
    });
    eventually("a larger ring", || agent.log().contains("replaced by a larger one"));
    world.wait_for_batch("10.244.1.60:9000");
    storm(&pods, 30, &Arc::default());
    assert_eq!(agent.end(), Some(0));
    stop.store(true, Ordering::SeqCst);
    client.join().unwrap();
    let (learned, counters) = (world.learned(), world.counters());
    assert!(counters["ring-dropped"] > 0, "{counters:?}");
    eprintln!("the kernel dropped {} packets", counters["ring-dropped"]);
    // The loss is that of the interface whose ring was full, and that time is not watched.
    let lost_of = |name: &str| status_of(&world, name)["watched"]["lost"].as_u64().unwrap();
    let lost: Vec<u64> = (0..4).map(|n| lost_of(&format!("web{n}"))).collect();
    assert!(lost.iter().any(|n| *n > 0), "{lost:?}");
    assert_eq!(lost_of("slow"), 0);
    let missing: Vec<String> = (0..4)
        .flat_map(|n| ["cart", "stock", "pay"].map(|s| format!("web{n} -> {s}:80")))
        .filter(|d| learned.get(d).is_none_or(|n| *n < 10))
        .collect();
    assert!(missing.is_empty(), "{missing:?} {learned:?}");
    assert!(
        learned
            .iter()
            .any(|(name, n)| name.starts_with("web0 -> ") && name.ends_with(":9000") && *n == 1),
        "{learned:?}"
    );
}
