//! A node with an agent on it, the objects that its API server would have, and the clients and
//! servers in its pods.

#![allow(clippy::unwrap_used, clippy::print_stderr)] // a test that cannot go on should say where

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::rights::{not_run, rooted};
use crate::common::{expect, run};
use crate::netns::{Net, Node, inside, installed};

/// Whether the calling test can make network namespaces and goes on. Without root it is run in a
/// user namespace instead. In CI one of both must be; elsewhere it is said that the test did not
/// run.
pub fn possible() -> bool {
    const WHAT: &str = "network namespaces";
    if !installed() {
        not_run(WHAT, "there is no command `ip`; install iproute2");
        return false;
    }
    rooted(WHAT)
}

/// A node, and the objects of its cluster's API server.
pub struct World {
    pub node: Node,
    dir: tempfile::TempDir,
    pub objects: Vec<Value>,
    /// The kubeconfig, if there is an API server.
    pub kubeconfig: Option<PathBuf>,
    /// A command that starts the agent, such as `setpriv …`; empty to start it directly.
    pub through: &'static str,
}

impl World {
    pub fn new() -> Self {
        Self {
            node: Node::new(),
            dir: tempfile::tempdir().unwrap(),
            objects: Vec::new(),
            kubeconfig: None,
            through: "",
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Adds a pod of the Deployment `app`; `more` adds fields to it.
    pub fn object(&mut self, app: &str, pod: &str, addresses: &[&str], more: &Value) {
        let ips: Vec<Value> = addresses.iter().map(|a| json!({"ip": a})).collect();
        let mut object = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "shop", "name": pod, "uid": format!("uid-{pod}"),
                "labels": {"app": app, "pod-template-hash": "5c"},
                "ownerReferences": [{"kind": "ReplicaSet", "name": format!("{app}-5c"),
                    "controller": true}]},
            "spec": {"nodeName": "n1", "containers": [{"name": "app"}]},
            "status": {"phase": "Running", "podIP": addresses[0], "podIPs": ips}});
        for (part, value) in more.as_object().unwrap() {
            object[part].as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
        }
        self.objects.push(object);
    }

    /// Adds the pod of an app on the bridge. Its address is 10.244.1.`last`.
    pub fn pod(&mut self, app: &str, last: u8) -> Net {
        self.object(app, &format!("{app}-1"), &[&format!("10.244.1.{last}")], &json!({}));
        self.node.bridged(app, last)
    }

    /// Adds the pod `cart` on the bridge. It answers calls, and has a Service of its name.
    pub fn cart(&mut self) -> Net {
        let cart = self.pod("cart", 11);
        self.service("cart", "10.96.0.11", &[("10.244.1.11", 8080)]);
        serve(&cart, "0.0.0.0:8080");
        cart
    }

    /// Adds the pods `web`, which calls, and `cart`, which answers.
    pub fn web_and_cart(&mut self) -> (Net, Net) {
        (self.pod("web", 10), self.cart())
    }

    /// Adds a Service on TCP port 80 with these endpoints.
    pub fn service(&mut self, name: &str, cluster_ip: &str, endpoints: &[(&str, u16)]) {
        self.service_over("TCP", name, cluster_ip, endpoints);
    }

    /// Adds a Service on port 80 of a protocol with these endpoints.
    pub fn service_over(
        &mut self,
        protocol: &str,
        name: &str,
        cluster_ip: &str,
        endpoints: &[(&str, u16)],
    ) {
        self.objects.push(json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "shop", "name": name},
            "spec": {"clusterIP": cluster_ip, "clusterIPs": [cluster_ip], "selector": {"app": name},
                "ports": [{"name": "http", "port": 80, "targetPort": endpoints[0].1,
                    "protocol": protocol}]}}));
        for (n, (address, port)) in endpoints.iter().enumerate() {
            let family = if address.contains(':') { "IPv6" } else { "IPv4" };
            self.objects.push(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "addressType": family,
                "metadata": {"namespace": "shop", "name": format!("{name}-{n}"),
                    "labels": {"kubernetes.io/service-name": name}},
                "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
                "ports": [{"name": "http", "port": port, "protocol": protocol}]}));
        }
    }

    pub fn snapshot(&self) -> String {
        let path = self.path("cluster.json");
        std::fs::write(
            &path,
            json!({"apiVersion": "v1", "kind": "List", "items": self.objects}).to_string(),
        )
        .unwrap();
        path.display().to_string()
    }

    /// Starts the agent, and waits until it runs.
    pub fn agent(&self, more: &str) -> Agent {
        self.start(
            &format!("agent --pods {} --to {}", self.snapshot(), self.path("out.ndjson").display()),
            more,
        )
    }

    pub fn start(&self, what: &str, more: &str) -> Agent {
        let agent = self.begin(what, more);
        agent.wait_for(0, "the agent runs");
        agent
    }

    /// Starts a command, and does not wait until it runs.
    pub fn begin(&self, what: &str, more: &str) -> Agent {
        let log = self.path("agent.log");
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let start = std::fs::metadata(&log).unwrap().len();
        let listen = if more.contains("--listen") { "" } else { "--listen none" };
        let command = format!(
            "{} {} {what} --node n1 {listen} {more}",
            self.through,
            env!("CARGO_BIN_EXE_sidecarta")
        );
        let mut command = self.node.command(&command);
        if let Some(kubeconfig) = &self.kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        }
        let child = command.stdout(Stdio::null()).stderr(file).spawn().unwrap();
        Agent { child, log, start: start as usize }
    }

    /// What was learned, as `workload -> destination:port`, with connections.
    pub fn learned(&self) -> BTreeMap<String, u64> {
        self.import(0);
        self.dependencies()
    }

    /// Imports the batches, which must end with this exit code. Returns standard error.
    pub fn import(&self, code: i32) -> String {
        let store = self.path("store");
        let _ = std::fs::remove_dir_all(&store);
        let (store, snapshot) = (store.display().to_string(), self.snapshot());
        let batches = self.path("out.ndjson").display().to_string();
        let out = run(&["import", "--store", &store, "--cluster", &snapshot, &batches]);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(code), "{said}");
        said
    }

    pub fn dependencies(&self) -> BTreeMap<String, u64> {
        let all = self.rows();
        let name = |d: &Value| {
            let to = d["destination"]["name"]
                .as_str()
                .or(d["destination"]["address"].as_str())
                .or(d["destination"]["host"].as_str());
            format!(
                "{} -> {}:{}",
                d["workload"]["name"].as_str().unwrap(),
                to.unwrap_or("?"),
                d["port"]
            )
        };
        let mut out = BTreeMap::new();
        for d in &all {
            *out.entry(name(d)).or_default() += d["connections"].as_u64().unwrap();
        }
        out
    }

    /// The dependencies that were learned, in JSON.
    pub fn rows(&self) -> Vec<Value> {
        let store = self.path("store").display().to_string();
        serde_json::from_str(&expect(0, &["dependencies", "-o", "json", "--store", &store]))
            .unwrap()
    }

    /// The names that are evidence of this grade for dependencies on this port, each once.
    pub fn evidence(&self, grade: &str, port: u16) -> Vec<String> {
        let rows = self.rows();
        let of_port = rows.iter().filter(|r| r["port"] == port);
        let evidence = of_port
            .filter_map(|r| r["evidence"].as_array())
            .flatten()
            .filter(|e| e["grade"] == grade);
        let examples = evidence.filter_map(|e| e["examples"].as_array()).flatten();
        let names: BTreeSet<&str> = examples.filter_map(|e| e["name"].as_str()).collect();
        names.into_iter().map(str::to_owned).collect()
    }

    /// Waits until the batches contain this text.
    pub fn wait_for_batch(&self, words: &str) {
        eventually(words, || {
            std::fs::read_to_string(self.path("out.ndjson")).is_ok_and(|t| t.contains(words))
        });
    }

    /// The counters of all batches, summed.
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let text = std::fs::read_to_string(self.path("out.ndjson")).unwrap();
        let mut all = BTreeMap::new();
        for header in text
            .lines()
            .filter_map(|l| serde_json::from_str::<Value>(l).ok()?.get("observed").cloned())
        {
            for (name, n) in header["counters"].as_object().unwrap() {
                *all.entry(name.clone()).or_default() += n.as_u64().unwrap();
            }
        }
        all
    }
}

pub struct Agent {
    child: Child,
    pub log: PathBuf,
    /// The position in the log at which its own lines begin.
    start: usize,
}

impl Agent {
    pub fn wait_for(&self, from: usize, words: &str) {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let log = std::fs::read_to_string(&self.log).unwrap();
            if log[self.start + from..].contains(words) {
                return;
            }
            assert!(Instant::now() < until, "the agent does not say {words:?}: {log}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn signal(&self, name: &str) {
        let out = Command::new("kill")
            .args([&format!("-{name}"), &self.child.id().to_string()])
            .output()
            .unwrap();
        assert!(out.status.success());
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until it has ended without a signal, and returns its exit code.
    pub fn ended(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// Kills it with SIGKILL, as the kernel does when memory is out.
    pub fn kill(self) {
        drop(self);
    }

    /// Ends it with SIGTERM, as Kubernetes does, and returns its exit code.
    pub fn end(mut self) -> Option<i32> {
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

/// Starts a server in a pod that echoes what it receives, until the test ends.
pub fn serve(net: &Net, address: &str) {
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

/// Opens a connection from a pod, sends the text and reads the echo.
pub fn call(net: &Net, to: &str, text: &'static [u8]) {
    let to: SocketAddr = to.parse().unwrap();
    inside(&net.ns, move || {
        exchange(&mut TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap(), text)
    })
    .join()
    .unwrap();
}

pub fn exchange(stream: &mut TcpStream, text: &[u8]) {
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(text).unwrap();
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).unwrap();
}

pub const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: cart\r\n\r\n";

pub fn expected(all: &[(&str, u64)]) -> BTreeMap<String, u64> {
    all.iter().map(|(d, n)| ((*d).to_owned(), *n)).collect()
}

/// Waits until the condition holds.
pub fn eventually(what: &str, so: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !so() {
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The agent's answer on its port for metrics and health: status and body.
pub fn ask(node: &Node, path: &str) -> (u16, String) {
    let answer = get(node, "127.0.0.1:15099", path);
    assert_ne!(answer.0, 0, "the agent does not listen");
    answer
}

/// The answer at an address of the node: the status (0 if nothing listens) and the body. Asked with
/// HTTP/1.0, so that the body comes unchunked.
pub fn get(node: &Node, address: &'static str, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    let answer = inside(&node.ns, move || {
        let Ok(mut stream) = TcpStream::connect(address) else { return String::new() };
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    let answer = answer.join().unwrap();
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return (0, answer) };
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// The value of a metric, by its name with labels; 0 if it is absent.
pub fn metric(node: &Node, name: &str) -> u64 {
    let (_, text) = ask(node, "/metrics");
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |n| n.parse().unwrap())
}
