//! What people accepted. Alerts are raised for what is not accepted.
//!
//! Owns when a dependency is accepted. Must never raise an alert.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    Alert, AlertKind, DependencyKey, Destination, Protocol, ServicePort, Time, WorkloadId,
};

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
    /// Whether it contains a dependency of its workload. To narrow what was accepted is no news:
    /// where "A or B" was accepted, "A" is.
    pub fn contains(&self, key: &DependencyKey) -> bool {
        self.has(&AcceptedDependency::from(key))
    }

    fn has(&self, dependency: &AcceptedDependency) -> bool {
        if self.dependencies.contains(dependency) {
            return true;
        }
        match &dependency.destination {
            Destination::Service(one) => self.has_one_of(one, dependency.protocol),
            // The port is that of the packets there, so it need not be that of a candidate.
            Destination::Ambiguous { candidates } => {
                !candidates.is_empty()
                    && candidates.iter().all(|one| {
                        self.has(&AcceptedDependency {
                            destination: Destination::Service(one.clone()),
                            port: one.port,
                            protocol: dependency.protocol,
                        })
                    })
            }
            _ => false,
        }
    }

    /// Whether a Service's port is a candidate of an ambiguous destination that was accepted.
    fn has_one_of(&self, one: &ServicePort, protocol: Protocol) -> bool {
        self.dependencies.iter().any(|accepted| match &accepted.destination {
            Destination::Ambiguous { candidates } => {
                accepted.protocol == protocol && candidates.contains(one)
            }
            _ => false,
        })
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
                self.has(&accepted)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str) -> ServicePort {
        let host = format!("{name}.n.svc.cluster.local");
        ServicePort { namespace: "n".into(), name: name.into(), host, port: 80 }
    }

    fn one_of(names: &[&str]) -> Destination {
        Destination::Ambiguous { candidates: names.iter().map(|name| service(name)).collect() }
    }

    #[test]
    fn what_was_accepted_may_narrow_and_nothing_else() {
        let workload =
            WorkloadId { namespace: "n".into(), kind: "Deployment".into(), name: "w".into() };
        let accepted =
            |destination, port| AcceptedDependency { destination, port, protocol: Protocol::Tcp };
        let baseline = Baseline {
            workload: workload.clone(),
            accepted: Time(0),
            by: None,
            dependencies: [
                accepted(one_of(&["a", "b", "c"]), 8080),
                accepted(Destination::Service(service("d")), 80),
            ]
            .into(),
        };
        let contains = |destination, protocol| {
            let workload = workload.clone();
            baseline.contains(&DependencyKey { workload, destination, port: 80, protocol })
        };
        assert!(contains(Destination::Service(service("a")), Protocol::Tcp));
        assert!(contains(one_of(&["a", "c"]), Protocol::Tcp));
        assert!(contains(one_of(&["a", "d"]), Protocol::Tcp));
        assert!(!contains(one_of(&["a", "e"]), Protocol::Tcp));
        assert!(!contains(Destination::Service(service("e")), Protocol::Tcp));
        assert!(!contains(Destination::Service(service("a")), Protocol::Udp));
        assert!(!contains(one_of(&[]), Protocol::Tcp));
    }
}
