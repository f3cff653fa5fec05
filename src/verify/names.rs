//! Names of counters that batches may carry.
//!
//! Owns the set. A name is stored in rows, and shown by `status` and in its JSON. Must never let a
//! name through that this program does not know.

use std::collections::BTreeMap;

use crate::model::counter;

/// The largest value of a counter. Some count bytes. Sums stay far below what fits 64 bits.
pub(super) const MAX_COUNTER: u64 = 1 << 53;

/// Counters as they may be stored: those of unknown names are summed under one name.
pub(super) fn folded(counters: BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let mut out = BTreeMap::new();
    let mut unknown = 0u64;
    for (name, n) in counters {
        if counter::may_be_sent(&name) {
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
    fn a_batch_may_carry_the_counters_of_an_agent_and_no_others() {
        let collected = sidecarta_capture::live::collector::CollectorStatus::default();
        for (name, _) in crate::agent::named(&collected) {
            assert!(counter::may_be_sent(name), "an agent counts {name}: add it");
        }
        // These are set by checking and by learning only.
        for name in [counter::LINES_ELSEWHERE, counter::UNKNOWN, counter::CHANGED_HANDS, "", "x"] {
            assert!(!counter::may_be_sent(name), "{name}");
        }
    }

    #[test]
    fn unknown_names_are_summed_in_one_counter() {
        let mut counters: BTreeMap<String, u64> =
            (0..1_000).map(|n| (format!("made-up-{n}"), 2)).collect();
        counters.insert("ring-dropped".into(), u64::MAX);
        counters.insert("made-up".into(), 1);
        let folded = folded(counters);
        let want = [("ring-dropped", MAX_COUNTER), (counter::UNKNOWN, 2_001)];
        assert_eq!(folded, want.map(|(name, n)| (name.to_owned(), n)).into());
    }
}
