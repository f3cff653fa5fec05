//! The cache of what the watches have delivered, with deleted pods and former endpoints.
//!
//! Owns the objects and the state of each kind's watch. Each function that changes something
//! returns whether the indexes have to be built again. Must never decide what an object means.

pub(super) mod recall;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::controllers::FormerControllers;
use super::former::FormerEndpoints;
use super::object::{IndexObject, ObjectKey, ObjectVersion};
use super::status::{KindStatus, PODS, ViewStatus};
use crate::clock::now;
use crate::cluster::objects::EndpointSlice;
use crate::cluster::{ClusterBuilder, ControllerBrief, EndTime, PodBrief};
use crate::model::Time;

/// The objects of all watched kinds.
#[derive(Debug, Default)]
pub(super) struct ObjectCache {
    kinds: BTreeMap<&'static str, CachedKind>,
    deleted: Vec<DeletedPod>,
    former: FormerEndpoints,
    controllers: FormerControllers,
    /// Versions of objects that could not be read.
    broken: u64,
    /// How long deleted pods and controllers and former endpoints are remembered.
    horizon: Duration,
    /// The last version number that was given to an object.
    versions: u64,
    /// Objects that an earlier run has saved, of kinds that are not watched yet.
    recalled: BTreeMap<&'static str, CachedKind>,
}

/// The objects of one kind, and the state of its watch.
#[derive(Debug)]
struct CachedKind {
    state: WatchState,
    objects: BTreeMap<ObjectKey, CachedObject>,
    /// When the objects were last known to be up to date.
    current: Option<Time>,
    /// While all objects are from an earlier run: when they were last up to date.
    recalled_from: Option<Time>,
}

impl CachedKind {
    fn new() -> Self {
        Self {
            state: WatchState::Listing,
            objects: BTreeMap::new(),
            current: None,
            recalled_from: None,
        }
    }

    /// When an object ended that is missing now.
    fn ended(&self) -> EndTime {
        match self.recalled_from {
            Some(last) => EndTime::Between(last.min(now()), now()),
            None => EndTime::By(now()),
        }
    }

    /// The number of objects in a namespace, or of all.
    fn count(&self, namespace: Option<&str>) -> usize {
        let Some(namespace) = namespace else { return self.objects.len() };
        let from = (Arc::from(namespace), Arc::from(""));
        self.objects.range(from..).take_while(|((of, _), _)| **of == *namespace).count()
    }
}

#[derive(Debug)]
struct CachedObject {
    uid: Arc<str>,
    object: IndexObject,
    /// A new number whenever the object changes in a field that the indexes read.
    version: u64,
}

/// The state of the watch of a kind.
#[derive(Debug)]
pub(super) enum WatchState {
    Listing,
    Synced,
    Absent,
    Forbidden(String),
    Failing {
        why: String,
        /// Since when there was no success.
        since: Instant,
        /// Whether the kind counted as synced before it failed.
        was_synced: bool,
    },
}

impl WatchState {
    pub(super) fn failing(why: String) -> Self {
        Self::Failing { why, since: Instant::now(), was_synced: false }
    }

    /// Whether the view need not wait for this kind. It does not wait for a kind that is absent or
    /// forbidden, except for pods: without pods nothing can be attributed.
    fn counts_as_synced(&self, kind: &str) -> bool {
        match self {
            Self::Synced => true,
            Self::Absent | Self::Forbidden(_) => kind != PODS,
            Self::Listing => false,
            Self::Failing { was_synced, .. } => *was_synced,
        }
    }
}

/// A pod that was deleted, or that has other addresses now.
#[derive(Debug)]
struct DeletedPod {
    pod: Arc<PodBrief>,
    ended: EndTime,
    forget: Instant,
}

/// What indexes are built from.
#[derive(Debug)]
pub(super) struct IndexInput {
    /// Deleted controllers. Those that exist replace them.
    controllers: Vec<(Arc<str>, Arc<ControllerBrief>)>,
    objects: Vec<(&'static str, IndexObject)>,
    deleted: Vec<(Arc<PodBrief>, EndTime)>,
    former: Vec<(Arc<EndpointSlice>, EndTime)>,
    /// Whether all kinds count as synced.
    pub synced: bool,
    /// When a deleted pod or a former endpoint is to be forgotten next.
    pub forget: Option<Instant>,
}

impl IndexInput {
    /// Adds everything to the indexes.
    pub(super) fn feed(self, builder: &mut ClusterBuilder) {
        for (kind, controller) in self.controllers {
            builder.shared_controller(&kind, controller);
        }
        for (pod, ended) in self.deleted {
            builder.brief(pod, Some(ended));
        }
        for (slice, ended) in self.former {
            builder.shared_slice(slice, Some(ended));
        }
        for (kind, object) in self.objects {
            object.feed(kind, builder);
        }
    }
}

impl ObjectCache {
    /// An empty cache that remembers deleted pods and former endpoints for this long.
    pub(super) fn new(horizon: Duration) -> Self {
        Self { horizon, ..Self::default() }
    }

    /// Adds a kind that will be watched, with what an earlier run has saved of it.
    pub(super) fn expect(&mut self, kind: &'static str) {
        let recalled = self.recalled.remove(kind);
        self.kinds.insert(kind, recalled.unwrap_or_else(CachedKind::new));
    }

    /// Sets the state of a kind after an error. Its objects stay.
    pub(super) fn set_state(&mut self, kind: &str, state: WatchState) -> bool {
        let Some(of) = self.kinds.get_mut(kind) else { return false };
        let before = of.state.counts_as_synced(kind);
        of.state = match (state, &of.state) {
            (WatchState::Failing { why, .. }, WatchState::Failing { since, was_synced, .. }) => {
                WatchState::Failing { why, since: *since, was_synced: *was_synced }
            }
            (WatchState::Failing { why, since, .. }, _) => {
                WatchState::Failing { why, since, was_synced: before }
            }
            (state, _) => state,
        };
        of.state.counts_as_synced(kind) != before
    }

    /// Whether a kind is in the same state already, whatever the reason.
    pub(super) fn is_in_state(&self, kind: &str, state: &WatchState) -> bool {
        self.kinds
            .get(kind)
            .is_some_and(|of| std::mem::discriminant(&of.state) == std::mem::discriminant(state))
    }

    /// Takes a complete list of a kind: an object that is not in it was deleted.
    pub(super) fn replace(&mut self, kind: &str, listed: Vec<ObjectVersion>) -> bool {
        let Some(of) = self.kinds.get_mut(kind) else { return false };
        if let WatchState::Failing { since, .. } = &of.state {
            tracing::info!(kind, "watched again after {} s", since.elapsed().as_secs());
        }
        // While the view waits for this kind, even an empty list is a change.
        let mut changed = !of.state.counts_as_synced(kind);
        of.state = WatchState::Synced;
        let present: BTreeSet<&ObjectKey> = listed.iter().map(|s| &s.key).collect();
        let vanished: Vec<ObjectKey> =
            of.objects.keys().filter(|key| !present.contains(key)).cloned().collect();
        for key in vanished {
            if let Some(entry) = of.objects.remove(&key) {
                changed = true;
                let ended = of.ended();
                self.former.add_lost(&entry.object, None, ended, self.horizon);
                self.controllers.add(kind, &entry.object, self.horizon);
                retire(&mut self.deleted, entry, ended, self.horizon);
            }
        }
        for seen in listed {
            changed |= self.put(kind, seen);
        }
        if let Some(of) = self.kinds.get_mut(kind) {
            of.recalled_from = None;
        }
        changed
    }

    /// Returns the cached object in place of an equal one, so that a list takes no memory beside
    /// the cache.
    pub(super) fn reuse_known(&self, kind: &str, seen: ObjectVersion) -> ObjectVersion {
        let known = self.kinds.get(kind).and_then(|of| of.objects.get_key_value(&seen.key));
        match known {
            Some((key, entry))
                if entry.uid == seen.uid
                    && seen.object.as_ref().is_ok_and(|o| *o == entry.object) =>
            {
                ObjectVersion {
                    key: key.clone(),
                    uid: Arc::clone(&entry.uid),
                    object: Ok(entry.object.clone()),
                }
            }
            _ => seen,
        }
    }

    /// Adds a new object, or a new version of one.
    pub(super) fn put(&mut self, kind: &str, seen: ObjectVersion) -> bool {
        let Some(of) = self.kinds.get_mut(kind) else { return false };
        let ended = of.ended();
        let ObjectVersion { key, uid, object } = seen;
        let object = match object {
            Ok(object) => object,
            Err(why) => {
                self.broken += 1;
                tracing::warn!(
                    kind,
                    namespace = &*key.0,
                    name = &*key.1,
                    "cannot be read and is left as it was: {why}"
                );
                // If the cache has an older object of the same name, that one was deleted.
                if of.objects.get(&key).is_none_or(|old| old.uid == uid) {
                    return false;
                }
                if let Some(old) = of.objects.remove(&key) {
                    self.former.add_lost(&old.object, None, ended, self.horizon);
                    self.controllers.add(kind, &old.object, self.horizon);
                    retire(&mut self.deleted, old, ended, self.horizon);
                }
                return true;
            }
        };
        let old = of.objects.remove(&key);
        let object = old
            .as_ref()
            .filter(|old| old.uid == uid)
            .map_or(object.clone(), |old| with_old_addresses(object, &old.object));
        // Most versions only renew a heartbeat or a count, which no index contains.
        let changed = old.as_ref().is_none_or(|old| old.uid != uid || old.object != object);
        let version = match &old {
            Some(old) if !changed => old.version,
            _ => {
                self.versions += 1;
                self.versions
            }
        };
        if let Some(old) = &old {
            self.former.add_lost(&old.object, Some(&object), ended, self.horizon);
        }
        if let Some(old) = old.filter(|old| old.uid != uid || lost_address(&old.object, &object)) {
            retire(&mut self.deleted, old, ended, self.horizon);
        }
        if let IndexObject::Pod(pod) = &object {
            // The pod exists after all: a list may be older than a deletion that came before it.
            self.deleted
                .retain(|g| g.pod.uid != uid || uid.is_empty() || g.pod.addresses != pod.addresses);
        }
        of.objects.insert(key, CachedObject { uid, object, version });
        changed
    }

    /// Removes an object that was deleted; `seen` is its last version.
    pub(super) fn delete(&mut self, kind: &str, seen: ObjectVersion) -> bool {
        let Some(of) = self.kinds.get_mut(kind) else { return false };
        // The cache may already have a later object of this name.
        if of.objects.get(&seen.key).is_none_or(|known| known.uid != seen.uid) {
            return false;
        }
        if let Some(mut entry) = of.objects.remove(&seen.key) {
            let ended = of.ended();
            self.former.add_lost(&entry.object, None, ended, self.horizon);
            self.controllers.add(kind, &entry.object, self.horizon);
            // The last version has the time at which the containers ended.
            if let Ok(last) = seen.object {
                let last = with_old_addresses(last, &entry.object);
                if !lost_address(&entry.object, &last) {
                    entry.object = last;
                }
            }
            retire(&mut self.deleted, entry, ended, self.horizon);
        }
        true
    }

    /// What the indexes are built from now. Forgets what is due to be forgotten.
    pub(super) fn input(&mut self, at: Instant) -> IndexInput {
        self.deleted.retain(|g| g.forget > at);
        self.former.forget(at);
        self.controllers.forget(at);
        let all = self
            .kinds
            .iter()
            .flat_map(|(kind, of)| of.objects.values().map(|e| (*kind, e.object.clone())));
        IndexInput {
            controllers: self.controllers.all(),
            objects: all.collect(),
            deleted: self.deleted.iter().map(|g| (Arc::clone(&g.pod), g.ended)).collect(),
            synced: self.kinds.iter().all(|(kind, of)| of.state.counts_as_synced(kind)),
            former: self.former.all(),
            forget: self.deleted.iter().map(|g| g.forget).chain(self.former.next()).min(),
        }
    }

    /// The state of all kinds. Objects are counted in one namespace, or in all.
    pub(super) fn status(&self, namespace: Option<&str>, at: Instant) -> ViewStatus {
        let mut status = ViewStatus { broken: self.broken, ..ViewStatus::default() };
        for (kind, of) in &self.kinds {
            let objects = of.count(namespace);
            let kind_status = match &of.state {
                WatchState::Listing => KindStatus::Listing,
                WatchState::Synced => KindStatus::Synced { objects },
                WatchState::Absent => KindStatus::Absent,
                WatchState::Forbidden(why) => KindStatus::Forbidden(why.clone()),
                WatchState::Failing { why, since, .. } => {
                    let behind = at.saturating_duration_since(*since);
                    status.behind = status.behind.max(Some(behind));
                    KindStatus::Failing { why: why.clone(), behind, objects }
                }
            };
            status.kinds.insert((*kind).to_owned(), kind_status);
        }
        status
    }
}

impl FormerEndpoints {
    /// Adds the endpoints that an object has lost with its new version or its deletion, if it is a
    /// slice.
    fn add_lost(
        &mut self,
        old: &IndexObject,
        new: Option<&IndexObject>,
        ended: EndTime,
        horizon: Duration,
    ) {
        let forget = Instant::now() + horizon;
        match (old, new) {
            (IndexObject::Slice(old), Some(IndexObject::Slice(new))) => {
                self.add(old, Some(new), ended, forget)
            }
            (IndexObject::Slice(old), _) => self.add(old, None, ended, forget),
            _ => {}
        }
    }
}

/// Remembers a pod, since some of its packets may still have to be attributed.
fn retire(deleted: &mut Vec<DeletedPod>, entry: CachedObject, ended: EndTime, horizon: Duration) {
    if let IndexObject::Pod(pod) = entry.object
        && !pod.host_network
        && !pod.addresses.is_empty()
    {
        deleted.push(DeletedPod { pod, ended, forget: Instant::now() + horizon });
    }
}

/// Gives a pod without addresses those of its old version. A pod that has ended may lose its
/// addresses in the API before it is deleted, and what it sent before must still be attributed.
fn with_old_addresses(object: IndexObject, old: &IndexObject) -> IndexObject {
    match (object, old) {
        (IndexObject::Pod(pod), IndexObject::Pod(old)) if pod.addresses.is_empty() => {
            let mut pod = Arc::unwrap_or_clone(pod);
            pod.addresses = Arc::clone(&old.addresses);
            IndexObject::Pod(Arc::new(pod))
        }
        (object, _) => object,
    }
}

/// Whether a pod no longer has an address that it had: a new sandbox gets new addresses.
fn lost_address(old: &IndexObject, new: &IndexObject) -> bool {
    match (old, new) {
        (IndexObject::Pod(old), IndexObject::Pod(new)) => {
            old.addresses.iter().any(|a| !new.addresses.contains(a))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
