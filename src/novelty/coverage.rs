//! Pods of accepted workloads that nobody watches.
//!
//! Owns the rule of that alert. Must never hide one pod behind another: what a pod calls while only
//! its siblings are watched is not seen.

use std::collections::BTreeMap;
use std::time::Duration;

use super::running::running_pods;
use super::{AlertNumbers, AlertPatience, forged};
use crate::cluster::{Cluster, Pod};
use crate::model::{Alert, AlertKind, Baseline, RaisedAlert, Tally, Time, Watch, WorkloadId};
use crate::store::{Store, StoreError};

/// Raises alerts about accepted workloads of which a running pod is no longer watched, and removes
/// those about workloads whose running pods are all watched again. Also raises the alerts about
/// forged sources that a crash left unraised. Returns the alerts that are new.
///
/// # Errors
/// When the store fails.
pub fn review_coverage(
    store: &mut Store,
    cluster: &Cluster,
    now: Time,
    patience: AlertPatience,
) -> Result<Vec<Alert>, StoreError> {
    let running = running_pods(cluster, now);
    let watches = store.watches(None)?;
    let mut watched: BTreeMap<&WorkloadId, WatchedTimes<'_>> = BTreeMap::new();
    for watch in &watches {
        watched.entry(&watch.workload).or_default().add(watch);
    }
    let mut new = forged::review(store, watches.iter(), now, AlertNumbers::OfStore)?;
    let (mut rows, mut over) = (Vec::new(), Vec::new());
    for Baseline { workload, .. } in store.baselines(None)? {
        let Some((watched, first)) =
            watched.get(&workload).and_then(|watched| Some((watched, watched.first?)))
        else {
            continue;
        };
        let pods = running.get(&workload).map(Vec::as_slice).unwrap_or_default();
        let longest_ago = pods.iter().map(|pod| watched.last_of(pod)).min();
        let last = longest_ago.unwrap_or(first).max(first);
        let alert =
            Alert::about(AlertKind::CoverageLost, &workload, Tally::new(0, first, last), now);
        let is_lost = longest_ago
            .is_some_and(|last| Duration::from_nanos(now.since(last)) >= patience.unwatched);
        match (is_lost, store.alert(&alert)?) {
            (true, None) => {
                new.push(alert.clone());
                rows.push(RaisedAlert { alert, deliveries: BTreeMap::new() });
            }
            (false, Some(_)) => over.push(alert),
            _ => {}
        }
    }
    store.raise(&rows)?;
    store.drop_alerts(&over)?;
    Ok(new)
}

/// When the pods of a workload were watched.
#[derive(Default)]
struct WatchedTimes<'w> {
    /// When the first of them was watched first.
    first: Option<Time>,
    /// When each was watched last, by its name.
    last: BTreeMap<&'w str, Time>,
}

impl<'w> WatchedTimes<'w> {
    fn add(&mut self, watch: &'w Watch) {
        let spans = watch.watched();
        let (Some(first), Some(last)) = (spans.0.first(), spans.0.last()) else { return };
        self.first = Some(self.first.map_or(first.from, |before| before.min(first.from)));
        let latest = self.last.entry(&watch.pod).or_insert(last.to);
        *latest = last.to.max(*latest);
    }

    /// When a pod was watched last; its start where it never was.
    fn last_of(&self, pod: &Pod) -> Time {
        self.last.get(&*pod.name).map_or(pod.start, |last| pod.start.max(*last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Folded, Ownership, Record, Span, Spans};
    use crate::novelty::tests::World;
    use crate::novelty::{Decision, accept};

    const SECOND: i64 = 1_000_000_000;
    const PATIENCE: AlertPatience =
        AlertPatience { ambiguous: Duration::from_secs(9), unwatched: Duration::from_secs(60) };

    /// Pods of the Deployment `web` with these names.
    fn cluster(world: &World, pods: &[&str]) -> Cluster {
        let pod = |(n, name): (usize, &&str)| {
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: shop, name: {name}, \
                 ownerReferences: [{{kind: StatefulSet, name: web, controller: true}}]}}\n\
                 status: {{phase: Running, podIP: 10.0.0.{n}, startTime: 1970-01-01T00:00:00Z}}\n"
            )
        };
        let objects: Vec<String> = pods.iter().enumerate().map(pod).collect();
        let file = world.dir.path().join("cluster.yaml");
        std::fs::write(&file, objects.join("---\n")).unwrap();
        crate::snapshot::load(&[file], None).unwrap().0
    }

    /// A pod of `web` was watched until this second.
    fn watched(pod: &str, until: i64) -> Record {
        Record::Watch(Watch {
            workload: WorkloadId {
                namespace: "shop".into(),
                kind: "StatefulSet".into(),
                name: "web".into(),
            },
            pod: pod.into(),
            started: None,
            spans: Spans::default(),
            live: Spans(vec![Span { from: Time(0), to: Time(until * SECOND) }]),
            packets: 1,
            lost: 0,
            ownership: Ownership::default(),
            folded: Folded::default(),
        })
    }

    #[test]
    fn one_pod_that_is_not_watched_is_lost_coverage_while_that_lasts() {
        let mut world = World::new();
        let workload = crate::model::Workload {
            id: WorkloadId {
                namespace: "shop".into(),
                kind: "StatefulSet".into(),
                name: "web".into(),
            },
            selector: BTreeMap::new(),
            data_plane: crate::model::DataPlane::Sidecar,
            last_seen: Time(0),
        };
        let known = Record::Workload(workload);
        world.learn(vec![known, watched("web-0", 100), watched("web-1", 100)]);
        let decision = Decision { by: None, at: Time(0) };
        accept(&mut world.store, Some("shop"), &[], &decision).unwrap();
        let both = cluster(&world, &["web-0", "web-1"]);
        let reviewed = |world: &mut World, cluster: &Cluster, second: i64| {
            review_coverage(&mut world.store, cluster, Time(second * SECOND), PATIENCE)
                .unwrap()
                .len()
        };
        assert_eq!(reviewed(&mut world, &both, 150), 0);
        world.learn(vec![watched("web-0", 200)]);
        assert_eq!(reviewed(&mut world, &both, 200), 1, "web-1 is not watched for 100 s");
        assert_eq!(reviewed(&mut world, &both, 210), 0, "it is raised once");
        world.learn(vec![watched("web-1", 210)]);
        assert_eq!(reviewed(&mut world, &both, 220), 0);
        assert!(world.store.alerts(None).unwrap().is_empty(), "it is over");
        // A pod on a node without an agent.
        let more = cluster(&world, &["web-0", "web-1", "web-2"]);
        assert_eq!(reviewed(&mut world, &more, 230), 1);
        assert_eq!(reviewed(&mut world, &Cluster::default(), 240), 0);
        assert!(world.store.alerts(None).unwrap().is_empty(), "no pod runs");
    }
}
