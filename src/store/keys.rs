//! Keys of rows: ordered by kind, then namespace, kind and name of the workload, so that a
//! namespace is one range.

use crate::model::{Alert, BatchId, Record, WorkloadId};

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
    /// A part of a batch that is not merged yet.
    Kept = b'q',
    /// What was accepted of a workload.
    Baseline = b'n',
    Alert = b'a',
    /// That a namespace, or all, was accepted.
    Acceptance = b'g',
    /// What was counted of a batch.
    Counted = b'f',
    /// What the view knows of the cluster.
    View = b'v',
}

impl Kind {
    /// Whether rows of this kind go again in the course of things: that there are fewer of them is
    /// no damage.
    pub fn is_passing(first: u8) -> bool {
        [Self::Batch, Self::Kept, Self::Alert, Self::View].iter().any(|k| *k as u8 == first)
    }
}

/// Appends a part so that no part can run into the next: 0 ends it, and 0 and 1 within it are
/// escaped by 1. Order is kept.
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

/// The first key that may come after all pages of a workload.
pub(super) fn after_pages(workload: &WorkloadId) -> Vec<u8> {
    let mut key = page(workload, u32::MAX);
    key.push(0);
    key
}

/// Whether it is the key of a page.
pub(super) fn is_page(key: &[u8]) -> bool {
    key.first() == Some(&(Kind::Page as u8))
}

/// Number of the page that has this key.
pub(super) fn page_number(key: &[u8]) -> u32 {
    key.last_chunk().map_or(0, |n| u32::from_be_bytes(*n))
}

/// Key of an alert: what makes two of them the same.
pub(super) fn alert(alert: &Alert) -> Vec<u8> {
    let mut key = of_workload(Kind::Alert, &alert.workload);
    part(&mut key, alert.kind.name());
    if let Some(destination) = &alert.destination {
        // Its JSON, for its text does not tell all destinations apart.
        part(&mut key, &serde_json::to_string(destination).unwrap_or_default());
    }
    key.extend(alert.port.to_be_bytes());
    key.push(alert.protocol.map_or(0, |p| 1 + p as u8));
    key
}

fn identity(kind: Kind, id: &BatchId) -> Vec<u8> {
    let mut key = vec![kind as u8];
    part(&mut key, &id.source);
    key.extend(id.sequence.to_be_bytes());
    key
}

fn parse_identity(kind: Kind, key: &[u8]) -> Option<BatchId> {
    let (text, sequence) = key.strip_prefix(&[kind as u8])?.split_last_chunk::<8>()?;
    let mut source = Vec::new();
    let mut bytes = text.strip_suffix(&[0])?.iter();
    while let Some(&b) = bytes.next() {
        source.push(if b == 1 { bytes.next()?.checked_sub(1)? } else { b });
    }
    Some(BatchId {
        source: String::from_utf8(source).ok()?,
        sequence: u64::from_be_bytes(*sequence),
    })
}

/// Key of the note that a batch is held, and with it all before it of its source.
pub(super) fn batch(id: &BatchId) -> Vec<u8> {
    identity(Kind::Batch, id)
}

/// What the keys of all batches begin with whose source begins with this.
pub(super) fn prefix_of_source(source: &str) -> Vec<u8> {
    let mut key = vec![Kind::Batch as u8];
    part(&mut key, source);
    key.pop();
    key
}

/// Reads [`batch`] back.
pub(super) fn parse_batch(key: &[u8]) -> Option<BatchId> {
    parse_identity(Kind::Batch, key)
}

/// What the keys of all parts of a kept batch begin with.
pub(super) fn of_kept(id: &BatchId) -> Vec<u8> {
    identity(Kind::Kept, id)
}

/// Key of a part of a kept batch.
pub(super) fn kept(id: &BatchId, part: u32) -> Vec<u8> {
    let mut key = of_kept(id);
    key.extend(part.to_be_bytes());
    key
}

/// Reads [`kept`] back.
pub(super) fn parse_kept(key: &[u8]) -> Option<BatchId> {
    parse_identity(Kind::Kept, key.split_last_chunk::<4>()?.0)
}

/// Key of a part of what was counted of a batch.
pub(super) fn counted(id: &BatchId, part: u32) -> Vec<u8> {
    let mut key = identity(Kind::Counted, id);
    key.extend(part.to_be_bytes());
    key
}

/// Reads [`counted`] back.
pub(super) fn parse_counted(key: &[u8]) -> Option<BatchId> {
    parse_identity(Kind::Counted, key.split_last_chunk::<4>()?.0)
}

/// Key of the note that a namespace was accepted, or all without one.
pub(super) fn acceptance(namespace: Option<&str>) -> Vec<u8> {
    let mut key = vec![Kind::Acceptance as u8];
    part(&mut key, namespace.unwrap_or_default());
    key
}

/// Key of a row of the view, which has a key of its own.
pub(super) fn view(key: &[u8]) -> Vec<u8> {
    [&[Kind::View as u8], key].concat()
}

/// What all keys of a kind, or of a kind in a namespace, begin with.
pub(super) fn prefix(kind: Kind, namespace: Option<&str>) -> Vec<u8> {
    let mut key = vec![kind as u8];
    if let Some(namespace) = namespace {
        part(&mut key, namespace);
    }
    key
}
