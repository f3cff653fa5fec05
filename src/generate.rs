//! From dependencies to one `Sidecar` per workload.
//!
//! Owns which hosts a manifest lists and why, and what is withheld and why. Pure and byte-stable: the same store and snapshot give
//! the same text. Must never list a host without a dependency that asks for it, and never be silent about one that it cannot list.

mod manifest;
pub mod minimal;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::cluster::{Cluster, Named};
use crate::model::{DataPlane, Dependency, Destination, Lookups, Protocol, ServicePort, Time, Watch, Workload, WorkloadId};

pub use manifest::{Manifest, SILENT};

/// What is known of one workload, gathered for generation.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Its dependencies, sorted by key.
    pub dependencies: Vec<Dependency>,
    /// Its pods that were watched.
    pub watches: Vec<Watch>,
    /// The hosts it looked up.
    pub lookups: Vec<Lookups>,
}

/// A workload as the snapshot, or failing that the store, describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Which one.
    pub id: WorkloadId,
    /// Labels that select its pods.
    pub selector: BTreeMap<String, String>,
    /// How its pods take part in the mesh.
    pub data_plane: DataPlane,
    /// It stands in the snapshot.
    pub present: bool,
}

/// What generation says of one workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Which workload.
    pub workload: WorkloadId,
    /// The Sidecar, where one is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Manifest>,
    /// Why none is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub withheld: Option<String>,
    /// What a reviewer must know: ambiguity, gaps in what was watched, calls that no host covers.
    pub notes: Vec<String>,
}

/// All workloads, of the snapshot and of the store, sorted.
pub fn subjects(cluster: &Cluster, stored: &[Workload]) -> Vec<Subject> {
    let mut all: BTreeMap<WorkloadId, Subject> = stored
        .iter()
        .map(|w| {
            let subject = Subject { id: w.id.clone(), selector: w.selector.clone(), data_plane: w.data_plane, present: false };
            (w.id.clone(), subject)
        })
        .collect();
    for pod in cluster.pods().iter().filter(|p| p.end == Time::MAX) {
        let new = Subject { id: pod.workload.clone(), selector: pod.selector.clone(), data_plane: pod.data_plane, present: true };
        match all.get_mut(&pod.workload) {
            // During a rollout some pods may lack the proxy: one that has it is reason enough for a Sidecar.
            Some(old) if old.present && old.data_plane == DataPlane::Sidecar => {}
            Some(old) => *old = new,
            None => {
                all.insert(pod.workload.clone(), new);
            }
        }
    }
    all.into_values().collect()
}

/// Generates for every subject. The result is sorted by workload.
pub fn generate(cluster: &Cluster, subjects: &[Subject], known: &BTreeMap<WorkloadId, Known>) -> Vec<Outcome> {
    let nothing = Known::default();
    let mut names = Names::default();
    subjects.iter().map(|s| one(cluster, s, known.get(&s.id).unwrap_or(&nothing), &mut names)).collect()
}

fn one(cluster: &Cluster, subject: &Subject, known: &Known, names: &mut Names) -> Outcome {
    let mut outcome = Outcome { workload: subject.id.clone(), manifest: None, withheld: None, notes: Vec::new() };
    let hosts = Hosts::of(cluster, known, &mut outcome.notes);
    outcome.withheld = if let Some(why) = subject.data_plane.why_no_sidecar() {
        Some(why.to_owned())
    } else if subject.selector.is_empty() {
        Some("no label selects its pods across rollouts; give them one".to_owned())
    } else if hosts.entries.is_empty() && known.watches.is_empty() {
        Some("not watched: none of its pods' interfaces was captured, so its silence means nothing".to_owned())
    } else {
        None
    };
    if outcome.withheld.is_some() {
        return outcome;
    }
    if known.watches.is_empty() {
        outcome.notes.push("seen only on interfaces that are not its own: calls that never passed there are missing".to_owned());
    }
    if !subject.present {
        outcome.notes.push("not in the snapshot any more".to_owned());
    }
    for other in others(cluster, subject) {
        outcome.notes.push(format!("the selector also matches pods of {other}: Istio lets only one Sidecar win"));
    }
    let entries = if hosts.entries.is_empty() { vec![SILENT.to_owned()] } else { hosts.entries.into_iter().collect() };
    outcome.manifest = Some(Manifest::new(&subject.id.namespace, &names.unique(&subject.id), subject.selector.clone(), entries));
    outcome
}

/// Other workloads of the namespace whose pods the selector matches.
fn others(cluster: &Cluster, subject: &Subject) -> BTreeSet<String> {
    cluster
        .pods()
        .iter()
        .filter(|p| p.end == Time::MAX && p.workload.namespace == subject.id.namespace && p.workload != subject.id)
        .filter(|p| subject.selector.iter().all(|(k, v)| p.labels.get(k) == Some(v)))
        .map(|p| p.workload.to_string())
        .collect()
}

struct Hosts {
    entries: BTreeSet<String>,
}

impl Hosts {
    fn of(cluster: &Cluster, known: &Known, notes: &mut Vec<String>) -> Self {
        let mut hosts = Self { entries: BTreeSet::new() };
        // Envoy captures TCP only.
        for d in known.dependencies.iter().filter(|d| d.key.protocol == Protocol::Tcp) {
            hosts.cover(d, notes);
        }
        hosts.aliases(cluster, known);
        hosts.never_called(cluster, known, notes);
        hosts
    }

    fn service(&mut self, s: &ServicePort) {
        self.entries.insert(format!("{}/{}", s.namespace, s.host));
    }

    fn cover(&mut self, d: &Dependency, notes: &mut Vec<String>) {
        let (port, n) = (d.key.port, d.tally.connections);
        match &d.key.destination {
            Destination::Service(s) => self.service(s),
            Destination::Ambiguous { candidates } => {
                candidates.iter().for_each(|c| self.service(c));
                notes.push(format!(
                    "{n} connections went to one of {}: nothing on the wire told which, so all are listed",
                    d.key.destination
                ));
            }
            Destination::External { namespace: Some(namespace), host: Some(host), entry_host, .. } => {
                self.entries.insert(format!("{namespace}/{}", entry_host.as_ref().unwrap_or(host)));
            }
            Destination::External { .. } => notes.push(format!(
                "{}:{port} is outside the mesh and no ServiceEntry holds it: there is no host to list",
                d.key.destination
            )),
            Destination::Pod { .. } => notes.push(format!(
                "{n} connections called pods of {} directly on port {port}: no host covers a pod address",
                d.key.destination
            )),
            Destination::Infrastructure { .. } => {}
            Destination::Unresolved { why, .. } => notes.push(format!(
                "{n} connections to {}:{port} could not be resolved ({why}): what they need is missing here",
                d.key.destination
            )),
        }
        if let Some(missed) = d.scope_miss {
            notes.push(format!(
                "scope miss: {} connections reached {}:{port} at the Service's own address, outside the mesh",
                missed.connections, d.key.destination
            ));
        }
    }

    /// An ExternalName Service is in scope only when it is listed under its target's namespace (seen in a running mesh).
    fn aliases(&mut self, cluster: &Cluster, known: &Known) {
        let addressed = known.dependencies.iter().flat_map(|d| d.addressed.keys());
        for host in addressed.chain(known.lookups.iter().map(|l| &l.host)) {
            if let Named::Service { service, via: Some(alias) } = cluster.named(host, "")
                && self.entries.contains(&format!("{}/{}", service.namespace, service.host))
            {
                self.entries.insert(format!("{}/{alias}", service.namespace));
            }
        }
    }

    fn never_called(&self, cluster: &Cluster, known: &Known, notes: &mut Vec<String>) {
        for l in &known.lookups {
            let covered = match cluster.named(&l.host, "") {
                Named::Service { service, .. } => {
                    service.control_plane || self.entries.contains(&format!("{}/{}", service.namespace, service.host))
                }
                Named::Entry(entries) => entries.iter().any(|e| self.entries.contains(&format!("{}/{}", e.namespace, e.host))),
                Named::Unknown => true,
            };
            if !covered {
                notes.push(format!(
                    "{} was looked up and no connection to it was seen: a VirtualService may lead it elsewhere, or the proxy \
                     refused the call",
                    l.host
                ));
            }
        }
    }
}

/// Names of Sidecars: the workload's, told apart by kind where two of a namespace share one.
#[derive(Default)]
struct Names {
    taken: BTreeSet<(String, String)>,
}

impl Names {
    fn unique(&mut self, id: &WorkloadId) -> String {
        let plain = (id.namespace.clone(), id.name.clone());
        if self.taken.insert(plain) {
            return id.name.clone();
        }
        let name = format!("{}-{}", id.name, id.kind.to_ascii_lowercase());
        self.taken.insert((id.namespace.clone(), name.clone()));
        name
    }
}
