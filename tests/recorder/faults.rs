//! What befalls a recorder: kills, disks, certificates.

// A test that cannot go on should say where, one that has measured what.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use sidecarta_testkit::random::Random;

use super::CART;
use super::common::disk::Disk;
use super::running::{Recorder, batch, snapshot};

/// How often the recorder is killed where nothing else is said.
const KILLS: u64 = 150;

/// Brings batches of an agent until the recorder is gone, and gives the number of the first that is
/// not acknowledged.
fn bring(address: &str, agent: usize, mut sequence: u64) -> u64 {
    loop {
        let body = batch(&format!("n{agent}"), "b", sequence, CART, 1);
        let Ok(mut stream) = TcpStream::connect(address) else { return sequence };
        let head = format!(
            "POST /v1/batches HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        let mut answer = String::new();
        let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
        if sent.is_err()
            || stream.read_to_string(&mut answer).is_err()
            || !answer.starts_with("HTTP/1.1 200")
        {
            return sequence;
        }
        sequence += 1;
    }
}

/// Kills a recorder so long after it was started that it opens its store or is about to.
fn kill_while_opening(mut command: Command, after: Duration, context: &str) {
    let mut child = command.spawn().unwrap();
    std::thread::sleep(after);
    assert!(child.try_wait().unwrap().is_none(), "it ended by itself: {context}");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Looks whether a recorder has all that was acknowledged, once, until it has or until chance ends
/// that; whether it was seen to have it.
fn has_acknowledged(recorder: &Recorder, next: &[u64], random: &mut Random, context: &str) -> bool {
    let acknowledged: u64 = next.iter().sum();
    let until = Instant::now() + Duration::from_secs(20);
    while random.below(8) > 0 {
        let (_, sum) = recorder.dependencies(None);
        // Of each agent, one batch may be there without its knowledge.
        assert!(sum <= acknowledged + 3, "{sum} connections of {acknowledged}: {context}");
        if sum >= acknowledged {
            return true;
        }
        assert!(Instant::now() < until, "{sum} connections of {acknowledged}: {context}");
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

/// Three agents bring batches until the recorder is killed.
fn kill_while_receiving(recorder: Recorder, next: &mut [u64; 3], after: Duration) {
    let senders: Vec<_> = (0..3usize)
        .map(|agent| {
            let (address, sequence) = (recorder.address.clone(), next[agent]);
            std::thread::spawn(move || bring(&address, agent, sequence))
        })
        .collect();
    std::thread::sleep(after);
    recorder.kill("KILL");
    for (agent, sender) in senders.into_iter().enumerate() {
        next[agent] = sender.join().unwrap();
    }
}

/// The recorder is killed at random instants, while it opens its store, catches up, or receives
/// from three agents, which ask again for what they do not know to be acknowledged. Whenever it
/// runs again, all that was acknowledged is there, once.
///
/// `SIDECARTA_KILLS=1000` kills it so often, `SIDECARTA_SEED` repeats the instants of a run.
#[test]
fn an_acknowledged_batch_counts_once_whatever_happens() {
    let number = |name: &str| std::env::var(name).ok().map(|n| n.parse::<u64>().unwrap());
    let kills = number("SIDECARTA_KILLS").unwrap_or(KILLS);
    let seed = number("SIDECARTA_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let mut random = Random(seed);
    let dir = tempfile::tempdir().unwrap();
    let (store, cluster) = (dir.path().join("store"), snapshot(dir.path()).display().to_string());
    let options = ["--no-auth", "--cluster", &cluster];
    let begun = Instant::now();
    let (mut next, mut opening, mut checks) = ([0u64; 3], 0, 0);
    for round in 0..kills {
        let context = format!("kill {round} of {kills}, SIDECARTA_SEED={seed}");
        if random.below(3) == 0 {
            let after = Duration::from_micros(random.below(60_000));
            kill_while_opening(Recorder::command(&store, None, &options), after, &context);
            opening += 1;
            continue;
        }
        let recorder = Recorder::start(&store, None, &options);
        checks += u64::from(has_acknowledged(&recorder, &next, &mut random, &context));
        let after = Duration::from_micros(random.below(80_000));
        kill_while_receiving(recorder, &mut next, after);
    }
    let acknowledged: u64 = next.iter().sum();
    // Shown with `--nocapture`.
    println!(
        "{kills} kills in {:.1} s, {opening} of them while opening; {acknowledged} batches \
         acknowledged, {checks} checks; seed {seed}",
        begun.elapsed().as_secs_f64()
    );
    assert!(acknowledged > kills / 2, "{acknowledged} batches only");
    let recorder = Recorder::start(&store, None, &options);
    // What was on its way may be there without having been acknowledged: it is sent again, and
    // counts once.
    for (agent, sequence) in next.iter().enumerate() {
        assert_eq!(
            recorder.post(None, &batch(&format!("n{agent}"), "b", *sequence, CART, 1)).0,
            200
        );
    }
    let all = recorder.connections(None, acknowledged + 3);
    assert_eq!((all.len(), all[0]["destination"]["name"].as_str()), (1, Some("cart")));
    assert_eq!(recorder.kill("TERM").0, Some(0));
}

/// A certificate of an authority of its own, for such a name (`IP:127.0.0.1`).
pub fn certificate(dir: &Path, name: &str, of: &str) {
    let out = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=r",
        ])
        .args([
            "-addext",
            &format!("subjectAltName={of}"),
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-keyout",
            "key.pem",
            "-out",
            name,
        ])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn over_tls_with_a_certificate_that_changes() {
    let dir = tempfile::tempdir().unwrap();
    certificate(dir.path(), "first.pem", "IP:127.0.0.1");
    std::fs::copy(dir.path().join("first.pem"), dir.path().join("cert.pem")).unwrap();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let (cert, key, cluster) =
        (file("cert.pem"), file("key.pem"), snapshot(dir.path()).display().to_string());
    let tls = ["--no-auth", "--cluster", &cluster, "--tls-cert", &cert, "--tls-key", &key];
    let recorder = Recorder::start(&dir.path().join("store"), None, &tls);
    let url = format!("https://{}", recorder.address);
    let asked = |authority: &str| {
        let out =
            super::common::run(&["status", "--recorder", &url, "--ca-file", &file(authority)]);
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    assert_eq!(asked("first.pem").0, Some(0), "{:?}", asked("first.pem"));
    // Half of a renewal: the certificate is there, the key is not its own. The old pair stays in
    // use.
    certificate(dir.path(), "second.pem", "IP:127.0.0.1");
    let (code, printed) = asked("second.pem");
    assert_eq!(code, Some(1));
    assert!(printed.contains("certificate"), "{printed}");
    std::fs::copy(dir.path().join("second.pem"), dir.path().join("cert.pem")).unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    while asked("second.pem").0 != Some(0) {
        assert!(Instant::now() < until, "the new certificate is not served");
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(recorder.kill("TERM").0, Some(0));
}

#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    let Some(disk) = Disk::mount("a full disk", "48m") else { return };
    let dir = tempfile::tempdir().unwrap();
    let cluster = snapshot(dir.path()).display().to_string();
    let recorder =
        Recorder::start(&disk.path().join("store"), None, &["--no-auth", "--cluster", &cluster]);
    assert_eq!(recorder.post(None, &batch("n1", "b", 0, CART, 3)).0, 200);
    recorder.connections(None, 3);
    let filler = disk.path().join("filler");
    std::fs::write(&filler, vec![0u8; 34 << 20]).unwrap();
    let (status, answer) = recorder.post(None, &batch("n1", "b", 1, CART, 4));
    assert_eq!(status, 503, "{answer}");
    assert!(answer.contains("MiB are free"), "{answer}");
    // It goes on to answer, and takes the batch when there is room.
    recorder.connections(None, 3);
    std::fs::remove_file(filler).unwrap();
    assert_eq!(recorder.post(None, &batch("n1", "b", 1, CART, 4)).0, 200);
    recorder.connections(None, 7);
    assert_eq!(recorder.kill("TERM").0, Some(0));
}

/// A batch that does not compress to less than some megabytes: names that are no Service's.
fn large(sequence: u64) -> Vec<u8> {
    let one = String::from_utf8(batch("n1", "b", sequence, CART, 5)).unwrap();
    let lines: Vec<&str> = one.lines().collect();
    let mut random = Random(sequence);
    let mut all: Vec<String> = lines[..3].iter().map(|l| (*l).to_owned()).collect();
    for _ in 0..40_000 {
        let name: String = (0..12).map(|_| format!("{:016x}", random.below(u64::MAX))).collect();
        let at = "2026-11-25T09:00:00Z";
        all.push(format!(
            "{{\"asked\":{{\"pod\":0,\"question\":\"{name}\",\"connections\":1,\
             \"firstSeen\":\"{at}\",\"lastSeen\":\"{at}\"}}}}"
        ));
    }
    all.push(format!("{{\"end\":{{\"lines\":{}}}}}", all.len()));
    all.into_iter().map(|l| l + "\n").collect::<String>().into_bytes()
}

#[test]
fn a_batch_larger_than_the_room_left_is_refused_and_the_recorder_lives() {
    let Some(disk) = Disk::mount("a batch larger than the room left", "128m") else { return };
    let dir = tempfile::tempdir().unwrap();
    let cluster = snapshot(dir.path()).display().to_string();
    let recorder =
        Recorder::start(&disk.path().join("store"), None, &["--no-auth", "--cluster", &cluster]);
    let large = large(0);
    let stat = rustix::fs::statvfs(disk.path()).unwrap();
    // Enough for a small batch, and for the bytes of the large one as such.
    let room = 24 << 20;
    let filler = disk.path().join("filler");
    std::fs::write(&filler, vec![0u8; (stat.f_bavail * stat.f_frsize - room) as usize]).unwrap();
    let (status, answer) = recorder.post(None, &large);
    assert_eq!(status, 503, "{answer}");
    assert!(answer.contains("MiB are free"), "{answer}");
    assert_eq!(recorder.post(None, &batch("n2", "b", 0, CART, 3)).0, 200);
    recorder.connections(None, 3);
    std::fs::remove_file(filler).unwrap();
    assert_eq!(recorder.post(None, &large).0, 200);
    recorder.connections(None, 8);
    assert_eq!(recorder.kill("TERM").0, Some(0));
}

/// A batch that is small on its way and large when it is learned: a connection to each of these
/// ports of a pod.
fn wide(sequence: u64, ports: impl Iterator<Item = u16>) -> Vec<u8> {
    let one = String::from_utf8(batch("n1", "b", sequence, "10.244.1.12:1", 1)).unwrap();
    let lines: Vec<&str> = one.lines().collect();
    let edges =
        ports.map(|port| lines[2].replace("10.244.1.12:1\"", &format!("10.244.1.12:{port}\"")));
    let mut all: Vec<String> =
        [lines[0].to_owned(), lines[1].to_owned()].into_iter().chain(edges).collect();
    all.push(format!("{{\"end\":{{\"lines\":{}}}}}", all.len()));
    all.into_iter().map(|l| l + "\n").collect::<String>().into_bytes()
}

#[test]
fn a_disk_that_fills_between_merging_and_raising_loses_no_alert() {
    let Some(disk) = Disk::mount("a disk that fills between merging and raising", "64m") else {
        return;
    };
    const KNOWN: std::ops::Range<u16> = 20_000..21_000;
    let dir = tempfile::tempdir().unwrap();
    let cluster = snapshot(dir.path()).display().to_string();
    let recorder =
        Recorder::start(&disk.path().join("store"), None, &["--no-auth", "--cluster", &cluster]);
    let known = KNOWN.len() as u64;
    assert_eq!(recorder.post(None, &wide(0, KNOWN)).0, 200);
    recorder.connections(None, known);
    assert_eq!(
        recorder.ask("POST", "/v1/accept", None, "Content-Type: application/json\r\n", b"{}").0,
        200
    );
    let filler = disk.path().join("filler");
    let (mut sequence, mut sum) = (1, known);
    // Where exactly it is full when something is to be raised hangs on what a write takes: it is
    // tried with more and more room. Merging asks for several times the room that it takes, so what
    // is to be raised mostly finds some: that it waited is counted, not asked for.
    for room in (0..32u64).map(|i| i * 4096) {
        let stat = rustix::fs::statvfs(disk.path()).unwrap();
        let free = stat.f_bavail * stat.f_frsize;
        std::fs::write(&filler, vec![0u8; (free - (16 << 20) - room) as usize]).unwrap();
        let (status, answer) =
            recorder.post(None, &wide(sequence, KNOWN.chain([30_000 + sequence as u16])));
        std::thread::sleep(Duration::from_millis(300));
        std::fs::remove_file(&filler).unwrap();
        match status {
            200 => (sequence, sum) = (sequence + 1, sum + known + 1),
            _ => assert!(status == 503 && answer.contains("MiB are free"), "{status} {answer}"),
        }
        recorder.connections(None, sum);
    }
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let (status, body) = recorder.get("/v1/alerts", None);
        let alerts: Vec<serde_json::Value> = serde_json::from_str(&body).unwrap();
        assert_eq!(status, 200);
        if alerts.len() as u64 == sequence - 1 {
            assert!(alerts.iter().all(|a| a["connections"] == 1), "counted once");
            break;
        }
        assert!(Instant::now() < until, "{} alerts of {}", alerts.len(), sequence - 1);
        std::thread::sleep(Duration::from_millis(50));
    }
    let (code, log) = recorder.kill("TERM");
    assert_eq!(code, Some(0), "{log}");
    let waited = log.matches("what is new is raised when there is room").count();
    println!(
        "{sequence} batches; {waited} times the disk was full when something was to be raised"
    );
}
