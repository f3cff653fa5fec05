//! HTTP/2 without TLS: the `:authority` of the first request (RFC 9113).
//!
//! Owns the frame layout up to the first header block. Must never read a later stream: its headers
//! are compressed with a state (RFC 7541) that depends on all headers before it.

use super::{RequestHead, authority_text};

/// Connection preface (RFC 9113 §3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// Whether the bytes are the preface or the beginning of it. No HTTP/1 request begins with "PRI".
pub fn begins(bytes: &[u8]) -> bool {
    let length = bytes.len().min(PREFACE.len());
    length >= 3 && bytes[..length] == PREFACE[..length]
}

/// Reads the first request's headers, from bytes that begin with the preface.
pub fn request(bytes: &[u8]) -> Option<RequestHead> {
    if !begins(bytes) {
        return None;
    }
    let mut rest = bytes.get(PREFACE.len()..).unwrap_or(&[]);
    let mut block: Vec<u8> = Vec::new();
    let mut open = None;
    let mut ended = false;
    while let Some((header, after)) = rest.split_first_chunk::<9>() {
        let length =
            usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        let (kind, flags) = (header[3], header[4]);
        let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]) & 0x7fff_ffff;
        let is_whole = after.len() >= length;
        let content = &after[..length.min(after.len())];
        match (kind, open) {
            (HEADERS, None) => {
                block.extend_from_slice(fragment(content, flags, is_whole));
                open = Some(stream);
            }
            (CONTINUATION, Some(s)) if s == stream => block.extend_from_slice(content),
            // No other frame is allowed between HEADERS and the last CONTINUATION (§6.10).
            (_, Some(_)) => ended = true,
            _ => {}
        }
        if !is_whole {
            break;
        }
        if ended || (open.is_some() && flags & END_HEADERS != 0) {
            ended = true;
            break;
        }
        rest = &after[length..];
    }
    let authority = authority(&block);
    Some(RequestHead { complete: ended || authority.is_some(), authority })
}

/// The header block in a HEADERS frame, without padding and priority (§6.2).
fn fragment(content: &[u8], flags: u8, is_whole: bool) -> &[u8] {
    let (mut from, mut to) = (0, content.len());
    if flags & PADDED != 0 {
        from += 1;
        if is_whole {
            to = to.saturating_sub(usize::from(content.first().copied().unwrap_or(0)));
        }
    }
    if flags & PRIORITY != 0 {
        from += 5;
    }
    content.get(from..to).unwrap_or(&[])
}

/// The `:authority` of a header block (RFC 7541) that may be cut. Without one, its `host` (§8.3.1).
fn authority(block: &[u8]) -> Option<String> {
    let (mut authority, mut host) = (None, None);
    let mut decoder = hpack_patched::Decoder::new();
    // An error ends the block. What was decoded before it is valid.
    let _ = decoder.decode_with_cb(block, |name, value| match &*name {
        b":authority" if authority.is_none() => authority = authority_text(&value),
        b"host" if host.is_none() => host = authority_text(&value),
        _ => {}
    });
    authority.or(host)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn frame(kind: u8, flags: u8, stream: u32, content: &[u8]) -> Vec<u8> {
        let mut out = content.len().to_be_bytes()[5..].to_vec();
        out.extend([kind, flags]);
        out.extend(stream.to_be_bytes());
        out.extend(content);
        out
    }

    fn block(authority: &str) -> Vec<u8> {
        let headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/a.B/C"),
            (":authority", authority),
            ("te", "trailers"),
        ];
        hpack_patched::Encoder::new()
            .encode(headers.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())))
    }

    fn start() -> Vec<u8> {
        [PREFACE, &frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]), &frame(8, 0, 0, &[0, 0, 1, 0])].concat()
    }

    #[test]
    fn the_authority_of_the_first_request_is_read() {
        let bytes =
            [start(), frame(HEADERS, END_HEADERS, 1, &block("Ratings.bookinfo:9080"))].concat();
        assert_eq!(
            request(&bytes),
            Some(RequestHead { authority: Some("ratings.bookinfo:9080".into()), complete: true })
        );
        assert_eq!(request(&start()), Some(RequestHead { authority: None, complete: false }));
    }

    #[test]
    fn a_header_block_with_padding_priority_and_continuation_is_read() {
        let block = block("ratings:9080");
        let (one, two) = block.split_at(3);
        let headers = [&[4, 0, 0, 0, 0, 16], one, &[0; 4]].concat();
        let bytes = [
            start(),
            frame(HEADERS, PADDED | PRIORITY, 1, &headers),
            frame(CONTINUATION, END_HEADERS, 1, two),
        ]
        .concat();
        assert_eq!(request(&bytes).and_then(|h| h.authority).as_deref(), Some("ratings:9080"));
        for length in 0..bytes.len() {
            let read = request(&bytes[..length]).and_then(|h| h.authority);
            assert!(
                read.is_none() || read.as_deref() == Some("ratings:9080"),
                "cut at {length}: {read:?}"
            );
        }
    }

    #[test]
    fn headers_without_an_authority_give_none() {
        let bytes = [start(), frame(HEADERS, END_HEADERS, 1, &[0x82, 0x86])].concat();
        assert_eq!(request(&bytes), Some(RequestHead { authority: None, complete: true }));
        assert_eq!(request(b"PRINT"), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(
            data in proptest::collection::vec(any::<u8>(), 0..300),
            flags: u8,
        ) {
            let _ = request(&data);
            let _ = request(&[PREFACE, &data].concat());
            let _ = request(&[start(), frame(HEADERS, flags, 1, &data)].concat());
        }
    }
}
