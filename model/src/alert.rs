//! Alerts: something differs from what was accepted.
//!
//! Owns the identity and the sentence of an alert. Must never deliver one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Destination, Protocol, Tally, Time, WorkloadId};

/// What an alert is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AlertKind {
    /// A dependency that is not in the workload's baseline.
    NewDependency,
    /// An injected pod reached a Service's own address: its Envoy had no configuration for it.
    ScopeMiss,
    /// A destination has been ambiguous for long.
    Ambiguous,
    /// Pods of a workload that was watched are watched no more.
    CoverageLost,
    /// A workload calls that was not there when its namespace, or everything, was accepted.
    NewWorkload,
    /// A pod sends packets with addresses that are not its own.
    ForgedSource,
    /// A host was looked up and never reached, and the proxy refuses it: its policy is
    /// REGISTRY_ONLY, and the host is not in its scope.
    BlockedCall,
}

impl AlertKind {
    /// Name, as in JSON; for labels of metrics and alerts.
    pub fn name(self) -> &'static str {
        match self {
            Self::NewDependency => "new-dependency",
            Self::ScopeMiss => "scope-miss",
            Self::Ambiguous => "ambiguous",
            Self::CoverageLost => "coverage-lost",
            Self::NewWorkload => "new-workload",
            Self::ForgedSource => "forged-source",
            Self::BlockedCall => "blocked-call",
        }
    }
}

/// An alert. There is one for each kind, workload and destination, however often it is seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Alert {
    /// What it is about.
    pub kind: AlertKind,
    /// The workload that it is about.
    pub workload: WorkloadId,
    /// What was called, where it is about a dependency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<Destination>,
    /// Port, as in dependencies; 0 where there is none.
    #[serde(default)]
    pub port: u16,
    /// Protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// First packet of what it is about.
    pub first_seen: Time,
    /// Last packet of it so far.
    pub last_seen: Time,
    /// Number of connections so far that the alert is about.
    pub connections: u64,
    /// How many dependencies it has so far, of a new workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dependencies: Option<u64>,
    /// When it was raised, by the recorder's clock.
    pub raised: Time,
    /// The reason for which a person ignored the alert; `None` while nobody has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignored: Option<String>,
    /// Who ignored it: the user as the API server names it, or the user of the machine followed by
    /// `(local)`. Alerts of older programs lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignored_by: Option<String>,
    /// When it was ignored, by the clock of the program that recorded it. Alerts of older programs
    /// lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignored_at: Option<Time>,
}

impl Alert {
    /// One about a workload as a whole.
    pub fn about(kind: AlertKind, workload: &WorkloadId, tally: Tally, raised: Time) -> Self {
        Self {
            kind,
            workload: workload.clone(),
            destination: None,
            port: 0,
            protocol: None,
            first_seen: tally.first_seen,
            last_seen: tally.last_seen,
            connections: tally.connections,
            dependencies: None,
            raised,
            ignored: None,
            ignored_by: None,
            ignored_at: None,
        }
    }

    /// How often what it is about was seen, and when.
    pub fn tally(&self) -> Tally {
        Tally {
            connections: self.connections,
            first_seen: self.first_seen,
            last_seen: self.last_seen,
        }
    }

    /// Replaces what [`Alert::tally`] gives.
    pub fn set_tally(&mut self, tally: Tally) {
        (self.connections, self.first_seen, self.last_seen) =
            (tally.connections, tally.first_seen, tally.last_seen);
    }

    /// Its identity: the same in each delivery, so that receivers recognise repetitions.
    pub fn id(&self) -> String {
        let what =
            self.destination.as_ref().map(|d| format!("/{d}:{}", self.port)).unwrap_or_default();
        format!(
            "{}/{}/{}/{}{what}",
            self.kind.name(),
            self.workload.namespace,
            self.workload.kind,
            self.workload.name
        )
    }

    /// One line for people.
    pub fn text(&self) -> String {
        let to =
            self.destination.as_ref().map(|d| format!("{d}:{}", self.port)).unwrap_or_default();
        let w = &self.workload;
        match self.kind {
            AlertKind::NewDependency => {
                format!("{w} calls {to}, which it was never seen to call before it was accepted")
            }
            AlertKind::ScopeMiss => {
                format!(
                    "{w} reached {to} at the Service's own address: its Sidecar lacks the host, \
                     so the call left the mesh"
                )
            }
            AlertKind::Ambiguous => {
                format!("{w} calls one of {to}, and nothing on the wire shows which")
            }
            AlertKind::CoverageLost => {
                format!("{w} is not watched any more: what it calls now is not seen")
            }
            AlertKind::NewWorkload => {
                let n = self.dependencies.unwrap_or(0);
                let noun = if n == 1 { "dependency" } else { "dependencies" };
                format!("{w} is a new workload, which nobody accepted, and has {n} {noun}")
            }
            AlertKind::BlockedCall => {
                let to = self.destination.as_ref().map(ToString::to_string).unwrap_or_default();
                format!(
                    "{w} looked {to} up {} times and never reached it: probably its proxy blocks \
                     the call, whose policy is REGISTRY_ONLY and whose Sidecar lacks the host",
                    self.connections
                )
            }
            AlertKind::ForgedSource => {
                format!(
                    "a pod of {w} sent {} packets with addresses that are not its own; nothing \
                     was learned from them",
                    self.connections
                )
            }
        }
    }
}

/// How delivery of an alert to a sink stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// Number of attempts so far, failed ones included.
    pub attempts: u32,
    /// When it is to be tried (again), by the recorder's clock; `None` when it is done with.
    pub next: Option<Time>,
}

/// An alert, and how its delivery to each sink stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RaisedAlert {
    /// The alert.
    #[serde(flatten)]
    pub alert: Alert,
    /// By sink. A sink that is not here has not been tried.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub deliveries: BTreeMap<String, Delivery>,
}

impl RaisedAlert {
    /// Whether a sink has yet to be tried, or tried again.
    pub fn waits(&self) -> bool {
        self.alert.ignored.is_none()
            && (self.deliveries.is_empty() || self.deliveries.values().any(|d| d.next.is_some()))
    }
}
