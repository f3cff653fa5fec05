//! Sums under names.
//!
//! Owns adding without overflow: a sum stays at its greatest value. Must never wrap.

use std::collections::BTreeMap;

/// Adds `n` to the sum of this name. Adding 0 makes no new name.
pub fn add(sums: &mut BTreeMap<String, u64>, name: &str, n: u64) {
    match sums.get_mut(name) {
        Some(sum) => *sum = sum.saturating_add(n),
        None if n > 0 => {
            sums.insert(name.to_owned(), n);
        }
        None => {}
    }
}

/// Adds other sums to these, and takes over all of their names.
pub fn merge<K: Ord + Clone>(sums: &mut BTreeMap<K, u64>, other: &BTreeMap<K, u64>) {
    for (name, n) in other {
        match sums.get_mut(name) {
            Some(sum) => *sum = sum.saturating_add(*n),
            None => {
                sums.insert(name.clone(), *n);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_stay_at_their_greatest_and_adding_nothing_makes_no_name() {
        let mut sums = BTreeMap::from([("full".to_owned(), u64::MAX)]);
        add(&mut sums, "full", 1);
        add(&mut sums, "none", 0);
        add(&mut sums, "some", 2);
        assert_eq!(sums, BTreeMap::from([("full".into(), u64::MAX), ("some".into(), 2)]));
        merge(&mut sums, &BTreeMap::from([("full".into(), 1), ("none".into(), 0)]));
        let all = [("full".into(), u64::MAX), ("none".into(), 0), ("some".into(), 2)];
        assert_eq!(sums, BTreeMap::from(all));
    }
}
