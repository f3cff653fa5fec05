//! Hostile clients of each kind against a running recorder with few descriptors: it stays within
//! its memory, and an honest agent's batch is taken meanwhile.
//!
//! `SIDECARTA_TORTURE=1` attacks for longer, and prints what was measured.

// A test that cannot go on should say where, one that has measured what.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use super::CART;
use super::attacks::{self, ZSTD, ask, ask_packed};
use super::cluster::{Cluster, Says};
use super::running::{Recorder, batch, shop, snapshot};

/// Descriptors that the recorder has: 112 connections.
const DESCRIPTORS: u32 = 256;
/// Most memory that it may have, in KiB, whatever comes.
const MEMORY: u64 = 230 * 1024;

fn torture() -> bool {
    std::env::var_os("SIDECARTA_TORTURE").is_some()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// An API server that knows the agents `agent-N` on the nodes nN, and `ann`, who may read.
fn cluster() -> Cluster {
    let mut says = Says::of(shop());
    for n in 1..5 {
        says.agent(&format!("agent-{n}"), Some(&format!("n{n}")), None);
    }
    says.person("ann", &[("list", "shop")]);
    Cluster::start(says)
}

/// A recorder under attack.
struct Target {
    recorder: Recorder,
    cluster: Cluster,
    health: String,
    /// The number of the honest agent's next batch.
    next: u64,
    _dir: tempfile::TempDir,
}

impl Target {
    fn start() -> Self {
        let (cluster, dir) = (cluster(), tempfile::tempdir().unwrap());
        let health = format!("127.0.0.1:{}", free_port());
        let recorder = Recorder::by(Recorder::with_descriptors(
            DESCRIPTORS,
            &dir.path().join("store"),
            Some(cluster.kubeconfig.path()),
            &["--listen", &health],
        ));
        Self { recorder, cluster, health, next: 0, _dir: dir }
    }

    fn reviews(&self) -> u64 {
        self.cluster.says.lock().unwrap().reviews
    }

    /// Sends a batch as an agent does: again, when the answer is to wait.
    fn bring_one(&mut self, what: &str) {
        let body = batch("n1", "b", self.next, CART, 1);
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let (status, answer) = ask(&self.recorder.address, Some("agent-1"), &body);
            if status == 200 {
                self.next += 1;
                return;
            }
            assert!(matches!(status, 0 | 429 | 503), "{what}: {status} {answer}");
            assert!(Instant::now() < until, "{what}: no batch is taken: {status} {answer}");
            sleep(Duration::from_millis(100));
        }
    }

    fn is_healthy(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(&self.health) else { return false };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer.starts_with("HTTP/1.1 200")
    }

    /// Attacks by so many clients at once, each again and again, and brings batches meanwhile.
    fn attacked(
        &mut self,
        what: &str,
        clients: usize,
        attack: impl Fn(&str, u64, &AtomicBool) + Send + Sync + 'static,
    ) {
        let (stop, attack) = (Arc::new(AtomicBool::new(false)), Arc::new(attack));
        let count = Arc::new(AtomicU64::new(0));
        let all: Vec<_> = (0..clients)
            .map(|_| {
                let (stop, attack, count) = (stop.clone(), attack.clone(), count.clone());
                let address = self.recorder.address.clone();
                spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        attack(&address, count.fetch_add(1, Ordering::Relaxed), &stop);
                    }
                })
            })
            .collect();
        let begun = Instant::now();
        let during = Duration::from_secs(if torture() { 60 } else { 3 });
        let (mut longest, mut taken) = (Duration::ZERO, 0);
        while begun.elapsed() < during || taken < 3 {
            let one = Instant::now();
            self.bring_one(what);
            (longest, taken) = (longest.max(one.elapsed()), taken + 1);
            assert!(self.is_healthy(), "{what}");
            sleep(Duration::from_millis(50));
        }
        stop.store(true, Ordering::Relaxed);
        all.into_iter().for_each(|client| client.join().unwrap());
        let (peak, times) = (self.recorder.peak(), count.load(Ordering::Relaxed));
        // Shown with `--nocapture`.
        println!("{what}: {times} times, {taken} batches in {longest:?} at most, {peak} KiB");
        assert!(peak < MEMORY, "{what}: {peak} KiB");
    }

    fn assert_one_wrong_token_is_asked_about_each_ten_seconds(&mut self) {
        let before = self.reviews();
        self.attacked("one wrong token", 30, attacks::one_wrong_token);
        let (one, minutes) = (self.reviews() - before, if torture() { 1 } else { 0 });
        // The wrong one each ten seconds, the agent's own each minute.
        assert!(one <= 3 + 8 * minutes, "{one} questions about one wrong token");
    }

    fn assert_questions_about_different_wrong_tokens_are_limited(&mut self) {
        let before = (self.reviews(), Instant::now());
        self.attacked("different wrong tokens", 30, attacks::different_wrong_tokens);
        let (many, during) = (self.reviews() - before.0, before.1.elapsed().as_secs());
        // 20 at once and five a second; the agent's own.
        assert!(many <= 20 + 5 * (during + 1) + 2, "{many} questions in {during} s");
        assert!(many >= 5, "{many} questions: nobody was asked");
    }

    fn assert_all_that_was_brought_is_counted(&self) {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let (status, body) = self.recorder.get("/v1/dependencies?namespace=shop", Some("ann"));
            let all: Vec<serde_json::Value> = serde_json::from_str(&body).unwrap_or_default();
            let sum = all.iter().filter_map(|d| d["connections"].as_u64()).sum::<u64>();
            if sum == self.next {
                return;
            }
            assert!(Instant::now() < until, "{status} {body}: {} were sent", self.next);
            sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn under_every_attack_memory_is_bounded_and_an_honest_agent_is_served() {
    let mut target = Target::start();
    target.bring_one("before");
    target.attacked("slow heads", 150, attacks::slow_heads);
    target.attacked("connections without a word", 300, attacks::connections_without_a_word);
    target.attacked("slow bodies of another agent", 60, attacks::slow_bodies);
    target.attacked("bodies of people that do not come", 60, attacks::bodies_of_people);
    target.attacked("large bodies of other agents", 6, attacks::large_bodies);
    target.attacked("answers that nobody reads", 60, attacks::unread_answers);
    target.attacked("bombs of other agents", 6, attacks::bombing());
    target.assert_one_wrong_token_is_asked_about_each_ten_seconds();
    target.assert_questions_about_different_wrong_tokens_are_limited();
    target.assert_all_that_was_brought_is_counted();
    let (code, log) = target.recorder.kill("TERM");
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn strangers_are_refused_before_their_body_is_read() {
    let target = Target::start();
    for path in ["/v1/batches", "/v1/accept", "/v1/ignore"] {
        for token in ["", "Authorization: Bearer wrong\r\n"] {
            let mut stream = TcpStream::connect(&target.recorder.address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: r\r\n{token}\
                 Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).unwrap();
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"HTTP/1.1 401", "{path} {token}");
        }
    }
    assert_eq!(target.recorder.kill("TERM").0, Some(0));
}

#[test]
fn the_metrics_port_takes_no_descriptors_from_the_rest() {
    let mut target = Target::start();
    let silent: Vec<_> = (0..400).filter_map(|_| TcpStream::connect(&target.health).ok()).collect();
    let open =
        || std::fs::read_dir(format!("/proc/{}/fd", target.recorder.child.id())).unwrap().count();
    sleep(Duration::from_millis(500));
    assert!(open() < DESCRIPTORS as usize / 2, "{} are open", open());
    assert!(target.is_healthy());
    target.bring_one("many connections to the metrics port");
    drop(silent);
    assert_eq!(target.recorder.kill("TERM").0, Some(0));
}

/// A batch of so many edges.
fn wide(sequence: u64, edges: u32) -> Vec<u8> {
    let one = String::from_utf8(batch("n1", "b", sequence, "10.244.1.12:1", 1)).unwrap();
    let lines: Vec<&str> = one.lines().collect();
    let mut out = zstd::Encoder::new(Vec::new(), 1).unwrap();
    let mut line = |l: &str| out.write_all(l.as_bytes()).and_then(|()| out.write_all(b"\n"));
    line(lines[0]).unwrap();
    line(lines[1]).unwrap();
    for n in 0..edges {
        let port = format!("10.244.1.12:{}\"", 1 + n % 2_000);
        let names = format!("\"names\":{{\"authority\":\"n{n}.example.org\"}}");
        line(&lines[2].replace("10.244.1.12:1\"", &port).replace("\"names\":{}", &names)).unwrap();
    }
    line(&format!("{{\"end\":{{\"lines\":{}}}}}", edges + 2)).unwrap();
    out.finish().unwrap()
}

#[test]
fn after_a_crash_queued_batches_are_read_one_by_one() {
    let edges = if torture() { 100_000 } else { 10_000 };
    let batches = if torture() { 20 } else { 10 };
    let dir = tempfile::tempdir().unwrap();
    let (store, cluster) = (dir.path().join("store"), snapshot(dir.path()).display().to_string());
    let plain = ["--no-auth", "--cluster", &cluster];
    let recorder = Recorder::start(&store, None, &[&plain[..], &["--settle", "1h"]].concat());
    for n in 0..batches {
        let (status, answer) = ask_packed(&recorder.address, None, ZSTD, &wide(n, edges));
        assert_eq!(status, 200, "{answer}");
    }
    let taking = recorder.peak();
    recorder.kill("KILL");
    for _ in 0..2 {
        let recorder = Recorder::start(&store, None, &plain);
        let until = Instant::now() + Duration::from_secs(if torture() { 1_200 } else { 240 });
        loop {
            // Under load the thread of the store takes its time, and there is no answer.
            let (status, body) = recorder.get("/v1/dependencies", None);
            let all: Vec<serde_json::Value> = match status {
                200 => serde_json::from_str(&body).unwrap(),
                _ => Vec::new(),
            };
            let sum = all.iter().map(|d| d["connections"].as_u64().unwrap()).sum::<u64>();
            assert!(sum <= batches * u64::from(edges), "{sum}: counted twice");
            if sum == batches * u64::from(edges) {
                break;
            }
            assert!(Instant::now() < until, "kept batches are not merged: {status}, {sum}");
            sleep(Duration::from_millis(100));
        }
        let peak = recorder.peak();
        println!("{batches} batches of {edges} edges: {taking} KiB, after a crash {peak} KiB");
        assert!(taking < MEMORY && peak < MEMORY, "{taking} and {peak} KiB");
        recorder.kill("KILL");
    }
}
