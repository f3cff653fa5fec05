//! DNS messages (RFC 1035 §4.1) about one name and its IPv4 addresses.

/// Flags of a question: recursion desired.
const QUESTION: [u8; 2] = [0x01, 0x00];
/// Flags of an answer: recursion desired and available.
const ANSWER: [u8; 2] = [0x81, 0x80];
/// Type A, class IN.
const ADDRESS: [u8; 4] = [0, 1, 0, 1];
/// Type CNAME, class IN.
const CANONICAL: [u8; 4] = [0, 5, 0, 1];
/// A pointer to the name of the question (RFC 1035 §4.1.4).
const ASKED: [u8; 2] = [0xc0, 12];
/// Seconds that a record may be used, where a test asks for no other.
const TTL: u32 = 30;

/// The question for the addresses of a name.
pub fn question(id: u16, name: &str) -> Vec<u8> {
    head(id, QUESTION, name, 0)
}

/// The answer with the addresses of a name.
pub fn answer(id: u16, name: &str, addresses: &[[u8; 4]]) -> Vec<u8> {
    Answer { id, name, canonical: None, addresses, ttl: TTL }.message()
}

/// An answer with all that it can have.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// As in the question.
    pub id: u16,
    /// Name that was asked for.
    pub name: &'a str,
    /// Name that the asked one stands for.
    pub canonical: Option<&'a str>,
    /// Its addresses.
    pub addresses: &'a [[u8; 4]],
    /// Seconds that the addresses may be used.
    pub ttl: u32,
}

impl Answer<'_> {
    /// In wire format. Addresses of a canonical name have it in full, others a pointer to the
    /// question.
    pub fn message(&self) -> Vec<u8> {
        let records = self.addresses.len() as u16 + u16::from(self.canonical.is_some());
        let mut out = head(self.id, ANSWER, self.name, records);
        let owner = self.canonical.map_or(ASKED.to_vec(), wire_name);
        if self.canonical.is_some() {
            record(&mut out, &ASKED, CANONICAL, TTL, &owner);
        }
        for address in self.addresses {
            record(&mut out, &owner, ADDRESS, self.ttl, address);
        }
        out
    }
}

/// The header, and the question for the addresses of a name.
fn head(id: u16, flags: [u8; 2], name: &str, records: u16) -> Vec<u8> {
    let mut out = id.to_be_bytes().to_vec();
    out.extend(flags);
    for count in [1, records, 0, 0] {
        out.extend(count.to_be_bytes());
    }
    out.extend(wire_name(name));
    out.extend(ADDRESS);
    out
}

fn record(out: &mut Vec<u8>, owner: &[u8], kind: [u8; 4], ttl: u32, data: &[u8]) {
    out.extend(owner);
    out.extend(kind);
    out.extend(ttl.to_be_bytes());
    out.extend((data.len() as u16).to_be_bytes());
    out.extend(data);
}

fn wire_name(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in name.split('.').filter(|l| !l.is_empty()) {
        out.push(label.len() as u8);
        out.extend(label.bytes());
    }
    out.push(0);
    out
}
