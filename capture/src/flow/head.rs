//! Heads: the first bytes of an initiator, which are a ClientHello or a request head, and the heads
//! of later requests.
//!
//! Owns the decision what a payload begins with. Must never join segments.

use crate::observation::{ConnectionNames, Content};
use crate::{http, tls};

/// Longest head that is joined, in bytes. A ClientHello whose session ticket carries certificates
/// has 3.4 kB. Servers limit request heads to 8 to 16 KiB.
pub(super) const MAX_HEAD: usize = 16 * 1024;

/// What a payload begins with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PayloadStart {
    /// A head of this kind.
    Head(Content),
    /// TLS records after the ClientHello.
    TlsRecords,
    /// None of these.
    Nothing,
}

pub(super) fn begins(payload: &[u8]) -> PayloadStart {
    if tls::begins_hello(payload) {
        PayloadStart::Head(Content::Tls)
    } else if http::h2::begins(payload) {
        PayloadStart::Head(Content::Http2)
    } else if http::request(payload).is_some() {
        PayloadStart::Head(Content::Http1)
    } else if tls::is_record(payload) {
        PayloadStart::TlsRecords
    } else {
        PayloadStart::Nothing
    }
}

/// Reads the head of a later request, where a segment begins with one. A client waits for the
/// answer before it sends the next request, so that its head begins a segment.
pub(super) fn later(payload: &[u8]) -> Option<http::RequestHead> {
    // Segments of a body may begin with upper-case letters, as Base64 does. Hardly any of them
    // begins with a method and contains a space.
    let method = payload.first_chunk().is_some_and(|first| http::REQUESTS.contains(first))
        && payload.contains(&b' ');
    if method && begins(payload) == PayloadStart::Head(Content::Http1) {
        http::request(payload)
    } else {
        None
    }
}

/// Whether a request asks for a tunnel (RFC 9110 §9.3.6). Another protocol follows it.
pub(super) fn opens_tunnel(bytes: &[u8]) -> bool {
    bytes.starts_with(b"CONNECT ")
}

/// Reads a head, as far as it is there, into `names`. True where more bytes would add nothing.
pub(super) fn read(content: Content, bytes: &[u8], names: &mut ConnectionNames) -> bool {
    match content {
        Content::Tls => match tls::client_hello(bytes) {
            Some(hello) => {
                names.sni = hello.sni.or(names.sni.take());
                if !hello.alpn.is_empty() {
                    names.alpn = hello.alpn;
                }
                names.nameless_hello = hello.complete && names.sni.is_none();
                hello.complete
            }
            None => true,
        },
        Content::Http2 => match http::h2::request(bytes) {
            Some(head) => {
                names.authority = head.authority.or(names.authority.take());
                head.complete
            }
            None => true,
        },
        _ => match http::request(bytes) {
            Some(head) => {
                names.authority = head.authority.or(names.authority.take());
                head.complete
            }
            None => true,
        },
    }
}
