//! Keys of rows: ordered by kind, then namespace, kind and name of the workload, so that the rows
//! of a namespace are one range.
//!
//! Owns their bytes. Must never change those of a kind that is stored.

use crate::model::{Alert, BatchId, Record, WorkloadId};

/// The kind of a row: the first byte of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum RowKind {
    Workload = b'w',
    /// One dependency, in stores of schema 1.
    Dependency = b'd',
    /// Some dependencies of a workload.
    Page = b'c',
    Watch = b'p',
    Lookups = b'l',
    Source = b's',
    Batch = b'b',
    /// A piece of a queued batch.
    Queued = b'q',
    /// What was accepted of a workload.
    Baseline = b'n',
    Alert = b'a',
    /// That a namespace, or everything, was accepted as a whole.
    Acceptance = b'g',
    /// Connections that a batch counted.
    Counted = b'f',
    /// A row of the saved view.
    SavedView = b'v',
    /// Lines about pods that the cluster does not know.
    Unverified = b'u',
    /// Counts and a checksum of all rows.
    Seal = b'z',
}

impl RowKind {
    /// Whether rows of the kind with this first byte are transient: fewer of them are no damage.
    pub fn is_transient(first: u8) -> bool {
        let transient =
            [Self::Batch, Self::Queued, Self::Alert, Self::SavedView, Self::Unverified, Self::Seal];
        transient.iter().any(|kind| *kind as u8 == first)
    }
}

/// Appends a text to a key. 0 ends it, and 0 and 1 within it are escaped by 1, so that no text runs
/// into the next one, and keys are in the order of their texts.
fn append(key: &mut Vec<u8>, text: &str) {
    for b in text.bytes() {
        if b <= 1 {
            key.extend([1, b + 1]);
        } else {
            key.push(b);
        }
    }
    key.push(0);
}

/// Prefix of the keys of all rows of a kind of one workload.
pub(super) fn of_workload(kind: RowKind, id: &WorkloadId) -> Vec<u8> {
    let mut key = vec![kind as u8];
    append(&mut key, &id.namespace);
    append(&mut key, &id.kind);
    append(&mut key, &id.name);
    key
}

/// Key of a record's row.
pub(super) fn record(record: &Record) -> Vec<u8> {
    match record {
        Record::Workload(w) => of_workload(RowKind::Workload, &w.id),
        Record::Watch(w) => {
            let mut key = of_workload(RowKind::Watch, &w.workload);
            append(&mut key, &w.pod);
            key
        }
        Record::Lookups(l) => {
            let mut key = of_workload(RowKind::Lookups, &l.workload);
            append(&mut key, &l.host);
            key
        }
        Record::Source(s) => {
            let mut key = vec![RowKind::Source as u8];
            append(&mut key, &s.source);
            key
        }
        // Dependencies share rows: see [`page`].
        Record::Dependency(d) => page(&d.key.workload, 0),
    }
}

/// Key of a page of dependencies.
pub(super) fn page(workload: &WorkloadId, number: u32) -> Vec<u8> {
    let mut key = of_workload(RowKind::Page, workload);
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
    key.first() == Some(&(RowKind::Page as u8))
}

/// Number of the page that has this key.
pub(super) fn page_number(key: &[u8]) -> u32 {
    key.last_chunk().map_or(0, |n| u32::from_be_bytes(*n))
}

/// Key of an alert: what makes two of them the same.
pub(super) fn alert(alert: &Alert) -> Vec<u8> {
    let mut key = of_workload(RowKind::Alert, &alert.workload);
    append(&mut key, alert.kind.name());
    if let Some(destination) = &alert.destination {
        // As JSON: two destinations may have the same text.
        append(&mut key, &serde_json::to_string(destination).unwrap_or_default());
    }
    key.extend(alert.port.to_be_bytes());
    key.push(alert.protocol.map_or(0, |p| 1 + p as u8));
    key
}

fn identity(kind: RowKind, id: &BatchId) -> Vec<u8> {
    let mut key = vec![kind as u8];
    append(&mut key, &id.source);
    key.extend(id.sequence.to_be_bytes());
    key
}

fn parse_identity(kind: RowKind, key: &[u8]) -> Option<BatchId> {
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

/// Key of the mark that a batch is merged, and all before it of its source.
pub(super) fn batch(id: &BatchId) -> Vec<u8> {
    identity(RowKind::Batch, id)
}

/// Prefix of the keys of all batches whose source begins with this.
pub(super) fn prefix_of_source(source: &str) -> Vec<u8> {
    let mut key = vec![RowKind::Batch as u8];
    append(&mut key, source);
    key.pop();
    key
}

/// Reads [`batch`] back.
pub(super) fn parse_batch(key: &[u8]) -> Option<BatchId> {
    parse_identity(RowKind::Batch, key)
}

/// Prefix of the keys of all pieces of a queued batch.
pub(super) fn of_queued(id: &BatchId) -> Vec<u8> {
    identity(RowKind::Queued, id)
}

/// Key of a piece of a queued batch.
pub(super) fn queued(id: &BatchId, piece: u32) -> Vec<u8> {
    let mut key = of_queued(id);
    key.extend(piece.to_be_bytes());
    key
}

/// Reads [`queued`] back.
pub(super) fn parse_queued(key: &[u8]) -> Option<BatchId> {
    parse_identity(RowKind::Queued, key.split_last_chunk::<4>()?.0)
}

/// Prefix of the keys of all rows of the unverified lines of a batch.
pub(super) fn of_unverified(id: &BatchId) -> Vec<u8> {
    identity(RowKind::Unverified, id)
}

/// Key of a row of the unverified lines of a batch: their summary (0), and the pieces of the lines
/// (from 1).
pub(super) fn unverified(id: &BatchId, piece: u32) -> Vec<u8> {
    let mut key = of_unverified(id);
    key.extend(piece.to_be_bytes());
    key
}

/// Key of some of the connections that a batch counted.
pub(super) fn counted(id: &BatchId, piece: u32) -> Vec<u8> {
    let mut key = identity(RowKind::Counted, id);
    key.extend(piece.to_be_bytes());
    key
}

/// Whether a key ends in piece 0, which each batch has.
pub(super) fn is_first_piece(key: &[u8]) -> bool {
    key.last_chunk() == Some(&[0u8; 4])
}

/// Reads [`counted`] back.
pub(super) fn parse_counted(key: &[u8]) -> Option<BatchId> {
    parse_identity(RowKind::Counted, key.split_last_chunk::<4>()?.0)
}

/// Key of the acceptance of a namespace, or of everything without one.
pub(super) fn acceptance(namespace: Option<&str>) -> Vec<u8> {
    let mut key = vec![RowKind::Acceptance as u8];
    append(&mut key, namespace.unwrap_or_default());
    key
}

/// Key of a row of the saved view, by the view's own key for it.
pub(super) fn saved_view(key: &[u8]) -> Vec<u8> {
    [&[RowKind::SavedView as u8], key].concat()
}

/// Prefix of all keys of a kind, or of a kind in a namespace.
pub(super) fn prefix(kind: RowKind, namespace: Option<&str>) -> Vec<u8> {
    let mut key = vec![kind as u8];
    if let Some(namespace) = namespace {
        append(&mut key, namespace);
    }
    key
}
