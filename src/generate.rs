//! From dependencies to Sidecars, with proof.
//!
//! Owns which hosts a manifest lists and why, and what is withheld and why. Pure and byte-stable:
//! the same store and snapshot give the same text. Must never list a host that no call asks for,
//! and never be silent about a call that it cannot keep.

pub mod calls;
mod candidates;
pub mod group;
pub mod implied;
mod known;
mod manifest;
pub mod minimal;
mod notes;
mod past;
pub mod readiness;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::cluster::Cluster;
use crate::mesh::{Egress, Mesh, MeshPod, Sidecar, TrafficMode};
use crate::model::{DataPlane, Time, Workload, WorkloadId, valid};
use crate::scope::clusters::Size;
use crate::scope::{Call, Client, Scope, Treatment, everything, listeners, policy};
use calls::{Plan, Planned, Planner};
use group::{Group, GroupBy, Running};
use implied::Implied;
use minimal::{Demand, Instance, Minimal, Widening};
use readiness::{Readiness, Thresholds};

use known::NOTHING;

pub use known::{Declared, Known, Subject};
pub use manifest::Manifest;
pub use minimal::SILENT;
pub use past::set_apart;

/// How to generate.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What shares a Sidecar.
    pub group_by: GroupBy,
    /// Also a default per namespace, the union of its workloads.
    pub namespace_default: bool,
    /// What is asked for before a Sidecar is written.
    pub least: Thresholds,
    /// Write it all the same.
    pub include_unready: bool,
    /// Also compute what only explanations and forecasts show.
    pub detail: bool,
}

/// Why no Sidecar is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Withheld {
    /// For people.
    pub reason: String,
    /// More watching would help.
    pub unready: bool,
}

/// A call and what became of it.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Who calls.
    pub workload: WorkloadId,
    /// The call and its origin.
    pub planned: Planned,
    /// How it is treated, with all hosts imported and with the Sidecar alike.
    pub treatment: Treatment,
    /// Egress hosts that its route may depend on.
    pub hosts: BTreeSet<String>,
}

/// What generation says of one workload or group.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Which workloads.
    pub workloads: Vec<WorkloadId>,
    /// The Sidecar, where one is written.
    pub manifest: Option<Manifest>,
    /// Why none is written.
    pub withheld: Option<Withheld>,
    /// What a reviewer must know: ambiguity, gaps in what was watched, calls that no host covers.
    pub notes: Vec<String>,
    /// The proof.
    pub proof: Option<Minimal>,
    /// The calls that it keeps.
    pub calls: Vec<Kept>,
    /// Clusters that the proxy itself sends to.
    pub implied: Vec<Implied>,
    /// Hosts that could have been addressed and were not.
    pub rejected: BTreeMap<String, String>,
    /// How much is known.
    pub readiness: BTreeMap<WorkloadId, Readiness>,
    /// Clusters and endpoints with all hosts imported; with [`Options::detail`] only.
    pub before: Size,
    /// Clusters and endpoints under what applies today; with [`Options::detail`] only.
    pub today: Size,
}

/// All that generation works on.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// Who holds which address, and the workloads.
    pub cluster: &'a Cluster,
    /// What istiod makes of the configuration.
    pub mesh: &'a Mesh,
    /// What is known, by workload.
    pub known: &'a BTreeMap<WorkloadId, Known>,
    /// How to generate.
    pub options: &'a Options,
}

impl<'a> Input<'a> {
    /// What is known of a workload.
    fn known(&self, id: &WorkloadId) -> &'a Known {
        self.known.get(id).unwrap_or(&NOTHING)
    }
}

/// All workloads, of the snapshot and of the store, sorted.
pub fn subjects(cluster: &Cluster, stored: &[Workload]) -> Vec<Subject> {
    let mut all: BTreeMap<WorkloadId, Subject> = stored
        .iter()
        .map(|w| {
            let subject = Subject {
                id: w.id.clone(),
                selector: w.selector.clone(),
                data_plane: w.data_plane,
                present: false,
            };
            (w.id.clone(), subject)
        })
        .collect();
    for pod in cluster.pods().iter().filter(|p| p.end == Time::MAX) {
        let selector = BTreeMap::clone(&pod.selector);
        let new = Subject {
            id: pod.workload.clone(),
            selector,
            data_plane: pod.data_plane,
            present: true,
        };
        match all.get_mut(&pod.workload) {
            // During a rollout some pods may lack the proxy: one that has it is reason enough for a
            // Sidecar.
            Some(old) if old.present && old.data_plane == DataPlane::Sidecar => {}
            Some(old) => *old = new,
            None => {
                all.insert(pod.workload.clone(), new);
            }
        }
    }
    all.into_values().collect()
}

/// Generates for every subject, and for the namespaces where that is asked for. The result is
/// sorted by namespace and name.
pub fn generate(input: &Input<'_>, subjects: &[Subject]) -> Vec<Outcome> {
    let mut out: Vec<Outcome> = Vec::new();
    let mut ready: Vec<&Subject> = Vec::new();
    for s in subjects {
        match withheld(s, input.known(&s.id), input.options) {
            Some(why) => out.push(Outcome::new(vec![s.id.clone()], Some(why))),
            None => ready.push(s),
        }
    }
    let running = Running::new(input.cluster);
    let by_id: BTreeMap<&WorkloadId, &Subject> = subjects.iter().map(|s| (&s.id, s)).collect();
    let mut groups = group::groups(&ready, input.options.group_by, &running);
    if input.options.namespace_default && input.options.group_by != GroupBy::Namespace {
        groups.extend(group::groups(&ready, GroupBy::Namespace, &running));
    }
    let served: BTreeSet<&WorkloadId> = ready.iter().map(|s| &s.id).collect();
    let replaced: Vec<Option<&Sidecar>> =
        groups.iter_mut().map(|g| group::check(g, input.mesh, &running, &served)).collect();
    let work = Work { input, running: &running, by_id: &by_id };
    let shapes: Vec<Shape<'_>> =
        groups.iter().zip(replaced).map(|(g, r)| work.shape(g, r)).collect();
    // One scope with all hosts imported serves every group that has the same namespace, policy and
    // listeners with a port.
    let distinct: BTreeMap<&[String], &Shape<'_>> =
        shapes.iter().map(|s| (s.key.as_slice(), s)).collect();
    let distinct: Vec<(&Shape<'_>, Vec<Egress>)> =
        distinct.into_values().map(|s| (s, s.full_egress())).collect();
    let made = in_parallel(&distinct, |(s, egress)| {
        (s.key.as_slice(), Scope::new(input.mesh, s.namespace, egress, s.policy))
    });
    let full: BTreeMap<&[String], Scope<'_>> = made.into_iter().collect();
    let jobs: Vec<(Group, &Shape<'_>)> = groups.into_iter().zip(&shapes).collect();
    out.extend(in_parallel(&jobs, |(g, shape)| work.one(g, shape, &full[shape.key.as_slice()])));
    out.sort_by_cached_key(|o| {
        let first = o.workloads.first();
        let name = o
            .manifest
            .as_ref()
            .map(|m| m.name().to_owned())
            .or_else(|| first.map(|w| w.name.clone()));
        (first.map(|w| w.namespace.clone()), name, o.workloads.clone())
    });
    out
}

/// Runs the jobs on all processors; the results stand in the order of the jobs.
fn in_parallel<'j, J: Sync, R: Send>(jobs: &'j [J], run: impl Fn(&'j J) -> R + Sync) -> Vec<R> {
    let workers =
        std::thread::available_parallelism().map_or(1, usize::from).min(jobs.len().max(1));
    let share = jobs.len().div_ceil(workers).max(1);
    std::thread::scope(|s| {
        let running: Vec<_> = jobs
            .chunks(share)
            .map(|part| s.spawn(|| part.iter().map(&run).collect::<Vec<R>>()))
            .collect();
        // A panic there is a panic here.
        running
            .into_iter()
            .flat_map(|t| t.join().unwrap_or_else(|e| std::panic::resume_unwind(e)))
            .collect()
    })
}

fn withheld(subject: &Subject, known: &Known, options: &Options) -> Option<Withheld> {
    let never = |reason: &str| Some(Withheld { reason: reason.to_owned(), unready: false });
    if let Some(why) = subject.data_plane.why_no_sidecar() {
        return never(why);
    }
    if subject.selector.is_empty() {
        return never("no label selects its pods across rollouts; give them one");
    }
    if !known.declared.is_empty() && !known.learned() {
        return None;
    }
    if known.watches.is_empty()
        && known.dependencies.iter().all(|d| !notes::needs_a_host(d))
        && known.declared.is_empty()
    {
        return never(
            "not watched: none of its pods' interfaces was captured, so its silence means nothing",
        );
    }
    if options.include_unready {
        return None;
    }
    Readiness::of(known).lacks(&options.least).map(|reason| Withheld { reason, unready: true })
}

/// What a group's Sidecar must keep, beside calls.
struct Shape<'m> {
    namespace: &'m str,
    replaced: Option<&'m Sidecar>,
    policy: TrafficMode,
    bound: Vec<Egress>,
    pods: Vec<(MeshPod, WorkloadId)>,
    /// What its scope with all hosts imported depends on: namespace, policy, listeners with a port.
    key: Vec<String>,
}

impl Shape<'_> {
    fn full_egress(&self) -> Vec<Egress> {
        self.bound.iter().cloned().chain([everything()]).collect()
    }
}

struct Work<'a> {
    input: &'a Input<'a>,
    running: &'a Running<'a>,
    by_id: &'a BTreeMap<&'a WorkloadId, &'a Subject>,
}

impl<'a> Work<'a> {
    fn shape(&self, g: &Group, replaced: Option<&'a Sidecar>) -> Shape<'a> {
        let mesh = self.input.mesh;
        // Pods with the same labels are treated alike.
        let mut seen: BTreeSet<(&WorkloadId, &BTreeMap<String, String>)> = BTreeSet::new();
        let mut pods: Vec<(MeshPod, WorkloadId)> = Vec::new();
        for p in self
            .running
            .selected(&g.namespace, g.selector.as_ref())
            .filter(|p| p.data_plane == DataPlane::Sidecar)
        {
            if let Some(pod) =
                mesh.pod(&g.namespace, &p.name).filter(|_| seen.insert((&p.workload, &p.labels)))
            {
                pods.push((pod.clone(), p.workload.clone()));
            }
        }
        let present: BTreeSet<WorkloadId> = pods.iter().map(|(_, w)| w.clone()).collect();
        for id in g.members.iter().filter(|m| !present.contains(*m)) {
            // Not in the snapshot: a pod is imagined from its selector.
            let labels = self.by_id.get(id).map(|s| s.selector.clone()).unwrap_or_default();
            let pod = MeshPod {
                namespace: g.namespace.clone(),
                name: id.name.clone(),
                labels: std::sync::Arc::new(labels),
                addresses: Vec::new(),
                ready: false,
            };
            pods.push((pod, id.clone()));
        }
        let labels = pods.iter().find(|(_, w)| g.members.contains(w)).map(|(p, _)| &*p.labels);
        let none = BTreeMap::new();
        let replaced =
            replaced.or_else(|| mesh.applied_before(&g.namespace, labels.unwrap_or(&none)));
        let with_port = |e: &&Egress| e.port.as_ref().is_some_and(|p| p.number != 0);
        let bound: Vec<Egress> =
            replaced.iter().flat_map(|s| &s.egress).filter(with_port).cloned().collect();
        let namespace = g
            .members
            .first()
            .and_then(|m| self.by_id.get_key_value(m))
            .map_or("", |(w, _)| w.namespace.as_str());
        let policy = policy(mesh, replaced);
        let written = bound.iter().map(|e| format!("{e:?}"));
        let key =
            [namespace.to_owned(), policy.name().to_owned()].into_iter().chain(written).collect();
        Shape { namespace, replaced, policy, bound, pods, key }
    }

    fn one<'s>(&self, g: &Group, shape: &'s Shape<'a>, full: &'s Scope<'s>) -> Outcome {
        let refused = g.refused.clone().or_else(|| nameless(g));
        let refused = refused.map(|reason| Withheld { reason, unready: false });
        let mut outcome = Outcome::new(g.members.clone(), refused);
        outcome.notes.clone_from(&g.notes);
        let mut all: BTreeMap<Call, (WorkloadId, Planned)> = BTreeMap::new();
        for id in &g.members {
            let known = self.input.known(id);
            let plan = self.plan(shape, full, id, known);
            outcome.readiness.insert(id.clone(), Readiness::of(known));
            outcome.notes.extend(plan.notes);
            outcome.rejected.extend(plan.rejected);
            for planned in plan.calls {
                all.entry(planned.call.clone()).or_insert_with(|| (id.clone(), planned));
            }
        }
        let calls: Vec<Call> = all.keys().cloned().collect();
        let instances: Vec<Instance<'_>> =
            shape.pods.iter().map(|(p, w)| Instance::new(p, g.members.contains(w))).collect();
        let implied: BTreeSet<Implied> = shape
            .pods
            .iter()
            .flat_map(|(p, _)| implied::implied(self.input.mesh, p, shape.replaced))
            .collect();
        let wanted: BTreeSet<(String, u16)> =
            implied.iter().map(|i| (i.host.clone(), i.port)).collect();
        let wanted: Vec<(String, u16)> = wanted.into_iter().collect();
        let demand = Demand {
            full,
            bound: &shape.bound,
            carried: shape.replaced,
            instances: &instances,
            calls: &calls,
            implied: &wanted,
        };
        let proof = minimal::minimal(&demand);
        outcome.implied = implied.into_iter().collect();
        self.notes(g, &mut outcome, &proof, full);
        if let Some(i) = instances
            .iter()
            .find(|i| i.calls)
            .or(instances.first())
            .filter(|_| self.input.options.detail)
        {
            outcome.calls = all
                .into_values()
                .map(|(workload, planned)| {
                    let treatment = full.treat(&i.client(), &planned.call);
                    let hosts = demand.entries_of(&planned.call);
                    let hosts = hosts.into_iter().filter(|h| proof.hosts.contains(h)).collect();
                    Kept { workload, planned, treatment, hosts }
                })
                .collect();
            outcome.before = full.size(&i.pod.labels);
            outcome.today = self.today(shape, &i.client());
        }
        if outcome.withheld.is_none() {
            let catch_all = Egress { hosts: proof.hosts.clone(), ..Egress::default() };
            let egress = shape.bound.iter().cloned().chain([catch_all]).collect();
            outcome.manifest = Some(
                Manifest::new(&g.namespace, &g.name, g.selector.clone(), egress)
                    .carrying(shape.replaced),
            );
        }
        outcome.proof = Some(proof);
        outcome
    }

    fn plan(&self, shape: &Shape<'_>, full: &Scope<'_>, id: &WorkloadId, known: &Known) -> Plan {
        let Some((pod, _)) = shape.pods.iter().find(|(_, w)| w == id) else {
            return Plan::default();
        };
        let address = pod.addresses.first().map(ToString::to_string);
        let client =
            Client { namespace: &pod.namespace, labels: &pod.labels, address: address.as_deref() };
        let mut planner = Planner::new(full, client);
        planner.learn(known);
        known.declared.iter().for_each(|d| planner.declare(d));
        planner.finish()
    }

    /// Clusters and endpoints under the Sidecar that applies now, whoever wrote it.
    fn today(&self, shape: &Shape<'_>, client: &Client<'_>) -> Size {
        let egress = listeners(self.input.mesh.applied(shape.namespace, client.labels));
        Scope::new(self.input.mesh, shape.namespace, &egress, shape.policy).size(client.labels)
    }

    fn notes(&self, g: &Group, outcome: &mut Outcome, proof: &Minimal, full: &Scope<'_>) {
        for id in &g.members {
            let known = self.input.known(id);
            notes::of_dependencies(known, &mut outcome.notes);
            notes::never_called(
                self.input.cluster,
                known,
                full,
                &proof.hosts,
                &outcome.rejected,
                &mut outcome.notes,
            );
            if known.watches.is_empty() && known.learned() {
                outcome
                    .notes
                    .push("seen only on interfaces that are not its own: calls that never passed there are missing".to_owned());
            }
            if self.by_id.get(id).is_some_and(|s| !s.present) {
                outcome.notes.push("not in the snapshot any more".to_owned());
            }
        }
        if !g.bystanders.is_empty() && g.selector.is_some() {
            let all: Vec<String> = g.bystanders.iter().map(ToString::to_string).collect();
            outcome.notes.push(format!(
                "its selector also meets pods of {}: they get this Sidecar too, and what they call is not known",
                all.join(", ")
            ));
        }
        match proof.widening {
            Widening::None => {}
            Widening::Scan => outcome.notes.push(format!(
                "{} matches nothing: it makes istiod scan its Services, because the look-up of exact hosts takes one of several \
                 entries or addresses that a call needs",
                minimal::FORCE_SCAN
            )),
            Widening::Port => {
                outcome.notes.push(
                    "exact hosts of the calls alone change a route: a host that shares a port with one is kept too".to_owned(),
                );
            }
            Widening::Everything => outcome.notes.push(
                "*/*: no narrower list keeps every call as it is; run `sidecarta explain` to see which call stands against it"
                    .to_owned(),
            ),
        }
    }
}

/// Why a group's Sidecar cannot have its name, namespace or labels: an application's label need be
/// no name, and what a store learned before names were checked may hold anything.
fn nameless(g: &Group) -> Option<String> {
    let space = if g.namespace.is_empty() { Ok(()) } else { valid::namespace(&g.namespace) };
    let checked = space.and_then(|()| valid::object_name(&g.name));
    let checked = checked.and_then(|()| g.selector.as_ref().map_or(Ok(()), valid::labels));
    checked.err().map(|e| format!("its Sidecar would have a name that Kubernetes refuses: {e}"))
}

impl Outcome {
    fn new(workloads: Vec<WorkloadId>, withheld: Option<Withheld>) -> Self {
        Self {
            workloads,
            manifest: None,
            withheld,
            notes: Vec::new(),
            proof: None,
            calls: Vec::new(),
            implied: Vec::new(),
            rejected: BTreeMap::new(),
            readiness: BTreeMap::new(),
            before: Size::default(),
            today: Size::default(),
        }
    }
}
