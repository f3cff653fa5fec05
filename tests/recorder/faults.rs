//! What befalls a recorder: kills, disks, certificates.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::CART;
use super::common::disk::Disk;
use super::running::{Recorder, batch, snapshot};

#[test]
fn an_acknowledged_batch_counts_once_whatever_happens() {
    let dir = tempfile::tempdir().unwrap();
    let (store, cluster) = (dir.path().join("store"), snapshot(dir.path()).display().to_string());
    let mut acknowledged = 0;
    // Killed at any instant under load of three agents, and asked again for what they do not know to be acknowledged.
    let mut next = [0u64; 3];
    for round in 0..20u64 {
        let recorder = Recorder::start(&store, None, &["--no-auth", "--cluster", &cluster]);
        let address = recorder.address.clone();
        let senders: Vec<_> = (0..3usize)
            .map(|agent| {
                let (address, mut sequence) = (address.clone(), next[agent]);
                std::thread::spawn(move || {
                    loop {
                        let body = batch(&format!("n{agent}"), "b", sequence, CART, 1);
                        let Ok(mut stream) = TcpStream::connect(&address) else { return sequence };
                        let head = format!(
                            "POST /v1/batches HTTP/1.1\r\nHost: r\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                            body.len()
                        );
                        let mut answer = String::new();
                        let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
                        if sent.is_err() || stream.read_to_string(&mut answer).is_err() || !answer.starts_with("HTTP/1.1 200") {
                            return sequence;
                        }
                        sequence += 1;
                    }
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(30 + round * 17 % 90));
        recorder.kill("KILL");
        for (agent, sender) in senders.into_iter().enumerate() {
            next[agent] = sender.join().unwrap();
        }
        acknowledged = next.iter().sum();
    }
    assert!(acknowledged > 50, "{acknowledged} batches only");
    let recorder = Recorder::start(&store, None, &["--no-auth", "--cluster", &cluster]);
    // What was on its way may be there without having been acknowledged: it is sent again, and counts once.
    for (agent, sequence) in next.iter().enumerate() {
        assert_eq!(recorder.post(None, &batch(&format!("n{agent}"), "b", *sequence, CART, 1)).0, 200);
    }
    let all = recorder.connections(None, acknowledged + 3);
    assert_eq!((all.len(), all[0]["destination"]["name"].as_str()), (1, Some("cart")));
    assert_eq!(recorder.kill("TERM").0, Some(0));
}

/// A certificate of an authority of its own, for such a name (`IP:127.0.0.1`).
pub fn certificate(dir: &Path, name: &str, of: &str) {
    let out = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=r"])
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
    let (cert, key, cluster) = (file("cert.pem"), file("key.pem"), snapshot(dir.path()).display().to_string());
    let tls = ["--no-auth", "--cluster", &cluster, "--tls-cert", &cert, "--tls-key", &key];
    let recorder = Recorder::start(&dir.path().join("store"), None, &tls);
    let url = format!("https://{}", recorder.address);
    let asked = |authority: &str| {
        let out = super::common::run(&["status", "--recorder", &url, "--ca-file", &file(authority)]);
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    assert_eq!(asked("first.pem").0, Some(0), "{:?}", asked("first.pem"));
    // Half of a renewal: the certificate is there, the key is not its own. The old pair stays in use.
    certificate(dir.path(), "second.pem", "IP:127.0.0.1");
    let (code, told) = asked("second.pem");
    assert_eq!(code, Some(1));
    assert!(told.contains("certificate"), "{told}");
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
    let recorder = Recorder::start(&disk.path().join("store"), None, &["--no-auth", "--cluster", &cluster]);
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
