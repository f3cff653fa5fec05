//! Resolving batches: they are read, checked against the cluster, and become records.
//!
//! Owns what one merge has learned. Must never write.

use std::collections::BTreeMap;

use crate::cluster::Cluster;
use crate::learn::{self, Union};
use crate::model::{Batch, sums};
use crate::observed::{BatchReadError, Observed, Packed, Reader, allowance};
use crate::parallel::both;
use crate::verify::{CHECK_COUNTERS, CheckRules, CheckedBatch, check};

/// Reads the one batch in these bytes, within the limits within which it was accepted.
pub(super) fn unpack(bytes: &[u8]) -> Result<Observed, String> {
    let packed = Packed::new(bytes);
    let damaged = |e: std::io::Error| format!("its compression: {e}");
    let memory = allowance(packed.text_length().map_err(damaged)?);
    let batch = Reader::new(packed.text().map_err(damaged)?).within(memory).next();
    batch.unwrap_or(Err(BatchReadError::Cut { line: 1 })).map_err(|e| e.to_string())
}

/// What was learned from some batches.
#[derive(Default)]
pub(super) struct ResolvedBatches {
    pub learned: Union,
    /// Their unverified lines.
    pub unverified: Vec<Observed>,
    /// What checking them has counted.
    pub counted: BTreeMap<&'static str, u64>,
}

/// A batch, resolved.
struct ResolvedBatch {
    learned: Batch,
    unverified: Option<Observed>,
    counted: BTreeMap<&'static str, u64>,
}

impl ResolvedBatches {
    /// Checks and resolves batches on two threads, and adds what they show.
    pub fn add(&mut self, mut batches: Vec<Observed>, cluster: &Cluster, rules: &CheckRules) {
        let there = batches.split_off(batches.len() / 2);
        let here = batches;
        let resolve_all = |batches: Vec<Observed>| -> Vec<ResolvedBatch> {
            batches.into_iter().map(|batch| resolve(batch, cluster, rules)).collect()
        };
        let (there, here) = if here.is_empty() {
            (resolve_all(there), Vec::new())
        } else {
            both(|| resolve_all(there), || resolve_all(here))
        };
        for resolved in here.into_iter().chain(there) {
            self.learned.add(resolved.learned);
            self.unverified.extend(resolved.unverified);
            sums::merge(&mut self.counted, &resolved.counted);
        }
    }
}

fn resolve(batch: Observed, cluster: &Cluster, rules: &CheckRules) -> ResolvedBatch {
    let CheckedBatch { batch, unverified } = check(batch, cluster, rules);
    let counted = check_counts(&batch);
    ResolvedBatch { learned: learn::batch(cluster, &batch), unverified, counted }
}

/// What checking a batch has counted.
pub(super) fn check_counts(checked: &Observed) -> BTreeMap<&'static str, u64> {
    let mut counts = BTreeMap::new();
    for name in CHECK_COUNTERS {
        if let Some(n) = checked.counters.get(name) {
            counts.insert(name, *n);
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BatchId, Time};
    use crate::observed::write;

    fn batch() -> Observed {
        Observed {
            id: BatchId { source: "agent:n1:b".to_owned(), sequence: 0 },
            node: "n1".to_owned(),
            made: Time(1),
            spans: Default::default(),
            counters: [("learned".to_owned(), 1)].into(),
            pods: Vec::new(),
            edges: Vec::new(),
            asked: Vec::new(),
            watching: Vec::new(),
        }
    }

    fn text() -> Vec<u8> {
        let mut text = Vec::new();
        write(&batch(), &mut text).unwrap();
        text
    }

    /// The first line.
    fn header() -> Vec<u8> {
        text().split_inclusive(|b| *b == b'\n').next().unwrap().to_vec()
    }

    fn packed(text: &[u8]) -> Vec<u8> {
        zstd::encode_all(text, 1).unwrap()
    }

    #[test]
    fn a_queued_batch_is_read_back() {
        assert_eq!(unpack(&packed(&text())).as_ref(), Ok(&batch()));
    }

    #[test]
    fn a_queued_batch_that_is_cut_or_damaged_is_not_read() {
        let cut = unpack(&packed(&header())).unwrap_err();
        assert!(cut.contains("cut"), "{cut}");
        assert!(unpack(&packed(b"")).is_err());
        assert!(unpack(b"damaged").unwrap_err().contains("compression"));
    }

    #[test]
    fn a_queued_batch_is_read_within_the_memory_that_a_new_one_may_take() {
        // An earlier program accepted it: small on the disk, a gigabyte in memory.
        let names =
            format!("{{\"edge\":{{\"names\":{{\"alpn\":[{}\"\"]}}}}}}", "\"\",".repeat(1 << 22));
        let bomb = unpack(&packed(&[header(), names.into_bytes()].concat())).unwrap_err();
        assert!(bomb.contains("longer than"), "{bomb}");
    }
}
