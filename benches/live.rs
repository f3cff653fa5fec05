//! What the live agent costs the traffic it watches, on network namespaces of its own: `cargo bench
//! --bench live`, as root, with `ip`, `iperf3` and `tcpdump`. Each figure stands beside that of a
//! run without the agent, or of tcpdump, taken in the same round. Prints; asserts only that what
//! was called is what was found.
//!
//! `cargo bench --bench live -- throughput rate cpu memory opening` runs the parts that are named.
//! `SIDECARTA_BENCH_ROUNDS` sets how often the modes take turns (default 7),
//! `SIDECARTA_BENCH_SECONDS` how long each has traffic (default 2), `SIDECARTA_BENCH_AGENT` more
//! options of the agent, separated by spaces. On a machine that does other work as well, run it
//! with `nice -n -20`.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

#[path = "../tests/live/netns.rs"]
mod netns;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use netns::{Net, Node, inside, installed};
use serde_json::{Value, json};
use sidecarta_testkit::memory;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: cart\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
/// Ports that short connections go to: with those of the client, enough for half a minute without
/// using a pair twice.
const PORTS: u16 = 16;
const FIRST_PORT: u16 = 8000;
const CLIENTS: usize = 4;
/// Packets a second of the paced sender.
const PACE: u64 = 100_000;
/// Clock ticks a second in /proc (USER_HZ, which is 100 on every architecture that this runs on).
const TICKS: f64 = 100.0;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

fn rounds() -> u64 {
    setting("SIDECARTA_BENCH_ROUNDS", 7)
}

fn seconds() -> u64 {
    setting("SIDECARTA_BENCH_SECONDS", 2)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn load() -> String {
    fs::read_to_string("/proc/loadavg").unwrap().split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// A node with pods, and what its cluster's API server would say of them.
struct World {
    node: Node,
    dir: tempfile::TempDir,
    pods: Vec<Value>,
}

impl World {
    fn new() -> Self {
        Self { node: Node::new(), dir: tempfile::tempdir().unwrap(), pods: Vec::new() }
    }

    /// A pod of a Deployment of the same name.
    fn pod(&mut self, name: &str, last: u8) -> Net {
        let address = format!("10.244.1.{last}");
        self.pods.push(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "shop", "name": format!("{name}-1"), "uid": name,
                "labels": {"app": name},
                "ownerReferences": [{"kind": "Deployment", "name": name, "controller": true}]},
            "spec": {"nodeName": "n1", "containers": [{"name": "app"}]},
            "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}}));
        self.node.bridged(name, last)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts the agent, and waits until it runs.
    fn agent(&self, more: &str) -> Agent {
        let (snapshot, out, log) =
            (self.path("cluster.json"), self.path("out.ndjson"), self.path("agent.log"));
        fs::write(
            &snapshot,
            json!({"apiVersion": "v1", "kind": "List", "items": self.pods}).to_string(),
        )
        .unwrap();
        let _ = fs::remove_file(&out);
        let (snapshot, to) = (snapshot.display(), out.display());
        let more = format!("{more} {}", std::env::var("SIDECARTA_BENCH_AGENT").unwrap_or_default());
        let binary = env!("CARGO_BIN_EXE_sidecarta");
        let command =
            format!("{binary} agent --pods {snapshot} --to {to} --node n1 --listen none {more}");
        let child = self
            .node
            .command(&command)
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while !fs::read_to_string(&log).unwrap().contains("the agent runs") {
            assert!(
                Instant::now() < until,
                "the agent does not start: {}",
                fs::read_to_string(&log).unwrap()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        Agent { child: Ended(child), out }
    }

    /// Starts tcpdump on an interface of the node, and waits until it captures.
    fn tcpdump(&self, interface: &str, filter: &str) -> Ended {
        let command = format!("tcpdump -i {interface} -s 2048 -w /dev/null {filter}");
        let child = Ended(
            self.node
                .command(&command)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        );
        let until = Instant::now() + Duration::from_secs(10);
        while !has_packet_socket(child.0.id()) {
            assert!(Instant::now() < until, "tcpdump does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        // Its socket is there before its ring is.
        std::thread::sleep(Duration::from_millis(50));
        child
    }
}

/// A process that does not outlive its use.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Agent {
    child: Ended,
    out: PathBuf,
}

/// What an agent told.
struct Found {
    connections: u64,
    counters: BTreeMap<String, u64>,
}

impl Agent {
    fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// Ends it as Kubernetes does, and sums up its batches.
    fn end(mut self) -> Found {
        let killed =
            Command::new("kill").args(["-TERM", &self.pid().to_string()]).status().unwrap();
        assert!(killed.success());
        let status = self.child.0.wait().unwrap();
        assert!(status.success(), "the agent ended with {status}");
        let mut found = Found { connections: 0, counters: BTreeMap::new() };
        for line in fs::read_to_string(&self.out).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            if let Some(header) = line.get("observed") {
                for (name, n) in header["counters"].as_object().unwrap() {
                    *found.counters.entry(name.clone()).or_default() += n.as_u64().unwrap();
                }
            } else if let Some(edge) = line.get("edge") {
                found.connections += edge["connections"].as_u64().unwrap();
            }
        }
        found
    }
}

impl Found {
    fn counter(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or_default()
    }
}

/// Interfaces, by index, that have a packet socket in the network namespace of a process.
fn packet_sockets(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/packet")).unwrap_or_default();
    text.lines().skip(1).filter_map(|l| l.split_whitespace().nth(4)?.parse().ok()).collect()
}

/// Whether a process holds one of these sockets.
fn has_packet_socket(pid: u32) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/net/packet")).unwrap_or_default();
    let inodes: Vec<&str> =
        text.lines().skip(1).filter_map(|l| l.split_whitespace().nth(8)).collect();
    let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let links = fds.filter_map(|f| Some(fs::read_link(f.ok()?.path()).ok()?.display().to_string()));
    links.into_iter().any(|l| inodes.iter().any(|i| l == format!("socket:[{i}]")))
}

/// User and system time of a process or thread, in seconds.
fn cpu(stat: &str) -> f64 {
    let text = fs::read_to_string(stat).unwrap();
    // The name before it may hold anything.
    let fields: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / TICKS
}

/// Median of each mode, and its loss against the first: the median of what each round says, as a
/// round's runs share their noise.
fn compare(what: &str, unit: &str, modes: &[(&str, Vec<f64>)]) {
    let reference = &modes[0].1;
    for (name, values) in modes {
        let losses: Vec<f64> =
            values.iter().zip(reference).map(|(v, r)| (1.0 - v / r) * 100.0).collect();
        let (least, most) =
            losses.iter().fold((f64::MAX, f64::MIN), |(l, m), v| (l.min(*v), m.max(*v)));
        println!(
            "{what}: {name:<28} {:>10.2} {unit}, loss {:>6.2} % by round ({least:.1} to \
             {most:.1}), {:>6.2} % by medians",
            median(values),
            median(&losses),
            (1.0 - median(values) / median(reference)) * 100.0,
        );
    }
}

/// The same in processor time, which other load on the machine touches less than what was reached
/// with it.
fn spent(what: &str, unit: &str, modes: &[(&str, Vec<f64>)]) {
    let reference = &modes[0].1;
    for (name, values) in modes {
        let more: Vec<f64> =
            values.iter().zip(reference).map(|(v, r)| (v / r - 1.0) * 100.0).collect();
        let (each, by_medians) =
            (median(values), (median(values) / median(reference) - 1.0) * 100.0);
        println!(
            "{what}: {name:<28} {each:>10.2} {unit}, {:>+6.2} % by round, {by_medians:>+6.2} % by \
             medians",
            median(&more)
        );
    }
}

/// Order of the modes in a round: forth and back by turns, so that what drifts hits all alike.
fn order(round: u64, modes: usize) -> Vec<usize> {
    let turned = round as usize / 2 % modes;
    let mut order: Vec<usize> = (0..modes).map(|i| (i + turned) % modes).collect();
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

/// Throughput of one TCP connection between two pods on the node's bridge.
fn throughput() {
    let mut world = World::new();
    let (web, cart) = (world.pod("web", 10), world.pod("cart", 11));
    let exec = |net: &Net, command: &str| {
        let mut c = Command::new("ip");
        c.args(["netns", "exec", &net.ns]).args(command.split_whitespace()).stderr(Stdio::null());
        c
    };
    let _server = Ended(exec(&cart, "iperf3 -s").stdout(Stdio::null()).spawn().unwrap());
    let measure = |seconds: u64| {
        for _ in 0..20 {
            let out =
                exec(&web, &format!("iperf3 -c 10.244.1.11 -t {seconds} -J")).output().unwrap();
            let result: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
            let end = &result["end"];
            if let Some(bits) = end["sum_received"]["bits_per_second"].as_f64() {
                let used = |side: &str| end["cpu_utilization_percent"][side].as_f64().unwrap();
                return (
                    bits / 1e9,
                    (used("host_total") + used("remote_total")) * 1e4 / (bits / 1e9),
                );
            }
            // The server may not listen yet, or still be busy with the end of the last one.
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("iperf3 gives no result");
    };
    measure(1);
    let names = [
        "without agent",
        "without agent, again",
        "with agent",
        "with agent --direction in",
        "tcpdump -w /dev/null, SYN",
        "tcpdump -w /dev/null, all",
    ];
    let mut modes = names.map(|n| (n, Vec::new()));
    let mut costs = modes.clone();
    for round in 0..rounds() {
        for mode in order(round, modes.len()) {
            let (value, cost) = match mode {
                2 | 3 => {
                    let agent = world.agent(if mode == 2 { "" } else { "--direction in" });
                    let value = measure(seconds());
                    // One for control and one for data, at least.
                    let found = agent.end();
                    assert!(found.connections >= 2, "{} connections", found.connections);
                    value
                }
                4 | 5 => {
                    let filter = if mode == 4 { "tcp[tcpflags] & tcp-syn != 0" } else { "" };
                    let _dump = world.tcpdump(&web.host_side, filter);
                    measure(seconds())
                }
                _ => measure(seconds()),
            };
            modes[mode].1.push(value);
            costs[mode].1.push(cost);
        }
    }
    compare("throughput", "Gbit/s", &modes);
    spent("throughput", "µs/Gbit of both ends", &costs);
}

/// Answers short connections on all ports, in a pod, until the process ends.
fn answer(net: &Net) {
    for port in FIRST_PORT..FIRST_PORT + PORTS {
        let listener =
            inside(&net.ns, move || TcpListener::bind(("0.0.0.0", port)).unwrap()).join().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 256];
            while let Ok((mut stream, _)) = listener.accept() {
                if stream.read(&mut buffer).is_ok_and(|n| n > 0) && stream.write_all(ANSWER).is_ok()
                {
                    // Until the client has closed, so that TIME-WAIT is the client's.
                    let _ = stream.read(&mut buffer);
                }
            }
        });
    }
}

/// Short connections that were made.
struct Made {
    number: u64,
    /// A second.
    rate: f64,
    /// Processor time of both ends for each, in microseconds, with all that taps them.
    cost: f64,
}

/// Makes short connections from a pod as fast as its threads can.
fn short_connections(net: &Net, to: &str, length: Duration) -> Made {
    let (start, before) = (Instant::now(), cpu("/proc/self/stat"));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let to: std::net::IpAddr = to.parse().unwrap();
            inside(&net.ns, move || {
                let (mut done, mut buffer) = (0u64, [0; 256]);
                let each = PORTS / CLIENTS as u16;
                while start.elapsed() < length {
                    let port = FIRST_PORT + client as u16 * each + (done % u64::from(each)) as u16;
                    let mut stream = TcpStream::connect(SocketAddr::new(to, port)).unwrap();
                    stream.write_all(REQUEST).unwrap();
                    let n = stream.read(&mut buffer).unwrap();
                    assert_eq!(&buffer[..n], ANSWER);
                    done += 1;
                }
                done
            })
        })
        .collect();
    let number: u64 = clients.into_iter().map(|c| c.join().unwrap()).sum();
    let cost = (cpu("/proc/self/stat") - before) / number as f64 * 1e6;
    Made { number, rate: number as f64 / start.elapsed().as_secs_f64(), cost }
}

/// Connections a second, and whether all were found.
fn rate() {
    let mut world = World::new();
    let (web, cart) = (world.pod("web", 10), world.pod("cart", 11));
    for net in [&web, &cart] {
        // Room for ports, none of which is used twice while the agent remembers its connection. Few
        // that the kernel remembers: with tens of thousands in TIME-WAIT each search for a free
        // port would take longer than that in the run before.
        let settings =
            ["net.ipv4.ip_local_port_range=10000 65000", "net.ipv4.tcp_max_tw_buckets=4096"];
        let done = Command::new("ip")
            .args(["netns", "exec", &net.ns, "sysctl", "-qw"])
            .args(settings)
            .status()
            .unwrap();
        assert!(done.success());
    }
    answer(&cart);
    let length = Duration::from_secs(seconds());
    short_connections(&web, "10.244.1.11", Duration::from_secs(1));
    // The last one is what any packet socket costs, whatever is read of it.
    let names = [
        "without agent",
        "without agent, again",
        "with agent",
        "with agent --direction in",
        "tcpdump -w /dev/null, all",
        "tcpdump -w /dev/null, none",
    ];
    let mut modes = names.map(|n| (n, Vec::new()));
    let mut costs = modes.clone();
    let mut shares = [Vec::new(), Vec::new()];
    for round in 0..rounds() {
        for mode in order(round, modes.len()) {
            let made = match mode {
                2 | 3 => {
                    let agent = world.agent(if mode == 2 { "" } else { "--direction in" });
                    let stat = format!("/proc/{}/stat", agent.pid());
                    let before = cpu(&stat);
                    let mut made = short_connections(&web, "10.244.1.11", length);
                    let own = (cpu(&stat) - before) / made.number as f64 * 1e6;
                    let (found, number) = (agent.end(), made.number);
                    made.cost += own;
                    shares[mode - 2].push(own);
                    let (dropped, read) = (found.counter("ring-dropped"), found.counter("packets"));
                    println!(
                        "rate: round {round}: {number} connections made, {} found, {dropped} \
                         packets dropped, {read} read",
                        found.connections
                    );
                    let counters = &found.counters;
                    assert!(
                        found.connections + dropped >= number,
                        "{} connections are lost: {counters:?}",
                        number - found.connections
                    );
                    // Where packets were dropped, the rest of a connection that was forgotten may
                    // look like another one.
                    assert!(
                        dropped > 0 || found.connections == number,
                        "{} are too many",
                        found.connections - number
                    );
                    made
                }
                4 | 5 => {
                    let filter = if mode == 4 { "" } else { "ip proto 253" };
                    let dumps = [
                        world.tcpdump(&web.host_side, filter),
                        world.tcpdump(&cart.host_side, filter),
                    ];
                    let total = || {
                        dumps.iter().map(|d| cpu(&format!("/proc/{}/stat", d.0.id()))).sum::<f64>()
                    };
                    let before = total();
                    let mut made = short_connections(&web, "10.244.1.11", length);
                    made.cost += (total() - before) / made.number as f64 * 1e6;
                    made
                }
                _ => short_connections(&web, "10.244.1.11", length),
            };
            modes[mode].1.push(made.rate);
            costs[mode].1.push(made.cost);
        }
    }
    compare("rate", "connections/s", &modes);
    spent("rate", "µs for each connection", &costs);
    for (share, direction) in shares.iter().zip(["inout", "in"]) {
        let own = median(share);
        println!(
            "rate: the agent's own time: {own:.2} µs for each connection, both of whose \
             interfaces it reads, {direction}"
        );
    }
}

/// Sends small packets at a steady pace: how many a second, and the time of the sending thread for
/// each, in nanoseconds. The kernel carries a packet over a veth, with all that taps it, in the
/// time of its sender.
fn paced(net: &Net, to: &str, length: Duration) -> (f64, f64) {
    let to = to.to_owned();
    let send = move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(to).unwrap();
        let (start, mut sent, before) = (Instant::now(), 0u64, cpu("/proc/thread-self/stat"));
        while start.elapsed() < length {
            let due = (start.elapsed().as_secs_f64() * PACE as f64) as u64;
            while sent < due {
                // The receiver reads nothing: what its buffer has no room for has passed the veth
                // all the same.
                let _ = socket.send(&[0x55; 64]);
                sent += 1;
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        let used = cpu("/proc/thread-self/stat") - before;
        (sent as f64 / start.elapsed().as_secs_f64(), used / sent as f64 * 1e9)
    };
    inside(&net.ns, send).join().unwrap()
}

/// CPU time at a steady rate of packets.
fn cpu_share() {
    let mut world = World::new();
    let (web, cart) = (world.pod("web", 10), world.pod("cart", 11));
    let _receiver = inside(&cart.ns, || UdpSocket::bind("0.0.0.0:9000").unwrap()).join().unwrap();
    let to = "10.244.1.11:9000";
    let length = Duration::from_secs(10);
    let (rate, alone) = paced(&web, to, length);
    println!("cpu: without agent: {rate:.0} packets/s, {alone:.0} ns of the sender for each");

    let agent = world.agent("");
    let stat = format!("/proc/{}/stat", agent.pid());
    let before = cpu(&stat);
    std::thread::sleep(length);
    let idle = (cpu(&stat) - before) / length.as_secs_f64() * 100.0;
    let (before, start) = (cpu(&stat), Instant::now());
    let (rate, each) = paced(&web, to, length);
    let share = (cpu(&stat) - before) / start.elapsed().as_secs_f64() * 100.0;
    let found = agent.end();
    assert_eq!(found.connections, 1, "one conversation");
    println!(
        "cpu: with agent: {rate:.0} packets/s, {each:.0} ns of the sender for each ({:+.0})",
        each - alone
    );
    println!(
        "cpu: agent: {share:.2} % of a core on two interfaces, {idle:.2} % without traffic; {} \
         packets read",
        found.counter("packets")
    );

    let dumps = [world.tcpdump(&web.host_side, ""), world.tcpdump(&cart.host_side, "")];
    let stats = dumps.each_ref().map(|d| format!("/proc/{}/stat", d.0.id()));
    let total = || stats.iter().map(|s| cpu(s)).sum::<f64>();
    let (before, start) = (total(), Instant::now());
    let (rate, each) = paced(&web, to, length);
    let dump = (total() - before) / start.elapsed().as_secs_f64() * 100.0;
    println!(
        "cpu: with tcpdump, all: {rate:.0} packets/s, {each:.0} ns of the sender for each ({:+.0})",
        each - alone
    );
    println!(
        "cpu: tcpdump, all: {dump:.2} % of a core on two interfaces; the agent takes {:.3} of it",
        share / dump
    );
}

/// Resident memory with many pods.
fn resident() {
    let mut world = World::new();
    let server = world.pod("cart", 250);
    answer(&server);
    let mut nets = Vec::new();
    let mut before = None;
    for (mode, many) in [("", 1u8), ("", 100), ("--capture any", 100)] {
        while nets.len() < usize::from(many) {
            let last = 2 + nets.len() as u8;
            nets.push(world.pod(&format!("p{last}"), last));
        }
        let agent = world.agent(mode);
        for net in &nets {
            let call = || {
                for port in FIRST_PORT..FIRST_PORT + 5 {
                    let mut stream =
                        TcpStream::connect(SocketAddr::from(([10, 244, 1, 250], port))).unwrap();
                    stream.write_all(REQUEST).unwrap();
                    let _ = stream.read(&mut [0; 256]).unwrap();
                }
            };
            inside(&net.ns, call).join().unwrap();
        }
        std::thread::sleep(Duration::from_secs(2));
        let of = |what| memory::kib(agent.pid(), what).unwrap_or(0) as f64 / 1024.0;
        let stat = format!("/proc/{}/stat", agent.pid());
        let (used, start) = (cpu(&stat), Instant::now());
        let peak = of("VmHWM");
        println!(
            "memory: {many:>3} pods {mode:<13} VmHWM {peak:.1} MiB, VmRSS {:.1} MiB: {:.1} MiB \
             own, {:.1} MiB files and rings",
            of("VmRSS"),
            of("RssAnon"),
            of("RssFile") + of("RssShmem")
        );
        std::thread::sleep(Duration::from_secs(5));
        println!(
            "memory: {many:>3} pods {mode:<13} {:.2} % of a core when idle",
            (cpu(&stat) - used) / start.elapsed().as_secs_f64() * 100.0
        );
        if let (100, "", Some(one)) = (many, mode, before) {
            println!(
                "memory: 100 pods to one: {:.2} times, {:.0} KiB for each",
                peak / one,
                (peak - one) * 1024.0 / 99.0
            );
        }
        before = before.or(Some(peak));
        let found = agent.end();
        assert_eq!(found.connections, 5 * u64::from(many), "{:?}", found.counters);
    }
}

/// Time from the command that sets a pod's interface up until a packet socket is bound to it.
fn opening() {
    let mut world = World::new();
    let pod = world.pod("web", 10);
    let agent = world.agent("");
    let (mut opened, mut reference) = (Vec::new(), Vec::new());
    for n in 0..20 {
        let start = Instant::now();
        world.node.ip("link set lo up");
        reference.push(start.elapsed().as_secs_f64() * 1e3);
        world.node.ip(&format!("link add new{n} type veth peer name peer{n} netns {}", pod.ns));
        let index =
            fs::read_to_string(format!("/proc/{}/net/dev_snmp6/new{n}", agent.pid())).unwrap();
        let index: u32 = index.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(!packet_sockets(agent.pid()).contains(&index));
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(AtomicU64::new(0));
        let start = Instant::now();
        let (pid, theirs, done) = (agent.pid(), Arc::clone(&seen), Arc::clone(&stop));
        let poll = std::thread::spawn(move || {
            while !done.load(Ordering::Relaxed) && !packet_sockets(pid).contains(&index) {
                std::thread::sleep(Duration::from_micros(200));
            }
            theirs.store(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
        });
        world.node.ip(&format!("link set new{n} up"));
        let until = Instant::now() + Duration::from_secs(5);
        while !poll.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(poll.is_finished(), "the interface new{n} is not opened");
        stop.store(true, Ordering::Relaxed);
        poll.join().unwrap();
        opened.push(seen.load(Ordering::Relaxed) as f64 / 1e6);
    }
    let most = opened.iter().copied().fold(0.0, f64::max);
    println!(
        "opening: {:.2} ms median of {}, {most:.2} ms most, with starting `ip`, which alone takes \
         {:.2} ms: {:.2} times",
        median(&opened),
        opened.len(),
        median(&reference),
        median(&opened) / median(&reference)
    );
    agent.end();
}

fn main() {
    let needs = ["iperf3", "tcpdump"];
    let missing: Vec<_> =
        needs.into_iter().filter(|c| Command::new(c).arg("--version").output().is_err()).collect();
    if !rustix::process::geteuid().is_root() || !installed() || !missing.is_empty() {
        eprintln!(
            "NOT RUN: this benchmark needs root and the commands ip, iperf3 and tcpdump; missing: \
             {missing:?}"
        );
        std::process::exit(1);
    }
    let parts: [(&str, fn()); 5] = [
        ("throughput", throughput),
        ("rate", rate),
        ("cpu", cpu_share),
        ("memory", resident),
        ("opening", opening),
    ];
    let named: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    for name in &named {
        assert!(parts.iter().any(|(n, _)| n == name), "no part {name}");
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("{cores} cores, {} rounds of {} s; medians", rounds(), seconds());
    for (name, part) in parts {
        if named.is_empty() || named.iter().any(|n| n == name) {
            println!("{name}: load of the machine before: {}", load());
            part();
            println!("{name}: load of the machine after: {}", load());
        }
    }
}
