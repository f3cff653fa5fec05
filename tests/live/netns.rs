//! A node in network namespaces of the test's own: pods behind a bridge or on point-to-point
//! routes, as CNI plugins make them.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where
#![allow(dead_code)] // each test file uses a part of it

use std::fs::File;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Whether the command that makes namespaces is installed.
pub fn installed() -> bool {
    Command::new("ip").arg("-V").output().is_ok_and(|o| o.status.success())
}

/// Runs `ip`, which must succeed.
pub fn ip(args: &str) {
    let out = Command::new("ip").args(args.split_whitespace()).output().unwrap();
    assert!(out.status.success(), "ip {args}: {}", String::from_utf8_lossy(&out.stderr));
}

impl Net {
    /// A command in the pod, to be started.
    pub fn command(&self, command: &str) -> Command {
        let mut c = Command::new("ip");
        c.args(["netns", "exec", &self.ns]).args(command.split_whitespace());
        c
    }
}

/// A node with its own network namespace.
pub struct Node {
    /// Its namespace.
    pub ns: String,
    pods: Vec<String>,
}

/// A pod's network namespace.
#[derive(Clone, Debug)]
pub struct Net {
    /// Its namespace.
    pub ns: String,
    /// The interface of the node that leads to it.
    pub host_side: String,
    /// When the node's side was set up.
    pub up: Instant,
}

impl Node {
    /// A node with a bridge `br0` that has the first address of 10.244.1.0/24 and of fd00:1::/64.
    pub fn new() -> Self {
        let ns = format!("sc{}n{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        ip(&format!("netns add {ns}"));
        let node = Self { ns, pods: Vec::new() };
        node.ip("link set lo up");
        node.ip("link add br0 type bridge");
        node.ip("addr add 10.244.1.1/24 dev br0");
        node.ip("addr add fd00:1::1/64 dev br0 nodad");
        node.ip("link set br0 up");
        node.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        node
    }

    /// Runs `ip` in the node.
    pub fn ip(&self, args: &str) {
        ip(&format!("-n {} {args}", self.ns));
    }

    /// Runs a command in the node, which must succeed.
    pub fn run(&self, command: &str) {
        let out = self.command(command).output().unwrap();
        assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    }

    /// A command in the node, to be started.
    pub fn command(&self, command: &str) -> Command {
        let mut c = Command::new("ip");
        c.args(["netns", "exec", &self.ns]).args(command.split_whitespace());
        c
    }

    /// Index of an interface of the node.
    pub fn index(&self, name: &str) -> u32 {
        let out = Command::new("ip")
            .args(["-n", &self.ns, "-o", "link", "show", "dev", name])
            .output()
            .unwrap();
        String::from_utf8_lossy(&out.stdout).split(':').next().unwrap().parse().unwrap()
    }

    /// Link-layer address of an interface of the node.
    pub fn mac(&self, name: &str) -> [u8; 6] {
        let out = self.command(&format!("cat /sys/class/net/{name}/address")).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let bytes: Vec<u8> =
            text.trim().split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
        bytes.try_into().unwrap()
    }

    /// Loads netfilter rules in the node.
    pub fn nft(&self, rules: &str) {
        let mut child =
            self.command("nft -f -").stdin(std::process::Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), rules.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "nft refuses {rules}");
    }

    fn pod(&mut self, name: &str) -> Net {
        let ns = format!("{}-{name}", self.ns);
        ip(&format!("netns add {ns}"));
        ip(&format!("-n {ns} link set lo up"));
        let host_side = format!("veth-{name}");
        self.ip(&format!("link add {host_side} type veth peer name eth0 netns {ns}"));
        self.pods.push(ns.clone());
        Net { ns, host_side, up: Instant::now() }
    }

    /// A pod on the bridge, as kindnet and flannel make them; IPv4 10.244.1.`last`, IPv6
    /// fd00:1::`last`.
    pub fn bridged(&mut self, name: &str, last: u8) -> Net {
        let mut net = self.pod(name);
        self.ip(&format!("link set {} master br0", net.host_side));
        ip(&format!("-n {} addr add 10.244.1.{last}/24 dev eth0", net.ns));
        ip(&format!("-n {} addr add fd00:1::{last:x}/64 dev eth0 nodad", net.ns));
        ip(&format!("-n {} link set eth0 up", net.ns));
        ip(&format!("-n {} route add default via 10.244.1.1", net.ns));
        ip(&format!("-n {} route add default via fd00:1::1", net.ns));
        net.up = Instant::now();
        self.ip(&format!("link set {} up", net.host_side));
        net
    }

    /// A pod with a route of its own, as Calico, the AWS VPC plugin and GKE make them: the node's
    /// side has no address.
    pub fn routed(&mut self, name: &str, address: &str) -> Net {
        let net = self.pod(name);
        ip(&format!("-n {} addr add {address}/32 dev eth0", net.ns));
        ip(&format!("-n {} link set eth0 up", net.ns));
        self.ip(&format!("link set {} up", net.host_side));
        self.ip(&format!("route add {address}/32 dev {}", net.host_side));
        self.ip(&format!("link set {} address ee:ee:ee:ee:ee:ee", net.host_side));
        ip(&format!("-n {} route add 169.254.1.1 dev eth0 scope link", net.ns));
        ip(&format!("-n {} neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0", net.ns));
        ip(&format!("-n {} route add default via 169.254.1.1 dev eth0", net.ns));
        net
    }

    /// Deletes a pod and its interface.
    pub fn remove(&mut self, net: &Net) {
        // The kernel removes the namespace when its last process ends, the interface at once.
        self.ip(&format!("link del {}", net.host_side));
        ip(&format!("netns del {}", net.ns));
        self.pods.retain(|p| *p != net.ns);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for ns in self.pods.iter().chain([&self.ns]) {
            let _ = Command::new("ip").args(["netns", "del", ns]).output();
        }
    }
}

/// Runs a closure in a namespace, on its own thread.
pub fn inside<T: Send + 'static>(
    ns: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let file = File::open(format!("/var/run/netns/{ns}")).unwrap();
    std::thread::spawn(move || {
        move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&file),
            Some(LinkNameSpaceType::Network),
        )
        .unwrap();
        work()
    })
}
