//! How Istio compares host names, wildcards included (`pkg/config/host/name.go`, `names.go`,
//! `pilot/pkg/model/config.go`).
//!
//! Owns comparison only; must never resolve a name.

use std::borrow::Borrow;
use std::hash::Hash;

use foldhash::HashMap;

/// Whether the host begins with `*`.
pub fn is_wildcard(host: &str) -> bool {
    host.starts_with('*')
}

/// Whether `of` covers every name that `host` covers (`Name.SubsetOf`).
///
/// # Examples
/// ```
/// use sidecarta_istio::mesh::host::subset_of;
///
/// assert!(subset_of("a.example.com", "*.example.com"));
/// assert!(!subset_of("*.com", "*.example.com"));
/// ```
pub fn subset_of(host: &str, of: &str) -> bool {
    match (host.strip_prefix('*'), of.strip_prefix('*')) {
        (Some(h), Some(o)) => host.len() >= of.len() && h.ends_with(o),
        (Some(_), None) => false,
        (None, Some(o)) => host.ends_with(o),
        (None, None) => host == of,
    }
}

/// Whether the two hosts overlap (`Name.Matches`).
pub fn matches(a: &str, b: &str) -> bool {
    match (a.strip_prefix('*'), b.strip_prefix('*')) {
        (Some(x), Some(y)) if a.len() < b.len() => y.ends_with(x),
        (Some(x), Some(y)) => x.ends_with(y),
        (Some(x), None) => b.ends_with(x),
        (None, Some(y)) => a.ends_with(y),
        (None, None) => a == b,
    }
}

/// Values by host. For a name it finds the value of the most specific host that covers it
/// (`MostSpecificHostMatch`).
#[derive(Clone, Debug)]
pub(crate) struct HostMap<K, V> {
    exact: HashMap<K, V>,
    wild: Vec<(K, V)>,
}

impl<K, V> Default for HostMap<K, V> {
    fn default() -> Self {
        Self { exact: HashMap::default(), wild: Vec::new() }
    }
}

impl<K: Borrow<str> + Eq + Hash, V> HostMap<K, V> {
    /// The value of the host itself, made if there is none.
    pub(crate) fn or_insert(&mut self, host: K, value: V) -> &mut V {
        if !is_wildcard(host.borrow()) {
            return self.exact.entry(host).or_insert(value);
        }
        let at = self.wild.iter().position(|(h, _)| *h == host).unwrap_or_else(|| {
            self.wild.push((host, value));
            self.wild.len() - 1
        });
        &mut self.wild[at].1
    }

    /// The value of the most specific host that covers the name: the host itself, else the longest
    /// wildcard.
    pub(crate) fn most_specific(&self, name: &str) -> Option<&V> {
        if let Some(v) = self.exact.get(name) {
            return Some(v);
        }
        let needle = name.strip_prefix('*').unwrap_or(name);
        let mut best: Option<(&str, &V)> = None;
        for (host, value) in self.wild.iter().map(|(h, v)| (h.borrow(), v)) {
            if host == name {
                return Some(value);
            }
            // At equal length both would be the same suffix of one name.
            if needle.ends_with(&host[1..]) && best.is_none_or(|(b, _)| host.len() > b.len()) {
                best = Some((host, value));
            }
        }
        best.map(|(_, v)| v)
    }
}

/// Makes a short name of a Service fully qualified (`ResolveShortnameToFQDN`). Names with a dot,
/// addresses and `*` stay as they are.
pub fn qualify(host: &str, namespace: &str, domain: &str) -> String {
    if host.is_empty() || host == "*" || host.contains('.') || host.contains(':') {
        host.to_owned()
    } else if namespace.is_empty() {
        format!("{host}.svc.{domain}")
    } else {
        format!("{host}.{namespace}.svc.{domain}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn wildcards_cover_what_ends_alike() {
        assert!(subset_of("a.b.c", "*.c") && subset_of("*.b.c", "*.c") && subset_of("*.c", "*.c"));
        assert!(!subset_of("*.c", "a.c") && !subset_of("*.c", "*.b.c") && !subset_of("a.c", "b.c"));
        assert!(
            matches("*.c", "a.c")
                && matches("a.c", "*.c")
                && matches("*", "*.x")
                && !matches("*.foo.com", "foo.com")
        );
    }

    #[test]
    fn the_longest_wildcard_wins_and_the_exact_name_before_it() {
        let mut map = HostMap::default();
        for h in ["*.com", "*.foo.com", "a.foo.com", "*"] {
            map.or_insert(h, h);
        }
        assert_eq!(map.most_specific("a.foo.com"), Some(&"a.foo.com"));
        assert_eq!(map.most_specific("b.foo.com"), Some(&"*.foo.com"));
        assert_eq!(map.most_specific("*.foo.com"), Some(&"*.foo.com"));
        assert_eq!(map.most_specific("x.org"), Some(&"*"));
    }

    proptest! {
        #[test]
        fn a_subset_overlaps(a in "\\*?(\\.?[ab]){1,4}", b in "\\*?(\\.?[ab]){1,4}") {
            prop_assert_eq!(matches(&a, &b), matches(&b, &a));
            if subset_of(&a, &b) {
                prop_assert!(matches(&a, &b));
            }
        }
    }
}
