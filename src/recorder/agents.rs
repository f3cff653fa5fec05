//! When each node's agent was heard last.
//!
//! Owns these times, on the monotonic clock. They are no times of packets: nothing is learned from
//! them. Must never call an agent silent whose node has no pods any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::model::{Source, Time};

/// An agent that was heard of less than this long ago is not silent. It sends a batch each minute,
/// also when nothing is new.
pub(super) const SILENT_AFTER: Duration = Duration::from_secs(150);

/// The agents that the recorder knows, by node.
#[derive(Debug)]
pub(super) struct AgentsHeard(Mutex<BTreeMap<String, Instant>>);

impl AgentsHeard {
    /// The agents that have sent what a store has. An earlier recorder heard them: from now on they
    /// have time to be heard again.
    pub fn of_sources(sources: &[Source]) -> Self {
        let now = Instant::now();
        let agents = sources.iter().filter(|s| s.source.starts_with("agent:"));
        Self(Mutex::new(agents.map(|s| (s.label.clone(), now)).collect()))
    }

    /// A batch of this node's agent came.
    pub fn heard(&self, node: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(node.to_owned(), Instant::now());
    }

    /// How long ago each agent was heard whose node has running pods, by node.
    pub fn ages(&self, cluster: &Cluster, now: Time) -> BTreeMap<String, Duration> {
        let nodes: BTreeSet<&str> = cluster.pods_at(now).map(|pod| &*pod.node).collect();
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.iter().filter(|(node, _)| nodes.contains(node.as_str()));
        known.map(|(node, last)| (node.clone(), last.elapsed())).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cluster::{ClusterBuilder, PodBrief, Pool};

    /// A cluster with a pod on n1.
    fn cluster() -> Cluster {
        let pod = serde_json::json!({
            "metadata": {"namespace": "n", "name": "a"},
            "spec": {"nodeName": "n1"},
            "status": {"phase": "Running", "podIP": "10.0.0.1"},
        });
        let pod = PodBrief::new(&serde_json::from_value(pod).unwrap(), &mut Pool::default());
        let mut builder = ClusterBuilder::default();
        builder.brief(Arc::new(pod), None);
        builder.build().0
    }

    #[test]
    fn an_agent_is_known_while_its_node_has_pods() {
        let source = |source: &str, label: &str| Source {
            source: source.into(),
            label: label.into(),
            spans: Default::default(),
            counters: BTreeMap::new(),
        };
        let agents =
            AgentsHeard::of_sources(&[source("agent:n1:b", "n1"), source("capture:2:x", "x.pcap")]);
        agents.heard("n2");
        let cluster = cluster();
        let nodes = |cluster: &Cluster| -> Vec<String> {
            agents.ages(cluster, Time(5)).into_keys().collect()
        };
        assert_eq!(nodes(&cluster), ["n1"]);
        assert_eq!(nodes(&Cluster::default()), [""; 0]);
        assert!(agents.ages(&cluster, Time(5))["n1"] < SILENT_AFTER);
    }
}
