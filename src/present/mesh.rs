//! `/v1/mesh`: which objects of the cluster a recorder can watch, and what its answers lack.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::NodeUnverified;
use crate::view::{KindStatus, ViewStatus};

/// The state of the recorder's view of the cluster.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MeshStatus {
    /// Whether the API server is watched. If not, the recorder has a snapshot, and `kinds` is
    /// empty.
    pub live: bool,
    /// Whether every kind that is served and allowed was listed once.
    pub synced: bool,
    /// For how long the kind that fails longest has failed, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind_seconds: Option<u64>,
    /// Each watched kind.
    pub kinds: BTreeMap<String, MeshKindStatus>,
    /// Versions of objects that could not be read, since the start.
    pub unreadable: u64,
    /// Acknowledged batches that no answer contains yet.
    pub batches_waiting: u64,
    /// Unverified lines, which no answer contains, by node.
    pub unverified: Vec<NodeUnverified>,
    /// How many seconds ago the agent of each node was heard last.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub agents_heard_seconds: BTreeMap<String, u64>,
    /// What answers lack, one sentence for each reason.
    pub limits: Vec<String>,
}

/// The state of the watch of a kind.
#[derive(Debug, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub(crate) enum MeshKindStatus {
    /// The first list is not complete.
    Listing,
    /// It was listed and is watched.
    Synced { objects: usize },
    /// The API server does not serve the kind.
    Absent,
    /// The API server does not allow it, with its message.
    Forbidden { why: String },
    /// Listing and watching fail at the moment; the known objects stay in use.
    Failing { why: String, behind_seconds: u64, objects: usize },
}

impl MeshStatus {
    /// Describes a view, with the number of batches that wait to be resolved and the unverified
    /// lines.
    pub fn of(view: &ViewStatus, waiting: u64, unverified: Vec<NodeUnverified>) -> Self {
        let live = !view.kinds.is_empty();
        let mut limits: Vec<String> = Vec::new();
        if !live {
            limits.push(
                "the cluster is known from a snapshot, which says nothing of later changes"
                    .to_owned(),
            );
        }
        let lacking =
            view.kinds.iter().filter(|(_, status)| !matches!(status, KindStatus::Synced { .. }));
        limits.extend(lacking.map(|(kind, status)| format!("{kind}: {status}: {}", without(kind))));
        if view.broken > 0 {
            limits.push(format!(
                "{} versions of objects could not be read (the log names them): older ones count",
                view.broken
            ));
        }
        if waiting > 0 {
            limits.push(format!("{waiting} batches of agents wait to be resolved"));
        }
        limits.extend(unverified.iter().map(NodeUnverified::text));
        Self {
            live,
            synced: view.synced,
            behind_seconds: view.behind.map(|b| b.as_secs()),
            kinds: view
                .kinds
                .iter()
                .map(|(kind, status)| (kind.clone(), MeshKindStatus::from(status)))
                .collect(),
            unreadable: view.broken,
            batches_waiting: waiting,
            unverified,
            agents_heard_seconds: BTreeMap::new(),
            limits,
        }
    }

    /// Adds how long ago the agent of each node was heard. One that was not heard for
    /// `silent_after` is a limit.
    pub fn with_agents(mut self, ages: BTreeMap<String, Duration>, silent_after: Duration) -> Self {
        for (node, age) in &ages {
            if *age >= silent_after {
                self.limits.push(format!(
                    "the agent of the node {node} was last heard {} s ago: what its pods call now \
                     is not known",
                    age.as_secs()
                ));
            }
        }
        self.agents_heard_seconds =
            ages.into_iter().map(|(node, age)| (node, age.as_secs())).collect();
        self
    }
}

impl From<&KindStatus> for MeshKindStatus {
    fn from(status: &KindStatus) -> Self {
        match status {
            KindStatus::Listing => Self::Listing,
            KindStatus::Synced { objects } => Self::Synced { objects: *objects },
            KindStatus::Absent => Self::Absent,
            KindStatus::Forbidden(why) => Self::Forbidden { why: why.clone() },
            KindStatus::Failing { why, behind, objects } => Self::Failing {
                why: why.clone(),
                behind_seconds: behind.as_secs(),
                objects: *objects,
            },
        }
    }
}

/// What answers lack if a kind is unknown or out of date.
fn without(kind: &str) -> &'static str {
    match kind {
        "Pod" => "which pod had an address may be unknown or out of date",
        "Service" | "EndpointSlice" => {
            "calls of Services may show as calls of pods or of addresses"
        }
        "Node" => "addresses of nodes may show as addresses outside the cluster",
        "ServiceEntry" => "hosts of ServiceEntries show as any other outside the cluster",
        "WorkloadEntry" => "calls of machines that WorkloadEntries name may show as of addresses",
        "VirtualService" => "look-ups of hosts that only VirtualServices have do not count",
        _ => "workloads may be named after what stands between them and their pods",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test that cannot go on should say where
mod tests {
    use super::*;
    use crate::model::Time;

    #[test]
    fn every_state_of_a_kind_is_reported_and_all_but_synced_are_limits() {
        let failing = KindStatus::Failing {
            why: "connection refused".into(),
            behind: Duration::from_secs(7),
            objects: 2,
        };
        let kinds = [
            ("CronJob", KindStatus::Listing),
            ("Node", KindStatus::Forbidden("nodes is forbidden".into())),
            ("Pod", failing),
            ("Service", KindStatus::Synced { objects: 3 }),
            ("ServiceEntry", KindStatus::Absent),
        ];
        let kinds = kinds.map(|(kind, status)| (kind.to_owned(), status)).into();
        let view =
            ViewStatus { synced: true, kinds, behind: Some(Duration::from_secs(7)), broken: 1 };
        let unverified = NodeUnverified {
            node: "n1".into(),
            lines: 3,
            pods: 2,
            since: Time(1_764_061_200_000_000_000),
        };
        let mesh = MeshStatus::of(&view, 4, vec![unverified]);
        let value = serde_json::to_value(&mesh).unwrap();
        let kinds = serde_json::json!({
            "CronJob": {"state": "listing"},
            "Node": {"state": "forbidden", "why": "nodes is forbidden"},
            "Pod": {"state": "failing", "why": "connection refused", "behindSeconds": 7,
                "objects": 2},
            "Service": {"state": "synced", "objects": 3},
            "ServiceEntry": {"state": "absent"},
        });
        assert_eq!(value["kinds"], kinds);
        assert_eq!(
            (&value["live"], &value["behindSeconds"], &value["batchesWaiting"]),
            (&true.into(), &7.into(), &4.into())
        );
        let begin = [
            "CronJob: ",
            "Node: forbidden: ",
            "Pod: cannot be watched: ",
            "ServiceEntry: not served",
            "1 versions",
            "4 batches",
            "unverified: the agent on n1 sent 3 lines about 2 pods",
        ];
        assert_eq!(value["unverified"][0]["lines"], 3);
        assert_eq!(mesh.limits.len(), begin.len(), "{:?}", mesh.limits);
        for (limit, begin) in mesh.limits.iter().zip(begin) {
            assert!(limit.starts_with(begin), "{limit}");
        }
    }

    #[test]
    fn a_silent_agent_is_a_limit() {
        let kinds = [("Pod".to_owned(), KindStatus::Synced { objects: 0 })].into();
        let view = ViewStatus { synced: true, kinds, ..ViewStatus::default() };
        let ages = [("n1", 9), ("n2", 200)]
            .map(|(node, age)| (node.to_owned(), Duration::from_secs(age)))
            .into();
        let mesh = MeshStatus::of(&view, 0, Vec::new());
        let mesh = mesh.with_agents(ages, Duration::from_secs(150));
        let [limit] = &mesh.limits[..] else { panic!("{:?}", mesh.limits) };
        assert!(limit.starts_with("the agent of the node n2 was last heard 200 s ago"), "{limit}");
        assert_eq!(mesh.agents_heard_seconds["n1"], 9);
    }

    #[test]
    fn a_snapshot_has_a_limit_and_a_complete_view_has_none() {
        let fixed =
            MeshStatus::of(&ViewStatus { synced: true, ..ViewStatus::default() }, 0, Vec::new());
        assert!(!fixed.live && fixed.limits.len() == 1, "{fixed:?}");
        let kinds = [("Pod".to_owned(), KindStatus::Synced { objects: 0 })].into();
        let whole = MeshStatus::of(
            &ViewStatus { synced: true, kinds, ..ViewStatus::default() },
            0,
            Vec::new(),
        );
        assert!(whole.live && whole.limits.is_empty(), "{whole:?}");
    }
}
