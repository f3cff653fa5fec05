//! What the view knows across restarts: who has the addresses, who had them, and what
//! EndpointSlices have and have lost.
//!
//! Owns the rows that a store keeps of it, and what they say after a restart. While nobody looks,
//! an address may pass on: what was there when somebody looked last, and is missing in the first
//! list, was over at some time between ([`EndTime::Between`]), and the time between is nobody's
//! unless more is known. What is remembered for a while is remembered for as long while somebody
//! looks: the time of absence does not count, for agents tell of what was before it when it is
//! over. Must never take what is recalled for what is there: the first list decides.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use foldhash::{HashMap, HashMapExt as _, HashSet, HashSetExt as _};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::super::former::Lost;
use super::super::object::{Key, Object};
use super::{Entry, Gone, Kind, Known, PODS, State};
use crate::clock::now;
use crate::cluster::objects::EndpointSlice;
use crate::cluster::{EndTime, PodBrief, Pool};
use crate::model::Time;

/// The kind that tells of endpoints.
const SLICES: &str = "EndpointSlice";
/// A watch tells this much later, at the most, what has changed.
const LAG: i64 = 2_000_000_000;
/// Rows that are written together: in some hundred milliseconds.
const TOGETHER: usize = 2_000;

/// In place of a version: what has ended does not change.
const ENDED: u64 = 0;

/// A row of a store: key and text.
pub type Row = (Vec<u8>, Vec<u8>);

/// What is to be written for the store to hold what the view knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Rows that are new or others.
    pub put: Vec<Row>,
    /// Keys of rows that go.
    pub remove: Vec<Vec<u8>>,
    /// What they hold then, by key.
    versions: Vec<(Vec<u8>, u64)>,
    /// More is to be written.
    pub more: bool,
}

impl Changes {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.put.is_empty() && self.remove.is_empty()
    }
}

/// Which rows a store holds, by key; with the version that they hold.
#[derive(Debug, Default)]
pub struct Noted(HashMap<Vec<u8>, u64>);

impl Noted {
    /// The changes are written.
    pub fn written(&mut self, changes: Changes) {
        for key in &changes.remove {
            self.0.remove(key);
        }
        self.0.extend(changes.versions);
    }
}

/// What a row says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Note<'a> {
    /// When all other rows of a kind were known to be true.
    Current(BTreeMap<Cow<'a, str>, Time>),
    /// A pod that has addresses, or had them.
    Pod { pod: Cow<'a, PodBrief>, ended: Option<EndTime> },
    /// A slice as it is, or what it has lost.
    Slice { uid: Cow<'a, str>, slice: Cow<'a, EndpointSlice>, ended: Option<EndTime> },
}

impl Note<'_> {
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
        // None of the three holds a zero.
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

/// A note that may have to be written, and the version of what it says.
type Versioned<'a> = (Note<'a>, u64);

impl Known {
    /// Takes up what rows tell of an earlier run, before anything is watched. With what the store
    /// holds, and how many rows cannot be read.
    pub(in crate::view) fn recall(
        &mut self,
        rows: Vec<Row>,
        pool: &mut Pool,
        at: Instant,
    ) -> (Noted, usize) {
        let mut noted = Noted(HashMap::with_capacity(rows.len()));
        let mut notes = Vec::with_capacity(rows.len());
        let mut unreadable = 0;
        let mut current = BTreeMap::new();
        for (key, text) in rows {
            match serde_json::from_slice(&text) {
                Ok(Note::Current(times)) => current = times,
                Ok(note) => notes.push((key, note)),
                Err(_) => {
                    unreadable += 1;
                    // It goes with the next write.
                    noted.0.insert(key, ENDED);
                }
            }
        }
        for kind in [PODS, SLICES] {
            if let Some(time) = current.get(kind) {
                self.recalled
                    .insert(kind, Kind { current: Some(*time), away: Some(*time), ..Kind::new() });
            }
        }
        let looked = current.values().max().copied();
        for (key, note) in notes {
            let mut version = ENDED;
            match note {
                Note::Pod { pod, ended: Some(ended) } => {
                    let pod = Arc::new(pod.into_owned().pooled(pool));
                    self.gone.push(Gone { pod, ended, forget: at + self.left(ended, looked) });
                }
                Note::Slice { slice, ended: Some(ended), .. } => {
                    let slice = Arc::new(pool.slice(slice.into_owned()));
                    self.former.recall(Lost {
                        slice,
                        ended,
                        forget: at + self.left(ended, looked),
                    });
                }
                Note::Pod { pod, ended: None } => {
                    let pod = Arc::new(pod.into_owned().pooled(pool));
                    version = self.recall_object(PODS, Arc::clone(&pod.uid), Object::Pod(pod));
                }
                Note::Slice { uid, slice, ended: None } => {
                    let slice = Arc::new(pool.slice(slice.into_owned()));
                    version =
                        self.recall_object(SLICES, Arc::from(uid.as_ref()), Object::Slice(slice));
                }
                Note::Current(_) => {}
            }
            noted.0.insert(key, version);
        }
        (noted, unreadable)
    }

    fn recall_object(&mut self, kind: &str, uid: Arc<str>, object: Object) -> u64 {
        self.versions += 1;
        let version = self.versions;
        let key: Key = match &object {
            Object::Pod(o) => (Arc::clone(&o.namespace), Arc::clone(&o.name)),
            Object::Slice(o) => {
                (Arc::from(o.metadata.namespace.as_str()), Arc::from(o.metadata.name.as_str()))
            }
            _ => return version,
        };
        // Of a kind that was never written whole, nobody knows when its rows were true.
        if let Some(of) = self.recalled.get_mut(kind) {
            of.objects.insert(key, Entry { uid, object, version });
        }
        version
    }

    /// For how long something is to be remembered that ended when somebody still looked.
    fn left(&self, ended: EndTime, looked: Option<Time>) -> Duration {
        let remembered = looked.map_or(0, |l| l.since(ended.noticed()));
        self.horizon.saturating_sub(Duration::from_nanos(remembered))
    }

    /// What is to be written for a store to hold what is known, at the most so much at once.
    pub(in crate::view) fn changes(&mut self, noted: &Noted) -> Changes {
        let mut changes = Changes::default();
        let mut times = BTreeMap::new();
        for kind in [PODS, SLICES] {
            let Some(of) = self.kinds.get_mut(kind) else { continue };
            if matches!(of.state, State::Synced) {
                of.current =
                    Some(Time(now().0.saturating_sub(LAG)).max(of.current.unwrap_or(Time::MIN)));
            }
            if let Some(current) = of.current {
                times.insert(Cow::Borrowed(kind), current);
            }
        }
        // Nothing was ever listed: there is nothing to know better.
        if times.is_empty() {
            return changes;
        }
        let mut stays = HashSet::with_capacity(noted.0.len());
        for (note, version) in self.notes() {
            let key = note.key();
            if noted.0.get(&key) != Some(&version) {
                changes.more |= changes.put.len() >= TOGETHER;
                if !changes.more {
                    changes
                        .put
                        .extend(serde_json::to_vec(&note).ok().map(|text| (key.clone(), text)));
                    changes.versions.push((key.clone(), version));
                }
            }
            stays.insert(key);
        }
        // What ended is not forgotten as being there before it is written as having ended.
        if !changes.more {
            let current = Note::Current(times);
            let key = current.key();
            changes.remove = noted.0.keys().filter(|k| !stays.contains(*k)).cloned().collect();
            changes.remove.sort();
            changes.put.extend(serde_json::to_vec(&current).ok().map(|text| (key, text)));
        }
        changes
    }

    /// All that is worth a row, what has ended first.
    fn notes(&self) -> impl Iterator<Item = Versioned<'_>> {
        let gone = self
            .gone
            .iter()
            .map(|g| (Note::Pod { pod: Cow::Borrowed(&*g.pod), ended: Some(g.ended) }, ENDED));
        let former = self.former.iter().map(|l| {
            let (uid, slice) = (Cow::Borrowed(""), Cow::Borrowed(&*l.slice));
            (Note::Slice { uid, slice, ended: Some(l.ended) }, ENDED)
        });
        let there = [PODS, SLICES]
            .into_iter()
            .filter_map(|kind| self.kinds.get(kind))
            .flat_map(|of| of.objects.values());
        gone.chain(former).chain(there.filter_map(|e| {
            let note = match &e.object {
                Object::Pod(pod) if !pod.host_network && !pod.addresses.is_empty() => {
                    Note::Pod { pod: Cow::Borrowed(&**pod), ended: None }
                }
                Object::Slice(slice) => Note::Slice {
                    uid: Cow::Borrowed(&*e.uid),
                    slice: Cow::Borrowed(&**slice),
                    ended: None,
                },
                _ => return None,
            };
            Some((note, e.version))
        }))
    }
}

#[cfg(test)]
mod tests;
