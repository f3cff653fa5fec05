//! A small API server with lists and watches, which can also fail. One thread per connection.

#![allow(dead_code)] // each test file, and the benchmark, uses a part of it

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

/// The objects of the cluster. They outlive the server, as those in etcd do.
#[derive(Default)]
pub struct FakeCluster {
    version: u64,
    /// By plural, then by namespace and name.
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    watchers: Vec<(String, Sender<String>)>,
    refused: BTreeMap<String, u16>,
    /// Watches from this version or an earlier one are outdated.
    forgotten: u64,
    /// Request lines seen.
    pub requests: Vec<String>,
}

impl FakeCluster {
    fn put(&mut self, plural: &str, kind: &str, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let all = self.objects.entry(plural.to_owned()).or_default();
        let event =
            if all.insert(key(&object), object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        object["kind"] = json!(kind);
        self.send(plural, event, &object);
    }

    /// Sends an event to all watchers of a kind.
    fn send(&mut self, plural: &str, event: &str, object: &Value) {
        let line = format!("{}\n", json!({"type": event, "object": object}));
        self.watchers.retain(|(p, to)| p != plural || to.send(line.clone()).is_ok());
    }
}

fn key(object: &Value) -> String {
    format!(
        "{}/{}",
        object["metadata"]["namespace"].as_str().unwrap_or_default(),
        object["metadata"]["name"].as_str().unwrap()
    )
}

/// A running server, or a stopped one that can be started again at its address.
pub struct Server {
    pub address: SocketAddr,
    pub cluster: Arc<Mutex<FakeCluster>>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    stopped: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut server = Self {
            address: listener.local_addr().unwrap(),
            cluster: Arc::default(),
            connections: Arc::default(),
            stopped: Arc::default(),
            thread: None,
        };
        server.serve(listener);
        server
    }

    pub fn restart(&mut self) {
        let listener = TcpListener::bind(self.address).unwrap();
        self.serve(listener);
    }

    fn serve(&mut self, listener: TcpListener) {
        self.stopped.store(false, Ordering::SeqCst);
        let (cluster, connections, stopped) =
            (Arc::clone(&self.cluster), Arc::clone(&self.connections), Arc::clone(&self.stopped));
        self.thread = Some(thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                connections.lock().unwrap().push(stream.try_clone().unwrap());
                let cluster = Arc::clone(&cluster);
                thread::spawn(move || serve(&stream, &cluster));
            }
        }));
    }

    /// Closes every connection, and stops listening.
    pub fn kill(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the listener.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        self.disconnect();
    }

    fn disconnect(&self) {
        let mut cluster = self.cluster.lock().unwrap();
        cluster.watchers.clear();
        for stream in self.connections.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn put(&self, plural: &str, kind: &str, object: Value) {
        self.cluster.lock().unwrap().put(plural, kind, object);
    }

    /// Deletes an object, and sends its last version, changed by `change`, to the watchers.
    pub fn delete(&self, plural: &str, key: &str, kind: &str, change: impl FnOnce(&mut Value)) {
        let mut cluster = self.cluster.lock().unwrap();
        let mut object = cluster.objects.get_mut(plural).unwrap().remove(key).unwrap();
        cluster.version += 1;
        object["metadata"]["resourceVersion"] = json!(cluster.version.to_string());
        object["kind"] = json!(kind);
        change(&mut object);
        cluster.send(plural, "DELETED", &object);
    }

    /// Removes an object without an event for it. All versions so far are outdated then, and the
    /// watchers get the error for that.
    pub fn vanish(&self, plural: &str, key: &str) {
        let mut cluster = self.cluster.lock().unwrap();
        cluster.objects.get_mut(plural).unwrap().remove(key).unwrap();
        cluster.version += 1;
        cluster.forgotten = cluster.version - 1;
        cluster.send(plural, "ERROR", &status(410, "Expired", "too old resource version"));
    }

    /// Answers all requests for this kind with this status from now on.
    pub fn refuse(&self, plural: &str, code: u16) {
        self.cluster.lock().unwrap().refused.insert(plural.to_owned(), code);
    }

    /// Answers requests for this kind normally again.
    pub fn allow(&self, plural: &str) {
        self.cluster.lock().unwrap().refused.remove(plural);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.kill();
        }
    }
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
        "reason": reason, "message": message})
}

fn serve(stream: &TcpStream, cluster: &Mutex<FakeCluster>) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if line.trim().is_empty() {
                break;
            }
            head.push(line.trim().to_owned());
        }
        let Some(target) = head[0].split(' ').nth(1).map(str::to_owned) else { return };
        if answer(stream, &target, cluster).is_err() {
            return;
        }
    }
}

fn answer(
    mut stream: &TcpStream,
    target: &str,
    cluster: &Mutex<FakeCluster>,
) -> std::io::Result<()> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let plural = path.rsplit('/').next().unwrap().to_owned();
    let parameter = |name: &str| {
        query.split('&').find_map(|p| p.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
    };
    let (code, body, events): (u16, Value, Option<Receiver<String>>) = {
        let mut cluster = cluster.lock().unwrap();
        cluster.requests.push(target.to_owned());
        if let Some(&code) = cluster.refused.get(&plural) {
            let reason = match code {
                404 => "NotFound",
                403 => "Forbidden",
                _ => "InternalError",
            };
            (code, status(code, reason, &format!("{plural} is refused")), None)
        } else if parameter("watch").is_some() {
            let (to, events) = mpsc::channel();
            let from: u64 = parameter("resourceVersion").unwrap().parse().unwrap();
            if from <= cluster.forgotten {
                let expired = json!({"type": "ERROR",
                    "object": status(410, "Expired", "too old resource version")});
                to.send(format!("{expired}\n")).unwrap();
            }
            cluster.watchers.push((plural, to));
            (200, Value::Null, Some(events))
        } else {
            // One page of the list, beginning after the last key of the page before.
            let after = parameter("continue").unwrap_or_default().replace("%2F", "/");
            let limit = parameter("limit").map_or(usize::MAX, |l| l.parse().unwrap());
            let all = cluster.objects.get(&plural);
            let rest: Vec<(&String, &Value)> =
                all.into_iter().flatten().filter(|(k, _)| **k > after).collect();
            let next = if rest.len() > limit { rest[limit - 1].0.clone() } else { String::new() };
            let items: Vec<&Value> = rest.iter().take(limit).map(|(_, v)| *v).collect();
            let version = cluster.version.max(1).to_string();
            let list = json!({
                "kind": "List", "apiVersion": "v1",
                "metadata": {"resourceVersion": version, "continue": next}, "items": items
            });
            (200, list, None)
        }
    };
    match events {
        None => {
            let body = body.to_string();
            let head = format!(
                "HTTP/1.1 {code} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all((head + &body).as_bytes())
        }
        Some(events) => {
            stream.write_all(
                b"HTTP/1.1 200 OK\r\ncontent-type: \
                               application/json\r\ntransfer-encoding: chunked\r\n\r\n",
            )?;
            for line in events {
                stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes())?;
            }
            stream.write_all(b"0\r\n\r\n")
        }
    }
}
