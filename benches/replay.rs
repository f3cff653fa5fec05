//! Replay of large synthetic captures of three shapes, each beside tcpdump in the same round:
//! 51,000 connections that stay open; 488,000 of 20 packets; 2,000,000 of 5. Each has about
//! 10,000,000 packets between 3,000 pods, on 17,000 edges from a workload to a Service. Prints
//! ratios; asserts only that what was found is what was generated.
//!
//! `cargo bench --bench replay -- long short brief` runs the shapes that are named.
//! `SIDECARTA_BENCH_SCALE` makes them smaller (0.01: a hundredth of the connections, of the long
//! ones a hundredth of the packets), `SIDECARTA_BENCH_ROUNDS` sets how often all programs run, in
//! turn (default 5). The captures, about 5 GB, are made once in `SIDECARTA_BENCH_DIR`; by default
//! that is `sidecarta/bench` in the user's cache.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sidecarta_testkit::{memory, pcap};

const WORKLOADS: u32 = 1_000;
const PODS: u32 = 3;
/// Services that each pod calls: 3,000 × 17 = 51,000 edges of pods.
const CALLED: u32 = 17;
const EDGES: u32 = WORKLOADS * PODS * CALLED;
/// Connections under way at a time, where they end.
const TOGETHER: u32 = 2_000;

/// What a capture holds.
struct Shape {
    name: &'static str,
    connections: u32,
    /// Packets of each connection.
    packets: u32,
    /// They end with the capture or before.
    ends: bool,
}

impl Shape {
    fn all(scale: f64) -> [Self; 3] {
        let scaled = |n: u32| (f64::from(n) * scale).ceil() as u32;
        [
            Self { name: "long", connections: EDGES, packets: scaled(196), ends: false },
            Self { name: "short", connections: scaled(488_000), packets: 20, ends: true },
            Self { name: "brief", connections: scaled(2_000_000), packets: 5, ends: true },
        ]
    }

    fn total(&self) -> u64 {
        u64::from(self.connections) * u64::from(self.packets)
    }

    /// Connections and packets of them, in the order of the capture.
    fn order(&self) -> impl Iterator<Item = (u32, u32)> {
        let together = if self.ends { TOGETHER } else { self.connections };
        (0..self.connections).step_by(together as usize).flat_map(move |first| {
            let last = (first + together).min(self.connections);
            (0..self.packets).flat_map(move |round| (first..last).map(move |c| (c, round)))
        })
    }

    fn write(&self, path: &Path) {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path).unwrap());
        out.write_all(pcap::HEADER).unwrap();
        let mut frame = Vec::new();
        for (n, (connection, round)) in (0u64..).zip(self.order()) {
            let left = if self.ends { self.packets - round } else { u32::MAX };
            packet(&mut frame, connection, round, left);
            let micros = 1_767_300_000_000_000 + n * 10;
            out.write_all(&pcap::record(micros, frame.len())).unwrap();
            out.write_all(&frame).unwrap();
        }
        out.flush().unwrap();
    }
}

/// Workload and pod of whoever opens a connection, and which of its Services it calls.
fn caller(connection: u32) -> (u32, u32, u32) {
    let edge = connection % EDGES;
    let (pod, k) = (edge / CALLED, edge % CALLED);
    (pod / PODS, pod % PODS, k)
}

fn address(workload: u32, pod: u32) -> [u8; 4] {
    [10, 1 + pod as u8, (workload >> 8) as u8, workload as u8]
}

/// The packet of a round: handshake first, then data both ways; both ends close in the last two.
fn packet(out: &mut Vec<u8>, connection: u32, round: u32, left: u32) {
    let (w, p, k) = caller(connection);
    // No pod uses a port twice.
    let port = 20_000 + (connection / EDGES * CALLED + k) as u16;
    let client = (address(w, p), port);
    let server = (address((w + 1 + k) % WORKLOADS, (p + k) % PODS), 8080);
    let reply = round % 2 == 1;
    let (from, to) = if reply { (server, client) } else { (client, server) };
    let flags = match round {
        0 => 0x02,
        1 => 0x12,
        _ if left <= 2 => 0x11,
        _ => 0x10,
    };
    let payload = if round < 3 || left <= 2 { 0 } else { 132 };
    out.clear();
    out.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
    out.extend([0x45, 0]);
    out.extend((40 + payload as u16).to_be_bytes());
    out.extend([0, 0, 0x40, 0, 63, 6, 0, 0]);
    out.extend(from.0);
    out.extend(to.0);
    out.extend(from.1.to_be_bytes());
    out.extend(to.1.to_be_bytes());
    // Each side sends its data in order: a handshake, then 132 bytes a segment.
    let sent = if round < 2 { 0 } else { 1 + (round / 2).saturating_sub(2) * 132 };
    out.extend((1_000 + connection + sent).to_be_bytes());
    out.extend((if flags == 0x02 { 0u32 } else { 1_000 + connection + 1 }).to_be_bytes());
    out.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    out.resize(out.len() + payload, 0xab);
}

fn write_snapshot(path: &Path) {
    let mut items = Vec::new();
    let ip = |w, p| address(w, p).map(|b| b.to_string()).join(".");
    for w in 0..WORKLOADS {
        let meta = |name: String| {
            serde_json::json!({"namespace": format!("ns{}", w % 20),
            "name": name, "labels": {"app": format!("w{w}"),
                "kubernetes.io/service-name": format!("w{w}")}})
        };
        items.push(serde_json::json!({"apiVersion": "v1", "kind": "Service",
            "metadata": meta(format!("w{w}")),
            "spec": {"clusterIP": format!("10.96.{}.{}", w >> 8, w & 255),
                "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}));
        items.push(serde_json::json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": meta(format!("w{w}")),
            "spec": {"selector": {"matchLabels": {"app": format!("w{w}")}}}}));
        let addresses: Vec<_> =
            (0..PODS).map(|p| serde_json::json!({"addresses": [ip(w, p)]})).collect();
        items.push(
            serde_json::json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": meta(format!("w{w}-x")),
            "endpoints": addresses, "ports": [{"name": "http", "port": 8080}]}),
        );
        for p in 0..PODS {
            let mut meta = meta(format!("w{w}-{p}"));
            meta["ownerReferences"] = serde_json::json!([{"kind": "StatefulSet",
                "name": format!("w{w}"), "controller": true}]);
            items.push(serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta,
                "spec": {"containers": [{"name": "app"}, {"name": "istio-proxy"}]},
                "status": {"phase": "Running", "podIP": ip(w, p),
                    "startTime": "2026-01-01T00:00:00Z"}}));
        }
    }
    let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items});
    std::fs::write(path, serde_json::to_string_pretty(&list).unwrap()).unwrap();
}

/// Runs a command to its end: wall time and the peak of its resident memory in KiB.
fn timed(command: &mut Command) -> (Duration, u64) {
    let start = Instant::now();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut peak = 0;
    loop {
        peak = peak.max(memory::kib(child.id(), "VmHWM").unwrap_or(0));
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{command:?} failed: {status}");
            return (start.elapsed(), peak);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Least and median.
fn spread(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    format!("{:.2} least, {:.2} median", values[0], values[values.len() / 2])
}

fn cache() -> PathBuf {
    if let Some(dir) = std::env::var_os("SIDECARTA_BENCH_DIR") {
        return dir.into();
    }
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache");
    std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("sidecarta/bench")
}

fn main() {
    let scale = std::env::var("SIDECARTA_BENCH_SCALE").ok();
    let scale = scale.map_or(1.0, |s| s.parse().expect("SIDECARTA_BENCH_SCALE is a number"));
    let named: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let dir = cache();
    std::fs::create_dir_all(&dir).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let snapshot = scratch.path().join("cluster.json");
    write_snapshot(&snapshot);
    let shapes = Shape::all(scale).into_iter();
    let shapes = shapes.filter(|s| named.is_empty() || named.iter().any(|n| n == s.name));
    let shapes: Vec<(Shape, PathBuf)> = shapes
        .map(|shape| {
            let path = dir.join(format!("{}-{}.pcap", shape.name, shape.total()));
            if !path.exists() {
                let unfinished = dir.join(format!("new-{}", std::process::id()));
                shape.write(&unfinished);
                std::fs::rename(unfinished, &path).unwrap();
            }
            println!(
                "{}: {} connections, {} packets, {} MB",
                shape.name,
                shape.connections,
                shape.total(),
                std::fs::metadata(&path).unwrap().len() / 1_000_000
            );
            (shape, path)
        })
        .collect();
    let binary = env!("CARGO_BIN_EXE_sidecarta");
    let mut ratios = vec![Vec::new(); shapes.len()];
    for round in 1..=setting("SIDECARTA_BENCH_ROUNDS", 5) {
        for ((shape, capture), ratios) in shapes.iter().zip(&mut ratios) {
            // What it finds goes nowhere: printing would cost it more than reading.
            let (dump, _) = timed(Command::new("tcpdump").arg("-r").arg(capture).args([
                "-w",
                "/dev/null",
                "tcp[tcpflags] & tcp-syn != 0",
            ]));
            let store = scratch.path().join(format!("{}{round}", shape.name));
            let (replay, peak) = timed(
                Command::new(binary)
                    .args(["replay", "--cluster"])
                    .arg(&snapshot)
                    .arg("--store")
                    .arg(&store)
                    .arg(capture),
            );
            let ratio = replay.as_secs_f64() / dump.as_secs_f64();
            println!(
                "round {round}, {:5}: tcpdump {dump:.2?}, replay {replay:.2?} ({} MiB): \
                 {ratio:.2} x",
                shape.name,
                peak >> 10
            );
            ratios.push(ratio);
            check(binary, &store, shape);
        }
    }
    for ((shape, _), ratios) in shapes.iter().zip(ratios) {
        println!("{:5} replay to tcpdump: {}", shape.name, spread(ratios));
    }
}

/// Every workload calls exactly the Services generated, with as many connections.
fn check(binary: &str, store: &Path, shape: &Shape) {
    let out = Command::new(binary)
        .args(["dependencies", "-o", "json", "--store"])
        .arg(store)
        .output()
        .unwrap();
    let found: Vec<serde_json::Value> = serde_json::from_slice(&out.stdout).unwrap();
    let found: BTreeMap<(u32, u32), u64> = found
        .iter()
        .map(|d| {
            assert_eq!(d["port"].as_u64(), Some(80), "{d}");
            let number = |v: &serde_json::Value| v.as_str().unwrap()[1..].parse::<u32>().unwrap();
            let ends = (number(&d["workload"]["name"]), number(&d["destination"]["name"]));
            (ends, d["connections"].as_u64().unwrap())
        })
        .collect();
    let mut made: BTreeMap<(u32, u32), u64> = BTreeMap::new();
    for connection in 0..shape.connections {
        let (w, _, k) = caller(connection);
        *made.entry((w, (w + 1 + k) % WORKLOADS)).or_default() += 1;
    }
    assert!(found == made, "{}: what was found is not what was generated", shape.name);
}
