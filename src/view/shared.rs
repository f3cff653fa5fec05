//! What the watches of a view share: the cache, the pool of strings, and the notification of
//! changes.
//!
//! Owns the locks and the notification. Must never decide whether a change concerns the indexes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::cache::ObjectCache;
use crate::cluster::Pool;

/// The cache that all watches of a view write, and the notification of changes.
#[derive(Debug, Default)]
pub(super) struct SharedCache {
    pub(super) cache: Mutex<ObjectCache>,
    pub(super) pool: Mutex<Pool>,
    pub(super) changed: Notify,
    /// Counts the changes that concern the indexes.
    pub(super) revision: AtomicU64,
}

impl SharedCache {
    /// Locks the cache, even after a thread panicked: no change can panic half-way.
    pub(super) fn cache(&self) -> MutexGuard<'_, ObjectCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the strings that objects have in common, even after a thread panicked.
    pub(super) fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change. If it returns true, the indexes will be built again.
    pub(super) fn change(&self, change: impl FnOnce(&mut ObjectCache) -> bool) {
        if change(&mut self.cache()) {
            self.revision.fetch_add(1, Ordering::Relaxed);
            self.changed.notify_one();
        }
    }
}
