//! Names of counters that batches may carry.
//!
//! Owns the set. A name becomes a part of a row, and a word of `status` and of its JSON: must never
//! let one through that this program does not know.

use std::collections::BTreeMap;

use sidecarta_capture::loss::Counters;

use super::{MAX_COUNTER, counter};
use crate::learn::counter as learned;
use crate::observed::gather::counter as gathered;

/// Names besides those of the capture layer's own counters: of collecting, of attribution, of
/// gathering. A test holds them against what an agent counts.
const OTHERS: [&str; 23] = [
    "ring-dropped",
    "interface-dropped",
    "unheard-observations",
    "interfaces-not-opened",
    "interfaces-failed",
    "interface-changes-lost",
    "clock-steps",
    "waiting-overflow",
    learned::CONNECTIONS,
    learned::LEARNED,
    learned::FROM_NODE,
    learned::ELSEWHERE,
    learned::LOOKUPS_UNATTRIBUTED,
    learned::FROM_OUTSIDE,
    learned::UNATTRIBUTED,
    learned::CONTESTED,
    learned::GUESSED,
    learned::MIDWAY,
    gathered::FOLDED,
    gathered::REFUSED,
    gathered::ASKED,
    // Of agents of before.
    "edges-dropped",
    "names-dropped",
];

fn is_known(name: &str) -> bool {
    OTHERS.contains(&name) || Counters::default().named().iter().any(|(known, _)| *known == name)
}

/// Counters as they may be stored: those of unknown names are summed under one name.
pub(super) fn folded(counters: BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let mut out = BTreeMap::new();
    let mut unknown = 0u64;
    for (name, n) in counters {
        if is_known(&name) {
            out.insert(name, n.min(MAX_COUNTER));
        } else {
            unknown = unknown.saturating_add(n).min(MAX_COUNTER);
        }
    }
    if unknown > 0 {
        out.insert(counter::UNKNOWN.to_owned(), unknown);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_of_an_agent_is_known_and_no_other() {
        let collected = sidecarta_capture::live::collector::Status::default();
        for (name, _) in crate::agent::named(&collected) {
            assert!(is_known(name), "an agent counts {name}: add it");
        }
        assert!(is_known(crate::agent::waiting::lost::OVERFLOW));
        // What only checking and learning may say.
        for name in [counter::ELSEWHERE, counter::UNKNOWN, learned::CHANGED_HANDS, "", "x"] {
            assert!(!is_known(name), "{name}");
        }
    }

    #[test]
    fn unknown_names_become_one_counter() {
        let mut counters: BTreeMap<String, u64> =
            (0..1_000).map(|n| (format!("made-up-{n}"), 2)).collect();
        counters.insert("ring-dropped".into(), u64::MAX);
        counters.insert("made-up".into(), 1);
        let folded = folded(counters);
        let want = [("ring-dropped", MAX_COUNTER), (counter::UNKNOWN, 2_001)];
        assert_eq!(folded, want.map(|(name, n)| (name.to_owned(), n)).into());
    }
}
