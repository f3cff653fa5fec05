//! Keys of rows: ordered by kind, then namespace, kind and name of the workload, so that a namespace is one range.

use crate::model::{BatchId, Record, WorkloadId};

/// First byte of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Workload = b'w',
    /// One dependency, in stores of schema 1.
    Dependency = b'd',
    /// Dependencies of a workload.
    Page = b'c',
    Watch = b'p',
    Lookups = b'l',
    Source = b's',
    Batch = b'b',
}

/// Appends a part so that no part can run into the next: 0 ends it, and 0 and 1 within it are escaped by 1. Order is kept.
fn part(key: &mut Vec<u8>, text: &str) {
    for b in text.bytes() {
        if b <= 1 {
            key.extend([1, b + 1]);
        } else {
            key.push(b);
        }
    }
    key.push(0);
}

/// What the keys of all rows of a kind of one workload begin with.
pub(super) fn of_workload(kind: Kind, id: &WorkloadId) -> Vec<u8> {
    let mut key = vec![kind as u8];
    part(&mut key, &id.namespace);
    part(&mut key, &id.kind);
    part(&mut key, &id.name);
    key
}

/// Key of a record's row.
pub(super) fn record(record: &Record) -> Vec<u8> {
    match record {
        Record::Workload(w) => of_workload(Kind::Workload, &w.id),
        Record::Watch(w) => {
            let mut key = of_workload(Kind::Watch, &w.workload);
            part(&mut key, &w.pod);
            key
        }
        Record::Lookups(l) => {
            let mut key = of_workload(Kind::Lookups, &l.workload);
            part(&mut key, &l.host);
            key
        }
        Record::Source(s) => {
            let mut key = vec![Kind::Source as u8];
            part(&mut key, &s.source);
            key
        }
        // Dependencies share rows: see [`page`].
        Record::Dependency(d) => page(&d.key.workload, 0),
    }
}

/// Key of a page of dependencies.
pub(super) fn page(workload: &WorkloadId, number: u32) -> Vec<u8> {
    let mut key = of_workload(Kind::Page, workload);
    key.extend(number.to_be_bytes());
    key
}

/// Number of the page that has this key.
pub(super) fn page_number(key: &[u8]) -> u32 {
    key.last_chunk().map_or(0, |n| u32::from_be_bytes(*n))
}

/// Key of the note that a batch is held.
pub(super) fn batch(id: &BatchId) -> Vec<u8> {
    let mut key = vec![Kind::Batch as u8];
    part(&mut key, &id.source);
    key.extend(id.sequence.to_be_bytes());
    key
}

/// Reads [`batch`] back.
pub(super) fn parse_batch(key: &[u8]) -> Option<BatchId> {
    let (text, sequence) = key.strip_prefix(&[Kind::Batch as u8])?.split_last_chunk::<8>()?;
    let mut source = Vec::new();
    let mut bytes = text.strip_suffix(&[0])?.iter();
    while let Some(&b) = bytes.next() {
        source.push(if b == 1 { bytes.next()?.checked_sub(1)? } else { b });
    }
    Some(BatchId { source: String::from_utf8(source).ok()?, sequence: u64::from_be_bytes(*sequence) })
}

/// What all keys of a kind, or of a kind in a namespace, begin with.
pub(super) fn prefix(kind: Kind, namespace: Option<&str>) -> Vec<u8> {
    let mut key = vec![kind as u8];
    if let Some(namespace) = namespace {
        part(&mut key, namespace);
    }
    key
}
