//! Captures that overlap in time give the frames that each gives alone, merged by packet time, in
//! any format, although most of them are parked.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod files;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use files::{block, interface, packet, section};
use sidecarta_capture::frame::{FrameBatch, LinkType};
use sidecarta_capture::source::{self, CaptureReader, Damage, SourceReport};
use sidecarta_testkit::random::Random;

/// Time, interface, link type, length on the wire, bytes.
type Owned = (i64, u32, LinkType, u32, Vec<u8>);

/// Captures that are open at a time (`MAX_OPEN`).
const OPEN: usize = 16;
const SECOND: u64 = 1_000_000_000;

/// What a reader gives of each source, in its order; and the order of sources.
fn drain(paths: &[PathBuf]) -> (Vec<(u32, Owned)>, Vec<SourceReport>) {
    let mut reader = CaptureReader::open(paths);
    let mut batch = FrameBatch::default();
    let mut all = Vec::new();
    while reader.next_batch(&mut batch) {
        all.extend(batch.frames().map(|f| {
            let owned = (f.time, f.interface.index, f.link, f.wire_len, f.data.to_vec());
            (f.interface.source, owned)
        }));
    }
    assert!(reader.errors().is_empty(), "{:?}", reader.errors());
    (all, reader.reports().to_vec())
}

/// Frames of a capture: times in nanoseconds, now and then stepping back, and bytes.
fn frames(seed: u64, count: usize) -> Vec<(u64, Vec<u8>)> {
    let mut random = Random(seed);
    let mut time = 1_000 * SECOND + seed * 1_000;
    let all = (0..count).map(|_| {
        time += random.below(5_000_000);
        let back = if random.below(50) == 0 { 2_000_000 } else { 0 };
        let length = match random.below(100) {
            0 => 9_000,
            1 => 60_000,
            n => 60 + n as usize,
        };
        ((time - back) / 1_000 * 1_000, vec![random.number() as u8; length])
    });
    all.collect()
}

#[derive(Clone, Copy, PartialEq)]
enum ByteOrder {
    Little,
    Big,
}

#[derive(Clone, Copy, PartialEq)]
enum TimeUnit {
    Micros,
    Nanos,
}

/// A classic pcap file.
fn classic(frames: &[(u64, Vec<u8>)], order: ByteOrder, unit: TimeUnit, link: u32) -> Vec<u8> {
    let big_endian = order == ByteOrder::Big;
    let nanos = unit == TimeUnit::Nanos;
    let number = |n: u32| if big_endian { n.to_be_bytes() } else { n.to_le_bytes() };
    let mut out = number(if nanos { 0xa1b2_3c4d } else { 0xa1b2_c3d4 }).to_vec();
    out.extend(if big_endian { [0, 2, 0, 4] } else { [2, 0, 4, 0] });
    // Snap length: libpcap delivers so many bytes of longer frames.
    out.extend([0, 0, 50_000, link].into_iter().flat_map(number));
    for (time, data) in frames {
        let part = time % SECOND / if nanos { 1 } else { 1_000 };
        let length = data.len() as u32;
        out.extend([(time / SECOND) as u32, part as u32, length, length].map(number).concat());
        out.extend(data);
    }
    out
}

/// Two sections, each with two interfaces.
fn pcapng(frames: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let head = [section(), interface(), interface()].concat();
    let mut out = Vec::new();
    for (i, half) in frames.chunks(frames.len().div_ceil(2)).enumerate() {
        out.extend(&head);
        for (n, (time, data)) in half.iter().enumerate() {
            out.extend(packet((n % 2) as u32, time / 1_000, data));
        }
        out.extend(block(5, &[i as u8; 12]));
    }
    out
}

fn big_endian_pcapng(frames: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let block = |kind: u32, body: &[u8]| {
        let padded = body.len().next_multiple_of(4);
        let length = (padded as u32 + 12).to_be_bytes();
        let mut out = [&kind.to_be_bytes(), &length, body].concat();
        out.resize(8 + padded, 0);
        out.extend(length);
        out
    };
    let mut out = block(0x0a0d_0d0a, b"\x1a\x2b\x3c\x4d\0\x01\0\0\xff\xff\xff\xff\xff\xff\xff\xff");
    out.extend(block(1, b"\0\x01\0\0\0\x04\0\0"));
    for (time, data) in frames {
        let (ticks, length) = (time / 1_000, data.len() as u32);
        let fields = [0, (ticks >> 32) as u32, ticks as u32, length, length];
        out.extend(block(6, &[&fields.map(u32::to_be_bytes).concat(), &data[..]].concat()));
    }
    out
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// Captures that begin before all others and end after them, so that the others are parked.
fn first_ones(dir: &Path) -> Vec<PathBuf> {
    let ends = [(1, vec![1; 60]), (9_000 * SECOND, vec![2; 60])];
    (0..OPEN)
        .map(|i| {
            write(
                dir,
                &format!("0{i}.pcap"),
                &classic(&ends, ByteOrder::Little, TimeUnit::Nanos, 1),
            )
        })
        .collect()
}

/// The frames of sources as they must be merged: always the earliest of those that come next, and
/// of equal ones that of the first source.
fn merged(sources: &[Vec<Owned>]) -> Vec<(u32, Owned)> {
    let mut at = vec![0; sources.len()];
    let mut out = Vec::new();
    loop {
        let heads = sources.iter().enumerate().filter_map(|(i, s)| Some((s.get(at[i])?.0, i)));
        let Some((_, i)) = heads.min() else { return out };
        out.push((i as u32, sources[i][at[i]].clone()));
        at[i] += 1;
    }
}

#[test]
fn parked_captures_give_the_same_frames() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut paths = first_ones(dir);
    for i in 0..4_u64 {
        let some = |n| frames(10 * i + n, 700);
        let plain = [
            ("le.pcap", classic(&some(0), ByteOrder::Little, TimeUnit::Micros, 1)),
            ("nano.pcap", classic(&some(1), ByteOrder::Little, TimeUnit::Nanos, 101)),
            ("be.pcap", classic(&some(2), ByteOrder::Big, TimeUnit::Micros, 113)),
            ("benano.pcap", classic(&some(3), ByteOrder::Big, TimeUnit::Nanos, 276)),
            ("sections.pcapng", pcapng(&some(4))),
            ("be.pcapng", big_endian_pcapng(&some(5))),
        ];
        for (name, bytes) in plain {
            paths.push(write(dir, &format!("{i}{name}"), &bytes));
            paths.push(write(dir, &format!("{i}{name}.gz"), &gzip(&bytes)));
            let packed = zstd::encode_all(&bytes[..], 1).unwrap();
            paths.push(write(dir, &format!("{i}{name}.zst"), &packed));
        }
    }
    let (got, reports) = drain(&paths);
    assert!(reports.iter().all(|r| r.damage.is_none()), "{reports:?}");
    let alone: Vec<Vec<Owned>> = reports
        .iter()
        .map(|report| {
            let (frames, reports) = drain(&[report.path.clone().into()]);
            assert_eq!((&reports[0].format, reports[0].packets), (&report.format, report.packets));
            assert_eq!((reports[0].bytes, reports[0].first), (report.bytes, report.first));
            frames.into_iter().map(|(_, frame)| frame).collect()
        })
        .collect();
    assert_eq!(alone.iter().map(Vec::len).sum::<usize>(), OPEN * 2 + 4 * 6 * 3 * 700);
    let want = merged(&alone);
    assert_eq!(got.len(), want.len());
    for (n, (got, want)) in got.iter().zip(&want).enumerate() {
        assert!(got == want, "frame {n} of source {}", want.0);
    }
}

#[test]
fn a_digest_does_not_depend_on_other_captures() {
    let dir = tempfile::tempdir().unwrap();
    let mut paths = first_ones(dir.path());
    let bytes = classic(&frames(1, 300), ByteOrder::Little, TimeUnit::Micros, 101);
    paths.push(write(dir.path(), "x.pcap", &bytes));
    let digest = |paths: &[PathBuf], source| {
        let mut prefetch = source::spawn(CaptureReader::open(paths)).unwrap();
        while let Some(batch) = prefetch.next_batch(&AtomicBool::new(false)) {
            prefetch.recycle(batch);
        }
        prefetch.finish().unwrap().1.of(source)
    };
    assert_eq!(digest(&paths, OPEN as u32), digest(&paths[OPEN..], 0));
}

#[test]
fn a_cut_parked_capture_gives_the_frames_before_the_cut() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let firsts = first_ones(dir);
    let plain = classic(&frames(3, 300), ByteOrder::Little, TimeUnit::Micros, 1);
    let ng = pcapng(&frames(4, 300));
    let mut long = plain[..24 + 16].to_vec();
    long[32..36].copy_from_slice(&300_000u32.to_le_bytes());
    let packed = gzip(&plain);
    for (name, bytes) in [
        ("cut.pcap", &plain[..plain.len() - 7]),
        ("header.pcap", &plain[..24 + 10]),
        ("long.pcap", &[&long[..], &[0; 300_000]].concat()),
        ("cut.pcapng", &ng[..ng.len() - 40]),
        ("cut.pcap.gz", &packed[..packed.len() / 2]),
    ] {
        let path = write(dir, name, bytes);
        let (alone, want) = drain(std::slice::from_ref(&path));
        let (_, reports) = drain(&[&firsts[..], std::slice::from_ref(&path)].concat());
        let report = reports.iter().find(|r| r.path == path.display().to_string()).unwrap();
        assert_eq!((report.packets, report.bytes), (want[0].packets, want[0].bytes), "{name}");
        assert_eq!(report.packets, alone.len() as u64);
        for damage in [&report.damage, &want[0].damage] {
            assert!(matches!(damage, Some(Damage::NotReadToEnd(_))), "{name}: {damage:?}");
        }
    }
}

#[test]
fn a_parked_capture_that_is_replaced_while_it_is_read_is_a_loss() {
    let dir = tempfile::tempdir().unwrap();
    let mut paths = first_ones(dir.path());
    paths.push(write(
        dir.path(),
        "x.pcap",
        &classic(&frames(5, 9_000), ByteOrder::Little, TimeUnit::Micros, 1),
    ));
    let mut reader = CaptureReader::open(&paths);
    let mut batch = FrameBatch::default();
    assert!(reader.next_batch(&mut batch));
    let other = write(
        dir.path(),
        "other",
        &classic(&frames(6, 9_000), ByteOrder::Little, TimeUnit::Micros, 1),
    );
    std::fs::rename(other, &paths[OPEN]).unwrap();
    while reader.next_batch(&mut batch) {}
    let damage = reader.reports()[OPEN].damage.clone().unwrap().to_string();
    assert!(damage.contains("another file has taken its name"), "{damage}");
}
