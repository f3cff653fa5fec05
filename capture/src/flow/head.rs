//! The first bytes of an initiator: a ClientHello or a request head, joined over segments.

use crate::observation::{Content, Names};
use crate::{http, tls};

/// Most bytes of a head: a ClientHello with a session ticket that carries certificates has 3.4 kB, request heads are limited to
/// 8 to 16 KiB by every server.
pub(super) const MAX_HEAD: usize = 16 * 1024;

/// What a payload begins with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Begins {
    /// A head, to be read as this.
    Head(Content),
    /// Records of a TLS connection whose hello is past.
    TlsRecords,
    /// Nothing that names anything.
    Nothing,
}

pub(super) fn begins(payload: &[u8]) -> Begins {
    if tls::begins_hello(payload) {
        Begins::Head(Content::Tls)
    } else if http::h2::begins(payload) {
        Begins::Head(Content::Http2)
    } else if http::request(payload).is_some() {
        Begins::Head(Content::Http1)
    } else if tls::is_record(payload) {
        Begins::TlsRecords
    } else {
        Begins::Nothing
    }
}

/// Reads what there is of a head into `names`. True: nothing more is to come.
pub(super) fn read(content: Content, bytes: &[u8], names: &mut Names) -> bool {
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
