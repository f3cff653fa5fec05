//! Reading a capture takes a bounded amount of memory, whatever it contains. A capture that is not
//! read to its end is reported so.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod common;
mod files;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::{CART, Packet, WEB, Wire};
use files::{block, interface, packet, section};
use sidecarta_capture::frame::FrameBatch;
use sidecarta_capture::meter::{FlowConfig, ListeningPorts};
use sidecarta_capture::source::{CaptureReader, Damage};
use sidecarta_testkit::memory;

/// Memory is measured for the whole process, so that only one test may run at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Result of `work`, and the MiB of memory that it took at most.
fn measured<T>(work: impl FnOnce() -> T) -> (T, u64) {
    // Sets the peak back to what is used now (proc(5)).
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let kib = |field| memory::kib(std::process::id(), field).unwrap();
    let before = kib("VmRSS");
    let result = work();
    (result, kib("VmHWM").saturating_sub(before) / 1024)
}

/// Reads a capture to its end: frames, what is wrong with it, and MiB of memory that it took at
/// most.
fn read(path: &Path) -> (u64, Option<Damage>, u64) {
    let ((frames, damage), used) = measured(|| {
        let mut reader = CaptureReader::open(&[path.to_owned()]);
        let mut batch = FrameBatch::default();
        let mut frames = 0;
        while reader.next_batch(&mut batch) {
            frames += batch.len() as u64;
        }
        assert!(reader.errors().is_empty(), "{:?}", reader.errors());
        (frames, reader.reports()[0].damage.clone())
    });
    (frames, damage, used)
}

/// A compressed pcapng of these blocks, each with how often it comes.
fn file(dir: &Path, blocks: &[(&[u8], usize)]) -> PathBuf {
    let path = dir.join("x.pcapng.zst");
    let mut out = zstd::Encoder::new(std::fs::File::create(&path).unwrap(), 1).unwrap();
    for (bytes, times) in blocks {
        // Some at once: writing them one by one takes long.
        let once = (64 * 1024 / bytes.len()).clamp(1, *times);
        let many = bytes.repeat(once);
        for _ in 0..times / once {
            out.write_all(&many).unwrap();
        }
        out.write_all(&many[..bytes.len() * (times % once)]).unwrap();
    }
    out.finish().unwrap();
    path
}

fn assert_cut(read: (u64, Option<Damage>, u64), frames: u64, why: &str) {
    let (got, damage, used) = read;
    assert_eq!(got, frames);
    let Some(Damage::NotReadToEnd(said)) = damage else { panic!("{damage:?}") };
    assert!(said.contains(why), "{said}");
    assert!(used < 24, "{used} MiB");
}

#[test]
fn the_interfaces_of_a_pcapng_section_are_bounded() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let one = packet(0, 1, b"frame");
    let many = [(&*section(), 1), (&*interface(), 2_000_000), (&*one, 1)];
    assert_cut(read(&file(dir.path(), &many)), 0, "more than 65536 interfaces");
}

#[test]
fn packets_before_too_many_interfaces_are_used() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let one = packet(0, 1, b"frame");
    let behind = [(&*section(), 1), (&*interface(), 1), (&*one, 3), (&*interface(), 70_000)];
    assert_cut(read(&file(dir.path(), &behind)), 3, "the 3 packets before that are used");
}

#[test]
fn a_pcapng_section_may_have_65536_interfaces() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let most = [(&*section(), 1), (&*interface(), 65_536), (&*packet(65_535, 1, b"frame"), 1)];
    let (frames, damage, _) = read(&file(dir.path(), &most));
    assert_eq!((frames, damage), (1, None));
}

#[test]
fn the_interfaces_of_all_sections_are_bounded() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let full = [section(), interface().repeat(65_536), packet(0, 1, b"frame")].concat();
    assert_cut(read(&file(dir.path(), &[(&full, 20)])), 16, "more than 1048576 interfaces");
}

#[test]
fn any_number_of_sections_options_and_names_takes_little_memory() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    // An interface with 900 kB of comments (option 1).
    let comment = [&[1, 0, 4, 0][..], b"text"].concat().repeat(110_000);
    let wordy = block(1, &[&[1, 0, 0, 0, 0, 0, 4, 0][..], &comment].concat());
    // Name resolution (block 4): an address and its name.
    let name = [&[1, 0, 8, 0, 10, 0, 0, 1][..], b"web\0"].concat().repeat(5_000);
    let names = block(4, &[&name[..], &[0, 0, 0, 0]].concat());
    let one = packet(0, 1, b"frame");
    let bare = [section(), interface()].concat();
    for blocks in [
        &[(&*section(), 1), (&*wordy, 100), (&*one, 1)][..],
        &[(&*section(), 1), (&*interface(), 1), (&*names, 1_000), (&*one, 1)],
        &[(&*bare, 100_000), (&*one, 1)],
    ] {
        let (frames, damage, used) = read(&file(dir.path(), blocks));
        assert_eq!((frames, damage), (1, None));
        assert!(used < 32, "{used} MiB");
    }
}

#[test]
fn a_block_longer_than_any_packet_ends_reading() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let huge = [6u32.to_le_bytes(), 0x7fff_fff0u32.to_le_bytes()].concat();
    let blocks = [
        (&*section(), 1),
        (&*interface(), 1),
        (&*packet(0, 1, b"x"), 1),
        (&*huge, 1),
        (&[0], 1 << 22),
    ];
    assert_cut(read(&file(dir.path(), &blocks)), 1, "larger than any packet");
}

/// Packet time stands still, and each connection is closed at once. So nothing is ever due.
#[test]
fn closed_connections_are_forgotten_while_packet_time_stands_still() {
    let _alone = alone();
    const FLOWS: u32 = 600_000;
    let config = FlowConfig { max_flows: 1_000, ..FlowConfig::default() };
    let (evicted, used) = measured(|| {
        let mut wire = Wire::with(config, ListeningPorts::default());
        let mut frame =
            Packet { seq: 7, syn: true, ..Packet::default() }.bytes((WEB, 1), (CART, 80));
        for n in 0..FLOWS {
            // Source address and port; then flags: SYN, and RST.
            frame[29..30].copy_from_slice(&n.to_be_bytes()[1..2]);
            frame[34..36].copy_from_slice(&n.to_be_bytes()[2..4]);
            for flags in [2, 4] {
                frame[47] = flags;
                wire.ethernet(0, &frame);
            }
            wire.reported.clear();
        }
        wire.meter.counters().evicted_flows
    });
    assert_eq!(evicted, 0, "a closed connection is no loss");
    // SYNs that may be translated later are remembered, a bounded number of them.
    assert!(used < 12, "{used} MiB");
}
