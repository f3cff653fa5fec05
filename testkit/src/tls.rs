//! A ClientHello (RFC 8446 §4.1.2) in one record.

/// The record with a ClientHello that names this server.
pub fn client_hello(server: &str) -> Vec<u8> {
    ClientHello { server, ..ClientHello::default() }.record()
}

/// What a ClientHello says. What is empty has no extension.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientHello<'a> {
    /// Server name (RFC 6066 §3).
    pub server: &'a str,
    /// Protocols (RFC 7301).
    pub alpn: &'a [&'a str],
    /// Bytes of another extension, before the names.
    pub padding: usize,
}

impl ClientHello<'_> {
    /// The record.
    pub fn record(&self) -> Vec<u8> {
        let mut extensions = Vec::new();
        if self.padding > 0 {
            extensions.extend([0xfe, 0x00]);
            extensions.extend(sized(2, &vec![0; self.padding]));
        }
        if !self.server.is_empty() {
            let name = [&[0], &*sized(2, self.server.as_bytes())].concat();
            extensions.extend([0, 0]);
            extensions.extend(sized(2, &sized(2, &name)));
        }
        if !self.alpn.is_empty() {
            let protocols: Vec<u8> =
                self.alpn.iter().flat_map(|p| sized(1, p.as_bytes())).collect();
            extensions.extend([0, 16]);
            extensions.extend(sized(2, &sized(2, &protocols)));
        }
        // Version, random, session, cipher suites, compression.
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend(sized(1, &[9; 32]));
        body.extend(sized(2, &[0x13, 0x01]));
        body.extend(sized(1, &[0]));
        body.extend(sized(2, &extensions));
        let message = [&[1], &*sized(3, &body)].concat();
        [&[0x16, 3, 1], &*sized(2, &message)].concat()
    }
}

/// Content behind its length, which has so many bytes.
fn sized(bytes: usize, content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u64).to_be_bytes();
    [&length[length.len() - bytes..], content].concat()
}
