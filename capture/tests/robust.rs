//! No bytes cause a panic, every packet is counted once, and all that is readable is read.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod files;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use files::{block, interface, packet, section};
use proptest::prelude::*;
use sidecarta_capture::decode::decode;
use sidecarta_capture::frame::{Direction, Frame, FrameBatch, LinkType};
use sidecarta_capture::meter::{FlowConfig, ListeningPorts, Meter};
use sidecarta_capture::observation::{InterfaceId, Observation};
use sidecarta_capture::source::{self, CaptureReader, SourceReport};
use sidecarta_capture::{dns, http, tls};

const LINKS: [LinkType; 8] = [
    LinkType::ETHERNET,
    LinkType::LINUX_SLL,
    LinkType::LINUX_SLL2,
    LinkType::RAW,
    LinkType::NULL,
    LinkType::LOOP,
    LinkType::IPV6,
    LinkType(9999),
];

fn frame(data: &[u8], link: LinkType, time: i64) -> Frame<'_> {
    Frame {
        time,
        interface: InterfaceId { source: 0, index: 0 },
        link,
        direction: Direction::Unknown,
        wire_len: data.len() as u32,
        data,
    }
}

/// All packets are accounted for, each once.
fn assert_accounted(meter: &Meter) {
    let c = meter.counters();
    let sum = c.used
        + c.not_ip
        + c.other_transport
        + c.later_fragments
        + c.bad_link
        + c.bad_network
        + c.bad_transport
        + c.unknown_link_type
        + c.not_unicast
        + c.encrypted;
    assert_eq!(c.packets, sum, "{c:?}");
}

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples")
}

fn sample_captures() -> Vec<PathBuf> {
    let mut all = Vec::new();
    for case in
        std::fs::read_dir(samples()).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir())
    {
        let files = std::fs::read_dir(case).unwrap().map(|e| e.unwrap().path());
        all.extend(files.filter(|p| p.extension().is_some_and(|e| e == "pcap" || e == "pcapng")));
    }
    all.sort();
    assert!(all.len() > 40, "samples are missing");
    all
}

type Owned = (i64, LinkType, u32, Vec<u8>);

fn drain(paths: &[PathBuf]) -> (Vec<Owned>, Vec<SourceReport>, Vec<String>) {
    let mut reader = CaptureReader::open(paths);
    let mut batch = FrameBatch::default();
    let mut frames = Vec::new();
    while reader.next_batch(&mut batch) {
        frames.extend(batch.frames().map(|f| (f.time, f.link, f.wire_len, f.data.to_vec())));
    }
    let errors = reader.errors().iter().map(ToString::to_string).collect();
    (frames, reader.reports().to_vec(), errors)
}

fn observe(frames: &[Owned]) -> Vec<Observation> {
    let mut meter = Meter::new(FlowConfig::default(), ListeningPorts::default());
    let mut out = Vec::new();
    for (time, link, wire_len, data) in frames {
        let f = Frame { wire_len: *wire_len, ..frame(data, *link, *time) };
        meter.frame(&f, &mut |o| out.push(o));
    }
    meter.finish(&mut |o| out.push(o));
    assert_accounted(&meter);
    out
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 512,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn arbitrary_bytes_never_panic(data in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = dns::message(&data);
        let _ = tls::client_hello(&data);
        let _ = http::request(&data);
        let _ = http::h2::request(&data);
        for link in LINKS {
            let _ = decode(&frame(&data, link, 0));
        }
    }

    #[test]
    fn recognisable_beginnings_never_panic(
        head in prop::sample::select(vec![
            &b"GET / HTTP/1.1\r\nHost: "[..],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"\x12\x34\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00",
        ]),
        tail in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let data = [head, &tail].concat();
        let _ = dns::message(&data);
        let _ = tls::client_hello(&data);
        let _ = http::request(&data);
        let _ = http::h2::request(&data);
    }

    #[test]
    fn mutated_real_frames_are_accounted_for(
        changes in prop::collection::vec(
            (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()),
            1..60,
        ),
    ) {
        let (mut frames, _, _) = drain(&[samples().join("b-after/veth5f577e0f.pcap")]);
        for (at, byte, value) in changes {
            let data = &mut at.get_mut(&mut frames).3;
            if !data.is_empty() {
                let i = byte.index(data.len());
                data[i] = value;
            }
        }
        observe(&frames);
    }

    #[test]
    fn arbitrary_files_give_an_error_or_packets(
        kind in 0..4usize,
        tail in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let magic: [&[u8]; 4] = [
            b"\xd4\xc3\xb2\xa1\x02\x00\x04\x00\0\0\0\0\0\0\0\0\xff\xff\0\0\x01\0\0\0",
            b"\x0a\x0d\x0d\x0a\x1c\0\0\0\x4d\x3c\x2b\x1a\x01\0\0\0\
              \xff\xff\xff\xff\xff\xff\xff\xff\x1c\0\0\0",
            b"\x1f\x8b\x08\0\0\0\0\0\0\x03",
            b"\x28\xb5\x2f\xfd",
        ];
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pcap");
        std::fs::write(&path, [magic[kind], &tail].concat()).unwrap();
        let (frames, reports, errors) = drain(&[path]);
        prop_assert_eq!(reports.iter().map(|r| r.packets).sum::<u64>(), frames.len() as u64);
        // Nothing is skipped silently: there are packets, an error, or damage in a report.
        let is_damaged = reports.iter().any(|r| r.damage.is_some());
        prop_assert!(!frames.is_empty() || !errors.is_empty() || is_damaged);
    }
}

#[test]
fn every_frame_of_every_sample_cut_at_every_length_is_accounted_for() {
    let mut cut = 0;
    for path in sample_captures() {
        let (frames, _, errors) = drain(std::slice::from_ref(&path));
        assert!(errors.is_empty() && !frames.is_empty(), "{}", path.display());
        // Headers and names are in front: a cut after 600 bytes changes nothing.
        let mut meter = Meter::new(FlowConfig::default(), ListeningPorts::default());
        for (time, link, wire_len, data) in frames.iter().step_by(3) {
            for n in 0..data.len().min(600) {
                let f = Frame { wire_len: *wire_len, ..frame(&data[..n], *link, *time) };
                meter.frame(&f, &mut |_| {});
                cut += 1;
            }
        }
        meter.finish(&mut |_| {});
        assert_accounted(&meter);
    }
    assert!(cut > 100_000, "{cut}");
}

#[test]
fn a_file_cut_at_any_length_gives_the_packets_before_the_cut() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["article/before.pcap", "article/after.pcap", "q-formats/snap96.pcap"] {
        let whole = std::fs::read(samples().join(name)).unwrap();
        let (all, _, _) = drain(&[samples().join(name)]);
        for n in 0..whole.len() {
            let path = dir.path().join("cut.pcap");
            std::fs::write(&path, &whole[..n]).unwrap();
            let (frames, reports, errors) = drain(&[path]);
            assert_eq!(frames, all[..frames.len()], "{name} cut at {n}");
            let reported = !errors.is_empty() || reports[0].damage.is_some();
            // At the boundary of two packets a cut cannot be seen.
            let boundary = frames.iter().map(|f| 16 + f.3.len()).sum::<usize>() + 24 == n;
            assert!(reported || boundary, "{name} cut at {n} is not reported");
        }
    }
    let ng = std::fs::read(samples().join("q-formats/veth.pcapng")).unwrap();
    let (all, _, _) = drain(&[samples().join("q-formats/veth.pcapng")]);
    for n in (0..ng.len()).step_by(37) {
        let path = dir.path().join("cut.pcapng");
        std::fs::write(&path, &ng[..n]).unwrap();
        let (frames, ..) = drain(&[path]);
        assert_eq!(frames, all[..frames.len()], "pcapng cut at {n}");
    }
}

#[test]
fn reading_ends_on_request_while_a_pipe_is_idle() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("idle");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    // The writing end stays open, so that the reader waits without end.
    let _writer = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut prefetch = source::spawn(CaptureReader::open(&[path])).unwrap();
    let in_vain = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ended = scope.spawn(|| prefetch.next_batch(&in_vain).is_none());
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(!ended.is_finished());
        in_vain.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(ended.join().unwrap());
    });
}

fn digest(path: &Path) -> u64 {
    let mut prefetch = source::spawn(CaptureReader::open(&[path.to_owned()])).unwrap();
    while let Some(batch) = prefetch.next_batch(&AtomicBool::new(false)) {
        prefetch.recycle(batch);
    }
    prefetch.finish().unwrap().1.of(0)
}

/// Stores contain digests. With another digest, the same capture would be counted twice.
#[test]
fn the_digest_of_a_capture_never_changes() {
    assert_eq!(
        format!("{:016x}", digest(&samples().join("f1-external-se/veth5f577e0f.pcap"))),
        "aa13168d072f8f32"
    );
}

#[test]
fn compressed_captures_give_the_same_frames() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    for name in ["micro.pcap", "nano.pcap", "veth.pcapng", "any.sll2.pcap"] {
        let plain = samples().join("q-formats").join(name);
        let bytes = std::fs::read(&plain).unwrap();
        let (want, reports, _) = drain(std::slice::from_ref(&plain));
        let gz = dir.path().join(format!("{name}.gz"));
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(&bytes).unwrap();
        std::fs::write(&gz, out.finish().unwrap()).unwrap();
        let zst = dir.path().join(format!("{name}.zst"));
        std::fs::write(&zst, zstd::encode_all(&bytes[..], 1).unwrap()).unwrap();
        for packed in [gz, zst] {
            let (got, packed_reports, errors) = drain(std::slice::from_ref(&packed));
            assert_eq!(errors, [""; 0]);
            assert_eq!(got, want, "{name}");
            assert_eq!(
                (&packed_reports[0].damage, packed_reports[0].packets),
                (&None, reports[0].packets)
            );
            assert_eq!(digest(&packed), digest(&plain), "{name}");
        }
    }
}

#[test]
fn captures_are_merged_by_time_whatever_the_order_of_arguments() {
    let mut paths: Vec<PathBuf> = sample_captures()
        .into_iter()
        .filter(|p| p.parent().unwrap().ends_with("d-bookinfo"))
        .collect();
    let (forward, ..) = drain(&paths);
    paths.reverse();
    // The same file twice is read once.
    paths.push(paths[0].clone());
    let (backward, reports, _) = drain(&paths);
    assert_eq!(forward, backward);
    assert!(forward.windows(2).all(|w| w[0].0 <= w[1].0), "not in the order of packet time");
    assert_eq!(reports.len(), 9);
}

#[test]
fn a_pcapng_with_several_link_types_gives_all_packets() {
    let mut file = [section(), interface()].concat();
    // Raw IP, nanoseconds.
    file.extend(block(1, b"\x65\0\0\0\0\x04\0\0\x09\0\x01\0\x09\0\0\0\0\0\0\0"));
    file.extend(packet(0, 1_000_000, b"ethernet"));
    file.extend(packet(1, 2_000_000_000, b"raw"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mixed.pcapng");
    std::fs::write(&path, file).unwrap();
    let (frames, reports, errors) = drain(&[path]);
    assert_eq!(errors, [""; 0]);
    assert_eq!(reports[0].damage, None);
    assert_eq!(
        frames,
        [
            (1_000_000_000, LinkType::ETHERNET, 8, b"ethernet".to_vec()),
            (2_000_000_000, LinkType::RAW, 3, b"raw".to_vec())
        ]
    );
}

#[test]
fn names_are_read_from_heads_over_several_segments() {
    let (frames, ..) = drain(&[samples().join("n-segmented/veth5f577e0f.pcap")]);
    let names: Vec<String> = observe(&frames)
        .into_iter()
        .filter_map(|o| match o {
            Observation::Connection(c) => c.names.sni,
            _ => None,
        })
        .collect();
    assert_eq!(names.len(), 6);
    assert!(
        names.iter().all(|n| n == "outbound_.9080_._.reviews.bookinfo.svc.cluster.local"),
        "{names:?}"
    );
}

#[test]
fn a_full_table_forgets_the_oldest_and_counts_it() {
    let (frames, ..) = drain(&[samples().join("f1-external-se/veth5f577e0f.pcap")]);
    let config = FlowConfig { max_flows: 4, ..FlowConfig::default() };
    let mut meter = Meter::new(config, ListeningPorts::default());
    let mut reported = 0;
    for (time, link, wire_len, data) in &frames {
        let f = Frame { wire_len: *wire_len, ..frame(data, *link, *time) };
        meter.frame(&f, &mut |o| reported += usize::from(matches!(o, Observation::Connection(_))));
    }
    assert!(meter.counters().evicted_flows > 0);
    assert!(reported as u64 >= meter.counters().evicted_flows);
    assert_accounted(&meter);
}
