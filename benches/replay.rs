//! Replay of a large synthetic capture, against reference programs in the same run. Prints ratios;
//! asserts only that the edges found are those generated.
//!
//! `SIDECARTA_BENCH_PACKETS` sets the number of packets (default 10,000,000: about 2 GB in the
//! temporary directory), `SIDECARTA_BENCH_ROUNDS` how often all programs run, in turn (default 5).
//! `SIDECARTA_BENCH_DIR` keeps the capture there, for the next run and for other programs.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const WORKLOADS: u32 = 1_000;
const PODS: u32 = 3;
/// Pods that each pod calls: 3,000 × 17 = 51,000 edges.
const CALLED: u32 = 17;
const EDGES: u32 = WORKLOADS * PODS * CALLED;

fn address(workload: u32, pod: u32) -> [u8; 4] {
    [10, 1 + pod as u8, (workload >> 8) as u8, workload as u8]
}

/// The packet of a round: handshake first, then data both ways, interleaved over all edges.
fn packet(out: &mut Vec<u8>, edge: u32, round: u32) {
    let (pod, k) = (edge / CALLED, edge % CALLED);
    let (w, p) = (pod / PODS, pod % PODS);
    let client = (address(w, p), 20_000 + k as u16);
    let server = (address((w + 1 + k) % WORKLOADS, (p + k) % PODS), 8080);
    let reply = round % 2 == 1;
    let (from, to) = if reply { (server, client) } else { (client, server) };
    let flags = match round {
        0 => 0x02,
        1 => 0x12,
        _ => 0x10,
    };
    let payload = if round < 3 { 0 } else { 132 };
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
    out.extend((1_000 + edge + sent).to_be_bytes());
    out.extend((if flags == 0x02 { 0u32 } else { 1_000 + edge + 1 }).to_be_bytes());
    out.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    out.resize(out.len() + payload, 0xab);
}

fn write_capture(path: &Path, packets: u64) {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).unwrap());
    out.write_all(b"\xd4\xc3\xb2\xa1\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\x04\0\x01\0\0\0").unwrap();
    let mut frame = Vec::new();
    for n in 0..packets {
        packet(&mut frame, (n % u64::from(EDGES)) as u32, (n / u64::from(EDGES)) as u32);
        let micros = n * 10;
        out.write_all(&(1_767_300_000 + (micros / 1_000_000) as u32).to_le_bytes()).unwrap();
        out.write_all(&((micros % 1_000_000) as u32).to_le_bytes()).unwrap();
        out.write_all(&(frame.len() as u32).to_le_bytes()).unwrap();
        out.write_all(&(frame.len() as u32).to_le_bytes()).unwrap();
        out.write_all(&frame).unwrap();
    }
    out.flush().unwrap();
}

fn write_snapshot(path: &Path) {
    let mut items = Vec::new();
    let ip = |w, p| address(w, p).map(|b| b.to_string()).join(".");
    for w in 0..WORKLOADS {
        let meta = |name: String| serde_json::json!({"namespace": format!("ns{}", w % 20), "name": name, "labels": {"app": format!("w{w}"), "kubernetes.io/service-name": format!("w{w}")}});
        items.push(serde_json::json!({"apiVersion": "v1", "kind": "Service", "metadata": meta(format!("w{w}")),
            "spec": {"clusterIP": format!("10.96.{}.{}", w >> 8, w & 255), "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}));
        items.push(serde_json::json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": meta(format!("w{w}")),
            "spec": {"selector": {"matchLabels": {"app": format!("w{w}")}}}}));
        let addresses: Vec<_> =
            (0..PODS).map(|p| serde_json::json!({"addresses": [ip(w, p)]})).collect();
        items.push(
            serde_json::json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": meta(format!("w{w}-x")),
            "endpoints": addresses, "ports": [{"name": "http", "port": 8080}]}),
        );
        for p in 0..PODS {
            let mut meta = meta(format!("w{w}-{p}"));
            meta["ownerReferences"] = serde_json::json!([{"kind": "StatefulSet", "name": format!("w{w}"), "controller": true}]);
            items.push(serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta,
                "spec": {"containers": [{"name": "app"}, {"name": "istio-proxy"}]},
                "status": {"phase": "Running", "podIP": ip(w, p), "startTime": "2026-01-01T00:00:00Z"}}));
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
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        peak = peak.max(line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0));
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

fn main() {
    let packets = setting("SIDECARTA_BENCH_PACKETS", 10_000_000);
    let scratch = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("SIDECARTA_BENCH_DIR").map(PathBuf::from);
    let dir = kept.as_deref().unwrap_or(scratch.path());
    std::fs::create_dir_all(dir).unwrap();
    let (capture, snapshot) = (dir.join(format!("bench-{packets}.pcap")), dir.join("cluster.json"));
    if !capture.exists() {
        let unfinished = dir.join("bench.new");
        write_capture(&unfinished, packets);
        std::fs::rename(unfinished, &capture).unwrap();
    }
    write_snapshot(&snapshot);
    let size = std::fs::metadata(&capture).unwrap().len();
    println!(
        "{packets} packets, {} MB, {EDGES} edges of {} pods in {WORKLOADS} workloads",
        size / 1_000_000,
        WORKLOADS * PODS
    );
    let binary = env!("CARGO_BIN_EXE_sidecarta");
    let (mut to_dump, mut to_lines) = (Vec::new(), Vec::new());
    for round in 1..=setting("SIDECARTA_BENCH_ROUNDS", 5) {
        let (lines, _) = timed(Command::new("wc").arg("-l").arg(&capture));
        let (dump, _) = timed(Command::new("tcpdump").args(["-r"]).arg(&capture).args([
            "-w",
            "/dev/null",
            "tcp[tcpflags] & tcp-syn != 0",
        ]));
        let store = scratch.path().join(format!("store{round}"));
        let (replay, peak) = timed(
            Command::new(binary)
                .args(["replay", "--cluster"])
                .arg(&snapshot)
                .arg("--store")
                .arg(&store)
                .arg(&capture),
        );
        let ratio = |d: Duration| replay.as_secs_f64() / d.as_secs_f64();
        println!(
            "round {round}: wc -l {lines:.2?}, tcpdump {dump:.2?}, replay {replay:.2?} ({} MiB): {:.2} x tcpdump, {:.2} x wc -l",
            peak >> 10,
            ratio(dump),
            ratio(lines)
        );
        to_dump.push(ratio(dump));
        to_lines.push(ratio(lines));
        check(binary, &store);
    }
    println!("replay to tcpdump: {}; to wc -l: {}", spread(to_dump), spread(to_lines));
}

/// Every workload calls exactly the Services generated, with as many connections.
fn check(binary: &str, store: &Path) {
    let out = Command::new(binary)
        .args(["dependencies", "-o", "json", "--store"])
        .arg(store)
        .output()
        .unwrap();
    let found: Vec<serde_json::Value> = serde_json::from_slice(&out.stdout).unwrap();
    let mut edges = 0;
    for d in &found {
        let number = |v: &serde_json::Value| v.as_str().unwrap()[1..].parse::<u32>().unwrap();
        let (from, to) = (number(&d["workload"]["name"]), number(&d["destination"]["name"]));
        let distance = (to + WORKLOADS - from) % WORKLOADS;
        assert!((1..=CALLED).contains(&distance), "{d}");
        assert_eq!(
            (d["port"].as_u64(), d["connections"].as_u64()),
            (Some(80), Some(u64::from(PODS))),
            "{d}"
        );
        edges += d["connections"].as_u64().unwrap();
    }
    assert_eq!((found.len() as u32, edges as u32), (WORKLOADS * CALLED, EDGES));
}
