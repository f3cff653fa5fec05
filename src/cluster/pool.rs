//! One copy of what thousands of objects repeat: the labels of a workload's pods, names of
//! namespaces, nodes and owners.
//!
//! Owns the copies that are in use. Must never change the value of a string or a label.

use std::hash::Hash;
use std::sync::Arc;

use foldhash::HashSet;

use super::CaptureScope;
use super::objects::{EndpointSlice, Labels, ObjectMeta, ServiceObject};

/// Shared copies of strings, labels and capture scopes.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    words: HashSet<Arc<str>>,
    labels: HashSet<Labels>,
    captures: HashSet<Arc<CaptureScope>>,
}

impl Pool {
    pub(crate) fn word(&mut self, word: &str) -> Arc<str> {
        shared_copy(&mut self.words, word.into())
    }

    pub(crate) fn labels(&mut self, labels: Labels) -> Labels {
        shared_copy(&mut self.labels, labels)
    }

    pub(super) fn capture(&mut self, capture: CaptureScope) -> Arc<CaptureScope> {
        shared_copy(&mut self.captures, Arc::new(capture))
    }

    /// A Service without what no index reads.
    pub(crate) fn service(&mut self, mut service: ServiceObject) -> ServiceObject {
        self.meta(&mut service.metadata, |label| matches!(label, "app" | "istio"));
        service.spec.selector = self.labels(service.spec.selector);
        service
    }

    /// An EndpointSlice without what no index reads.
    pub(crate) fn slice(&mut self, mut slice: EndpointSlice) -> EndpointSlice {
        self.meta(&mut slice.metadata, |label| label == "kubernetes.io/service-name");
        slice.endpoints.iter_mut().for_each(|e| e.target_ref = None);
        slice
    }

    fn meta(&mut self, meta: &mut ObjectMeta, read: impl Fn(&str) -> bool) {
        meta.annotations.clear();
        meta.resource_version.clear();
        meta.owner_references.clear();
        let labels = meta
            .labels
            .iter()
            .filter(|(k, _)| read(k))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        meta.labels = self.labels(Arc::new(labels));
    }

    /// Drops the copies that nobody uses any more.
    pub(crate) fn sweep(&mut self) {
        self.words.retain(|a| Arc::strong_count(a) > 1);
        self.labels.retain(|a| Arc::strong_count(a) > 1);
        self.captures.retain(|a| Arc::strong_count(a) > 1);
    }
}

/// The copy in the pool. A value that is not there yet becomes the copy.
fn shared_copy<T: Eq + Hash + ?Sized>(all: &mut HashSet<Arc<T>>, value: Arc<T>) -> Arc<T> {
    if let Some(copy) = all.get(&value) {
        return Arc::clone(copy);
    }
    all.insert(Arc::clone(&value));
    value
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn equal_labels_share_one_copy_that_is_dropped_with_its_last_user() {
        let mut pool = Pool::default();
        let labels = |v: &str| Arc::new(BTreeMap::from([("app".to_owned(), v.to_owned())]));
        let (a, b, other) =
            (pool.labels(labels("a")), pool.labels(labels("a")), pool.labels(labels("b")));
        assert!(Arc::ptr_eq(&a, &b) && !Arc::ptr_eq(&a, &other));
        drop((a, other));
        pool.sweep();
        assert_eq!(pool.labels.len(), 1);
        drop(b);
        pool.sweep();
        assert!(pool.labels.is_empty());
    }
}
