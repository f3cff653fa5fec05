//! The text of the filter's program.
//!
//! Owns the rule of [`super::super::rule`], instruction by instruction. Offsets beyond the packet:
//! include/uapi/linux/filter.h (`SKF_AD_OFF`). A load past the end of the frame ends the program
//! with "drop", so loads of bytes that may be missing are guarded. Must never be longer than
//! necessary on the path of a packet that is dropped: the kernel runs it on each packet of each
//! pod.

use super::super::rule::{
    HANDSHAKE, HANDSHAKE_TYPE, MAX_EXTENSIONS, MAX_TAGS, RECORDS, SEGMENT, TLS_PORTS,
};
use super::asm::*; // the instructions, by name
use super::{FilterConfig, FilterLink, Instruction};
use crate::dns::PORT as DNS;
use crate::http::REQUESTS;
use crate::layout::protocol::{AUTHENTICATION, SCTP, TCP, UDP};
use crate::layout::tcp::{ACK, FIN, PSH, RST, SYN};
use crate::layout::tls::CLIENT_HELLO;
use crate::layout::{ethernet, ipv4, ipv6, ports, tcp as layout};

// Offsets, with the type of operands.
const TCP_HEADER: u32 = layout::HEADER as u32;
const TCP_FLAGS: u32 = layout::FLAGS as u32;
const TCP_DATA_OFFSET: u32 = layout::DATA_OFFSET as u32;
const SOURCE: u32 = ports::SOURCE as u32;
const DESTINATION: u32 = ports::DESTINATION as u32;
const IPV4_HEADER: u32 = ipv4::HEADER as u32;
const IPV4_LENGTH: u32 = ipv4::TOTAL_LENGTH as u32;
const IPV4_FRAGMENT: u32 = ipv4::FRAGMENT as u32;
const IPV4_PROTOCOL: u32 = ipv4::PROTOCOL as u32;
const IPV4_OFFSET: u32 = ipv4::FRAGMENT_OFFSET as u32;
const IPV6_HEADER: u32 = ipv6::HEADER as u32;

/// The frame's EtherType from the kernel (SKF_AD_OFF + SKF_AD_PROTOCOL).
const AD_PROTOCOL: u32 = 0xffff_f000;
/// Direction of the frame (SKF_AD_OFF + SKF_AD_PKTTYPE).
const AD_PACKET_TYPE: u32 = 0xffff_f000 + 4;
/// Packet type of a frame that the interface sends (PACKET_OUTGOING,
/// include/uapi/linux/if_packet.h).
const OUTGOING: u32 = 4;
/// A random number of 32 bits (SKF_AD_OFF + SKF_AD_RANDOM).
const AD_RANDOM: u32 = 0xffff_f000 + 56;

/// Scratch: protocol of the payload of the IP packet.
const PROTOCOL: u32 = 0;
/// Scratch: end of the IP packet by its own header, in bytes from the beginning of the frame. May
/// be past the frame's end.
const END: u32 = 1;
/// Scratch: destination port.
const TO: u32 = 2;
/// Scratch: beginning of the TCP payload, in bytes from the beginning of the frame.
const PAYLOAD: u32 = 3;
/// Scratch: length of the TCP payload, in bytes.
const LENGTH: u32 = 4;
/// Scratch: TCP flags.
const FLAGS: u32 = 5;
/// Scratch: beginning of the TCP header, in bytes from the beginning of the frame.
const HEADER: u32 = 6;

/// Labels of the program's blocks.
struct ProgramLabels {
    network: Label,
    transport: Label,
    /// TCP that the interface sends, with FLAGS stored.
    sent: Label,
    /// TCP that neither opens nor closes, with X at its payload, and END, TO and FLAGS stored.
    payload: Label,
    unread: Label,
    sample: Label,
    pass: Label,
    drop: Label,
}

/// The program for a link type.
///
/// It has fewer than 250 instructions, plus one or two for each of [`FilterConfig::always_ports`].
pub fn program(link: FilterLink, config: &FilterConfig) -> Vec<Instruction> {
    let mut asm = Assembler::default();
    let a = &mut asm;
    let to = ProgramLabels {
        network: a.label(),
        transport: a.label(),
        sent: a.label(),
        payload: a.label(),
        unread: a.label(),
        sample: a.label(),
        pass: a.label(),
        drop: a.label(),
    };
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
    a.unless(JumpTest::Is(TCP.into()), to.sample);
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

/// Sets X to the IP header. Frames rarely have VLAN tags here: the kernel stores the outer one
/// outside the frame (`skb->vlan_tci`).
fn link_layer(a: &mut Assembler, link: FilterLink, to: &ProgramLabels) {
    let mut at = match link {
        FilterLink::Ethernet => {
            a.op(LOAD_HALF, ethernet::ETHER_TYPE as u32);
            ethernet::HEADER as u32
        }
        FilterLink::Cooked => {
            a.op(LOAD_WORD, AD_PROTOCOL);
            0
        }
        FilterLink::RawIp => {
            a.op(SET_X, 0);
            return;
        }
    };
    // A: EtherType of what begins at `at`.
    a.op(SET_X, at);
    let typed = a.label();
    for _ in 0..MAX_TAGS {
        let tagged = a.label();
        a.when(JumpTest::Is(ethernet::VLAN[0].into()), tagged);
        a.unless(JumpTest::Is(ethernet::VLAN[1].into()), typed);
        a.place(tagged);
        // A tag is its control information, then the EtherType of what follows it.
        a.op(LOAD_HALF, at + ethernet::VLAN_ETHER_TYPE as u32);
        at += ethernet::VLAN_TAG as u32;
        a.op(SET_X, at);
    }
    a.place(typed);
    a.when(JumpTest::Is(ethernet::IPV4.into()), to.network);
    a.unless(JumpTest::Is(ethernet::IPV6.into()), to.drop);
}

/// Moves X from the IP header to the transport header. Stores PROTOCOL and END.
fn network(a: &mut Assembler, to: &ProgramLabels) {
    a.place(to.network);
    let v6 = a.label();
    a.op(LOAD_BYTE_X, 0);
    a.op(SHIFT_RIGHT, 4);
    a.when(JumpTest::Is(6), v6);
    a.unless(JumpTest::Is(4), to.drop);

    // IPv4 (RFC 791 §3.1). Fragments after the first have no ports.
    a.op(LOAD_HALF_X, IPV4_FRAGMENT);
    a.when(JumpTest::AnyBit(IPV4_OFFSET), to.drop);
    a.op(LOAD_BYTE_X, IPV4_PROTOCOL);
    a.op(STORE, PROTOCOL);
    end(a, IPV4_LENGTH, 0);
    a.op(LOAD_BYTE_X, 0);
    a.op(AND, 0x0f);
    a.op(SHIFT_LEFT, 2);
    a.unless(JumpTest::AtLeast(IPV4_HEADER), to.drop);
    a.op(ADD_X, 0);
    a.op(A_TO_X, 0);
    a.go(to.transport);

    // IPv6 (RFC 8200 §3).
    a.place(v6);
    end(a, ipv6::PAYLOAD_LENGTH as u32, IPV6_HEADER);
    a.op(LOAD_BYTE_X, ipv6::NEXT_HEADER as u32);
    a.op(STORE, PROTOCOL);
    a.op(X_TO_A, 0);
    a.op(ADD, IPV6_HEADER);
    a.op(A_TO_X, 0);
    for _ in 0..MAX_EXTENSIONS {
        extension(a, to);
    }
    // There are more extension headers before the transport header.
    a.op(LOAD, PROTOCOL);
    for header in ipv6::OPTIONS.into_iter().chain([ipv6::FRAGMENT]) {
        a.when(JumpTest::Is(header.into()), to.unread);
    }
}

/// Stores END, from the length at `field` of an IP header. The length does not include the first
/// `without` bytes.
fn end(a: &mut Assembler, field: u32, without: u32) {
    let (has_length, done) = (a.label(), a.label());
    a.op(LOAD_HALF_X, field);
    a.unless(JumpTest::Is(0), has_length);
    // No length: a jumbogram (RFC 2675), or a packet beyond 65,535 bytes that is yet to be
    // segmented ("BIG TCP").
    a.op(LOAD_LENGTH, 0);
    a.go(done);
    a.place(has_length);
    a.op(ADD, without);
    a.op(ADD_X, 0);
    a.place(done);
    a.op(STORE, END);
}

/// Skips one IPv6 extension header at X, if there is one.
fn extension(a: &mut Assembler, to: &ProgramLabels) {
    let (fragment, options, next) = (a.label(), a.label(), a.label());
    a.op(LOAD, PROTOCOL);
    a.when(JumpTest::Is(ipv6::FRAGMENT.into()), fragment);
    for header in ipv6::OPTIONS {
        a.when(JumpTest::Is(header.into()), options);
    }
    a.go(to.transport);

    // The offset is above three bits of flags (RFC 8200 §4.5).
    a.place(fragment);
    a.op(LOAD_HALF_X, 2);
    a.when(JumpTest::AnyBit(ipv6::FRAGMENT_OFFSET.into()), to.drop);
    a.op(LOAD_BYTE_X, 0);
    a.op(STORE, PROTOCOL);
    a.op(X_TO_A, 0);
    a.op(ADD, ipv6::FRAGMENT_HEADER as u32);
    a.op(A_TO_X, 0);
    a.go(next);

    // Length in units of eight bytes, without the first eight.
    a.place(options);
    a.op(LOAD_BYTE_X, 0);
    a.op(STORE, PROTOCOL);
    a.op(LOAD_BYTE_X, 1);
    a.op(ADD, 1);
    a.op(SHIFT_LEFT, 3);
    a.op(ADD_X, 0);
    a.op(A_TO_X, 0);
    a.place(next);
}

/// Reads the ports, which are the first four bytes in all three protocols. Ends with TCP that is
/// not DNS. All other frames have a verdict.
fn transport(a: &mut Assembler, to: &ProgramLabels) {
    a.place(to.transport);
    let ports = a.label();
    a.op(LOAD, PROTOCOL);
    a.when(JumpTest::Is(TCP.into()), ports);
    a.when(JumpTest::Is(UDP.into()), ports);
    a.when(JumpTest::Is(SCTP.into()), to.unread);
    a.when(JumpTest::Is(AUTHENTICATION.into()), to.unread);
    a.go(to.drop);

    // Sampled, if the bytes are there in which ports would be.
    a.place(to.unread);
    a.op(LOAD_WORD_X, 0);
    a.go(to.sample);

    // The destination first: if it is there, the source is there too.
    a.place(ports);
    a.op(LOAD_HALF_X, DESTINATION);
    a.op(STORE, TO);
    a.when(JumpTest::Is(DNS.into()), to.pass);
    a.op(LOAD_HALF_X, SOURCE);
    a.when(JumpTest::Is(DNS.into()), to.pass);
    a.op(LOAD, PROTOCOL);
    a.unless(JumpTest::Is(TCP.into()), to.sample);
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
