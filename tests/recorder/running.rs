//! A recorder that runs, and what agents bring to it.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sidecarta_testkit::memory;

/// A running recorder.
pub struct Recorder {
    pub child: Child,
    pub address: String,
    log: std::thread::JoinHandle<String>,
}

impl Recorder {
    /// With which arguments one is started.
    fn arguments(store: &Path, more: &[&str]) -> Vec<std::ffi::OsString> {
        let mut all = vec!["recorder", "--address", "127.0.0.1:0"];
        for (name, value) in [("--listen", "none"), ("--settle", "10ms")] {
            if !more.contains(&name) {
                all.extend([name, value]);
            }
        }
        all.push("--store");
        let given = more.iter().map(std::ffi::OsString::from);
        all.into_iter().map(Into::into).chain([store.into()]).chain(given).collect()
    }

    /// How one is started that may open only so many descriptors.
    pub fn with_descriptors(
        n: u32,
        store: &Path,
        kubeconfig: Option<&Path>,
        more: &[&str],
    ) -> Command {
        let plain = Self::command(store, kubeconfig, more);
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {n} && exec \"$0\" \"$@\"")]);
        command.arg(plain.get_program()).args(plain.get_args());
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// Most memory that it has had at once, in KiB.
    pub fn peak(&self) -> u64 {
        memory::kib(self.child.id(), "VmHWM").unwrap()
    }

    /// How one is started.
    pub fn command(store: &Path, kubeconfig: Option<&Path>, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sidecarta"));
        command.args(Self::arguments(store, more));
        command.env_remove("KUBECONFIG").env_remove("SIDECARTA_STORE");
        if let Some(path) = kubeconfig {
            command.env("KUBECONFIG", path);
        }
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    pub fn start(store: &Path, kubeconfig: Option<&Path>, more: &[&str]) -> Self {
        Self::by(Self::command(store, kubeconfig, more))
    }

    /// Starts one in this way.
    pub fn by(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut printed = String::new();
        let address = loop {
            let mut line = String::new();
            assert_ne!(
                lines.read_line(&mut line).unwrap(),
                0,
                "the recorder does not run: {printed}"
            );
            printed.push_str(&line);
            if let Some((_, address)) = line.split_once("address=") {
                break address.trim().to_owned();
            }
        };
        let log = std::thread::spawn(move || {
            let _ = lines.read_to_string(&mut printed);
            printed
        });
        Self { child, address, log }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A request, and the status and the body of the answer.
    pub fn ask(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        headers: &str,
        body: &[u8],
    ) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let bearer = token.map(|t| format!("Authorization: Bearer {t}\r\n")).unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\
             {bearer}{headers}Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        // Whoever sends too much is cut off.
        let _ = stream.write_all(body);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        (status, answer.split_once("\r\n\r\n").map(|(_, b)| b.to_owned()).unwrap_or_default())
    }

    pub fn post(&self, token: Option<&str>, body: &[u8]) -> (u16, String) {
        self.ask("POST", "/v1/batches", token, "", body)
    }

    pub fn get(&self, path: &str, token: Option<&str>) -> (u16, String) {
        self.ask("GET", path, token, "", b"")
    }

    /// All dependencies, and how many connections there are in all.
    pub fn dependencies(&self, token: Option<&str>) -> (Vec<Value>, u64) {
        let (status, body) = self.get("/v1/dependencies", token);
        assert_eq!(status, 200, "{body}");
        let all: Vec<Value> = serde_json::from_str(&body).unwrap();
        let sum = all.iter().map(|d| d["connections"].as_u64().unwrap()).sum();
        (all, sum)
    }

    /// Waits until there are so many connections in all, and gives the dependencies.
    pub fn connections(&self, token: Option<&str>, want: u64) -> Vec<Value> {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let (all, sum) = self.dependencies(token);
            if sum == want {
                return all;
            }
            assert!(Instant::now() < until && sum <= want, "{sum} connections of {want}: {all:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn kill(mut self, signal: &str) -> (Option<i32>, String) {
        Command::new("kill")
            .args([&format!("-{signal}"), &self.child.id().to_string()])
            .output()
            .unwrap();
        let code = self.child.wait().unwrap().code();
        (code, self.log.join().unwrap())
    }
}

pub fn pod(name: &str, address: &str, node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "shop", "name": name, "labels": {"app": name}},
        "spec": {"nodeName": node,
            "containers": [{"name": "app"}, {"name": "istio-proxy", "args": ["proxy", "sidecar"]}]},
        "status": {"phase": "Running", "podIP": address}})
}

pub fn service(name: &str, address: &str) -> [Value; 2] {
    [
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "shop", "name": name},
            "spec": {"clusterIP": "10.96.0.7", "selector": {"app": name},
                "ports": [{"port": 80, "targetPort": 8080, "protocol": "TCP"}]}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"namespace": "shop", "name": name,
                "labels": {"kubernetes.io/service-name": name}},
            "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
            "ports": [{"name": "", "port": 8080, "protocol": "TCP"}]}),
    ]
}

/// The pods `web` and `cart` on n1, and the Service `cart`.
pub fn shop() -> Vec<Value> {
    let mut all = vec![pod("web", "10.244.1.10", "n1"), pod("cart", "10.244.1.11", "n1")];
    all.extend(service("cart", "10.244.1.11"));
    all
}

/// The same and `db`, in a file.
pub fn snapshot(dir: &Path) -> PathBuf {
    let mut items = shop();
    items.push(pod("db", "10.244.1.12", "n1"));
    let path = dir.join("cluster.json");
    std::fs::write(&path, json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())
        .unwrap();
    path
}

/// A batch of an agent: so many connections of `web` to an address.
pub fn batch(node: &str, boot: &str, sequence: u64, to: &str, connections: u64) -> Vec<u8> {
    batch_at("2026-11-25T09:00:00Z", node, boot, sequence, to, connections)
}

/// The same, of that time.
pub fn batch_at(
    at: &str,
    node: &str,
    boot: &str,
    sequence: u64,
    to: &str,
    connections: u64,
) -> Vec<u8> {
    let lines = [
        json!({"observed": {"version": 1, "source": format!("agent:{node}:{boot}"),
            "sequence": sequence, "node": node, "made": at,
            "spans": [], "counters": {"connections": connections, "learned": connections}}}),
        json!({"pod": {"name": "web", "uid": "u",
            "workload": {"namespace": "shop", "kind": "Pod", "name": "web"},
            "labels": {"app": "web"},
            "selector": {"app": "web"}, "dataPlane": "sidecar", "start": "2026-11-25T08:00:00Z",
            "end": "2262-04-11T23:47:16.854775807Z",
            "addresses": ["10.244.1.10"], "node": node, "capture": {}}}),
        json!({"edge": {"pod": 0, "responder": to, "transport": "tcp", "orientation": "handshake",
            "fromStart": true, "answered": true,
            "refused": false, "content": "unknown", "names": {}, "initiator": "10.244.1.10:40000",
            "connections": connections,
            "first": at, "lastBegan": at, "last": at, "packets": 9}}),
        json!({"end": {"lines": 3}}),
    ];
    lines.map(|l| format!("{l}\n")).concat().into_bytes()
}
