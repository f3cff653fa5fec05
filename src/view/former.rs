//! Former endpoints. A connection is resolved some time after it was seen, and its pod may have
//! been removed from its Services meanwhile.
//!
//! Owns the endpoints that EndpointSlices have lost, for as long as packets to them may still be
//! resolved. Must never contain an endpoint that a slice still has.

use std::sync::Arc;

use tokio::time::Instant;

use crate::cluster::EndTime;
use crate::cluster::objects::EndpointSlice;

/// The endpoints that slices have lost.
#[derive(Debug, Default)]
pub(super) struct FormerEndpoints(Vec<FormerSlice>);

/// A slice with only the endpoints that it has lost.
#[derive(Debug)]
pub(super) struct FormerSlice {
    pub slice: Arc<EndpointSlice>,
    pub ended: EndTime,
    pub forget: Instant,
}

impl FormerEndpoints {
    /// Adds the endpoints that a slice has lost with its new version, or with its deletion.
    pub fn add(
        &mut self,
        old: &EndpointSlice,
        new: Option<&EndpointSlice>,
        ended: EndTime,
        forget: Instant,
    ) {
        let is_lost = |address: &String| {
            let has_it = |n: &EndpointSlice| {
                n.ports == old.ports && n.endpoints.iter().any(|e| e.addresses.contains(address))
            };
            !new.is_some_and(has_it)
        };
        let mut slice = old.clone();
        slice.endpoints.iter_mut().for_each(|e| e.addresses.retain(is_lost));
        slice.endpoints.retain(|e| !e.addresses.is_empty());
        if !slice.endpoints.is_empty() {
            self.0.push(FormerSlice { slice: Arc::new(slice), ended, forget });
        }
    }

    /// Forgets what is due to be forgotten at this time.
    pub fn forget(&mut self, at: Instant) {
        self.0.retain(|l| l.forget > at);
    }

    /// The lost endpoints, each with the time of its end.
    pub fn all(&self) -> Vec<(Arc<EndpointSlice>, EndTime)> {
        self.0.iter().map(|l| (Arc::clone(&l.slice), l.ended)).collect()
    }

    /// The lost endpoints, slice by slice.
    pub fn iter(&self) -> impl Iterator<Item = &FormerSlice> {
        self.0.iter()
    }

    /// Adds what an earlier run has saved.
    pub fn recall(&mut self, lost: FormerSlice) {
        self.0.push(lost);
    }

    /// The next time at which something is to be forgotten.
    pub fn next(&self) -> Option<Instant> {
        self.0.iter().map(|l| l.forget).min()
    }
}
