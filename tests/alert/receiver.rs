//! A server that answers as a test wants, and stores the requests. One thread per connection.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub target: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

pub enum Reply {
    Say(u16, Vec<(&'static str, String)>, String),
    /// A status, and a body without an end.
    Endless(u16),
    /// A status, and a body that never begins.
    Stuck(u16),
    /// Not a word.
    Silent,
    /// The connection breaks.
    Break,
}

impl Reply {
    pub fn status(code: u16) -> Self {
        Self::Say(code, Vec::new(), String::new())
    }

    pub fn json(code: u16, body: &Value) -> Self {
        Self::Say(code, vec![("content-type", "application/json".to_owned())], body.to_string())
    }
}

type Answer = Box<dyn FnMut(&Request) -> Reply + Send>;

pub struct Receiver {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    stopped: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Receiver {
    pub fn start(answer: impl FnMut(&Request) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::<Mutex<Vec<Request>>>::default();
        let connections = Arc::<Mutex<Vec<TcpStream>>>::default();
        let stopped = Arc::<AtomicBool>::default();
        let answer = Arc::new(Mutex::new(Box::new(answer) as Answer));
        let (seen, streams, stop) =
            (Arc::clone(&requests), Arc::clone(&connections), Arc::clone(&stopped));
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                streams.lock().unwrap().push(stream.try_clone().unwrap());
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                thread::spawn(move || serve(&stream, &seen, &answer));
            }
        });
        Self { address, requests, connections, stopped, thread: Some(thread) }
    }

    /// Says this status to everything.
    pub fn always(code: u16) -> Self {
        Self::start(move |_| Reply::status(code))
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the listener.
        drop(TcpStream::connect(self.address));
        self.thread.take().unwrap().join().unwrap();
        for stream in self.connections.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn serve(mut stream: &TcpStream, seen: &Mutex<Vec<Request>>, answer: &Mutex<Answer>) {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader) {
        seen.lock().unwrap().push(request.clone());
        let reply = (answer.lock().unwrap())(&request);
        let written = match reply {
            Reply::Say(code, headers, body) => {
                let headers: String =
                    headers.iter().map(|(k, v)| format!("{k}: {v}\r\n")).collect();
                let length = body.len();
                stream.write_all(
                    format!("HTTP/1.1 {code} X\r\n{headers}content-length: {length}\r\n\r\n{body}")
                        .as_bytes(),
                )
            }
            Reply::Endless(code) => {
                let head = format!("HTTP/1.1 {code} X\r\ntransfer-encoding: chunked\r\n\r\n");
                let mut written = stream.write_all(head.as_bytes());
                let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
                while written.is_ok() {
                    written = stream.write_all(chunk.as_bytes());
                }
                written
            }
            Reply::Stuck(code) => {
                let written = stream.write_all(
                    format!("HTTP/1.1 {code} X\r\ncontent-length: 10\r\n\r\n").as_bytes(),
                );
                let _ = reader.read(&mut [0]);
                written
            }
            Reply::Silent => reader.read(&mut [0]).map(|_| ()),
            Reply::Break => {
                let _ = stream.shutdown(Shutdown::Both);
                return;
            }
        };
        if written.is_err() {
            return;
        }
    }
}

fn read(reader: &mut BufReader<&TcpStream>) -> Option<Request> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_owned());
    }
    let mut first = head[0].split(' ').map(str::to_owned);
    let (method, target) = (first.next()?, first.next()?);
    let headers: BTreeMap<String, String> = head[1..]
        .iter()
        .filter_map(|l| l.split_once(':'))
        .map(|(k, v)| (k.to_ascii_lowercase(), v.trim().to_owned()))
        .collect();
    let mut body = vec![0; headers.get("content-length").map_or(0, |l| l.parse().unwrap())];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, target, headers, body })
}
