//! The saved view: the part of the cache that outlives a restart. It has the pods that have or had
//! addresses, and the endpoints that EndpointSlices have or have lost.
//!
//! Owns the form of the rows in the store, and what they mean after a restart. While no recorder
//! runs, an address may pass to another pod. An object that was saved and is missing in the first
//! list ended at some time between the two ([`EndTime::Between`]); in between, the owner of its
//! address is unknown unless more is known. The time while no recorder runs does not count towards
//! forgetting: afterwards agents send what they have spooled from before. Must never treat what is
//! recalled as present: the first list decides.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use foldhash::{HashMap, HashMapExt as _, HashSet, HashSetExt as _};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::super::former::FormerSlice;
use super::super::object::{IndexObject, ObjectKey};
use super::{CachedKind, CachedObject, DeletedPod, ObjectCache, PODS, WatchState};
use crate::clock::now;
use crate::cluster::objects::EndpointSlice;
use crate::cluster::{EndTime, PodBrief, Pool};
use crate::model::Time;

/// The kind that has endpoints.
const SLICES: &str = "EndpointSlice";
/// A watch delivers a change at most this much later.
const MAX_LAG_NANOS: i64 = 2_000_000_000;
/// Rows that are written in one step, which takes some hundred milliseconds.
const ROWS_AT_ONCE: usize = 2_000;

/// The version of an object that has ended: it does not change any more.
const ENDED: u64 = 0;

/// A row of the saved view: its key, and its content in JSON.
pub type ViewRow = (Vec<u8>, Vec<u8>);

/// The changes that bring the saved view up to date.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ViewChanges {
    /// Rows that are new or have changed.
    pub put: Vec<ViewRow>,
    /// Keys of rows to remove.
    pub remove: Vec<Vec<u8>>,
    /// The version that each written row has, by key.
    versions: Vec<(Vec<u8>, u64)>,
    /// Whether there are more changes, to be asked for after these are written.
    pub more: bool,
}

impl ViewChanges {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.put.is_empty() && self.remove.is_empty()
    }
}

/// The keys of all saved rows, each with the version of the object in it.
#[derive(Debug, Default)]
pub struct SavedView(HashMap<Vec<u8>, u64>);

impl SavedView {
    /// Records that the changes were written.
    pub fn written(&mut self, changes: ViewChanges) {
        for key in &changes.remove {
            self.0.remove(key);
        }
        self.0.extend(changes.versions);
    }
}

/// The content of a row. The names of variants and fields are stored.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum ViewRowContent<'a> {
    /// By kind: when all its other rows were last known to be up to date.
    Current(BTreeMap<Cow<'a, str>, Time>),
    /// A pod that has addresses, or had them until `ended`.
    Pod { pod: Cow<'a, PodBrief>, ended: Option<EndTime> },
    /// A slice as it is, or with `ended` the endpoints that it has lost.
    Slice { uid: Cow<'a, str>, slice: Cow<'a, EndpointSlice>, ended: Option<EndTime> },
}

impl ViewRowContent<'_> {
    fn key(&self) -> Vec<u8> {
        let (letter, namespace, name, uid, ended) = match self {
            Self::Current(_) => return b"c".to_vec(),
            Self::Pod { pod, ended } => (b'p', &*pod.namespace, &*pod.name, &*pod.uid, ended),
            Self::Slice { uid, slice, ended } => (
                b's',
                slice.metadata.namespace.as_str(),
                slice.metadata.name.as_str(),
                &**uid,
                ended,
            ),
        };
        // A zero byte can separate the three, since none of them contains one.
        let mut key = vec![letter];
        for part in [namespace, name, uid] {
            key.extend(part.as_bytes());
            key.push(0);
        }
        if let Some(ended) = ended {
            key.extend(ended.noticed().0.to_be_bytes());
        }
        key
    }
}

/// A row that may have to be written, and the version of its object.
type VersionedRow<'a> = (ViewRowContent<'a>, u64);

impl ObjectCache {
    /// Adds the saved rows of an earlier run, before anything is watched. Returns the saved view,
    /// and how many rows cannot be read.
    pub(in crate::view) fn recall(
        &mut self,
        rows: Vec<ViewRow>,
        pool: &mut Pool,
        at: Instant,
    ) -> (SavedView, usize) {
        let mut saved = SavedView(HashMap::with_capacity(rows.len()));
        let mut objects = Vec::with_capacity(rows.len());
        let mut unreadable = 0;
        let mut current = BTreeMap::new();
        for (key, text) in rows {
            match serde_json::from_slice(&text) {
                Ok(ViewRowContent::Current(times)) => current = times,
                Ok(row) => objects.push((key, row)),
                Err(_) => {
                    unreadable += 1;
                    // No object has this key, so the next write removes the row.
                    saved.0.insert(key, ENDED);
                }
            }
        }
        for kind in [PODS, SLICES] {
            if let Some(time) = current.get(kind) {
                self.recalled.insert(
                    kind,
                    CachedKind {
                        current: Some(*time),
                        recalled_from: Some(*time),
                        ..CachedKind::new()
                    },
                );
            }
        }
        let last_current = current.values().max().copied();
        for (key, row) in objects {
            let mut version = ENDED;
            match row {
                ViewRowContent::Pod { pod, ended: Some(ended) } => {
                    let pod = Arc::new(pod.into_owned().pooled(pool));
                    self.deleted.push(DeletedPod {
                        pod,
                        ended,
                        forget: at + self.remaining(ended, last_current),
                    });
                }
                ViewRowContent::Slice { slice, ended: Some(ended), .. } => {
                    let slice = Arc::new(pool.slice(slice.into_owned()));
                    self.former.recall(FormerSlice {
                        slice,
                        ended,
                        forget: at + self.remaining(ended, last_current),
                    });
                }
                ViewRowContent::Pod { pod, ended: None } => {
                    let pod = Arc::new(pod.into_owned().pooled(pool));
                    version = self.recall_object(PODS, Arc::clone(&pod.uid), IndexObject::Pod(pod));
                }
                ViewRowContent::Slice { uid, slice, ended: None } => {
                    let slice = Arc::new(pool.slice(slice.into_owned()));
                    version = self.recall_object(
                        SLICES,
                        Arc::from(uid.as_ref()),
                        IndexObject::Slice(slice),
                    );
                }
                ViewRowContent::Current(_) => {}
            }
            saved.0.insert(key, version);
        }
        (saved, unreadable)
    }

    /// Adds a saved object that had not ended, and returns its version.
    fn recall_object(&mut self, kind: &str, uid: Arc<str>, object: IndexObject) -> u64 {
        self.versions += 1;
        let version = self.versions;
        let key: ObjectKey = match &object {
            IndexObject::Pod(o) => (Arc::clone(&o.namespace), Arc::clone(&o.name)),
            IndexObject::Slice(o) => {
                (Arc::from(o.metadata.namespace.as_str()), Arc::from(o.metadata.name.as_str()))
            }
            _ => return version,
        };
        // A kind without `current` was never written completely: it is unknown when its rows were
        // up to date, so they are not used.
        if let Some(of) = self.recalled.get_mut(kind) {
            of.objects.insert(key, CachedObject { uid, object, version });
        }
        version
    }

    /// For how much longer an object is remembered that ended before the view was last up to date.
    fn remaining(&self, ended: EndTime, last_current: Option<Time>) -> Duration {
        let remembered = last_current.map_or(0, |l| l.since(ended.noticed()));
        self.horizon.saturating_sub(Duration::from_nanos(remembered))
    }

    /// The changes that bring the saved view up to date, at most `ROWS_AT_ONCE` of them.
    pub(in crate::view) fn changes(&mut self, saved: &SavedView) -> ViewChanges {
        let mut changes = ViewChanges::default();
        let mut times = BTreeMap::new();
        for kind in [PODS, SLICES] {
            let Some(of) = self.kinds.get_mut(kind) else { continue };
            if matches!(of.state, WatchState::Synced) {
                of.current = Some(
                    Time(now().0.saturating_sub(MAX_LAG_NANOS))
                        .max(of.current.unwrap_or(Time::MIN)),
                );
            }
            if let Some(current) = of.current {
                times.insert(Cow::Borrowed(kind), current);
            }
        }
        // Nothing was ever listed, so the saved rows are the best that is known.
        if times.is_empty() {
            return changes;
        }
        let mut stays = HashSet::with_capacity(saved.0.len());
        for (row, version) in self.rows() {
            let key = row.key();
            if saved.0.get(&key) != Some(&version) {
                changes.more |= changes.put.len() >= ROWS_AT_ONCE;
                if !changes.more {
                    changes
                        .put
                        .extend(serde_json::to_vec(&row).ok().map(|text| (key.clone(), text)));
                    changes.versions.push((key.clone(), version));
                }
            }
            stays.insert(key);
        }
        // The "ended" rows are all written before the "present" rows are removed, so that a crash
        // in between loses nothing.
        if !changes.more {
            let current = ViewRowContent::Current(times);
            let key = current.key();
            changes.remove = saved.0.keys().filter(|k| !stays.contains(*k)).cloned().collect();
            changes.remove.sort();
            changes.put.extend(serde_json::to_vec(&current).ok().map(|text| (key, text)));
        }
        changes
    }

    /// All rows of the saved view as they should be, those of ended objects first.
    fn rows(&self) -> impl Iterator<Item = VersionedRow<'_>> {
        let deleted = self.deleted.iter().map(|g| {
            (ViewRowContent::Pod { pod: Cow::Borrowed(&*g.pod), ended: Some(g.ended) }, ENDED)
        });
        let former = self.former.iter().map(|l| {
            let (uid, slice) = (Cow::Borrowed(""), Cow::Borrowed(&*l.slice));
            (ViewRowContent::Slice { uid, slice, ended: Some(l.ended) }, ENDED)
        });
        let present = [PODS, SLICES]
            .into_iter()
            .filter_map(|kind| self.kinds.get(kind))
            .flat_map(|of| of.objects.values());
        deleted.chain(former).chain(present.filter_map(|e| {
            let row = match &e.object {
                IndexObject::Pod(pod) if !pod.host_network && !pod.addresses.is_empty() => {
                    ViewRowContent::Pod { pod: Cow::Borrowed(&**pod), ended: None }
                }
                IndexObject::Slice(slice) => ViewRowContent::Slice {
                    uid: Cow::Borrowed(&*e.uid),
                    slice: Cow::Borrowed(&**slice),
                    ended: None,
                },
                _ => return None,
            };
            Some((row, e.version))
        }))
    }
}

#[cfg(test)]
mod tests;
