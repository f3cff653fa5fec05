//! Frames that tests put on a pod's interface.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use etherparse::PacketBuilder;

use crate::netns::{Net, inside};

/// Sends frames unchanged from a pod's interface.
pub fn send(net: &Net, frames: Vec<Vec<u8>>) {
    let send = move || {
        let mut interface = pcap::Capture::from_device("eth0").unwrap().open().unwrap();
        frames.iter().for_each(|frame| interface.sendpacket(frame.as_slice()).unwrap());
    };
    inside(&net.ns, send).join().unwrap();
}

/// The link-layer address of the node's side of routed pods. A bridge floods frames for addresses
/// that it does not know, so it works there, too.
const NODE: [u8; 6] = [0xee; 6];

fn builder(from: [u8; 4], to: [u8; 4]) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], NODE).ipv4(from, to, 64)
}

/// A SYN: the segment that opens a connection.
pub fn syn(from: ([u8; 4], u16), to: ([u8; 4], u16), sequence: u32) -> Vec<u8> {
    let step = builder(from.0, to.0).tcp(from.1, to.1, sequence, 64_000).syn();
    let mut frame = Vec::new();
    step.write(&mut frame, b"").unwrap();
    frame
}

/// A SYN-ACK: the segment that accepts a connection, though nothing opened it.
pub fn syn_ack(from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Vec<u8> {
    let mut frame = Vec::new();
    builder(from.0, to.0).tcp(from.1, to.1, 7, 64_000).syn().ack(8).write(&mut frame, b"").unwrap();
    frame
}

/// A segment with a request, on a connection that nothing opened.
pub fn request(from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Vec<u8> {
    let step = builder(from.0, to.0).tcp(from.1, to.1, 8, 64_000).ack(8).psh();
    let mut frame = Vec::new();
    step.write(&mut frame, b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n").unwrap();
    frame
}

/// A UDP datagram.
pub fn datagram(from: ([u8; 4], u16), to: ([u8; 4], u16), payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    builder(from.0, to.0).udp(from.1, to.1).write(&mut frame, payload).unwrap();
    frame
}

/// A DNS message (RFC 1035 §4.1) with one question for an address, and with the answer if one is
/// given.
pub fn dns_message(id: u16, name: &str, answer: Option<[u8; 4]>) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    let (flags, answers) = if answer.is_some() { ([0x81, 0x80], 1) } else { ([0x01, 0x00], 0) };
    message.extend(flags);
    message.extend([0, 1, 0, answers, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    if let Some(address) = answer {
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4]);
        message.extend(address);
    }
    message
}
