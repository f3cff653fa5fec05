//! The text of the filter's program.
//!
//! Owns the rule of [`super::super::rule`], instruction by instruction. Offsets beyond the packet:
//! include/uapi/linux/filter.h (`SKF_AD_OFF`). A load past the end of the frame ends the program
//! with "drop", so loads of bytes that may be missing are guarded. Must never be longer than
//! necessary on the path of a packet that is dropped: the kernel runs it on each packet of each
//! pod.

mod headers;
mod operands;

use super::super::rule::{HANDSHAKE, HANDSHAKE_TYPE, RECORDS, SEGMENT, TLS_PORTS};
use super::asm::*; // the instructions, by name
use super::{DatagramRule, FilterConfig, FilterLink, Instruction};
use crate::dns::PORT as DNS;
use crate::http::REQUESTS;
use crate::layout::protocol::{TCP, UDP};
use crate::layout::tcp::{ACK, FIN, PSH, RST, SYN};
use crate::layout::tls::CLIENT_HELLO;
use crate::layout::{ethernet, ipv4};
use headers::{link_layer, network, transport};
use operands::*; // offsets and scratch, by name

/// The program for a link type.
///
/// It has fewer than 250 instructions, plus one or two for each of [`FilterConfig::always_ports`].
pub fn program(link: FilterLink, config: &FilterConfig) -> Vec<Instruction> {
    let mut asm = Assembler::default();
    let a = &mut asm;
    let to = ProgramLabels::new(a);
    if link == FilterLink::Ethernet {
        plain(a, config, &to);
    }
    link_layer(a, link, &to);
    network(a, &to);
    transport(a, &to);
    tcp(a, config, &to);
    verdicts(a, config, &to);
    asm.finish()
}

/// Handles nearly all frames: TCP and UDP of IPv4 without options, after an Ethernet header without
/// a tag. All fields are at fixed offsets there, which saves a quarter to nearly half of the
/// instructions. Gives the same verdicts as the rest of the program. Leaves all other frames to it,
/// and those that open or close.
fn plain(a: &mut Assembler, config: &FilterConfig, to: &ProgramLabels) {
    const IP: u32 = ethernet::HEADER as u32;
    const HEADER: u32 = IP + IPV4_HEADER;
    let other = a.label();
    a.op(LOAD_HALF, ethernet::ETHER_TYPE as u32);
    a.unless(JumpTest::Is(ethernet::IPV4.into()), other);
    a.op(LOAD_BYTE, IP);
    a.unless(JumpTest::Is(ipv4::PLAIN.into()), other);
    let ports = a.label();
    a.op(LOAD_BYTE, IP + IPV4_PROTOCOL);
    a.when(JumpTest::Is(TCP.into()), ports);
    a.unless(JumpTest::Is(UDP.into()), other);
    a.place(ports);
    a.op(LOAD_HALF, IP + IPV4_FRAGMENT);
    a.when(JumpTest::AnyBit(IPV4_OFFSET), to.drop);

    a.op(LOAD_HALF, HEADER + DESTINATION);
    a.op(STORE, TO);
    a.when(JumpTest::Is(DNS.into()), to.pass);
    a.op(LOAD_HALF, HEADER + SOURCE);
    a.when(JumpTest::Is(DNS.into()), to.pass);
    a.op(LOAD_BYTE, IP + IPV4_PROTOCOL);
    a.unless(JumpTest::Is(TCP.into()), to.datagram);
    a.op(LOAD_LENGTH, 0);
    a.unless(JumpTest::AtLeast(HEADER + TCP_HEADER), to.sample);
    a.op(LOAD_BYTE, HEADER + TCP_FLAGS);
    if config.callers_only {
        a.when(JumpTest::AnyBit(RST.into()), to.pass);
        a.op(STORE, FLAGS);
        a.op(LOAD_WORD, AD_PACKET_TYPE);
        a.when(JumpTest::Is(OUTGOING), to.sent);
        a.op(LOAD, FLAGS);
        a.when(JumpTest::AnyBit((SYN | FIN).into()), other);
    } else {
        a.when(JumpTest::AnyBit((SYN | FIN | RST).into()), to.pass);
    }

    payload(a, to, (LOAD_BYTE, HEADER + TCP_DATA_OFFSET), (ADD, HEADER));
    a.op(LOAD_HALF, IP + IPV4_LENGTH);
    a.when(JumpTest::Is(0), other);
    a.op(ADD, IP);
    a.op(STORE, END);
    // Most frames have no payload.
    a.when(JumpTest::AboveX, to.payload);
    a.go(to.sample);
    a.place(other);
}

/// Sets X to the payload. `load` loads the byte whose upper half is the header's length in units of
/// four bytes. `add` adds the offset of the header.
fn payload(a: &mut Assembler, to: &ProgramLabels, load: (u16, u32), add: (u16, u32)) {
    a.op(load.0, load.1);
    a.op(AND, 0xf0);
    a.op(SHIFT_RIGHT, 2);
    a.unless(JumpTest::AtLeast(TCP_HEADER), to.sample);
    a.op(add.0, add.1);
    a.op(A_TO_X, 0);
}

/// Tests the flags, then the first bytes of the payload. Falls through to sampling.
fn tcp(a: &mut Assembler, config: &FilterConfig, to: &ProgramLabels) {
    // A first fragment may contain the ports only. X is before the frame's end, since the ports
    // were loaded there.
    a.op(LOAD_LENGTH, 0);
    a.op(SUBTRACT_X, 0);
    a.unless(JumpTest::AtLeast(TCP_HEADER), to.sample);
    a.op(LOAD_BYTE_X, TCP_FLAGS);
    if config.callers_only {
        a.when(JumpTest::AnyBit(RST.into()), to.pass);
        callers_only(a, to);
    } else {
        a.when(JumpTest::AnyBit((SYN | FIN | RST).into()), to.pass);
    }

    payload(a, to, (LOAD_BYTE_X, TCP_DATA_OFFSET), (ADD_X, 0));

    a.place(to.payload);
    // LENGTH ends with the IP packet, since Ethernet pads short frames, and not past the end of the
    // frame.
    let inside = a.label();
    a.op(STORE_X, PAYLOAD);
    a.op(LOAD_LENGTH_X, 0);
    a.op(LOAD, END);
    a.unless(JumpTest::AboveX, inside);
    a.op(X_TO_A, 0);
    a.place(inside);
    a.op(LOAD_X, PAYLOAD);
    a.unless(JumpTest::AboveX, to.sample);
    a.op(SUBTRACT_X, 0);
    a.op(STORE, LENGTH);

    let mut ports = config.always_ports.clone();
    ports.sort_unstable();
    ports.dedup();
    if !ports.is_empty() {
        a.op(LOAD, TO);
    }
    for port in ports {
        a.when(JumpTest::Is(port.into()), to.pass);
    }

    if config.callers_only {
        ends_hello(a, to);
    }
    a.op(LOAD, LENGTH);
    a.unless(JumpTest::AtLeast(4), to.sample);
    a.op(LOAD_WORD_X, 0);
    for request in REQUESTS {
        a.when(JumpTest::Is(u32::from_be_bytes(request)), to.pass);
    }
    a.op(SHIFT_RIGHT, 16);
    a.unless(JumpTest::Is(u16::from_be_bytes(HANDSHAKE).into()), to.sample);
    a.op(LOAD, LENGTH);
    a.unless(JumpTest::AtLeast(HANDSHAKE_TYPE as u32 + 1), to.sample);
    a.op(LOAD_BYTE_X, HANDSHAKE_TYPE as u32);
    a.when(JumpTest::Is(CLIENT_HELLO.into()), to.pass);
}

/// Tests the flags in A. Continues with frames that the pod sends and that neither open nor close.
fn callers_only(a: &mut Assembler, to: &ProgramLabels) {
    let (opened, payload) = (a.label(), a.label());
    a.op(STORE, FLAGS);
    a.op(LOAD_WORD, AD_PACKET_TYPE);
    a.when(JumpTest::Is(OUTGOING), to.sent);

    a.op(LOAD, FLAGS);
    a.unless(JumpTest::AnyBit(SYN.into()), opened);
    a.when(JumpTest::AnyBit(ACK.into()), to.sample);
    a.go(to.pass);

    a.place(opened);
    a.unless(JumpTest::AnyBit(FIN.into()), payload);
    a.op(STORE_X, HEADER);
    a.op(LOAD_HALF_X, SOURCE);
    a.op(LOAD_X, TO);
    a.when(JumpTest::AboveX, to.pass);
    a.op(LOAD_X, HEADER);
    a.go(payload);

    a.place(to.sent);
    a.op(LOAD, FLAGS);
    a.when(JumpTest::AnyBit(SYN.into()), to.pass);
    a.go(to.sample);
    a.place(payload);
}

/// Passes what may be the rest of a ClientHello, and continues with all others. X is at the
/// payload.
fn ends_hello(a: &mut Assembler, to: &ProgramLabels) {
    let (port, other) = (a.label(), a.label());
    a.op(LOAD, FLAGS);
    a.unless(JumpTest::AnyBit(PSH.into()), other);
    a.op(LOAD, TO);
    for tls in TLS_PORTS {
        a.when(JumpTest::Is(tls.into()), port);
    }
    a.go(other);
    a.place(port);
    a.op(LOAD, LENGTH);
    a.when(JumpTest::AtLeast(SEGMENT as u32 + 1), other);
    a.unless(JumpTest::AtLeast(2), other);
    a.op(LOAD_HALF_X, 0);
    for record in RECORDS {
        a.when(JumpTest::Is(u16::from_be_bytes(record).into()), other);
    }
    a.go(to.pass);
    a.place(other);
}

fn verdicts(a: &mut Assembler, config: &FilterConfig, to: &ProgramLabels) {
    a.go(to.sample);
    a.place(to.datagram);
    if config.datagrams == DatagramRule::All && config.sample > 1 {
        a.op(LOAD_WORD, AD_PACKET_TYPE);
        a.when(JumpTest::Is(OUTGOING), to.sample);
        a.op(RETURN, config.sampled_snap_bytes.max(1));
    }
    a.place(to.sample);
    if config.sample > 1 {
        a.op(LOAD_WORD, AD_RANDOM);
        // A division takes the kernel as long as some twenty other instructions.
        if config.sample.is_power_of_two() {
            a.op(AND, config.sample - 1);
        } else {
            a.op(MODULO, config.sample);
        }
        a.unless(JumpTest::Is(0), to.drop);
        a.op(RETURN, config.sampled_snap_bytes.max(1));
    }
    a.place(to.pass);
    a.op(RETURN, config.snap_bytes.max(1));
    a.place(to.drop);
    a.op(RETURN, 0);
}
