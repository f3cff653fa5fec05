//! DNS messages (RFC 1035): the question, and the addresses in the answer, as far as the packet
//! contains them.
//!
//! Owns the reading of a message. Must never resolve a name itself.

use std::fmt::Write as _;
use std::net::IpAddr;

use domain::base::iana::{Class, Rtype};
use domain::base::{Message as Wire, ToName};
use domain::rdata::{A, Aaaa};

use crate::bytes::be16;

/// Port of DNS (RFC 1035 §4.2).
pub const PORT: u16 = 53;

/// Addresses read from one answer, at most. A message over UDP has room for some thirty. A headless
/// Service over TCP may have hundreds.
const MAX_ADDRESSES: usize = 512;

/// A DNS message, as far as it could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsMessage {
    /// Identifier that question and answer share.
    pub id: u16,
    /// Whether it is an answer.
    pub response: bool,
    /// Response code of an answer.
    pub rcode: u8,
    /// Record type in the question (RFC 1035 §3.2.2).
    pub qtype: u16,
    /// Name in the question: lower case, without the final dot. Bytes that are not plain text are
    /// escaped as in zone files.
    pub question: String,
    /// Owner name of the address records, where it is not the name in the question.
    pub canonical: Option<String>,
    /// Addresses in the answer (A and AAAA records).
    pub addresses: Vec<IpAddr>,
    /// Smallest time to live of the addresses, in seconds; `u32::MAX` where there are none.
    pub ttl: u32,
}

/// Reads a message; `None` where not even its question can be read.
pub fn message(bytes: &[u8]) -> Option<DnsMessage> {
    let wire = Wire::from_octets(bytes).ok()?;
    let header = wire.header();
    // Only standard queries. Updates and notifies have the same layout and another meaning.
    if header.opcode().to_int() != 0 {
        return None;
    }
    let question = wire.first_question()?;
    let mut message = DnsMessage {
        id: header.id(),
        response: header.qr(),
        rcode: header.rcode().to_int(),
        qtype: question.qtype().to_int(),
        question: text(question.qname()),
        canonical: None,
        addresses: Vec::new(),
        ttl: u32::MAX,
    };
    if !message.response {
        return Some(message);
    }
    let Ok(records) = wire.answer() else { return Some(message) };
    let mut owner = None;
    // Reading stops at the first record that cannot be read, since the packet was cut there.
    for record in records.map_while(Result::ok) {
        if record.class() != Class::IN || message.addresses.len() == MAX_ADDRESSES {
            continue;
        }
        let address: Option<IpAddr> = match record.rtype() {
            Rtype::A => record.to_record::<A>().ok().flatten().map(|r| r.data().addr().into()),
            Rtype::AAAA => {
                record.to_record::<Aaaa>().ok().flatten().map(|r| r.data().addr().into())
            }
            _ => None,
        };
        if let Some(address) = address {
            if owner.is_none() {
                owner = Some(text(&record.owner()));
            }
            message.ttl = message.ttl.min(record.ttl().as_secs());
            message.addresses.push(address);
        }
    }
    message.canonical = owner.filter(|o| *o != message.question);
    Some(message)
}

/// The messages in a segment of DNS over TCP. Each has its length in two bytes before it (RFC 1035
/// §4.2.2). A message that continues in the next segment is returned as far as it goes.
pub fn stream(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = payload;
    std::iter::from_fn(move || {
        let length = usize::from(be16(rest, 0)?);
        let body = &rest[2..];
        let (message, after) = body.split_at(length.min(body.len()));
        rest = after;
        (!message.is_empty()).then_some(message)
    })
}

/// A name as text: lower case, without the final dot, only printable ASCII.
fn text(name: &impl ToName) -> String {
    let mut text = String::new();
    for label in name.iter_labels().filter(|l| !l.is_root()) {
        if !text.is_empty() {
            text.push('.');
        }
        for byte in label.as_slice() {
            // Writing to a string cannot fail.
            let _ = match byte {
                b'.' | b'\\' => write!(text, "\\{}", char::from(*byte)),
                b if b.is_ascii_graphic() => write!(text, "{}", char::from(b.to_ascii_lowercase())),
                b => write!(text, "\\{b:03}"),
            };
        }
    }
    if text.is_empty() {
        text.push('.');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sidecarta_testkit::dns::{Answer, answer, question};

    /// An answer about a name that stands for another.
    fn alias(addresses: &[[u8; 4]]) -> Vec<u8> {
        Answer { id: 7, name: "alias", canonical: Some("Target.ns"), addresses, ttl: 5 }.message()
    }

    #[test]
    fn a_question_is_read() {
        let asked = message(&question(7, "Reviews.Bookinfo.")).expect("question");
        assert_eq!(
            (asked.id, asked.response, asked.question.as_str(), asked.qtype),
            (7, false, "reviews.bookinfo", 1)
        );
    }

    #[test]
    fn an_answer_gives_the_canonical_name_the_addresses_and_the_smallest_time_to_live() {
        let read = message(&alias(&[[10, 0, 0, 1], [10, 0, 0, 2]])).expect("answer");
        assert_eq!(read.canonical.as_deref(), Some("target.ns"));
        assert_eq!(read.addresses, [IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])]);
        assert_eq!((read.ttl, read.rcode), (5, 0));
    }

    #[test]
    fn a_cut_message_gives_what_is_before_the_cut() {
        let bytes = answer(7, "web.data", &[[10, 0, 0, 1], [10, 0, 0, 2]]);
        let mut count = 0;
        for length in 0..=bytes.len() {
            let Some(read) = message(&bytes[..length]) else {
                assert!(length < 12 + 10 + 4, "cut at {length}");
                continue;
            };
            assert_eq!(read.question, "web.data");
            assert!(read.addresses.len() >= count);
            count = read.addresses.len();
        }
        assert_eq!(count, 2);
    }

    #[test]
    fn bytes_that_are_not_plain_text_are_escaped() {
        let mut bytes = question(7, "aXb");
        bytes[14] = b'.';
        assert_eq!(message(&bytes).map(|m| m.question).as_deref(), Some("a\\.b"));
        bytes[14] = b'\n';
        assert_eq!(message(&bytes).map(|m| m.question).as_deref(), Some("a\\010b"));
        assert_eq!(message(&question(7, "")).map(|m| m.question).as_deref(), Some("."));
        bytes[13] = 0xc0;
        assert_eq!(message(&bytes[..16]), None, "a pointer to nowhere");
    }

    #[test]
    fn a_stream_is_split_into_messages_and_the_last_may_be_cut() {
        let one = question(1, "a");
        let two = question(2, "b");
        let mut bytes = (one.len() as u16).to_be_bytes().to_vec();
        bytes.extend(&one);
        bytes.extend((two.len() as u16).to_be_bytes());
        bytes.extend(&two[..two.len() - 1]);
        let read: Vec<_> = stream(&bytes).collect();
        assert_eq!(read, [one.as_slice(), &two[..two.len() - 1]]);
        assert_eq!(stream(&[0, 5]).count(), 0);
        assert_eq!(stream(&[0]).count(), 0);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(
            data in proptest::collection::vec(any::<u8>(), 0..300),
            at in 0usize..200,
            value: u8,
        ) {
            let _ = message(&data);
            prop_assert!(stream(&data).count() <= data.len());
            let mut bytes = alias(&[[10, 0, 0, 1]]);
            let at = at % bytes.len();
            bytes[at] = value;
            if let Some(read) = message(&bytes) {
                prop_assert!(read.question.bytes().all(|b| b.is_ascii_graphic()));
            }
        }
    }
}
