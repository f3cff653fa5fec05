//! Every parser of foreign bytes, as a function of bytes that must return whatever they are.
//!
//! Owns the targets and the inputs to begin with. A target fails by a panic, or by memory or time
//! without bound. Must never read the network.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use sidecarta_capture::frame::{Direction, Frame, FrameBatch, LinkType};
use sidecarta_capture::meter::Meter;
use sidecarta_capture::observation::InterfaceId;
use sidecarta_capture::source::CaptureReader;
use sidecarta_capture::{dns, http, tls};
use sidecarta_istio::mesh::{MeshBuilder, sidecar_from_text};
use sidecarta_istio::objects::read_yaml;
use sidecarta_istio::scope::{Address, CallProtocol, Client, Scope, ScopeCall, listeners, policy};
use sidecarta_model::observed;
use sidecarta_model::{Time, domain, valid};
use sidecarta_testkit as kit;

/// A parser, as a function of bytes.
pub type FuzzTarget = fn(&[u8]);

/// All targets with their names.
pub const TARGETS: &[(&str, FuzzTarget)] = &[
    ("packets", packets),
    ("captures", captures),
    ("tls", tls_records),
    ("http", http_heads),
    ("dns", dns_messages),
    ("batches", batches),
    ("objects", objects),
    ("names", names),
];

/// The target of this name.
pub fn target(name: &str) -> Option<FuzzTarget> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}

const LINKS: [LinkType; 7] = [
    LinkType::ETHERNET,
    LinkType::LINUX_SLL,
    LinkType::LINUX_SLL2,
    LinkType::RAW,
    LinkType::NULL,
    LinkType::IPV6,
    LinkType(9_999),
];

/// Frames of one link type: its number, then for each frame its length and its bytes.
fn packets(bytes: &[u8]) {
    let Some((link, mut rest)) = bytes.split_first() else { return };
    let link = LINKS[usize::from(*link) % LINKS.len()];
    let mut batch = FrameBatch::default();
    let mut time = 1_700_000_000_000_000_000;
    while let [a, b, following @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*a, *b])).min(following.len());
        let (data, next) = following.split_at(length);
        time += i64::from(*b) * 1_000_000;
        batch.push(Frame {
            time,
            interface: InterfaceId { source: 0, index: u32::from(*b % 3) },
            link,
            direction: Direction::Unknown,
            wire_len: length as u32 + u32::from(*a % 2),
            data,
        });
        rest = next;
    }
    let mut meter = Meter::new(Default::default(), Default::default());
    meter.batch(&batch, &mut drop);
    meter.report_changed(time, &mut drop);
    meter.finish(&mut drop);
}

/// A capture file: pcap, pcapng, compressed or not.
fn captures(bytes: &[u8]) {
    let Ok(mut file) = tempfile::NamedTempFile::new() else { return };
    if file.write_all(bytes).is_err() {
        return;
    }
    let mut reader = CaptureReader::open(&[file.path().to_owned()]);
    let mut meter = Meter::new(Default::default(), Default::default());
    let mut batch = FrameBatch::default();
    while reader.next_batch(&mut batch) {
        meter.batch(&batch, &mut drop);
    }
    meter.finish(&mut drop);
}

fn tls_records(bytes: &[u8]) {
    tls::client_hello(bytes);
}

fn http_heads(bytes: &[u8]) {
    http::request(bytes);
}

fn dns_messages(bytes: &[u8]) {
    dns::message(bytes);
    dns::stream(bytes).for_each(|message| drop(dns::message(message)));
}

/// Batches of agents. What is read is written the same.
fn batches(bytes: &[u8]) {
    for batch in observed::Reader::new(bytes).flatten() {
        let mut text = Vec::new();
        if observed::write(&batch, &mut text).is_ok() {
            let again = observed::Reader::new(&text[..]).next();
            assert!(again.is_some_and(|read| read.is_ok_and(|read| read == batch)));
        }
    }
}

/// Objects of a snapshot; a mesh of them, and scopes in it.
fn objects(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = sidecarta_text::yaml::documents(text);
    let _ = sidecar_from_text(text);
    let Ok(objects) = read_yaml(text) else { return };
    let mut builder = MeshBuilder::default();
    objects.into_iter().for_each(|object| builder.add(object));
    let (mesh, _) = builder.build();
    let labels = [("app".to_owned(), "cart".to_owned())].into();
    for namespace in ["default", "shop", "bookinfo", "istio-system"] {
        let client = Client { namespace, labels: &labels, address: Some("10.244.1.10") };
        let sidecar = mesh.applied(namespace, &labels);
        let egress = listeners(sidecar);
        let scope = Scope::new(&mesh, namespace, &egress, policy(&mesh, sidecar));
        scope.size(&labels);
        let hosts = scope.services.iter().map(|s| s.service.host.to_string()).take(8);
        for host in hosts.chain(["nowhere.example".to_owned()]) {
            for protocol in [CallProtocol::Http, CallProtocol::Tls, CallProtocol::Tcp] {
                let address = Address::from([10, 96, 0, 7]);
                scope
                    .treat(&client, &ScopeCall { host: host.clone(), port: 80, protocol, address });
            }
        }
    }
}

/// Names, times and addresses where they enter.
fn names(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = valid::wire_name(text);
    let _ = valid::namespace(text);
    let _ = valid::object_name(text);
    if let Ok(time) = text.parse::<Time>() {
        assert_eq!(time.to_string().parse::<Time>().ok(), Some(time));
    }
    let _ = text.parse::<SocketAddr>();
    if let Some(domain) = domain(text) {
        assert!(domain.len() <= text.len());
    }
}

/// Inputs to begin with: small files of the samples, and a few heads.
pub fn seeds(name: &str) -> Vec<Vec<u8>> {
    const MAX: usize = 20_000;
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples");
    let with = |endings: &[&str]| {
        let mut all: Vec<Vec<u8>> = files(&samples)
            .into_iter()
            .filter(|path| endings.iter().any(|e| path.extension().is_some_and(|x| x == *e)))
            .filter_map(|path| std::fs::read(path).ok())
            .filter(|bytes| bytes.len() <= MAX)
            .collect();
        all.truncate(24);
        all
    };
    match name {
        "captures" => with(&["pcap", "pcapng", "zst", "gz"]),
        "packets" => with(&["pcap"]).iter().map(|pcap| frames_of(pcap)).collect(),
        "objects" => with(&["yaml", "json"]),
        "batches" => vec![BATCH_1.into(), BATCH_2.into()],
        "http" => vec![
            b"GET /a HTTP/1.1\r\nHost: cart.shop:80\r\n\r\n".to_vec(),
            b"CONNECT cart:443 HTTP/1.1\r\nHost: cart:443\r\n\r\n".to_vec(),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\
              \0\0\0\x04\0\0\0\0\0\0\0\x09\x01\x05\0\0\0\x01\x82\x86\x84\x41\x04cart"
                .to_vec(),
        ],
        "dns" => vec![kit::dns::answer(0x1234, "cart.shop", &[[10, 96, 0, 7]])],
        "tls" => vec![kit::tls::client_hello("outbound_.80_._.cart.shop.svc.cluster.local")],
        _ => vec![
            b"cart.shop.svc.cluster.local".to_vec(),
            b"2026-01-01T20:40:00.123456789Z".to_vec(),
            b"*.example.co.uk:443".to_vec(),
        ],
    }
}

/// A batch of the first version, and one of the second.
const BATCH_1: &str = r#"{"observed":{"version":1,"source":"agent:n1:b","sequence":0,"node":"n1","made":"2026-11-25T09:00:00Z","spans":[],"counters":{"learned":3}}}
{"pod":{"name":"web","uid":"u","workload":{"namespace":"shop","kind":"Pod","name":"web"},"labels":{"app":"web"},"selector":{"app":"web"},"dataPlane":"sidecar","start":"2026-11-25T08:00:00Z","end":"2262-04-11T23:47:16.854775807Z","addresses":["10.244.1.10"],"node":"n1","capture":{}}}
{"edge":{"pod":0,"responder":"10.244.1.11:8080","transport":"tcp","orientation":"guessed","fromStart":false,"answered":true,"refused":false,"content":"tls","names":{"sni":"cart","alpn":["h2"],"dns":[{"question":"cart","canonical":null,"answered":0}]},"initiator":"10.244.1.10:40000","connections":3,"first":"2026-11-25T09:00:00Z","lastBegan":"2026-11-25T09:00:00Z","last":"2026-11-25T09:00:00Z","packets":9}}
{"end":{"lines":3}}
"#;
const BATCH_2: &str = r#"{"observed":{"version":2,"source":"agent:n1:b","sequence":1,"node":"n1","made":"2026-11-25T09:00:00Z","spans":[],"counters":{}}}
{"pod":{"name":"web","uid":"u","workload":{"namespace":"shop","kind":"Pod","name":"web"},"labels":{},"selector":{},"dataPlane":"sidecar","start":"2026-11-25T08:00:00Z","end":"2262-04-11T23:47:16.854775807Z","addresses":["10.244.1.10"],"node":"n1","capture":{}}}
{"edge":{"pod":0,"responder":"10.244.1.11:8080","protocol":"TCP","authority":"cart:80","dns":["cart"],"openings":[{"began":"2026-11-25T09:00:00Z","from":"10.244.1.10:40000"}],"last":"2026-11-25T09:00:00Z","connections":3,"midway":1}}
{"asked":{"pod":0,"question":"cart","connections":1,"firstSeen":"2026-11-25T09:00:00Z","lastSeen":"2026-11-25T09:00:00Z"}}
{"end":{"lines":4}}
"#;

/// Files below a directory, sorted.
fn files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut all: Vec<PathBuf> = entries
        .flatten()
        .flat_map(|e| if e.path().is_dir() { files(&e.path()) } else { vec![e.path()] })
        .collect();
    all.sort();
    all
}

/// The frames of a classic pcap file in the form of [`packets`].
fn frames_of(pcap: &[u8]) -> Vec<u8> {
    let mut out = vec![0];
    let mut rest = pcap.get(24..).unwrap_or_default();
    while let Some((head, following)) = rest.split_at_checked(16) {
        let length = head.get(8..12).and_then(|l| l.try_into().ok()).map_or(0, u32::from_le_bytes);
        let Some((frame, next)) = following.split_at_checked(length as usize) else { break };
        out.extend((frame.len() as u16).to_be_bytes());
        out.extend(frame);
        rest = next;
    }
    out
}
