//! The recorder under load, at size, and its view of a large cluster. Prints figures beside what
//! they are measured against in the same run; asserts only that all that was sent is there, once.
//!
//! `SIDECARTA_BENCH_UPDATES` sets how many edges are sent to be merged (default 600,000),
//! `SIDECARTA_BENCH_WORKLOADS` how many workloads of 100 dependencies each are stored (default
//! 10,000), `SIDECARTA_BENCH_BINARY` another program to compare with. Names of parts as arguments
//! (`updates`, `distinct`, `view`) run only these.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

#[path = "../tests/view/fake.rs"]
mod fake;
#[path = "recorder/view.rs"]
mod view;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sidecarta_testkit::memory;

/// Clients that send at the same time: as many batches as the recorder reads at once.
const CLIENTS: usize = 4;
/// Edges in a batch.
const EDGES: u32 = 1_000;
/// Workloads in a namespace.
const NAMESPACE: u32 = 20;

fn setting(name: &str, default: u32) -> u32 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

fn main() {
    if view::measured() {
        return;
    }
    let parts: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|p| p == part);
    let dir = tempfile::tempdir().unwrap();
    if wanted("updates") {
        updates(dir.path());
    }
    if wanted("distinct") {
        distinct(dir.path());
    }
    if wanted("view") {
        view::measure(dir.path());
    }
}

/// 200 workloads that call 50 destinations each, again and again: merged and made durable.
fn updates(dir: &Path) {
    const AGENTS: u32 = 10;
    const WORKLOADS: u32 = 20;
    const DESTINATIONS: u32 = EDGES / WORKLOADS;
    let snapshot = cluster(dir, DESTINATIONS, AGENTS, WORKLOADS);
    let rounds = (setting("SIDECARTA_BENCH_UPDATES", 600_000) / EDGES / AGENTS).max(1);
    let mut posts: Vec<Vec<Vec<u8>>> = vec![Vec::new(); CLIENTS];
    for sequence in 0..rounds {
        for agent in 0..AGENTS {
            let workloads = agent * WORKLOADS..(agent + 1) * WORKLOADS;
            posts[agent as usize % CLIENTS].push(batch(agent, sequence, workloads, DESTINATIONS));
        }
    }
    let bodies: Vec<Vec<u8>> = posts.concat();
    let bytes: usize = bodies.iter().map(Vec::len).sum();
    let edges = u64::from(rounds * AGENTS * EDGES);

    let recorder = Recorder::start(&dir.join("updates"), &snapshot);
    let start = Instant::now();
    let busy = recorder.send(posts);
    let acknowledged = start.elapsed();
    recorder.merged(edges);
    let merged = start.elapsed();
    let plain = plain(&dir.join("plain"), &bodies);
    let rate = |d: Duration| edges as f64 / d.as_secs_f64();
    println!(
        "updates: {edges} in {} batches ({} kB compressed) of {CLIENTS} clients: {:.0}/s merged \
         and durable (acknowledged {:.0}/s, {busy} told to come again)",
        bodies.len(),
        bytes / 1_000,
        rate(merged),
        rate(acknowledged)
    );
    println!(
        "  writing and fsyncing the same bytes, batch by batch, to a plain file: {plain:.2?} \
         ({:.0}/s); merging takes {:.1} times as long",
        rate(plain),
        merged.as_secs_f64() / plain.as_secs_f64()
    );
    println!(
        "  processor time of the recorder: {:.2?} of {merged:.2?}; {}; {} MB on the disk",
        recorder.processor(),
        recorder.memory(),
        size(&dir.join("updates")) / 1_000_000
    );
    let all = recorder.dependencies("/v1/dependencies");
    assert_eq!(all.len() as u32, AGENTS * WORKLOADS * DESTINATIONS);
    assert!(all.iter().all(|d| d["connections"] == u64::from(rounds)));
    recorder.end();
}

/// A million distinct dependencies: what they weigh, and how long what is asked of them takes.
fn distinct(dir: &Path) {
    const DESTINATIONS: u32 = 100;
    const WORKLOADS: u32 = EDGES / DESTINATIONS;
    let store = dir.join("distinct");
    let agents =
        (setting("SIDECARTA_BENCH_WORKLOADS", 10_000) / WORKLOADS).max(NAMESPACE / WORKLOADS);
    let snapshot = cluster(dir, DESTINATIONS, agents, WORKLOADS);
    let mut posts: Vec<Vec<Vec<u8>>> = vec![Vec::new(); CLIENTS];
    for agent in 0..agents {
        posts[agent as usize % CLIENTS].push(batch(
            agent,
            0,
            agent * WORKLOADS..(agent + 1) * WORKLOADS,
            DESTINATIONS,
        ));
    }
    let edges = u64::from(agents * EDGES);
    let recorder = Recorder::start(&store, &snapshot);
    let start = Instant::now();
    recorder.send(posts);
    recorder.merged(edges);
    let merged = start.elapsed();
    println!(
        "distinct: {edges} dependencies of {} workloads: {:.0}/s merged and durable; {}; {} MB on \
         the disk",
        agents * WORKLOADS,
        edges as f64 / merged.as_secs_f64(),
        recorder.memory(),
        size(&store) / 1_000_000
    );
    recorder.end();

    let start = Instant::now();
    let recorder = Recorder::start(&store, &snapshot);
    let opened = start.elapsed();
    // The first look at everything that is stored comes right after the start.
    recorder.dependencies("/v1/dependencies?namespace=none");
    println!("  opened again in {opened:.2?}; {}", recorder.memory());
    let mut times: Vec<Duration> = Vec::new();
    let namespaces = agents * WORKLOADS / NAMESPACE;
    for i in 0..101 {
        let namespace = i * 7 % namespaces;
        let start = Instant::now();
        let body = recorder.get(&format!("/v1/dependencies?namespace=ns{namespace}"));
        times.push(start.elapsed());
        if i % 50 == 0 {
            let found: Vec<Value> = serde_json::from_slice(&body).unwrap();
            assert_eq!(found.len() as u32, NAMESPACE * DESTINATIONS);
            assert!(
                found.iter().all(|d| d["connections"] == 1
                    && d["workload"]["namespace"] == format!("ns{namespace}"))
            );
        }
    }
    times.sort();
    println!(
        "  {} dependencies of one namespace: {:.2?} median, {:.2?} worst of {}; {}",
        NAMESPACE * DESTINATIONS,
        times[times.len() / 2],
        times[times.len() - 1],
        times.len(),
        recorder.memory()
    );
    let start = Instant::now();
    let mut found = 0;
    for namespace in 0..namespaces {
        found += recorder.dependencies(&format!("/v1/dependencies?namespace=ns{namespace}")).len()
            as u64;
    }
    assert_eq!(found, edges);
    println!(
        "  all, namespace by namespace, read and checked: {:.2?}; {}",
        start.elapsed(),
        recorder.memory()
    );
    recorder.end();
}

/// Writes bodies to a plain file, each on the disk before the next.
fn plain(path: &Path, bodies: &[Vec<u8>]) -> Duration {
    let start = Instant::now();
    let mut file = File::create(path).unwrap();
    for body in bodies {
        file.write_all(body).unwrap();
        file.sync_data().unwrap();
    }
    start.elapsed()
}

fn size(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    entries
        .map(|e| {
            if e.file_type().unwrap().is_dir() {
                size(&e.path())
            } else {
                e.metadata().unwrap().len()
            }
        })
        .sum()
}

/// Resident memory of a process in KiB: now, and at its peak.
fn resident(process: u32) -> (u64, u64) {
    let kib = |field| memory::kib(process, field).unwrap();
    (kib("VmRSS"), kib("VmHWM"))
}

const MADE: &str = "2026-11-25T10:00:00Z";

/// A batch, compressed: each workload has a pod on this agent's node and calls each destination
/// once.
fn batch(agent: u32, sequence: u32, workloads: Range<u32>, destinations: u32) -> Vec<u8> {
    let node = format!("node{agent}");
    let mut text = String::new();
    let mut lines = 1;
    let n = workloads.len() as u32 * destinations;
    let counters = json!({"connections": n, "learned": n, "packets": n * 9});
    let header = json!({"observed": {"version": 1, "source": format!("agent:{node}:boot"),
        "sequence": sequence, "node": node,
        "made": MADE, "spans": [], "counters": counters}});
    writeln!(text, "{header}").unwrap();
    for w in workloads.clone() {
        let (name, address) = (format!("workload-{w}"), address(10, w));
        lines += 1;
        let pod = json!({"pod": {"name": pod_name(w), "uid": uid(w),
            "workload": {"namespace": namespace(w), "kind": "Deployment", "name": name},
            "labels": {"app": name, "pod-template-hash": "6d4cf56db6",
                "security.istio.io/tlsMode": "istio"},
            "selector": {"app": name}, "dataPlane": "sidecar", "start": "2026-11-25T08:00:00Z",
            "end": "2262-04-11T23:47:16.854775807Z",
            "addresses": [address], "node": node, "capture": {}}});
        writeln!(text, "{pod}").unwrap();
    }
    for (pod, w) in workloads.enumerate() {
        for d in 0..destinations {
            lines += 1;
            let port = 20_000 + (sequence * 977 + w * 31 + d * 7) % 40_000;
            let at = format!(
                "2026-11-25T09:{:02}:{:02}.{:09}Z",
                sequence % 60,
                d % 60,
                (w * 7919 + d * 104_729 + sequence) % 1_000_000_000
            );
            // Written by hand: a value for each of a million lines takes longer than what is
            // measured.
            writeln!(
                text,
                r#"{{"edge":{{"pod":{pod},"responder":"{}:8080","transport":"tcp","orientation":"handshake","fromStart":true,"answered":true,"refused":false,"content":"http1","names":{{}},"initiator":"{}:{port}","connections":1,"first":"{at}","lastBegan":"{at}","last":"{at}","packets":9}}}}"#,
                address(11, d),
                address(10, w)
            )
            .unwrap();
        }
    }
    writeln!(text, "{}", json!({"end": {"lines": lines}})).unwrap();
    zstd::encode_all(text.as_bytes(), 1).unwrap()
}

fn namespace(workload: u32) -> String {
    format!("ns{}", workload / NAMESPACE)
}

fn address(net: u32, n: u32) -> String {
    format!("{net}.{}.{}.{}", n >> 16, n >> 8 & 255, n & 255)
}

/// A snapshot of the Services that are called, and of the pods that call: the recorder learns
/// nothing of others.
fn cluster(dir: &Path, destinations: u32, agents: u32, workloads: u32) -> PathBuf {
    let mut items = Vec::new();
    for d in 0..destinations {
        items.extend(service("backend", d, &[address(11, d)]));
    }
    for w in 0..agents * workloads {
        let name = format!("workload-{w}");
        let owner = json!([{"kind": "Deployment", "name": name, "controller": true}]);
        items.push(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": namespace(w), "name": pod_name(w), "uid": uid(w),
                "ownerReferences": owner,
                "labels": {"app": name, "pod-template-hash": "6d4cf56db6",
                    "security.istio.io/tlsMode": "istio"}},
            "spec": {"nodeName": format!("node{}", w / workloads),
                "containers": [{"name": "app"},
                    {"name": "istio-proxy", "args": ["proxy", "sidecar"]}]},
            "status": {"phase": "Running", "podIP": address(10, w),
                "startTime": "2026-11-25T08:00:00Z"}}));
    }
    write(&dir.join(format!("cluster-{destinations}.json")), &items)
}

fn pod_name(workload: u32) -> String {
    format!("workload-{workload}-6d4cf56db6-{workload:05x}")
}

fn uid(workload: u32) -> String {
    format!("{workload:08x}-0000-4000-8000-000000000000")
}

fn write(path: &Path, items: &[Value]) -> PathBuf {
    std::fs::write(path, json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())
        .unwrap();
    path.to_owned()
}

fn service(namespace: &str, n: u32, addresses: &[String]) -> [Value; 2] {
    let name = format!("service-{n}");
    let ready = json!({"ready": true});
    let endpoints: Vec<Value> =
        addresses.iter().map(|a| json!({"addresses": [a], "conditions": ready})).collect();
    [
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": namespace, "name": name, "labels": {"app": name}},
            "spec": {"clusterIP": format!("10.200.{}.{}", n >> 8, n & 255),
                "selector": {"app": name},
                "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"namespace": namespace, "name": format!("{name}-x7k2p"),
                "labels": {"kubernetes.io/service-name": name}},
            "endpoints": endpoints, "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]}),
    ]
}

/// A running recorder.
struct Recorder {
    child: Child,
    address: String,
    metrics: String,
}

impl Recorder {
    fn start(store: &Path, snapshot: &Path) -> Self {
        // Free now, and most likely in a moment as well.
        let metrics = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let binary = std::env::var_os("SIDECARTA_BENCH_BINARY")
            .unwrap_or_else(|| env!("CARGO_BIN_EXE_sidecarta").into());
        let mut command = Command::new(binary);
        command.args([
            "recorder",
            "--no-auth",
            "--address",
            "127.0.0.1:0",
            "--settle",
            "10ms",
            "--listen",
            &metrics,
        ]);
        command
            .arg("--cluster")
            .arg(snapshot)
            .arg("--store")
            .arg(store)
            .env_remove("SIDECARTA_STORE");
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert_ne!(lines.read_line(&mut line).unwrap(), 0, "the recorder does not run");
            if let Some((_, address)) = line.split_once("address=") {
                break address.trim().to_owned();
            }
        };
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Self { child, address, metrics }
    }

    /// Sends each client's batches in their order. Gives how often one was told to come again.
    fn send(&self, posts: Vec<Vec<Vec<u8>>>) -> u64 {
        let clients = posts.into_iter().map(|bodies| {
            let mut client = Client::new(&self.address);
            std::thread::spawn(move || {
                let mut busy = 0;
                for body in bodies {
                    loop {
                        match client.ask("POST", "/v1/batches", "Content-Encoding: zstd\r\n", &body)
                        {
                            (200, answer) => {
                                assert_eq!(answer, br#"{"applied":"new"}"#);
                                break;
                            }
                            (429, _) => busy += 1,
                            (status, answer) => {
                                panic!("{status}: {}", String::from_utf8_lossy(&answer))
                            }
                        }
                        std::thread::sleep(Duration::from_millis(2));
                    }
                }
                busy
            })
        });
        let clients: Vec<_> = clients.collect();
        clients.into_iter().map(|c| c.join().unwrap()).sum()
    }

    /// Waits until so many edges are merged.
    fn merged(&self, edges: u64) {
        let mut client = Client::new(&self.metrics);
        let until = Instant::now() + Duration::from_secs(600);
        loop {
            let (_, text) = client.ask("GET", "/metrics", "", b"");
            let text = String::from_utf8(text).unwrap();
            let count = |name: &str| -> u64 {
                let line = text
                    .lines()
                    .find_map(|l| l.strip_prefix(&format!("sidecarta_recorder_{name} ")));
                line.unwrap().parse().unwrap()
            };
            let merged = count("edges_total");
            assert!(
                merged <= edges
                    && count("batches_repeated_total") == 0
                    && count("batches_unreadable_total") == 0
            );
            if merged == edges {
                return;
            }
            assert!(Instant::now() < until, "{merged} edges of {edges} are merged");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn get(&self, path: &str) -> Vec<u8> {
        let (status, body) = Client::new(&self.address).ask("GET", path, "", b"");
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        body
    }

    fn dependencies(&self, path: &str) -> Vec<Value> {
        serde_json::from_slice(&self.get(path)).unwrap()
    }

    fn memory(&self) -> String {
        let (now, peak) = resident(self.child.id());
        format!("{} MiB resident, {} MiB at its peak", now >> 10, peak >> 10)
    }

    /// Time on processors so far.
    fn processor(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }

    fn end(mut self) {
        Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // Where an assertion failed: nobody else ends it.
        let _ = self.child.kill();
    }
}

/// A connection that stays.
struct Client(BufReader<TcpStream>);

impl Client {
    fn new(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    fn ask(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nHost: r\r\n{headers}Content-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend(body);
        self.0.get_mut().write_all(&request).unwrap();
        let (mut status, mut length) = (0, 0);
        loop {
            let mut line = String::new();
            assert_ne!(self.0.read_line(&mut line).unwrap(), 0, "the connection was closed");
            if line == "\r\n" {
                break;
            }
            if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
                status = rest[..3].parse().unwrap();
            } else if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = n.trim().parse().unwrap();
            }
        }
        let mut answer = vec![0; length];
        self.0.read_exact(&mut answer).unwrap();
        (status, answer)
    }
}
