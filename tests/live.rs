//! The live agent on a node of network namespaces: real packets, real kernel, real filter.

#![allow(clippy::unwrap_used, clippy::print_stderr)] // a test that cannot go on, or cannot run, should say so

mod common;
#[path = "live/netns.rs"]
mod netns;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::expect;
use netns::{Net, Node, inside, possible};
use serde_json::{Value, json};

/// A node, and what its cluster's API server would say.
struct World {
    node: Node,
    dir: tempfile::TempDir,
    objects: Vec<Value>,
}

impl World {
    fn new() -> Self {
        Self { node: Node::new(), dir: tempfile::tempdir().unwrap(), objects: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A pod of the Deployment `app`.
    fn object(&mut self, app: &str, pod: &str, addresses: &[&str], more: &Value) {
        let ips: Vec<Value> = addresses.iter().map(|a| json!({"ip": a})).collect();
        let mut object = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "shop", "name": pod, "uid": format!("uid-{pod}"), "labels": {"app": app, "pod-template-hash": "5c"},
                "ownerReferences": [{"kind": "ReplicaSet", "name": format!("{app}-5c"), "controller": true}]},
            "spec": {"nodeName": "n1", "containers": [{"name": "app"}]},
            "status": {"phase": "Running", "podIP": addresses[0], "podIPs": ips}});
        for (part, value) in more.as_object().unwrap() {
            object[part].as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
        }
        self.objects.push(object);
    }

    /// A Service on port 80, and what stands behind it.
    fn service(&mut self, name: &str, cluster_ip: &str, endpoints: &[(&str, u16)]) {
        self.objects.push(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": name},
            "spec": {"clusterIP": cluster_ip, "clusterIPs": [cluster_ip], "selector": {"app": name},
                "ports": [{"name": "http", "port": 80, "targetPort": endpoints[0].1, "protocol": "TCP"}]}}));
        for (n, (address, port)) in endpoints.iter().enumerate() {
            let family = if address.contains(':') { "IPv6" } else { "IPv4" };
            self.objects.push(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
                "metadata": {"namespace": "shop", "name": format!("{name}-{n}"), "labels": {"kubernetes.io/service-name": name}},
                "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
                "ports": [{"name": "http", "port": port, "protocol": "TCP"}]}));
        }
    }

    fn snapshot(&self) -> String {
        let path = self.path("cluster.json");
        std::fs::write(&path, json!({"apiVersion": "v1", "kind": "List", "items": self.objects}).to_string()).unwrap();
        path.display().to_string()
    }

    /// Starts the agent, and waits until it runs.
    fn agent(&self, more: &str) -> Agent {
        self.start(&format!("agent --pods {} --to {}", self.snapshot(), self.path("out.ndjson").display()), more)
    }

    fn start(&self, what: &str, more: &str) -> Agent {
        let log = self.path("agent.log");
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let start = std::fs::metadata(&log).unwrap().len();
        let command = format!("{} {what} --node n1 --listen none {more}", env!("CARGO_BIN_EXE_sidecarta"));
        let child = self.node.command(&command).stdout(Stdio::null()).stderr(file).spawn().unwrap();
        let agent = Agent { child, log };
        agent.wait_for(start as usize, "the agent runs");
        agent
    }

    /// What was learned, as `workload -> destination:port`, with connections.
    fn learned(&self) -> BTreeMap<String, u64> {
        let store = self.path("store");
        let _ = std::fs::remove_dir_all(&store);
        let (store, snapshot) = (store.display().to_string(), self.snapshot());
        let out = self.path("out.ndjson").display().to_string();
        expect(0, &["import", "--store", &store, "--cluster", &snapshot, &out]);
        self.dependencies()
    }

    fn dependencies(&self) -> BTreeMap<String, u64> {
        let store = self.path("store").display().to_string();
        let all: Vec<Value> = serde_json::from_str(&expect(0, &["dependencies", "-o", "json", "--store", &store])).unwrap();
        let name = |d: &Value| {
            let to =
                d["destination"]["name"].as_str().or(d["destination"]["address"].as_str()).or(d["destination"]["host"].as_str());
            format!("{} -> {}:{}", d["workload"]["name"].as_str().unwrap(), to.unwrap_or("?"), d["port"])
        };
        let mut out = BTreeMap::new();
        for d in &all {
            *out.entry(name(d)).or_default() += d["connections"].as_u64().unwrap();
        }
        out
    }

    /// Counters of all batches.
    fn counters(&self) -> BTreeMap<String, u64> {
        let text = std::fs::read_to_string(self.path("out.ndjson")).unwrap();
        let mut all = BTreeMap::new();
        for header in text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok()?.get("observed").cloned()) {
            for (name, n) in header["counters"].as_object().unwrap() {
                *all.entry(name.clone()).or_default() += n.as_u64().unwrap();
            }
        }
        all
    }
}

struct Agent {
    child: Child,
    log: PathBuf,
}

impl Agent {
    fn wait_for(&self, from: usize, words: &str) {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let log = std::fs::read_to_string(&self.log).unwrap();
            if log[from..].contains(words) {
                return;
            }
            assert!(Instant::now() < until, "the agent does not say {words:?}: {log}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn signal(&self, name: &str) {
        let out = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).output().unwrap();
        assert!(out.status.success());
    }

    /// Ends it as Kubernetes does, and gives its exit code.
    fn end(mut self) -> Option<i32> {
        self.signal("TERM");
        let code = self.child.wait().unwrap().code();
        if code != Some(0) {
            eprintln!("{}", std::fs::read_to_string(&self.log).unwrap());
        }
        code
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Answers every connection with what it was sent, in a pod, until the test ends.
fn serve(net: &Net, address: &str) {
    let address: SocketAddr = address.parse().unwrap();
    let listener = inside(&net.ns, move || TcpListener::bind(address).unwrap()).join().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(n @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..n]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// One exchange on a connection of its own.
fn call(net: &Net, to: &str, text: &'static [u8]) {
    let to: SocketAddr = to.parse().unwrap();
    inside(&net.ns, move || exchange(&mut TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap(), text))
        .join()
        .unwrap();
}

fn exchange(stream: &mut TcpStream, text: &[u8]) {
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(text).unwrap();
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).unwrap();
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: cart\r\n\r\n";

fn expected(all: &[(&str, u64)]) -> BTreeMap<String, u64> {
    all.iter().map(|(d, n)| ((*d).to_owned(), *n)).collect()
}

#[test]
fn pods_of_every_kind_of_network_are_learned() {
    if !possible() {
        return;
    }
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
    let agent = world.agent("");
    call(&web, "10.244.1.11:8080", REQUEST);
    call(&web, "[fd00:1::b]:8080", REQUEST);
    call(&web, "10.9.0.5:9090", b"not http");
    call(&far, "10.244.1.11:8080", REQUEST);
    assert_eq!(agent.end(), Some(0));
    let want = expected(&[("far -> cart:80", 1), ("web -> cart:80", 2), ("web -> far:80", 1)]);
    assert_eq!(world.learned(), want, "{:?}", world.counters());
}
