//! The first bytes of an initiator: a ClientHello or a request head, joined over segments; and the
//! heads of later requests.

use crate::observation::{ConnectionNames, Content};
use crate::{http, tls};

/// Most bytes of a head: a ClientHello with a session ticket that carries certificates has 3.4 kB,
/// request heads are limited to 8 to 16 KiB by every server.
pub(super) const MAX_HEAD: usize = 16 * 1024;

/// What a payload begins with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PayloadStart {
    /// A head, to be read as this.
    Head(Content),
    /// Records of a TLS connection whose hello is past.
    TlsRecords,
    /// Nothing that names anything.
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

/// Reads the head of a request that follows others on its connection, where a segment begins with
/// one: whoever sends it has waited for an answer before, so its head begins a segment.
pub(super) fn later(payload: &[u8]) -> Option<http::RequestHead> {
    // Some segment of a body begins with letters in upper case, as Base64 does; hardly any begins
    // with a method and holds a space.
    let method = payload.first_chunk().is_some_and(|first| http::REQUESTS.contains(first))
        && payload.contains(&b' ');
    if method && begins(payload) == PayloadStart::Head(Content::Http1) {
        http::request(payload)
    } else {
        None
    }
}

/// Whether a request asks for a tunnel (RFC 9110 §9.3.6): what follows is another protocol's.
pub(super) fn opens_tunnel(bytes: &[u8]) -> bool {
    bytes.starts_with(b"CONNECT ")
}

/// Reads what there is of a head into `names`. True: nothing more is to come.
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
