//! Names on the wire: DNS, TLS, later requests.

#![allow(clippy::unwrap_used, clippy::print_stderr)] // a test that cannot go on should say where

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;
use sidecarta_testkit::dns;
use sidecarta_testkit::tls::client_hello;

use crate::netns::{Net, inside};
use crate::world::{REQUEST, World, call, eventually, exchange, expected, possible, serve};

/// Answers every question with this address; names that have `cluster.local` twice, as the search
/// path makes them, with NXDOMAIN.
fn answer(net: &Net, address: [u8; 4]) {
    let socket = inside(&net.ns, || UdpSocket::bind("0.0.0.0:53").unwrap()).join().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            let mut message = buffer[..n].to_vec();
            let denied = message.windows(5).filter(|w| w == b"local").count() > 1;
            message[2..4].copy_from_slice(&[0x81, if denied { 0x83 } else { 0x80 }]);
            if !denied {
                message[7] = 1;
                message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4]);
                message.extend(address);
            }
            if socket.send_to(&message, from).is_err() {
                return;
            }
        }
    });
}

fn look_up(net: &Net, names: &'static [&'static str]) {
    let work = move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        for (id, name) in names.iter().enumerate() {
            socket.send_to(&dns::question(id as u16, name), "10.244.1.53:53").unwrap();
            socket.recv(&mut [0; 512]).unwrap();
        }
    };
    inside(&net.ns, work).join().unwrap();
}

#[test]
fn names_of_the_dns_are_evidence() {
    if !possible() {
        return;
    }
    let mut world = World::new();
    let (web, cart) = (world.pod("web", 10), world.pod("cart", 11));
    let dns = world.pod("dns", 53);
    world.service("cart", "10.96.0.11", &[("10.244.1.11", 8080)]);
    world.service("never", "10.96.0.13", &[("10.244.1.13", 8080)]);
    serve(&cart, "0.0.0.0:8080");
    answer(&dns, [10, 244, 1, 11]);
    let agent = world.agent("");
    look_up(
        &web,
        &[
            "cart.shop.svc.cluster.local.cluster.local",
            "cart.shop.svc.cluster.local",
            "never.shop.svc.cluster.local",
        ],
    );
    call(&web, "10.244.1.11:8080", b"not http");
    assert_eq!(agent.end(), Some(0));
    let learned = world.learned();
    assert_eq!(learned.get("web -> cart:80"), Some(&1), "{learned:?} {:?}", world.counters());
    let mut names = world.evidence("dns-answer", 80);
    names.sort();
    assert_eq!(names, ["cart.shop.svc.cluster.local"], "{:#?}", world.rows());
    let text = std::fs::read_to_string(world.path("out.ndjson")).unwrap();
    let asked = |name: &str| text.contains(&format!("\"question\":\"{name}\""));
    assert!(
        asked("cart.shop.svc.cluster.local") && asked("never.shop.svc.cluster.local"),
        "{text}"
    );
    assert!(
        !asked("cart.shop.svc.cluster.local.cluster.local"),
        "a step of the search path is not what was meant: {text}"
    );
}

/// A server of TLS in a pod, until the test ends.
struct Tls(std::process::Child);

impl Tls {
    fn serve(world: &World, net: &Net, port: u16) -> Self {
        let (key, certificate) = (world.path("key.pem"), world.path("cert.pem"));
        let (key, certificate) = (key.display(), certificate.display());
        let make = format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=cart \
             -keyout {key} -out {certificate}"
        );
        let made = Command::new("openssl").args(make.split_whitespace()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let command =
            format!("openssl s_server -accept {port} -key {key} -cert {certificate} -quiet -www");
        let quiet = net
            .command(&command)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let ns = net.ns.clone();
        let listens = format!(":{port:04X} 00000000:0000 0A");
        eventually("the server of TLS", move || {
            let read = || {
                let of = |family| {
                    std::fs::read_to_string(format!("/proc/thread-self/net/{family}")).unwrap()
                };
                of("tcp") + &of("tcp6")
            };
            let text = inside(&ns, read).join().unwrap();
            text.contains(&listens)
                || text.contains(&format!(":{port:04X} {}:0000 0A", "0".repeat(32)))
        });
        Self(quiet)
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn handshake(net: &Net, port: u16, name: &str, more: &str) {
    let command = format!("openssl s_client -connect 10.244.1.11:{port} -servername {name} {more}");
    let out = net.command(&command).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(said.contains("New, TLSv1."), "{said} {}", String::from_utf8_lossy(&out.stderr));
}

/// Handshakes with ClientHellos of less and of more than a segment; gives the names that were
/// evidence.
fn hellos(more: &str) {
    let mut world = World::new();
    let (web, cart) = (world.pod("web", 10), world.pod("cart", 11));
    for (n, port) in [8443u16, 8444, 8445, 8446].into_iter().enumerate() {
        world.objects.push(json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "shop", "name": format!("s{n}")},
            "spec": {"clusterIP": "None", "clusterIPs": ["None"], "selector": {"app": "cart"},
                "ports": [{"name": "https", "port": port, "targetPort": port,
                    "protocol": "TCP"}]}}));
        world.objects.push(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "addressType": "IPv4",
            "metadata": {"namespace": "shop", "name": format!("s{n}-1"),
                "labels": {"kubernetes.io/service-name": format!("s{n}")}},
            "endpoints": [{"addresses": ["10.244.1.11"], "conditions": {"ready": true}}],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}));
    }
    let servers = [8443, 8444, 8445, 8446].map(|port| Tls::serve(&world, &cart, port));
    // As large as one with a post-quantum key share, and larger.
    let long = format!("-alpn {}", vec!["a".repeat(240); 8].join(","));
    let agent = world.agent(more);
    handshake(&web, 8443, "s0.shop.svc.cluster.local", "");
    handshake(&web, 8444, "s1.shop.svc.cluster.local", &long);
    // Segmented by the sender, not by the device that there is none of.
    crate::netns::ip(&format!("-n {} link set dev eth0 gso_max_segs 1", web.ns));
    handshake(&web, 8445, "s2.shop.svc.cluster.local", &long);
    crate::netns::ip(&format!("-n {} route add 10.244.1.11/32 dev eth0 advmss 500", web.ns));
    crate::netns::ip(&format!("-n {} route add 10.244.1.10/32 dev eth0 advmss 500", cart.ns));
    handshake(&web, 8446, "s3.shop.svc.cluster.local", &long);
    assert_eq!(agent.end(), Some(0));
    drop(servers);
    let want = expected(&[
        ("web -> s0:8443", 1),
        ("web -> s1:8444", 1),
        ("web -> s2:8445", 1),
        ("web -> s3:8446", 1),
    ]);
    assert_eq!(world.learned(), want, "{:?}", world.counters());
    for (n, port) in [8443, 8444, 8445, 8446].into_iter().enumerate() {
        assert_eq!(
            world.evidence("sni", port),
            [format!("s{n}.shop.svc.cluster.local")],
            "{:#?}",
            world.rows()
        );
    }
}

#[test]
fn names_in_client_hellos_are_evidence_whatever_their_size() {
    if possible() {
        hellos("--sample 1");
    }
}

#[test]
fn the_first_segment_of_a_client_hello_is_enough_for_a_name_in_it() {
    if possible() {
        hellos("");
    }
}

/// A server in a pod that answers each ClientHello with a flight of several segments, and then each
/// record with one. It is no TLS beyond the heads of records.
fn serve_flights(net: &Net) {
    let listener = inside(&net.ns, || TcpListener::bind("0.0.0.0:8443").unwrap()).join().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let record = |kind: u8, n: usize| {
                    [&[kind, 3, 3, (n >> 8) as u8, n as u8][..], &vec![2; n]].concat()
                };
                let mut buffer = [0; 4096];
                let mut answer = record(0x16, 3_000);
                while let Ok(1..) = stream.read(&mut buffer) {
                    if stream.write_all(&answer).is_err() {
                        return;
                    }
                    answer = record(0x17, 500);
                }
            });
        }
    });
}

/// Opens connections from a pod, each with this server name and a few records after it.
fn say_hello(net: &Net, to: &'static str, name: &'static str, connections: usize) {
    let work = move || {
        for _ in 0..connections {
            let mut stream = TcpStream::connect(to).unwrap();
            let mut answer = [0; 3_005];
            stream.write_all(&client_hello(name)).unwrap();
            stream.read_exact(&mut answer).unwrap();
            for _ in 0..10 {
                stream.write_all(&[&[0x17, 3, 3, 0, 9][..], &[7; 9]].concat()).unwrap();
                stream.read_exact(&mut answer[..505]).unwrap();
            }
        }
    };
    inside(&net.ns, work).join().unwrap();
}

/// Two Services have the same pod and port, so that the server name alone tells which was called.
/// Both pods call and are called, so that either ring may be the first to be read, and what follows
/// a ClientHello is sampled where it arrives.
#[test]
fn no_name_is_lost_to_sampling_between_two_watched_pods() {
    const CONNECTIONS: usize = 500;
    if !possible() {
        return;
    }
    let mut world = World::new();
    let (web, cart) = (world.pod("web", 10), world.pod("cart", 11));
    for (n, (name, to)) in
        [("one", 11), ("two", 11), ("three", 10), ("four", 10)].into_iter().enumerate()
    {
        let endpoint = format!("10.244.1.{to}");
        world.service(name, &format!("10.96.0.{}", 11 + n), &[(&endpoint, 8443)]);
    }
    serve_flights(&web);
    serve_flights(&cart);
    let agent = world.agent("");
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                say_hello(&web, "10.244.1.11:8443", "one.shop.svc.cluster.local", CONNECTIONS / 2);
            });
            scope.spawn(|| {
                say_hello(
                    &cart,
                    "10.244.1.10:8443",
                    "three.shop.svc.cluster.local",
                    CONNECTIONS / 2,
                );
            });
        }
    });
    assert_eq!(agent.end(), Some(0));
    let n = CONNECTIONS as u64;
    let want = expected(&[("cart -> three:80", n), ("web -> one:80", n)]);
    assert_eq!(world.learned(), want, "{:?}", world.counters());
}

/// The second host is sent although no new connection opens, and before the next refresh.
#[test]
fn a_later_request_for_another_host_is_sent_promptly() {
    if !possible() {
        return;
    }
    let mut world = World::new();
    let (web, _cart) = world.web_and_cart();
    world.service("stock", "10.96.0.12", &[("10.244.1.11", 8080)]);
    let agent = world.agent("--sample 1000000");
    let connect = || TcpStream::connect("10.244.1.11:8080").unwrap();
    let mut stream = inside(&web.ns, connect).join().unwrap();
    exchange(&mut stream, REQUEST);
    world.wait_for_batch(r#""authority":"cart""#);
    // The echoed answer begins as a request does, and is none.
    exchange(&mut stream, b"POST / HTTP/1.1\r\nHost: stock\r\n\r\n");
    exchange(&mut stream, REQUEST);
    world.wait_for_batch(r#""authority":"stock""#);
    assert_eq!(agent.end(), Some(0));
    assert_eq!(
        world.learned(),
        expected(&[("web -> cart:80", 1), ("web -> stock:80", 1)]),
        "{:?}",
        world.counters()
    );
}
