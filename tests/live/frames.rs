//! Frames that tests put on a pod's interface.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use sidecarta_testkit::frame::{End, Tcp};

use crate::netns::{Net, inside};

/// Sends frames unchanged from a pod's interface.
pub fn send(net: &Net, frames: Vec<Vec<u8>>) {
    let send = move || {
        let mut interface = pcap::Capture::from_device("eth0").unwrap().open().unwrap();
        frames.iter().for_each(|frame| interface.sendpacket(frame.as_slice()).unwrap());
    };
    inside(&net.ns, send).join().unwrap();
}

/// A SYN-ACK: the segment that accepts a connection, though nothing opened it.
pub fn syn_ack(from: End, to: End) -> Vec<u8> {
    Tcp { seq: 7, ack: Some(8), syn: true, ..Tcp::default() }.frame(from, to)
}

/// A segment with a request, on a connection that nothing opened.
pub fn request(from: End, to: End) -> Vec<u8> {
    let payload = b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    Tcp { seq: 8, ack: Some(8), psh: true, payload, ..Tcp::default() }.frame(from, to)
}
