//! Thousands of captures that overlap in time, one an interface, are read with the descriptors that
//! a process usually has, in little memory. They teach what one capture of all their packets does.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod common;

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::dependencies;
use sidecarta_testkit::frame::Tcp;
use sidecarta_testkit::{memory, pcap};

const CAPTURES: u32 = 3_000;
/// Calls in each capture: with 11 packets each, 20 kB.
const CALLS: u32 = 15;
const WORKLOADS: u32 = 60;
const MIB: u64 = 1024;

/// One interface of each pod.
fn pod(n: u32) -> [u8; 4] {
    [10, 1, (n >> 8) as u8, n as u8]
}

fn cluster() -> String {
    let mut out = String::new();
    for w in 0..WORKLOADS {
        writeln!(
            out,
            "---\nkind: Service\nmetadata: {{name: s{w}, namespace: shop}}\n\
             spec: {{clusterIP: 10.96.0.{}, ports: [{{name: http, port: 80}}]}}",
            w + 1
        )
        .unwrap();
    }
    for n in 0..CAPTURES {
        let ip = pod(n).map(|b| b.to_string()).join(".");
        let w = n % WORKLOADS;
        writeln!(
            out,
            "---\nkind: Pod\nmetadata:\n  name: w{w}-{n}\n  namespace: shop\n  ownerReferences:\n  \
             - {{kind: StatefulSet, name: w{w}, controller: true}}\n\
             spec: {{containers: [{{name: app}}]}}\n\
             status: {{phase: Running, podIP: {ip}, startTime: \"2026-01-01T00:00:00Z\"}}"
        )
        .unwrap();
    }
    out
}

/// Packets of a pod's capture: time in microseconds, frame.
fn packets(n: u32) -> Vec<(u64, Vec<u8>)> {
    let mut out = Vec::new();
    for call in 0..CALLS {
        let (client, server) = (pod(n), [10, 96, 0, ((n + call * 7) % WORKLOADS + 1) as u8]);
        let port = 40_000 + call as u16;
        // All captures go on from the first second to the last.
        let start = u64::from(call) * 1_000_000 + u64::from(n) * 13;
        for step in 0..11u32 {
            let (from, to) = if step % 2 == 0 {
                ((client, port), (server, 80))
            } else {
                ((server, 80), (client, port))
            };
            let (seq, ack) = (7 + step, (step > 0).then_some(8 + step));
            let tcp = Tcp { seq, ack, syn: step == 0, payload: &[0; 52], ..Tcp::default() };
            let frame = tcp.frame(from, to);
            out.push((start + u64::from(step) * 50_000, frame));
        }
    }
    out
}

fn write(path: &Path, packets: &[(u64, Vec<u8>)]) {
    let frames = packets.iter().map(|(time, frame)| (1_790_000_000_000_000 + time, frame));
    std::fs::write(path, pcap::capture(frames)).unwrap();
}

/// Replays with 1,024 descriptors; exit code, what is said, and KiB of memory taken at most.
fn replay(cluster: &Path, captures: &Path, store: &Path) -> (Option<i32>, String, u64) {
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -n 1024 && exec \"$@\"", "sh", env!("CARGO_BIN_EXE_sidecarta")])
        .args(["replay", "--cluster"])
        .arg(cluster)
        .arg(captures)
        .arg("--store")
        .arg(store)
        .env("TMPDIR", store.parent().unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        most = most.max(memory::kib(child.id(), "VmHWM").unwrap_or(0));
        std::thread::sleep(Duration::from_millis(2));
    }
    let out = child.wait_with_output().unwrap();
    let said = [out.stdout, out.stderr].concat();
    (out.status.code(), String::from_utf8(said).unwrap(), most)
}

#[test]
fn thousands_of_captures_that_overlap_are_read_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = dir.path().join("cluster.yaml");
    std::fs::write(&snapshot, cluster()).unwrap();
    let (many, one) = (dir.path().join("many"), dir.path().join("one"));
    std::fs::create_dir(&many).unwrap();
    std::fs::create_dir(&one).unwrap();
    let mut all = Vec::new();
    for n in 0..CAPTURES {
        let packets = packets(n);
        write(&many.join(format!("veth{n:04}.pcap")), &packets);
        all.extend(packets);
    }
    all.sort_by_key(|(time, _)| *time);
    write(&one.join("all.pcap"), &all);

    let mut learned = Vec::new();
    for (captures, store) in [(&many, "many.store"), (&one, "one.store")] {
        let store = dir.path().join(store);
        let (code, said, most) = replay(&snapshot, captures, &store);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("lost          nothing"), "{said}");
        assert!(said.contains(&format!("{} read", all.len())), "{said}");
        // Most of it is what they teach; how full the allocator's arenas are differs by 30 MiB.
        assert!(most < 200 * MIB, "{} MiB", most / MIB);
        learned.push(dependencies(&store));
    }
    assert!(learned[0].len() > 500, "{}", learned[0].len());
    assert_eq!(learned[0], learned[1]);
}

/// The same compressed: they are unpacked into a temporary file, and are gone from there after.
#[test]
fn compressed_captures_that_overlap_are_unpacked_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = dir.path().join("cluster.yaml");
    std::fs::write(&snapshot, cluster()).unwrap();
    let (many, one) = (dir.path().join("many"), dir.path().join("one"));
    std::fs::create_dir(&many).unwrap();
    std::fs::create_dir(&one).unwrap();
    let mut all = Vec::new();
    for n in 0..600 {
        let path = many.join(format!("veth{n:04}.pcap"));
        let packets = packets(n);
        write(&path, &packets);
        let packed = zstd::encode_all(&std::fs::read(&path).unwrap()[..], 1).unwrap();
        std::fs::write(many.join(format!("veth{n:04}.pcap.zst")), packed).unwrap();
        std::fs::remove_file(path).unwrap();
        all.extend(packets);
    }
    all.sort_by_key(|(time, _)| *time);
    write(&one.join("all.pcap"), &all);
    let mut learned = Vec::new();
    for (captures, store) in [(&many, "many.store"), (&one, "one.store")] {
        let store = dir.path().join(store);
        let (code, said, _) = replay(&snapshot, captures, &store);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("lost          nothing"), "{said}");
        learned.push(dependencies(&store));
    }
    assert_eq!(learned[0], learned[1]);
    let left = std::fs::read_dir(dir.path()).unwrap().flatten();
    let left = left.filter(|e| e.file_name().to_string_lossy().starts_with("sidecarta-"));
    assert_eq!(left.count(), 0);
}
