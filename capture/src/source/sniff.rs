//! Kinds of files, by their first bytes.
//!
//! Owns the magic numbers. Must never read more than [`ENOUGH`] bytes.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Format of a capture, or its compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    Pcap,
    PcapNg,
    Gzip,
    Zstd,
}

/// Number of bytes that [`kind`] needs.
pub(super) const ENOUGH: usize = 12;

/// Recognises magic numbers: pcap in both byte orders and precisions (and Kuznetzov's variant,
/// which libpcap reads too), pcapng (draft-ietf-opsawg-pcapng §4.1), gzip (RFC 1952), zstd (RFC
/// 8878).
pub(super) fn kind(head: &[u8]) -> Option<FileKind> {
    match head {
        [0xd4, 0xc3, 0xb2, 0xa1, ..]
        | [0xa1, 0xb2, 0xc3, 0xd4, ..]
        | [0x4d, 0x3c, 0xb2, 0xa1, ..]
        | [0xa1, 0xb2, 0x3c, 0x4d, ..]
        | [0x34, 0xcd, 0xb2, 0xa1, ..]
        | [0xa1, 0xb2, 0xcd, 0x34, ..] => Some(FileKind::Pcap),
        [0x0a, 0x0d, 0x0d, 0x0a, ..] => Some(FileKind::PcapNg),
        [0x1f, 0x8b, ..] => Some(FileKind::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(FileKind::Zstd),
        _ => None,
    }
}

/// Describes the first bytes of a file that is no capture.
pub(super) fn describe(head: &[u8]) -> String {
    if head.iter().all(|b| matches!(b, b'\t' | b'\n' | b'\r' | 0x20..=0x7e)) {
        let text: String =
            head.iter().map(|b| if *b < 0x20 { ' ' } else { char::from(*b) }).collect();
        format!("it begins with the text {:?}", text.trim())
    } else {
        let hex: Vec<String> = head.iter().take(4).map(|b| format!("{b:02x}")).collect();
        format!("it begins with the bytes {}", hex.join(" "))
    }
}

/// Reads up to [`ENOUGH`] bytes.
pub(super) fn head(input: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(ENOUGH);
    input.by_ref().take(ENOUGH as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// Whether a file is a capture, by its first bytes. A compressed file also needs "pcap" in its
/// name.
pub fn is_capture(path: &Path) -> bool {
    let regular = std::fs::metadata(path).is_ok_and(|m| m.is_file());
    let head = || File::open(path).and_then(|mut f| head(&mut f)).unwrap_or_default();
    regular
        && match kind(&head()) {
            Some(FileKind::Pcap | FileKind::PcapNg) => true,
            // A compressed file could be anything, so its name must contain "pcap" too.
            Some(_) => path.file_name().is_some_and(|n| n.to_string_lossy().contains("pcap")),
            None => false,
        }
}
