//! The running pods of a cluster, to be found by the labels of a selector.
//!
//! Owns that index. Must never decide which workload a pod belongs to.

use std::collections::BTreeMap;

use foldhash::HashMap;

use crate::cluster::{Cluster, Pod};
use crate::model::{Time, selects};

/// Running pods of the cluster by namespace.
pub struct RunningPods<'a> {
    by_namespace: BTreeMap<&'a str, PodsOfNamespace<'a>>,
}

/// Running pods of a namespace, in the cluster's order.
#[derive(Default)]
struct PodsOfNamespace<'a> {
    all: Vec<&'a Pod>,
    /// By key and value of a label.
    by_label: HashMap<&'a str, HashMap<&'a str, Vec<&'a Pod>>>,
}

impl<'a> RunningPods<'a> {
    /// The running pods of a cluster.
    pub fn new(cluster: &'a Cluster) -> Self {
        let mut by_namespace: BTreeMap<&str, PodsOfNamespace<'_>> = BTreeMap::new();
        for p in cluster.pods().iter().filter(|p| p.end == Time::MAX) {
            let pods = by_namespace.entry(p.workload.namespace.as_str()).or_default();
            pods.all.push(p);
            for (key, value) in &*p.labels {
                let by_value = pods.by_label.entry(key).or_default();
                by_value.entry(value).or_default().push(p);
            }
        }
        Self { by_namespace }
    }

    /// Pods of a namespace that a selector matches; `None` matches all.
    pub fn selected<'s>(
        &'s self,
        namespace: &str,
        selector: Option<&'s BTreeMap<String, String>>,
    ) -> impl Iterator<Item = &'a Pod> + use<'a, 's> {
        let pods = self.by_namespace.get(namespace);
        let candidates = pods.map_or(&[][..], |pods| pods.candidates(selector));
        candidates.iter().copied().filter(move |p| selector.is_none_or(|s| selects(s, &p.labels)))
    }
}

impl<'a> PodsOfNamespace<'a> {
    /// The pods with one of the labels of a selector: the one that the fewest pods have.
    fn candidates(&self, selector: Option<&BTreeMap<String, String>>) -> &[&'a Pod] {
        let with = |(key, value): (&String, &String)| {
            let pods = self.by_label.get(key.as_str()).and_then(|v| v.get(value.as_str()));
            pods.map_or(&[][..], Vec::as_slice)
        };
        let by_labels = selector.into_iter().flatten().map(with);
        by_labels.min_by_key(|pods| pods.len()).unwrap_or(&self.all)
    }
}
