//! HTTP request heads: the authority of a request, in HTTP/1 and in HTTP/2 without TLS.
//!
//! Owns what is a readable authority. A head that was cut gives the authority if all of it is
//! before the cut, and never a part of a name. Must never read a body or a response.

pub mod h2;

/// First four bytes of a request: methods of RFC 9110 §9.3 and RFC 5789 in HTTP/1.1, and the
/// preface of HTTP/2 (RFC 9113 §3.4).
pub(crate) const REQUESTS: [[u8; 4]; 10] = [
    *b"GET ", *b"POST", *b"PUT ", *b"HEAD", *b"DELE", *b"OPTI", *b"PATC", *b"CONN", *b"TRAC",
    *b"PRI ",
];

/// Longest authority or server name that is read, in bytes. DNS allows 253 characters (RFC 1035
/// §2.3.4 as text), and a port adds six.
const MAX_NAME: usize = 260;

/// Header fields that are read. More are skipped: httparse needs room for each, and Host comes
/// early.
const MAX_HEADERS: usize = 96;

/// A request head, as far as it could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// Host, with the port where the client sent one.
    pub authority: Option<String>,
    /// More bytes would add nothing.
    pub complete: bool,
}

/// Reads an HTTP/1 request head (RFC 9112) from its first bytes; `None` where they begin something
/// else.
pub fn request(bytes: &[u8]) -> Option<RequestHead> {
    // A method is in upper case (RFC 9110 §9.1). This test keeps the parser away from most binary
    // protocols.
    if !bytes.first()?.is_ascii_uppercase() {
        return None;
    }
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let complete = match request.parse(bytes) {
        Ok(status) => status.is_complete(),
        // More header fields than there is room for. Those before are valid.
        Err(httparse::Error::TooManyHeaders) => true,
        Err(_) => return None,
    };
    // A whole line that is no request line is another text protocol.
    if request.version.is_none() && bytes.contains(&b'\n') {
        return None;
    }
    let target = request.path.filter(|_| request.version.is_some());
    // An authority in the request target takes precedence over the Host header (RFC 9112 §3.2.2 and
    // §3.2.3).
    let authority = match (request.method, target) {
        (Some("CONNECT"), Some(target)) => authority_text(target.as_bytes()),
        (_, Some(target)) if target.contains("://") && !target.starts_with('/') => absolute(target),
        _ => None,
    };
    let authority = authority.or_else(|| {
        let host = request.headers.iter().find(|h| h.name.eq_ignore_ascii_case("host"))?;
        authority_text(host.value)
    });
    Some(RequestHead { complete: complete || authority.is_some(), authority })
}

fn absolute(target: &str) -> Option<String> {
    let (_, rest) = target.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    authority_text(authority.rsplit('@').next()?.as_bytes())
}

/// A host with or without a port: lower case, without the final dot of the host. `None` where it is
/// not plain text or too long.
pub(crate) fn authority_text(bytes: &[u8]) -> Option<String> {
    let text = plain(bytes)?;
    let Some((host, port)) = text.rsplit_once(':').filter(|(_, port)| !port.contains(']')) else {
        return host_text(bytes);
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    (!host.is_empty()).then(|| format!("{host}:{port}"))
}

/// A host name: lower case, without the final dot.
pub(crate) fn host_text(bytes: &[u8]) -> Option<String> {
    let mut text = plain(bytes)?;
    if text.ends_with('.') {
        text.pop();
    }
    (!text.is_empty()).then_some(text)
}

fn plain(bytes: &[u8]) -> Option<String> {
    let bytes = bytes.trim_ascii();
    let fits =
        !bytes.is_empty() && bytes.len() <= MAX_NAME && bytes.iter().all(u8::is_ascii_graphic);
    fits.then(|| bytes.iter().map(|b| char::from(b.to_ascii_lowercase())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn authority(head: &str) -> Option<String> {
        request(head.as_bytes()).and_then(|h| h.authority)
    }

    #[test]
    fn the_host_header_names_the_authority() {
        assert_eq!(
            authority("GET / HTTP/1.1\r\nhost: Reviews.bookinfo:9080\r\n\r\n").as_deref(),
            Some("reviews.bookinfo:9080")
        );
        assert_eq!(
            authority("GET /?u=http://x/ HTTP/1.1\r\nHost: c.\r\n\r\n").as_deref(),
            Some("c")
        );
    }

    #[test]
    fn the_request_target_takes_precedence_over_the_host_header() {
        assert_eq!(
            authority("GET http://a.b.:80/x?y HTTP/1.1\r\nHost: c\r\n\r\n").as_deref(),
            Some("a.b:80")
        );
        assert_eq!(authority("GET http://user@a.b/x HTTP/1.1\r\n\r\n").as_deref(), Some("a.b"));
        assert_eq!(
            authority("CONNECT h.i:443 HTTP/1.1\r\nHost: c\r\n\r\n").as_deref(),
            Some("h.i:443")
        );
    }

    #[test]
    fn an_ipv6_address_may_be_the_authority() {
        assert_eq!(
            authority("GET / HTTP/1.1\r\nHost: [2001:DB8::1]:80\r\n\r\n").as_deref(),
            Some("[2001:db8::1]:80")
        );
        assert_eq!(
            authority("GET / HTTP/1.1\r\nHost: [2001:db8::1]\r\n\r\n").as_deref(),
            Some("[2001:db8::1]")
        );
    }

    #[test]
    fn a_request_without_a_host_has_no_authority() {
        assert_eq!(
            request(b"GET / HTTP/1.0\r\n\r\n"),
            Some(RequestHead { authority: None, complete: true })
        );
    }

    #[test]
    fn other_protocols_are_no_request() {
        for other in [
            "hello\n",
            "PING\r\n",
            "EHLO a\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "SSH-2.0-OpenSSH_9 x\r\n",
            "get foo\r\n",
            "\0\0",
            "",
        ] {
            assert_eq!(request(other.as_bytes()), None, "{other:?}");
        }
    }

    #[test]
    fn every_cut_gives_nothing_or_the_whole_authority() {
        let head = b"GET /reviews/1 HTTP/1.1\r\nAccept: */*\r\nHost: reviews.bookinfo:9080\r\n\
            User-Agent: x\r\n\r\n";
        let mut found = false;
        for length in 1..=head.len() {
            let read = request(&head[..length]).expect("begins a request");
            assert!(
                read.authority.is_none()
                    || read.authority.as_deref() == Some("reviews.bookinfo:9080"),
                "cut at {length}"
            );
            assert!(found <= read.authority.is_some());
            found = read.authority.is_some();
        }
        assert!(found);
    }

    #[test]
    fn a_request_with_200_header_fields_is_read() {
        let mut head = String::from("GET / HTTP/1.1\r\nHost: a\r\n");
        for i in 0..200 {
            head += &format!("X-{i}: y\r\n");
        }
        assert_eq!(authority(&(head + "\r\n")).as_deref(), Some("a"));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(data in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = request(&data);
            let _ = request(&[b"GET http://".as_slice(), &data].concat());
            let _ = request(&[b"GET / HTTP/1.1\r\nHost: ".as_slice(), &data, b"\r\n\r\n"].concat());
        }
    }
}
