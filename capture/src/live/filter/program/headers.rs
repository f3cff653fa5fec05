//! The blocks of the filter's program that read headers, from the link layer to the ports.
//!
//! Owns how X moves from header to header. Must never sample or test TCP flags.

use super::super::super::rule::{MAX_EXTENSIONS, MAX_TAGS};
use super::super::FilterLink;
use super::super::asm::*; // the instructions, by name
use super::operands::*; // offsets and scratch, by name
use crate::dns::PORT as DNS;
use crate::layout::protocol::{AUTHENTICATION, SCTP, TCP, UDP};
use crate::layout::{ethernet, ipv6};

/// Sets X to the IP header. Frames rarely have VLAN tags here: the kernel stores the outer one
/// outside the frame (`skb->vlan_tci`).
pub(super) fn link_layer(a: &mut Assembler, link: FilterLink, to: &ProgramLabels) {
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
pub(super) fn network(a: &mut Assembler, to: &ProgramLabels) {
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
pub(super) fn transport(a: &mut Assembler, to: &ProgramLabels) {
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
    a.unless(JumpTest::Is(TCP.into()), to.datagram);
}
