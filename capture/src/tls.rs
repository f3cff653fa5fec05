//! TLS ClientHello: server name (RFC 6066) and application protocols (RFC 7301).
//!
//! Owns the record and handshake layout of a ClientHello (RFC 8446 §4.1.2, §5.1; the same since SSL
//! 3). A hello that was cut gives what is before the cut. Must never read another message, nor
//! allocate for what it skips.

use std::borrow::Cow;

use crate::bytes::be16;
use crate::http::host_text;
use crate::layout::tls::{
    CLIENT_HELLO, HANDSHAKE, MAJOR, RECORD_HEADER, RECORD_LENGTH, RECORD_TYPES,
};

/// Application protocols that are read. Envoy's hello in a mesh has two or three.
const MAX_ALPN: usize = 4;

/// Longest name of an application protocol that is read, in bytes. Registered names have at most
/// 12, Istio's have 20.
const MAX_ALPN_LEN: usize = 32;

/// The names in a ClientHello.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// Server name, lower case, without the final dot.
    pub sni: Option<String>,
    /// The first application protocols, at most four.
    pub alpn: Vec<String>,
    /// Whether all of the hello was read.
    pub complete: bool,
}

/// Whether the bytes may begin a record with a ClientHello.
pub(crate) fn begins_hello(bytes: &[u8]) -> bool {
    // Handshake record, version 3.x, message type 1. Its length is at least four bytes and at most
    // 2^14 (RFC 8446 §5.1).
    bytes.first() == Some(&HANDSHAKE)
        && bytes.get(1).is_none_or(|b| *b == MAJOR)
        && bytes.get(2).is_none_or(|b| *b <= 4)
        && be16(bytes, RECORD_LENGTH).is_none_or(|n| (4..=0x4000).contains(&n))
        && bytes.get(RECORD_HEADER).is_none_or(|b| *b == CLIENT_HELLO)
}

/// Whether a segment begins with a TLS record. A connection joined midway shows records after the
/// ClientHello.
pub(crate) fn is_record(bytes: &[u8]) -> bool {
    // At most 2^14 + 2048 bytes (RFC 5246 §6.2.3).
    bytes.first().is_some_and(|kind| RECORD_TYPES.contains(kind))
        && bytes.get(1) == Some(&MAJOR)
        && matches!(bytes.get(2), Some(1..=4))
        && be16(bytes, RECORD_LENGTH).is_some_and(|n| (1..=0x4800).contains(&n))
}

/// Reads a ClientHello from its first bytes; `None` where they begin something else.
pub fn client_hello(bytes: &[u8]) -> Option<ClientHello> {
    if bytes.len() < 6 || !begins_hello(bytes) {
        return None;
    }
    let message = handshake(bytes);
    let mut hello = ClientHello::default();
    let mut rest = ByteCursor(&message);
    if rest.number(1) != Some(CLIENT_HELLO.into()) {
        return None;
    }
    let whole = rest.number(3).is_some_and(|length| {
        let whole = rest.0.len() >= length;
        rest.0 = &rest.0[..length.min(rest.0.len())];
        whole
    });
    hello.complete = body(&mut rest, &mut hello).is_some() && whole;
    Some(hello)
}

/// The handshake bytes of consecutive records. Nearly always it is one record, which is not copied.
fn handshake(bytes: &[u8]) -> Cow<'_, [u8]> {
    let mut message: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    let mut rest = bytes;
    while rest.starts_with(&[HANDSHAKE, MAJOR]) {
        let (Some(length), Some(content)) = (be16(rest, RECORD_LENGTH), rest.get(RECORD_HEADER..))
        else {
            break;
        };
        let content = &content[..content.len().min(usize::from(length))];
        if message.is_empty() {
            message = Cow::Borrowed(content);
        } else {
            message.to_mut().extend_from_slice(content);
        }
        // The whole message is there. What follows does not belong to the hello.
        let wanted = message
            .get(1..4)
            .map(|b| 4 + (usize::from(b[0]) << 16 | usize::from(b[1]) << 8 | usize::from(b[2])));
        if length == 0 || wanted.is_some_and(|n| message.len() >= n) {
            break;
        }
        rest = rest.get(RECORD_HEADER + usize::from(length)..).unwrap_or(&[]);
    }
    message
}

/// Reads the body of a hello; `None` where the bytes end before the hello does.
fn body(rest: &mut ByteCursor<'_>, hello: &mut ClientHello) -> Option<()> {
    rest.take(2 + 32)?;
    for length_bytes in [1, 2, 1] {
        // Session id, cipher suites, compression methods.
        let length = rest.number(length_bytes)?;
        rest.take(length)?;
    }
    if rest.0.is_empty() {
        return Some(()); // Extensions are optional before TLS 1.3.
    }
    let length = rest.number(2)?;
    let whole = rest.0.len() >= length;
    rest.0 = &rest.0[..length.min(rest.0.len())];
    while !rest.0.is_empty() {
        let kind = rest.number(2)?;
        let length = rest.number(2)?;
        let is_whole = rest.0.len() >= length;
        let mut extension = ByteCursor(&rest.0[..length.min(rest.0.len())]);
        match kind {
            0 => hello.sni = hello.sni.take().or_else(|| server_name(&mut extension)),
            16 => {
                let _ = protocols(&mut extension, &mut hello.alpn);
            }
            _ => {}
        }
        if !is_whole {
            return None;
        }
        rest.take(length)?;
    }
    whole.then_some(())
}

fn server_name(rest: &mut ByteCursor<'_>) -> Option<String> {
    rest.number(2)?;
    while !rest.0.is_empty() {
        let kind = rest.number(1)?;
        let length = rest.number(2)?;
        let name = rest.take(length)?;
        if kind == 0 {
            return host_text(name);
        }
    }
    None
}

fn protocols(rest: &mut ByteCursor<'_>, alpn: &mut Vec<String>) -> Option<()> {
    rest.number(2)?;
    while !rest.0.is_empty() && alpn.len() < MAX_ALPN {
        let length = rest.number(1)?;
        let name = rest.take(length)?;
        // GREASE values (RFC 8701) and other binary names name no protocol.
        if !name.is_empty() && name.len() <= MAX_ALPN_LEN && name.iter().all(u8::is_ascii_graphic) {
            alpn.push(String::from_utf8_lossy(name).into_owned());
        }
    }
    Some(())
}

/// Reads bytes from the front; `None` where too few are left.
struct ByteCursor<'a>(&'a [u8]);

impl<'a> ByteCursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    /// A big-endian number of up to three bytes.
    fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(self.take(bytes)?.iter().fold(0, |n, b| n << 8 | usize::from(*b)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sidecarta_testkit::tls::ClientHello;

    fn hello(server: &str, alpn: &[&str], padding: usize) -> Vec<u8> {
        ClientHello { server, alpn, padding }.record()
    }

    #[test]
    fn a_hello_gives_its_server_name_and_its_protocols() {
        let bytes = hello(
            "Outbound_.9080_._.Reviews.bookinfo.svc.cluster.local.",
            &["istio-peer-exchange", "h2"],
            10,
        );
        let read = client_hello(&bytes).expect("hello");
        assert_eq!(
            read.sni.as_deref(),
            Some("outbound_.9080_._.reviews.bookinfo.svc.cluster.local")
        );
        assert_eq!(read.alpn, ["istio-peer-exchange", "h2"]);
        assert!(read.complete);
    }

    #[test]
    fn a_cut_hello_gives_the_whole_name_or_none() {
        let bytes = hello("web.data", &["istio"], 100);
        let mut found = false;
        for length in 0..bytes.len() {
            let Some(read) = client_hello(&bytes[..length]) else {
                assert!(length < 6);
                continue;
            };
            assert!(!read.complete, "cut at {length}");
            assert!(
                read.sni.is_none() || read.sni.as_deref() == Some("web.data"),
                "cut at {length}"
            );
            assert!(found <= read.sni.is_some(), "a longer piece never shows less");
            found = read.sni.is_some();
        }
        assert!(found, "the name is before the last byte");
    }

    #[test]
    fn a_hello_over_two_records_is_read_as_one() {
        let one = hello("web.data", &["istio"], 100);
        let (first, second) = one[5..].split_at(77);
        let mut two = Vec::new();
        for part in [first, second] {
            two.extend([0x16, 3, 1, 0, part.len() as u8]);
            two.extend(part);
        }
        assert_eq!(client_hello(&two), client_hello(&one));
    }

    #[test]
    fn application_data_is_a_record() {
        assert!(is_record(&[0x17, 3, 3, 0, 40, 1]));
        assert!(!is_record(&[0x17, 3, 3, 0, 0]));
        assert!(!is_record(b"GET / HTTP/1.1"));
    }

    #[test]
    fn a_server_hello_is_no_client_hello() {
        assert_eq!(client_hello(&[0x16, 3, 3, 0, 40, 2, 0, 0, 36]), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(
            mut data in proptest::collection::vec(any::<u8>(), 0..300),
            force: bool,
        ) {
            if force && data.len() > 9 {
                data[..9].copy_from_slice(&[0x16, 3, 1, 1, 0, 1, 0, 0, 200]);
            }
            let _ = (client_hello(&data), is_record(&data), begins_hello(&data));
        }

        #[test]
        fn changed_bytes_do_not_panic(at in 0usize..300, value: u8) {
            let mut bytes = hello("web.data", &["istio", "h2"], 100);
            let at = at % bytes.len();
            bytes[at] = value;
            let _ = client_hello(&bytes);
        }
    }
}
