//! What a name may be, by the rules of Kubernetes, Istio and the DNS.
//!
//! Owns the rules. They are applied where names enter (declared calls, agents' batches, imports,
//! snapshots, watches) and where hosts are listed in a Sidecar. Must never mend a name: one that is
//! not valid is refused, with the reason.

mod records;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::WorkloadId;

pub use records::{acceptance, alert, baseline, record};

/// Bytes of a label of the DNS, and of a name within a label of Kubernetes (RFC 1035 section
/// 2.3.4; `apimachinery/pkg/util/validation`).
const LABEL: usize = 63;
/// Bytes of a subdomain (`DNS1123SubdomainMaxLength`).
const SUBDOMAIN: usize = 253;
/// Bytes of a host that istiod takes (`CheckDNS1123Preconditions`).
const HOST: usize = 255;
/// Bytes of a name on the wire: a name of the DNS has 255 (RFC 1035 section 2.3.4), and each may be
/// written in four (`\255`, section 5.1).
const WIRE: usize = 4 * 255;
/// Bytes of a word of an agent: a counter, a node, or a node and a boot.
const WORD: usize = 1024;

/// Why a name is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not valid: {rule}")]
pub struct InvalidName {
    /// What it is the name of.
    what: &'static str,
    /// The name, cut where it is long.
    text: String,
    /// The rule that it breaks.
    rule: &'static str,
}

/// Checks a text, and says what it is.
fn ensure(
    fits: bool,
    what: &'static str,
    text: &str,
    rule: &'static str,
) -> Result<(), InvalidName> {
    if fits {
        return Ok(());
    }
    Err(InvalidName { what, text: text.chars().take(80).collect(), rule })
}

/// Letters or digits at both ends, and what `inner` allows between.
fn enclosed(text: &str, edge: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(|b| edge(*b))
        && bytes.last().is_some_and(|b| edge(*b))
        && bytes.iter().all(|b| edge(*b) || inner(*b))
}

fn lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn alphanumeric(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

/// A label of the DNS in Kubernetes' form (RFC 1123, `IsDNS1123Label`).
fn is_label(text: &str) -> bool {
    text.len() <= LABEL && enclosed(text, lower, |b| b == b'-')
}

/// A name of the DNS in Kubernetes' form (`IsDNS1123Subdomain`).
fn is_subdomain(text: &str) -> bool {
    text.len() <= SUBDOMAIN && text.split('.').all(|l| enclosed(l, lower, |b| b == b'-'))
}

/// The name of a namespace.
///
/// # Errors
/// When it is none by RFC 1123.
pub fn namespace(text: &str) -> Result<(), InvalidName> {
    ensure(
        is_label(text),
        "the namespace",
        text,
        "at most 63 lower-case letters, digits and `-`, with a letter or digit at both ends (RFC \
         1123)",
    )
}

/// The name of an object of Kubernetes.
///
/// # Errors
/// When it is none by RFC 1123.
pub fn object_name(text: &str) -> Result<(), InvalidName> {
    ensure(
        is_subdomain(text),
        "the name",
        text,
        "at most 253 lower-case letters, digits, `-` and `.`, with a letter or digit at both ends \
         of each part (RFC 1123)",
    )
}

/// The kind of an object.
///
/// # Errors
/// When it is none: kinds are labels of the DNS in mixed case (`CustomResourceDefinitionNames`).
pub fn kind(text: &str) -> Result<(), InvalidName> {
    ensure(
        text.len() <= LABEL
            && text.as_bytes().first().is_some_and(u8::is_ascii_alphabetic)
            && enclosed(text, alphanumeric, |b| b == b'-'),
        "the kind",
        text,
        "at most 63 letters, digits and `-`, with a letter first",
    )
}

/// Labels of an object, or those that a selector asks for.
///
/// # Errors
/// When a key or a value breaks Kubernetes' rules (`IsQualifiedName`, `IsValidLabelValue`).
pub fn labels<K: AsRef<str>, V: AsRef<str>>(all: &BTreeMap<K, V>) -> Result<(), InvalidName> {
    let plain = |text: &str| {
        text.len() <= LABEL && enclosed(text, alphanumeric, |b| matches!(b, b'-' | b'_' | b'.'))
    };
    for (key, value) in all {
        let (key, value) = (key.as_ref(), value.as_ref());
        let (prefix, name) = key.split_once('/').map_or((None, key), |(p, n)| (Some(p), n));
        ensure(
            prefix.is_none_or(is_subdomain) && plain(name),
            "the key of a label",
            key,
            "[SUBDOMAIN/]NAME, the name of at most 63 letters, digits, `-`, `_` and `.`",
        )?;
        ensure(
            value.is_empty() || plain(value),
            "the value of a label",
            value,
            "at most 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends",
        )?;
    }
    Ok(())
}

/// A host that a Sidecar may list and a client may call: a name of the DNS, in letters of either
/// case, without a final dot (`ValidateFQDN`).
pub fn is_host(text: &str) -> bool {
    let label = |l: &str| l.len() <= LABEL && enclosed(l, alphanumeric, |b| b == b'-');
    let last = text.rsplit('.').next().unwrap_or(text);
    text.len() <= HOST && text.split('.').all(label) && !last.bytes().all(|b| b.is_ascii_digit())
}

/// A host that Istio's configuration may contain: as [`is_host`], or with a wildcard as its
/// left-most label (`ValidateWildcardDomain`), which may have more than the asterisk (`*-eu`,
/// `*x`).
pub fn is_wildcard_host(text: &str) -> bool {
    let Some(rest) = text.strip_prefix('*') else { return is_host(text) };
    let rest = rest.strip_prefix('-').unwrap_or(rest);
    let whole = if rest.starts_with('.') || rest.is_empty() {
        "x".to_owned() + rest
    } else {
        rest.to_owned()
    };
    is_host(&whole)
}

/// A host that is called: a name, an address, or a wildcard where Istio allows one.
///
/// # Errors
/// When it is none of these.
pub fn called_host(text: &str) -> Result<(), InvalidName> {
    let name = text.strip_suffix('.').unwrap_or(text);
    ensure(
        is_wildcard_host(name) || text.parse::<IpAddr>().is_ok(),
        "the host",
        text,
        "a DNS name of labels of letters, digits and `-` (RFC 1123), an address, or a wildcard as \
         the first label",
    )
}

/// A host of a Service, a ServiceEntry or a VirtualService. Istio takes addresses in some places.
///
/// # Errors
/// When it is no host.
pub fn mesh_host(text: &str) -> Result<(), InvalidName> {
    ensure(
        is_wildcard_host(text.strip_suffix('.').unwrap_or(text)) || text.parse::<IpAddr>().is_ok(),
        "the host",
        text,
        "a DNS name of labels of letters, digits and `-` (RFC 1123), where the first may be a \
         wildcard",
    )
}

/// An address, or a range of addresses.
///
/// # Errors
/// When it is neither.
pub fn range(text: &str) -> Result<(), InvalidName> {
    ensure(
        text.parse::<IpAddr>().is_ok() || text.parse::<IpNet>().is_ok(),
        "the address",
        text,
        "an address of IPv4 or IPv6, or a range (RFC 4632)",
    )
}

/// A name as packets show it (server names, authorities, questions of the DNS): printable ASCII, as
/// the capture layer writes it. It need not be a host.
///
/// # Errors
/// When no packet can have shown it.
pub fn wire_name(text: &str) -> Result<(), InvalidName> {
    ensure(
        !text.is_empty() && text.len() <= WIRE && text.bytes().all(|b| b.is_ascii_graphic()),
        "the name on the wire",
        text,
        "1 to 1020 printable characters of ASCII without blanks",
    )
}

/// A word that an agent or a capture chose: a node, a boot, a counter.
///
/// # Errors
/// When it is empty, long, or not printable ASCII.
pub fn word(what: &'static str, text: &str) -> Result<(), InvalidName> {
    ensure(
        !text.is_empty() && text.len() <= WORD && text.bytes().all(|b| matches!(b, b' '..=b'~')),
        what,
        text,
        "1 to 1024 printable characters of ASCII",
    )
}

/// A workload. Its namespace is empty where a snapshot's objects have none.
///
/// # Errors
/// When a part of its name breaks a rule.
pub fn workload(id: &WorkloadId) -> Result<(), InvalidName> {
    if !id.namespace.is_empty() {
        namespace(&id.namespace)?;
    }
    kind(&id.kind)?;
    object_name(&id.name)
}

impl InvalidName {
    /// Whose name it is, for messages.
    pub fn of(self, owner: impl fmt::Display) -> String {
        format!("{owner}: {self}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_what_kubernetes_takes() {
        let long = "a".repeat(64);
        for fine in ["a", "web-0", "kube-system", "1"] {
            assert!(namespace(fine).is_ok() && object_name(fine).is_ok(), "{fine}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a b", "a\u{2028}", "é", &long, "a/b"] {
            assert!(namespace(bad).is_err(), "{bad}");
        }
        assert!(object_name("a.b-1.c").is_ok() && object_name(&long).is_ok());
        for bad in ["a..b", ".a", "a.", "a.-b", "a\n", &"a.".repeat(127).repeat(2)] {
            assert!(object_name(bad).is_err(), "{bad}");
        }
        assert!(kind("Deployment").is_ok() && kind("1Pod").is_err() && kind("A\nB").is_err());
    }

    #[test]
    fn labels_are_what_kubernetes_takes() {
        let check = |k: &str, v: &str| labels(&BTreeMap::from([(k, v)])).is_ok();
        for (k, v) in [("app", "Web_1.2"), ("app.kubernetes.io/name", ""), ("A-b_c.d", "1")] {
            assert!(check(k, v), "{k}={v}");
        }
        for (k, v) in [
            ("", "x"),
            ("a/", "x"),
            ("/a", "x"),
            ("a/b/c", "x"),
            ("UP/a", "x"),
            ("-a", "x"),
            ("a", "-"),
            ("a", "x y"),
            ("a", "x\u{85}"),
            ("a\u{feff}", "x"),
        ] {
            assert!(!check(k, v), "{k}={v}");
        }
        assert!(!check("a", &"x".repeat(64)) && !check(&"x".repeat(64), "a"));
    }

    #[test]
    fn hosts_are_what_istio_takes() {
        for fine in ["a", "a.b", "Reviews.Shop.svc.cluster.local", "xn--bcher-kva.example", "1.a"] {
            assert!(is_host(fine) && called_host(fine).is_ok(), "{fine}");
        }
        for fine in ["*", "*.a.b", "*-eu.a.b", "*x.a"] {
            assert!(is_wildcard_host(fine) && !is_host(fine), "{fine}");
        }
        for fine in ["192.0.2.1", "2001:db8::1", "a.b."] {
            assert!(called_host(fine).is_ok(), "{fine}");
        }
        for bad in [
            "",
            ".",
            "a..b",
            "_srv._tcp.a.b",
            "a_b.c",
            "a.b.1",
            "a.*.b",
            "**.a",
            "a b",
            "x\u{2028}y",
            "a.b\u{feff}",
            "a:80",
            "http://a",
            "[::1]",
        ] {
            assert!(called_host(bad).is_err() && mesh_host(bad).is_err(), "{bad}");
        }
        assert!(!is_host(&format!("{}.a", "a".repeat(64))));
        let why = called_host("x\u{2028}y").unwrap_err().to_string();
        assert!(why.contains("\\u{2028}") && why.contains("RFC 1123"), "{why}");
    }

    proptest! {
        #[test]
        fn a_valid_name_is_printable_ascii_without_blanks(
            s in "\\PC{0,8}|[-a-zA-Z0-9._*/:]{0,12}|(?s).{0,6}",
        ) {
            let plain = s.bytes().all(|b| b.is_ascii_graphic());
            let all = [
                namespace(&s).is_ok(),
                object_name(&s).is_ok(),
                kind(&s).is_ok(),
                called_host(&s).is_ok(),
                mesh_host(&s).is_ok(),
                wire_name(&s).is_ok(),
                labels(&BTreeMap::from([(&s, "x")])).is_ok(),
                !s.is_empty() && labels(&BTreeMap::from([("x", &s)])).is_ok(),
            ];
            prop_assert!(plain || !all.contains(&true), "{:?}", s);
        }
    }
}
