//! What a hostile client does, once: a recorder is attacked by many that do it again and again.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::CART;
use super::running::batch;

/// Posts a batch, and gives the status and the answer; 0 where there is none.
pub fn ask(address: &str, token: Option<&str>, body: &[u8]) -> (u16, String) {
    ask_packed(address, token, "", body)
}

/// The same of a body in this coding.
pub fn ask_packed(address: &str, token: Option<&str>, coding: &str, body: &[u8]) -> (u16, String) {
    let none = |e: std::io::Error| (0, e.to_string());
    let mut stream = match TcpStream::connect(address) {
        Ok(stream) => stream,
        Err(e) => return none(e),
    };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(40)));
    let bearer = token.map(|t| format!("Authorization: Bearer {t}\r\n")).unwrap_or_default();
    let head = format!(
        "POST /v1/batches HTTP/1.1\r\nHost: r\r\nConnection: close\r\n{bearer}{coding}\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    let mut answer = String::new();
    if let Err(e) = stream.read_to_string(&mut answer)
        && answer.is_empty()
    {
        return none(e);
    }
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    (status, answer.split_once("\r\n\r\n").map(|(_, b)| b.to_owned()).unwrap_or_default())
}

/// Keeps a connection open for a while, sending a byte now and then.
fn drip(stream: &mut TcpStream, stop: &AtomicBool) {
    for _ in 0..100 {
        if stop.load(Ordering::Relaxed) || stream.write_all(b"x").is_err() {
            return;
        }
        sleep(Duration::from_millis(100));
    }
}

pub const ZSTD: &str = "Content-Encoding: zstd\r\n";

/// What is small on its way and large when it is read: spaces; ALPN protocols without a name;
/// labels; edges as short as they can be.
fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let text = String::from_utf8(batch("n2", "b", 0, CART, 1)).unwrap();
    let lines: Vec<String> = text.lines().map(|l| l.to_owned() + "\n").collect();
    let packed = |lines: &mut dyn Iterator<Item = &str>| {
        let mut out = zstd::Encoder::new(Vec::new(), 1).unwrap();
        lines.for_each(|l| out.write_all(l.as_bytes()).unwrap());
        out.finish().unwrap()
    };
    let head = || [lines[0].as_str(), lines[1].as_str()].into_iter();
    let spaces = zstd::encode_all(std::io::repeat(b' ').take(1 << 30), 1).unwrap();
    let alpn = |n: usize| {
        let names = format!("\"names\":{{\"alpn\":[{}]}}", vec!["\"\""; n].join(","));
        lines[2].replace("\"names\":{}", &names)
    };
    let (one_long, many) = (alpn(40_000_000), alpn(300_000));
    let labels: Vec<String> = (0..1_000).map(|n| format!("\"{n}\":\"\"")).collect();
    let labels = lines[1].replace("\"app\":\"web\"", &labels.join(","));
    vec![
        ("spaces", spaces),
        ("one line of ALPN", packed(&mut head().chain([one_long.as_str()]))),
        ("lines of ALPN", packed(&mut head().chain(std::iter::repeat_n(many.as_str(), 130)))),
        ("labels", packed(&mut head().chain(std::iter::repeat_n(labels.as_str(), 10_000)))),
        ("edges", packed(&mut head().chain(std::iter::repeat_n(lines[2].as_str(), 300_000)))),
    ]
}

/// Each of the [`bombs`] in turn.
pub fn bombing() -> impl Fn(&str, u64, &AtomicBool) + Send + Sync + 'static {
    let bombs = bombs();
    assert!(bombs.iter().all(|(_, bomb)| bomb.len() < 1 << 20), "each is small on its way");
    move |address, n, _| {
        let (what, bomb) = &bombs[n as usize % bombs.len()];
        let token = format!("agent-{}", 2 + n % 3);
        let (status, answer) = ask_packed(address, Some(&token), ZSTD, bomb);
        assert!(matches!(status, 400 | 403 | 413 | 429), "{what}: {status} {answer}");
    }
}

/// A head that does not end.
pub fn slow_heads(address: &str, _: u64, stop: &AtomicBool) {
    let Ok(mut stream) = TcpStream::connect(address) else { return };
    let _ = stream.write_all(b"POST /v1/batches HTTP/1.1\r\nHost: ");
    drip(&mut stream, stop);
}

/// Says nothing until it is cut.
pub fn connections_without_a_word(address: &str, _: u64, stop: &AtomicBool) {
    let Ok(stream) = TcpStream::connect(address) else { return };
    let _ = stream.set_read_timeout(Some(Duration::from_millis(100)));
    let begun = Instant::now();
    while !stop.load(Ordering::Relaxed)
        && begun.elapsed() < Duration::from_secs(5)
        && !matches!((&stream).read(&mut [0]), Ok(0))
    {}
}

/// A body that comes byte by byte.
pub fn slow_bodies(address: &str, n: u64, stop: &AtomicBool) {
    let Ok(mut stream) = TcpStream::connect(address) else { return };
    // Some announce the length, some do not.
    let length =
        if n.is_multiple_of(2) { "Content-Length: 16000000" } else { "Transfer-Encoding: chunked" };
    let head = format!(
        "POST /v1/batches HTTP/1.1\r\nHost: r\r\nAuthorization: Bearer agent-2\r\n{length}\r\n\r\n"
    );
    let _ = stream.write_all(head.as_bytes());
    drip(&mut stream, stop);
}

/// A decision of which only the first byte comes.
pub fn bodies_of_people(address: &str, _: u64, stop: &AtomicBool) {
    let Ok(mut stream) = TcpStream::connect(address) else { return };
    let head = "POST /v1/accept HTTP/1.1\r\nHost: r\r\nAuthorization: Bearer ann\r\n\
                Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{";
    let _ = stream.write_all(head.as_bytes());
    drip(&mut stream, stop);
}

/// A body of 15 MiB that is no batch.
pub fn large_bodies(address: &str, n: u64, _: &AtomicBool) {
    let large = vec![b'{'; 15 << 20];
    let (status, answer) = ask(address, Some(&format!("agent-{}", 2 + n % 3)), &large);
    assert!(matches!(status, 0 | 400 | 429), "{status} {answer}");
}

/// Questions whose answers are not read.
pub fn unread_answers(address: &str, _: u64, stop: &AtomicBool) {
    let Ok(mut stream) = TcpStream::connect(address) else { return };
    let ask = "GET /v1/records?namespace=shop HTTP/1.1\r\nHost: r\r\n\
               Authorization: Bearer ann\r\n\r\n";
    for _ in 0..50 {
        if stop.load(Ordering::Relaxed) || stream.write_all(ask.as_bytes()).is_err() {
            return;
        }
        sleep(Duration::from_millis(20));
    }
}

/// The same wrong token.
pub fn one_wrong_token(address: &str, _: u64, _: &AtomicBool) {
    let (status, answer) = ask(address, Some("wrong"), b"");
    assert!(matches!(status, 0 | 401), "{status} {answer}");
}

/// A wrong token that nobody has had yet.
pub fn different_wrong_tokens(address: &str, n: u64, _: &AtomicBool) {
    let (status, answer) = ask(address, Some(&format!("wrong-{n}")), b"");
    assert!(matches!(status, 0 | 401 | 429), "{status} {answer}");
}
