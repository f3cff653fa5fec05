//! Classic captures: little-endian, microseconds, Ethernet.

/// What a capture begins with: magic number, version 2.4, snap length 262,144, link type 1.
pub const HEADER: &[u8; 24] = b"\xd4\xc3\xb2\xa1\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\x04\0\x01\0\0\0";

/// What stands before a frame: its time in microseconds since the Unix epoch, and its length.
pub fn record(micros: u64, length: usize) -> [u8; 16] {
    let (seconds, part) = (micros / 1_000_000, micros % 1_000_000);
    let fields = [seconds as u32, part as u32, length as u32, length as u32];
    let mut out = [0; 16];
    for (field, value) in out.chunks_exact_mut(4).zip(fields) {
        field.copy_from_slice(&value.to_le_bytes());
    }
    out
}

/// A capture of frames, each with its time in microseconds since the Unix epoch.
pub fn capture<F: AsRef<[u8]>>(frames: impl IntoIterator<Item = (u64, F)>) -> Vec<u8> {
    let mut out = HEADER.to_vec();
    for (micros, frame) in frames {
        let frame = frame.as_ref();
        out.extend(record(micros, frame.len()));
        out.extend(frame);
    }
    out
}
