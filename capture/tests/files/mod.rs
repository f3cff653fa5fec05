//! Blocks of pcapng (draft-ietf-opsawg-pcapng), little-endian.

#![allow(dead_code)] // each test file uses a part of it

/// A block of this type.
pub fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let mut out = kind.to_le_bytes().to_vec();
    let padded = body.len().next_multiple_of(4);
    let length = (padded as u32 + 12).to_le_bytes();
    out.extend(length);
    out.extend(body);
    out.resize(8 + padded, 0);
    out.extend(length);
    out
}

/// The header of a section.
pub fn section() -> Vec<u8> {
    block(0x0a0d_0d0a, b"\x4d\x3c\x2b\x1a\x01\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff")
}

/// An Ethernet interface whose clock counts microseconds.
pub fn interface() -> Vec<u8> {
    block(1, b"\x01\0\0\0\0\0\x04\0")
}

/// An enhanced packet.
pub fn packet(interface: u32, ticks: u64, data: &[u8]) -> Vec<u8> {
    let mut body = interface.to_le_bytes().to_vec();
    body.extend(((ticks >> 32) as u32).to_le_bytes());
    body.extend((ticks as u32).to_le_bytes());
    body.extend((data.len() as u32).to_le_bytes());
    body.extend((data.len() as u32).to_le_bytes());
    body.extend(data);
    block(6, &body)
}
