//! What people accepted. Alerts are raised for what is not accepted.
//!
//! Owns when a dependency is accepted. Must never raise an alert.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Alert, AlertKind, DependencyKey, Destination, Protocol, Time, WorkloadId};

/// An accepted dependency of a workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AcceptedDependency {
    /// The destination that the workload may call.
    pub destination: Destination,
    /// Port, as in dependencies.
    pub port: u16,
    /// Transport protocol. Another one to the same port is another dependency.
    pub protocol: Protocol,
}

impl From<&DependencyKey> for AcceptedDependency {
    fn from(key: &DependencyKey) -> Self {
        Self { destination: key.destination.clone(), port: key.port, protocol: key.protocol }
    }
}

/// The dependencies of a workload that were accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Baseline {
    /// The workload whose dependencies were accepted.
    pub workload: WorkloadId,
    /// When, by the clock of whoever accepted.
    pub accepted: Time,
    /// Who: the user as the API server names it, or the user of the machine followed by `(local)`.
    /// Baselines of older programs lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The dependencies that are intended. All others are new and raise an alert.
    pub dependencies: BTreeSet<AcceptedDependency>,
}

/// The mark that all workloads of a namespace, or of all namespaces, were accepted. A workload that
/// calls and was not among them is new.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Acceptance {
    /// Which namespace; all without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// When it was last accepted, by the clock of whoever accepted.
    pub accepted: Time,
    /// Who, as in [`Baseline::by`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

impl Acceptance {
    /// Whether a workload of this namespace that is not accepted is new.
    pub fn covers(&self, namespace: &str) -> bool {
        self.namespace.as_deref().is_none_or(|n| n == namespace)
    }
}

impl Baseline {
    /// Whether it contains a dependency of its workload.
    pub fn contains(&self, key: &DependencyKey) -> bool {
        self.dependencies.contains(&AcceptedDependency::from(key))
    }

    /// Whether it answers an alert: what was new is accepted now.
    pub fn answers(&self, alert: &Alert) -> bool {
        match (alert.kind, &alert.destination, alert.protocol) {
            (AlertKind::NewWorkload, ..) => alert.workload == self.workload,
            (AlertKind::NewDependency, Some(destination), Some(protocol)) => {
                let accepted = AcceptedDependency {
                    destination: destination.clone(),
                    port: alert.port,
                    protocol,
                };
                self.dependencies.contains(&accepted)
            }
            _ => false,
        }
    }
}
