//! What the watches of a view share.
//!
//! Owns the locks, and the word that there is something new. Must never decide what is news.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::known::Known;
use crate::cluster::Pool;

/// What watches tell, and the word that there is something new.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) known: Mutex<Known>,
    pub(super) pool: Mutex<Pool>,
    pub(super) changed: Notify,
    /// Counts the changes.
    pub(super) revision: AtomicU64,
}

impl Shared {
    /// Nothing panics half-way through a change, so that what a poisoned lock holds is whole.
    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What objects have in common. Whole even where somebody panicked.
    pub(super) fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change, and tells of it where it is one for the indexes.
    pub(super) fn change(&self, change: impl FnOnce(&mut Known) -> bool) {
        if change(&mut self.known()) {
            self.revision.fetch_add(1, Ordering::Relaxed);
            self.changed.notify_one();
        }
    }
}
