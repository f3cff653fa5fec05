//! What a pod called beyond its share, folded: counted by domain, no longer listed one by one.
//!
//! Owns the rule of folding and its bound. Must never look like a list of what was called: what is
//! folded says only that the list is incomplete.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Merge;

/// Longest domain that has a count of its own, in bytes.
const MAX_LENGTH: usize = 253;

/// Second labels under which countries register domains: `example.co.uk` is one domain, and so is
/// `example.uk`. The public suffix list has 9,000 rules and changes weekly; here a domain is only
/// the label of a count, so that its most common rules are enough.
const SECOND: [&str; 14] =
    ["ac", "co", "com", "edu", "gen", "go", "gob", "gov", "gv", "ne", "net", "nom", "or", "org"];

/// Calls that are not known one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Folded {
    /// Connections by the registered domain of the host that they named.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub domains: BTreeMap<String, u64>,
    /// Connections that named none, or one of too many.
    #[serde(skip_serializing_if = "crate::is_zero")]
    pub others: u64,
    /// Names asked for in the DNS.
    #[serde(skip_serializing_if = "crate::is_zero")]
    pub names: u64,
}

impl Folded {
    /// Domains that are counted one by one.
    pub const MAX_DOMAINS: usize = 64;

    /// Whether nothing is folded.
    pub fn is_empty(&self) -> bool {
        self.connections() == 0 && self.names == 0
    }

    /// Connections that are folded.
    pub fn connections(&self) -> u64 {
        self.domains.values().fold(self.others, |sum, n| sum.saturating_add(*n))
    }

    /// Folds connections to a host, where they named one.
    pub fn add(&mut self, host: Option<&str>, connections: u64) {
        match host.and_then(domain) {
            Some(domain) => self.count(&domain, connections),
            None => self.others = self.others.saturating_add(connections),
        }
    }

    fn count(&mut self, domain: &str, n: u64) {
        if n == 0 {
            return;
        }
        if domain.len() > MAX_LENGTH {
            self.others = self.others.saturating_add(n);
            return;
        }
        let sum = match self.domains.get_mut(domain) {
            Some(sum) => sum,
            None => self.domains.entry(domain.to_owned()).or_default(),
        };
        *sum = sum.saturating_add(n);
        // The least names stay listed, so that the order of merging does not show.
        while self.domains.len() > Self::MAX_DOMAINS
            && let Some((_, n)) = self.domains.pop_last()
        {
            self.others = self.others.saturating_add(n);
        }
    }

    /// The domains with the most connections first, and what has none, in words.
    pub fn describe(&self) -> String {
        const SOME: usize = 3;
        let mut all: Vec<(&String, &u64)> = self.domains.iter().collect();
        all.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        let rest = all.iter().skip(SOME).fold(self.others, |sum, (_, n)| sum.saturating_add(**n));
        let mut parts: Vec<String> =
            all.iter().take(SOME).map(|(domain, n)| format!("{n} to hosts of {domain}")).collect();
        if rest > 0 || parts.is_empty() {
            parts.push(format!("{rest} to others"));
        }
        parts.join(", ")
    }
}

impl Merge for Folded {
    fn merge(&mut self, other: &Self) {
        self.others = self.others.saturating_add(other.others);
        self.names = self.names.saturating_add(other.names);
        for (domain, n) in &other.domains {
            self.count(domain, *n);
        }
    }
}

/// The registered domain of a host, which may have a port: its last two labels, or three under a
/// country's second label; of a Service in the cluster its namespace. `None` of an address and of
/// what is no host.
pub fn domain(host: &str) -> Option<String> {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    if host.parse::<IpAddr>().is_ok() || host.starts_with('[') {
        return None;
    }
    let host = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        Some(_) => return None,
        None => &host,
    };
    if host.parse::<IpAddr>().is_ok() {
        return None;
    }
    let labels: Vec<&str> = host.split('.').collect();
    let plain = |l: &&str| {
        !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if labels.len() < 2 || !labels.iter().all(plain) {
        return None;
    }
    let n = labels.len();
    let of_cluster = labels.iter().position(|l| *l == "svc").filter(|at| *at > 0);
    let from = match (labels[n - 2], labels[n - 1]) {
        _ if of_cluster.is_some() => of_cluster.unwrap_or(1) - 1,
        (second, country) if country.len() == 2 && SECOND.contains(&second) && n > 2 => n - 3,
        _ => n - 2,
    };
    Some(labels[from..].join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_fold_to_the_domain_that_somebody_registered() {
        for (host, want) in [
            ("a.b.example.com", Some("example.com")),
            ("example.com", Some("example.com")),
            ("WWW.Example.COM.", Some("example.com")),
            ("api.example.com:8443", Some("example.com")),
            ("a.b.example.co.uk", Some("example.co.uk")),
            ("x.example.com.br", Some("example.com.br")),
            ("co.uk", Some("co.uk")),
            ("x.example.io", Some("example.io")),
            ("com.uk.example.com", Some("example.com")),
            ("cart.shop.svc.cluster.local", Some("shop.svc.cluster.local")),
            ("outbound_.80_._.cart.shop.svc.cluster.local", Some("shop.svc.cluster.local")),
            ("localhost", None),
            ("10.1.2.3", None),
            ("10.1.2.3:80", None),
            ("fd00::1", None),
            ("[fd00::1]:80", None),
            ("a..b", None),
            ("a b.example.com", None),
            ("", None),
        ] {
            assert_eq!(domain(host).as_deref(), want, "{host}");
        }
    }

    #[test]
    fn domains_have_a_bound_and_nothing_is_lost_from_the_count() {
        let mut folded = Folded::default();
        for n in 0..1_000u64 {
            folded.add(Some(&format!("x.d{n}.com")), 2);
        }
        folded.add(None, 5);
        folded.add(Some("10.0.0.1"), 1);
        assert_eq!((folded.domains.len(), folded.connections()), (Folded::MAX_DOMAINS, 2_006));
        let mut other = Folded::default();
        (0..200u64).for_each(|n| other.add(Some(&format!("x.a{n}.org")), n));
        let (mut one, mut two) = (folded.clone(), other.clone());
        one.merge(&other);
        two.merge(&folded);
        assert_eq!(one, two, "whichever comes first");
        let mut twice = folded.clone();
        twice.merge(&folded);
        assert_eq!((twice.domains.len(), twice.connections()), (Folded::MAX_DOMAINS, 4_012));
        let text = serde_json::to_string(&folded).unwrap();
        assert_eq!(serde_json::from_str::<Folded>(&text).unwrap(), folded);
        assert_eq!(serde_json::from_str::<Folded>("{}").unwrap(), Folded::default());
    }

    #[test]
    fn the_description_names_the_largest_domains() {
        let mut folded = Folded::default();
        for (host, n) in [("a.b.com", 1), ("a.c.com", 9), ("a.d.com", 3), ("a.e.com", 2)] {
            folded.add(Some(host), n);
        }
        assert_eq!(
            folded.describe(),
            "9 to hosts of c.com, 3 to hosts of d.com, 2 to hosts of e.com, 1 to others"
        );
    }
}
