//! What the watches have told so far, deleted pods included.

pub(super) mod recall;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::former::Former;
use super::object::{Key, Object, Seen};
use super::status::{KindStatus, PODS, Status};
use crate::clock::now;
use crate::cluster::objects::EndpointSlice;
use crate::cluster::{ClusterBuilder, EndTime, PodBrief};
use crate::model::Time;

/// Everything known.
#[derive(Debug, Default)]
pub(super) struct Known {
    kinds: BTreeMap<&'static str, Kind>,
    gone: Vec<Gone>,
    former: Former,
    broken: u64,
    /// How long it remembers what is gone.
    horizon: Duration,
    /// Versions given so far.
    versions: u64,
    /// What an earlier run knew of kinds that are not watched yet.
    recalled: BTreeMap<&'static str, Kind>,
}

#[derive(Debug)]
struct Kind {
    state: State,
    objects: BTreeMap<Key, Entry>,
    /// When it was last known to be as it is told here.
    current: Option<Time>,
    /// All that is told here is from an earlier run, of that time.
    away: Option<Time>,
}

impl Kind {
    fn new() -> Self {
        Self { state: State::Listing, objects: BTreeMap::new(), current: None, away: None }
    }

    /// When something was over that is missing now.
    fn ended(&self) -> EndTime {
        match self.away {
            Some(known) => EndTime::Between(known.min(now()), now()),
            None => EndTime::By(now()),
        }
    }

    /// Objects in a namespace, or all.
    fn count(&self, namespace: Option<&str>) -> usize {
        let Some(namespace) = namespace else { return self.objects.len() };
        let from = (Arc::from(namespace), Arc::from(""));
        self.objects.range(from..).take_while(|((of, _), _)| **of == *namespace).count()
    }
}

#[derive(Debug)]
struct Entry {
    uid: Arc<str>,
    object: Object,
    /// Another one whenever something of it changes that the indexes read.
    version: u64,
}

/// How a kind does.
#[derive(Debug)]
pub(super) enum State {
    Listing,
    Synced,
    Absent,
    Forbidden(String),
    /// Why, and since when it does without a success in between.
    Failing {
        why: String,
        since: Instant,
        /// Whether nobody waits for it: it was listed before, or could not be.
        settled: bool,
    },
}

impl State {
    pub(super) fn failing(why: String) -> Self {
        Self::Failing { why, since: Instant::now(), settled: false }
    }

    /// Whether nothing is missing that can be had. Pods can be missing for no reason: without them
    /// nothing is anybody's.
    fn settled(&self, kind: &str) -> bool {
        match self {
            Self::Synced => true,
            Self::Absent | Self::Forbidden(_) => kind != PODS,
            Self::Listing => false,
            Self::Failing { settled, .. } => *settled,
        }
    }
}

/// A pod that was deleted, or that gave up its addresses.
#[derive(Debug)]
struct Gone {
    pod: Arc<PodBrief>,
    ended: EndTime,
    forget: Instant,
}

/// What the indexes are made of.
#[derive(Debug)]
pub(super) struct Input {
    objects: Vec<(&'static str, Object)>,
    gone: Vec<(Arc<PodBrief>, EndTime)>,
    former: Vec<(Arc<EndpointSlice>, EndTime)>,
    /// Nothing is missing that can be had.
    pub settled: bool,
    /// When a deleted pod is forgotten next.
    pub forget: Option<Instant>,
}

impl Input {
    pub(super) fn feed(self, builder: &mut ClusterBuilder) {
        for (pod, ended) in self.gone {
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

/// Each function that changes something says whether the indexes have to be built anew.
impl Known {
    /// Remembers what is gone for so long.
    pub(super) fn new(horizon: Duration) -> Self {
        Self { horizon, ..Self::default() }
    }

    /// A kind that will be watched.
    pub(super) fn expect(&mut self, kind: &'static str) {
        let recalled = self.recalled.remove(kind);
        self.kinds.insert(kind, recalled.unwrap_or_else(Kind::new));
    }

    /// A kind's state after an error. What is known of it stays.
    pub(super) fn set(&mut self, kind: &str, state: State) -> bool {
        let Some(of) = self.kinds.get_mut(kind) else { return false };
        let before = of.state.settled(kind);
        of.state = match (state, &of.state) {
            (State::Failing { why, .. }, State::Failing { since, settled, .. }) => {
                State::Failing { why, since: *since, settled: *settled }
            }
            (State::Failing { why, since, .. }, _) => {
                State::Failing { why, since, settled: before }
            }
            (state, _) => state,
        };
        of.state.settled(kind) != before
    }

    /// Whether a kind is in such a state already, whatever the reason.
    pub(super) fn is(&self, kind: &str, state: &State) -> bool {
        self.kinds
            .get(kind)
            .is_some_and(|of| std::mem::discriminant(&of.state) == std::mem::discriminant(state))
    }

    /// A complete list: what is not in it was deleted.
    pub(super) fn replace(&mut self, kind: &str, listed: Vec<Seen>) -> bool {
        let Some(of) = self.kinds.get_mut(kind) else { return false };
        if let State::Failing { since, .. } = &of.state {
            tracing::info!(kind, "watched again after {} s", since.elapsed().as_secs());
        }
        // Even an empty list is news as long as it is awaited.
        let mut changed = !of.state.settled(kind);
        of.state = State::Synced;
        let present: BTreeSet<&Key> = listed.iter().map(|s| &s.key).collect();
        let vanished: Vec<Key> =
            of.objects.keys().filter(|key| !present.contains(key)).cloned().collect();
        for key in vanished {
            if let Some(entry) = of.objects.remove(&key) {
                changed = true;
                let ended = of.ended();
                self.former.part(&entry.object, None, ended, self.horizon);
                retire(&mut self.gone, entry, ended, self.horizon);
            }
        }
        for seen in listed {
            changed |= self.put(kind, seen);
        }
        if let Some(of) = self.kinds.get_mut(kind) {
            of.away = None;
        }
        changed
    }

    /// An object as it is known already, where it is: a list must not stand in memory beside what
    /// is known.
    pub(super) fn familiar(&self, kind: &str, seen: Seen) -> Seen {
        let known = self.kinds.get(kind).and_then(|of| of.objects.get_key_value(&seen.key));
        match known {
            Some((key, entry))
                if entry.uid == seen.uid
                    && seen.object.as_ref().is_ok_and(|o| *o == entry.object) =>
            {
                Seen {
                    key: key.clone(),
                    uid: Arc::clone(&entry.uid),
                    object: Ok(entry.object.clone()),
                }
            }
            _ => seen,
        }
    }

    /// A new object, or a new version of one.
    pub(super) fn put(&mut self, kind: &str, seen: Seen) -> bool {
        let Some(of) = self.kinds.get_mut(kind) else { return false };
        let ended = of.ended();
        let Seen { key, uid, object } = seen;
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
                // What was known of another object of this name is over.
                if of.objects.get(&key).is_none_or(|old| old.uid == uid) {
                    return false;
                }
                if let Some(old) = of.objects.remove(&key) {
                    self.former.part(&old.object, None, ended, self.horizon);
                    retire(&mut self.gone, old, ended, self.horizon);
                }
                return true;
            }
        };
        let old = of.objects.remove(&key);
        let object = old
            .as_ref()
            .filter(|old| old.uid == uid)
            .map_or(object.clone(), |old| keep_addresses(object, &old.object));
        // Most versions only renew a heartbeat or a count, which no index holds.
        let changed = old.as_ref().is_none_or(|old| old.uid != uid || old.object != object);
        let version = match &old {
            Some(old) if !changed => old.version,
            _ => {
                self.versions += 1;
                self.versions
            }
        };
        if let Some(old) = &old {
            self.former.part(&old.object, Some(&object), ended, self.horizon);
        }
        if let Some(old) = old.filter(|old| old.uid != uid || moved(&old.object, &object)) {
            retire(&mut self.gone, old, ended, self.horizon);
        }
        if let Object::Pod(pod) = &object {
            // A list may be older than a deletion that was told before.
            self.gone
                .retain(|g| g.pod.uid != uid || uid.is_empty() || g.pod.addresses != pod.addresses);
        }
        of.objects.insert(key, Entry { uid, object, version });
        changed
    }

    /// An object that was deleted, in its last version.
    pub(super) fn delete(&mut self, kind: &str, seen: Seen) -> bool {
        let Some(of) = self.kinds.get_mut(kind) else { return false };
        // Another one of its name may have been seen already.
        if of.objects.get(&seen.key).is_none_or(|known| known.uid != seen.uid) {
            return false;
        }
        if let Some(mut entry) = of.objects.remove(&seen.key) {
            let ended = of.ended();
            self.former.part(&entry.object, None, ended, self.horizon);
            // The last version tells when its containers ended.
            if let Ok(last) = seen.object {
                let last = keep_addresses(last, &entry.object);
                if !moved(&entry.object, &last) {
                    entry.object = last;
                }
            }
            retire(&mut self.gone, entry, ended, self.horizon);
        }
        true
    }

    /// What the indexes are made of now. Forgets pods that were deleted long ago.
    pub(super) fn input(&mut self, at: Instant) -> Input {
        self.gone.retain(|g| g.forget > at);
        self.former.forget(at);
        let all = self
            .kinds
            .iter()
            .flat_map(|(kind, of)| of.objects.values().map(|e| (*kind, e.object.clone())));
        Input {
            objects: all.collect(),
            gone: self.gone.iter().map(|g| (Arc::clone(&g.pod), g.ended)).collect(),
            settled: self.kinds.iter().all(|(kind, of)| of.state.settled(kind)),
            former: self.former.all(),
            forget: self.gone.iter().map(|g| g.forget).chain(self.former.next()).min(),
        }
    }

    /// Objects are counted in one namespace, or all.
    pub(super) fn status(&self, namespace: Option<&str>, at: Instant) -> Status {
        let mut status = Status { broken: self.broken, ..Status::default() };
        for (kind, of) in &self.kinds {
            let objects = of.count(namespace);
            let told = match &of.state {
                State::Listing => KindStatus::Listing,
                State::Synced => KindStatus::Synced { objects },
                State::Absent => KindStatus::Absent,
                State::Forbidden(why) => KindStatus::Forbidden(why.clone()),
                State::Failing { why, since, .. } => {
                    let behind = at.saturating_duration_since(*since);
                    status.behind = status.behind.max(Some(behind));
                    KindStatus::Failing { why: why.clone(), behind, objects }
                }
            };
            status.kinds.insert((*kind).to_owned(), told);
        }
        status
    }
}

impl Former {
    /// An object has another version now, or none.
    fn part(&mut self, old: &Object, new: Option<&Object>, ended: EndTime, horizon: Duration) {
        let forget = Instant::now() + horizon;
        match (old, new) {
            (Object::Slice(old), Some(Object::Slice(new))) => {
                self.lost(old, Some(new), ended, forget)
            }
            (Object::Slice(old), _) => self.lost(old, None, ended, forget),
            _ => {}
        }
    }
}

/// Remembers a pod for those of its packets that are yet to be told.
fn retire(gone: &mut Vec<Gone>, entry: Entry, ended: EndTime, horizon: Duration) {
    if let Object::Pod(pod) = entry.object
        && !pod.host_network
        && !pod.addresses.is_empty()
    {
        gone.push(Gone { pod, ended, forget: Instant::now() + horizon });
    }
}

/// A pod that has ended may lose its addresses in the API before it is deleted; what it sent is
/// still its own.
fn keep_addresses(object: Object, old: &Object) -> Object {
    match (object, old) {
        (Object::Pod(pod), Object::Pod(old)) if pod.addresses.is_empty() => {
            let mut pod = Arc::unwrap_or_clone(pod);
            pod.addresses = Arc::clone(&old.addresses);
            Object::Pod(Arc::new(pod))
        }
        (object, _) => object,
    }
}

/// Whether a pod gave up an address that it had: a new sandbox gets new ones.
fn moved(old: &Object, new: &Object) -> bool {
    match (old, new) {
        (Object::Pod(old), Object::Pod(new)) => {
            old.addresses.iter().any(|a| !new.addresses.contains(a))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
