//! Endpoints that were there: a connection is resolved after it was seen, and its pod may have been
//! taken out of its Services meanwhile.
//!
//! Owns what EndpointSlices have lost, for as long as packets of it may still be told. Must never
//! keep what is there.

use std::sync::Arc;

use tokio::time::Instant;

use crate::cluster::EndTime;
use crate::cluster::objects::EndpointSlice;

/// What slices have lost.
#[derive(Debug, Default)]
pub(super) struct Former(Vec<Lost>);

/// Addresses that a slice had and has no more.
#[derive(Debug)]
pub(super) struct Lost {
    pub slice: Arc<EndpointSlice>,
    pub ended: EndTime,
    pub forget: Instant,
}

impl Former {
    /// A slice has another version now, or none.
    pub fn lost(
        &mut self,
        old: &EndpointSlice,
        new: Option<&EndpointSlice>,
        ended: EndTime,
        forget: Instant,
    ) {
        let gone = |address: &String| {
            let there = |n: &EndpointSlice| {
                n.ports == old.ports && n.endpoints.iter().any(|e| e.addresses.contains(address))
            };
            !new.is_some_and(there)
        };
        let mut slice = old.clone();
        slice.endpoints.iter_mut().for_each(|e| e.addresses.retain(gone));
        slice.endpoints.retain(|e| !e.addresses.is_empty());
        if !slice.endpoints.is_empty() {
            self.0.push(Lost { slice: Arc::new(slice), ended, forget });
        }
    }

    /// Forgets what was lost long ago.
    pub fn forget(&mut self, at: Instant) {
        self.0.retain(|l| l.forget > at);
    }

    /// What was lost, and until when it was there.
    pub fn all(&self) -> Vec<(Arc<EndpointSlice>, EndTime)> {
        self.0.iter().map(|l| (Arc::clone(&l.slice), l.ended)).collect()
    }

    /// What was lost.
    pub fn iter(&self) -> impl Iterator<Item = &Lost> {
        self.0.iter()
    }

    /// Takes up what an earlier run has seen lost.
    pub fn recall(&mut self, lost: Lost) {
        self.0.push(lost);
    }

    /// When something is forgotten next.
    pub fn next(&self) -> Option<Instant> {
        self.0.iter().map(|l| l.forget).min()
    }
}
