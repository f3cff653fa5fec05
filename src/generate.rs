//! From dependencies to Sidecars, with proof.
//!
//! Owns which hosts a manifest lists and why, and what is withheld and why. Pure and byte-stable:
//! the same store and snapshot give the same text. Must never list a host that no call asks for,
//! and never be silent about a call that it cannot keep.

mod assemble;
pub mod calls;
mod candidates;
mod context;
mod declared;
mod demand;
pub mod group;
pub mod implied;
mod input;
mod law;
mod learned;
mod manifest;
pub mod minimal;
mod names;
mod outcome;
mod past;
mod presence;
pub mod readiness;
mod remarks;
mod subjects;
mod withheld;

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::{Cluster, lasting};
use crate::mesh::{Egress, Mesh, MeshPod, Meshes, Sidecar, TrafficMode};
use crate::model::{DataPlane, Time, Workload, WorkloadId};
use crate::scope::clusters::ProxySize;
use crate::scope::{Client, Scope, ScopeCall, Treatment, everything, listeners, policy};
use calls::{Plan, Planned, Planner};
use group::{Group, GroupBy, Running};
use implied::Implied;
use minimal::{Demand, Instance, Minimal, Widening};
use place::{Place, place};
use readiness::{Readiness, Thresholds};

pub use declared::{DeclaredCall, UnreadableCall};
pub use input::{GenerateInput, GenerateOptions};
pub use learned::{Gap, Learned};
pub use manifest::Manifest;
pub use minimal::SILENT;
pub use outcome::{GroupOutcome, KeptCall};
pub use past::separate_past_proxy;
pub use subjects::{Subject, subjects};
pub use withheld::{Cause, Withheld};

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
    /// Write Sidecars of workloads of which calls are known that cannot be kept for sure.
    pub include_incomplete: bool,
    /// Replace Sidecars that somebody else wrote.
    pub adopt: bool,
    /// Also compute what only explanations and forecasts show, of workloads that are not ready as
    /// well.
    pub detail: bool,
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
    /// Calls that are known and that no list is sure to keep.
    pub gaps: Vec<Gap>,
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
    pub before: ProxySize,
    /// Clusters and endpoints under what applies today; with [`Options::detail`] only.
    pub today: ProxySize,
}

/// All that generation works on.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// Who holds which address, and the workloads.
    pub cluster: &'a Cluster,
    /// What istiod makes of the configuration, for each of its revisions.
    pub meshes: &'a Meshes,
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

    /// How much is known of a workload.
    fn readiness(&self, id: &WorkloadId) -> Readiness {
        let running = |pod: &str| {
            let all = self.cluster.pods_named(&id.namespace, pod).iter();
            all.into_iter().any(|p| p.end == Time::MAX)
        };
        Readiness::of_kind(self.known(id), &id.kind, running)
    }
}

/// All workloads, of the snapshot and of the store, sorted.
pub fn subjects(cluster: &Cluster, stored: &[Workload]) -> Vec<Subject> {
    let mut all: BTreeMap<WorkloadId, Subject> = stored
        .iter()
        .map(|w| {
            let selector = w.selector.clone();
            let subject = Subject {
                id: w.id.clone(),
                // An older release stored labels that do not last.
                selector: if given(&w.id) { selector } else { lasting(&selector) },
                data_plane: w.data_plane,
                present: false,
            };
            (w.id.clone(), subject)
        })
        .collect();
    for pod in cluster.pods().iter().filter(|p| p.end == Time::MAX) {
        let mut selector = BTreeMap::clone(&pod.selector);
        let stored = all.get(&pod.workload).filter(|s| !s.present && !given(&s.id));
        if let Some(old) = stored {
            // What its pods had when they were learned counts as well.
            selector.retain(|k, v| old.selector.get(k).is_none_or(|was| was == v));
        }
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

/// Whether the selector of a workload is what its controller says: any other is told from its pods.
fn given(id: &WorkloadId) -> bool {
    matches!(
        id.kind.as_str(),
        "Deployment"
            | "StatefulSet"
            | "DaemonSet"
            | "ReplicaSet"
            | "Rollout"
            | "CloneSet"
            | "DeploymentConfig"
            | "ReplicationController"
            | "Pod"
    )
}

/// Generates for every subject, and for the namespaces where that is asked for. The result is
/// sorted by namespace and name.
///
/// Most of the time goes into the proofs: one scope for each group, and one for each host that may
/// be left out. They are spread over all processors.
pub fn generate(input: &GenerateInput<'_>, subjects: &[Subject]) -> Vec<GroupOutcome> {
    let Sorted { serveable, unready, mut outcomes } = sort_out(input, subjects);
    let running = RunningPods::new(input.cluster);
    let by_id: BTreeMap<&WorkloadId, &Subject> = subjects.iter().map(|s| (&s.id, s)).collect();
    let (groups, contexts) = groups_with_contexts(input, &serveable, &running, &by_id);

    // One baseline scope serves every group with the same namespace, policy and listeners with a
    // port.
    let distinct: BTreeMap<&[String], &GroupContext<'_>> =
        contexts.iter().map(|c| (c.key.as_slice(), c)).collect();
    let distinct: Vec<(&GroupContext<'_>, Vec<Egress>)> =
        distinct.into_values().map(|c| (c, c.baseline_egress())).collect();
    let baselines: BTreeMap<&[String], Scope<'_>> = in_parallel(&distinct, |(c, egress)| {
        (c.key.as_slice(), Scope::new(c.mesh, c.namespace, egress, c.policy))
    })
    .into_iter()
    .collect();

    let builder = OutcomeBuilder { input, by_id: &by_id, unready: &unready };
    let jobs: Vec<(Group, &GroupContext<'_>)> = groups.into_iter().zip(&contexts).collect();
    outcomes.extend(in_parallel(&jobs, |(g, context)| {
        builder.outcome(g, context, &baselines[context.key.as_slice()])
    }));
    outcomes.sort_by_cached_key(sort_key);
    outcomes
}

/// Subjects by what generation can do for them.
struct Sorted<'a> {
    /// A Sidecar can serve them; with `detail` the unready ones are among them.
    serveable: Vec<&'a Subject>,
    /// Those of them that are explained and not written.
    unready: BTreeMap<&'a WorkloadId, Withheld>,
    /// Outcomes of all others.
    outcomes: Vec<GroupOutcome>,
}

fn sort_out<'a>(input: &GenerateInput<'_>, subjects: &'a [Subject]) -> Sorted<'a> {
    let mut sorted =
        Sorted { serveable: Vec::new(), unready: BTreeMap::new(), outcomes: Vec::new() };
    for s in subjects {
        match not_yet(s, input) {
            // What would be written can be explained before it is ready to be.
            Some(why) if input.options.detail && why.code == Cause::Unready => {
                sorted.unready.insert(&s.id, why);
                sorted.serveable.push(s);
            }
            Some(why) => {
                sorted.outcomes.push(GroupOutcome::new(vec![s.id.clone()], Some(why)));
            }
            None => sorted.serveable.push(s),
        }
    }
    let running = Running::new(input.cluster);
    let by_id: BTreeMap<&WorkloadId, &Subject> = subjects.iter().map(|s| (&s.id, s)).collect();
    let mut groups = group::groups(&ready, input.options.group_by, &running);
    if input.options.namespace_default && input.options.group_by != GroupBy::Namespace {
        groups.extend(group::groups(&ready, GroupBy::Namespace, &running));
    }
    let served: BTreeSet<&WorkloadId> = ready.iter().map(|s| &s.id).collect();
    let meshes: Vec<&Mesh> = groups.iter_mut().map(|g| mesh_of(g, input, &running)).collect();
    let adopt = input.options.adopt;
    let replaced: Vec<Option<&Sidecar>> = groups
        .iter_mut()
        .zip(&meshes)
        .map(|(g, mesh)| group::check(g, mesh, &running, &served, adopt))
        .collect();
    let mut used = BTreeSet::new();
    groups.iter_mut().for_each(|g| group::rename(g, input.meshes.sidecar_names(), &mut used));
    let work = Work { input, running: &running, by_id: &by_id, unready: &unready };
    let shapes: Vec<Shape<'_>> = groups
        .iter()
        .zip(meshes)
        .zip(replaced)
        .map(|((g, mesh), r)| work.shape(g, mesh, r))
        .collect();
    // One scope with all hosts imported serves every group that has the same namespace, policy and
    // listeners with a port.
    let distinct: BTreeMap<&[String], &Shape<'_>> =
        shapes.iter().map(|s| (s.key.as_slice(), s)).collect();
    let distinct: Vec<(&Shape<'_>, Vec<Egress>)> =
        distinct.into_values().map(|s| (s, s.full_egress())).collect();
    let made = in_parallel(&distinct, |(s, egress)| {
        (s.key.as_slice(), Scope::new(s.mesh, s.namespace, egress, s.policy))
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

/// Why nothing is written for a subject, as far as its own data decide that.
fn not_yet(subject: &Subject, input: &GenerateInput<'_>) -> Option<Withheld> {
    let (learned, options) = (input.learned_of(&subject.id), input.options);
    if let Some(why) = subject.data_plane.why_no_sidecar() {
        return Some(Withheld::new(Cause::NoProxy, why));
    }
    if subject.selector.is_empty() {
        let why = Withheld::new(Cause::NoSelector, subject.no_selector());
        return Some(Withheld { known: learned.has_anything(), ..why });
    }
    if learned.watches.is_empty()
        && learned.dependencies.iter().all(|d| !remarks::needs_a_host(d))
        && learned.declared.is_empty()
        && learned.unreadable.is_empty()
    {
        return Some(Withheld::new(
            Cause::NotWatched,
            "not watched: none of its pods' interfaces was captured, so its silence means nothing",
        ));
    }
    if options.include_unready {
        return None;
    }
    let reason = input.readiness_of(&subject.id).lacks(&options.least)?;
    Some(Withheld { known: learned.has_anything(), ..Withheld::new(Cause::Unready, reason) })
}

/// The groups of the subjects, each checked against the Sidecars that exist, under its final name.
fn groups_with_contexts<'a>(
    input: &GenerateInput<'a>,
    serveable: &[&Subject],
    running: &RunningPods<'_>,
    by_id: &BTreeMap<&'a WorkloadId, &'a Subject>,
) -> (Vec<Group>, Vec<GroupContext<'a>>) {
    let options = input.options;
    let mut groups = group::groups(serveable, options.group_by, running);
    if options.namespace_default && options.group_by != GroupBy::Namespace {
        groups.extend(group::groups(serveable, GroupBy::Namespace, running));
    }
    let served: BTreeSet<&WorkloadId> = serveable.iter().map(|s| &s.id).collect();
    let meshes: Vec<&Mesh> = groups.iter_mut().map(|g| mesh_of(g, input.meshes, running)).collect();
    let replaced: Vec<Option<&Sidecar>> = groups
        .iter_mut()
        .zip(&meshes)
        .map(|(g, mesh)| group::check(g, mesh, running, &served, options.adopt))
        .collect();
    let mut used = BTreeSet::new();
    groups.iter_mut().for_each(|g| group::rename(g, input.meshes.taken(), &mut used));
    let contexts = groups
        .iter()
        .zip(meshes)
        .zip(replaced)
        .map(|((g, mesh), replaced)| GroupContext::new(g, mesh, replaced, running, by_id))
        .collect();
    (groups, contexts)
}

struct Work<'a> {
    input: &'a Input<'a>,
    running: &'a Running<'a>,
    by_id: &'a BTreeMap<&'a WorkloadId, &'a Subject>,
    /// Workloads that are only explained.
    unready: &'a BTreeMap<&'a WorkloadId, Withheld>,
}

impl<'a> Work<'a> {
    fn shape(&self, g: &Group, mesh: &'a Mesh, replaced: Option<&'a Sidecar>) -> Shape<'a> {
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
                revision: None,
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
        let revision = mesh.revision.clone();
        let key = [revision, namespace.to_owned(), policy.name().to_owned()];
        let key = key.into_iter().chain(written).collect();
        Shape { mesh, namespace, replaced, policy, bound, pods, key }
    }

    fn one<'s>(&self, g: &Group, shape: &'s Shape<'a>, full: &'s Scope<'s>) -> Outcome {
        let unready = || g.members.iter().find_map(|m| self.unready.get(m)).cloned();
        let mut outcome = Outcome::new(g.members.clone(), withheld::refused(g).or_else(unready));
        outcome.notes.clone_from(&g.notes);
        let mut all: BTreeMap<ScopeCall, (WorkloadId, Planned)> = BTreeMap::new();
        let mut assumed: BTreeSet<String> = BTreeSet::new();
        let mut unreached: BTreeSet<String> = BTreeSet::new();
        let mut gaps: BTreeSet<Gap> = BTreeSet::new();
        // Pods that the selector meets as well get this Sidecar: what is known of them counts.
        let callers: BTreeSet<&WorkloadId> = g.members.iter().chain(&g.bystanders).collect();
        for &id in &callers {
            let known = self.input.known(id);
            let plan = self.plan(shape, full, id, known);
            if g.members.contains(id) {
                outcome.readiness.insert(id.clone(), self.input.readiness(id));
            }
            gaps.extend(law::gaps(shape.mesh, known, &plan));
            assumed.extend(plan.assumed);
            unreached.extend(plan.unreached);
            outcome.notes.extend(plan.notes);
            outcome.rejected.extend(plan.rejected);
            for planned in plan.calls {
                all.entry(planned.call.clone()).or_insert_with(|| (id.clone(), planned));
            }
        }
        let calls: Vec<ScopeCall> = all.keys().cloned().collect();
        let instances: Vec<Instance<'_>> =
            shape.pods.iter().map(|(p, w)| Instance::new(p, callers.contains(w))).collect();
        let implied: BTreeSet<Implied> = shape
            .pods
            .iter()
            .flat_map(|(p, _)| implied::implied(shape.mesh, p, shape.replaced))
            .collect();
        for i in &implied {
            // The same holds for what the proxy itself calls.
            if let Place::Missing { namespace, host } = place(full, &i.host, &g.namespace)
                && host == i.host
            {
                assumed.insert(format!("{namespace}/{host}"));
            }
        }
        for entry in &assumed {
            outcome.notes.push(format!(
                "{entry} is not in the snapshot, and what is known names it: it is listed by its name, and what leads it \
                 elsewhere is not known; add it to the snapshot"
            ));
        }
        let assumed: Vec<String> = assumed.into_iter().chain(unreached).collect();
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
            assumed: &assumed,
        };
        let proof = minimal::minimal(&demand);
        outcome.gaps = gaps.into_iter().collect();
        if outcome.withheld.is_none() && !outcome.gaps.is_empty() {
            if self.input.options.include_incomplete {
                let all = outcome.gaps.iter();
                outcome.notes.extend(all.map(|gap| format!("not kept for sure: {gap}")));
            } else {
                outcome.withheld = Some(withheld::incomplete(&outcome.gaps));
            }
        }
        outcome.implied = implied.into_iter().collect();
        outcome.notes.extend(
            shape.mesh.unread_for(&g.namespace).map(|u| {
                format!("{} {}/{} is not read: {}", u.kind, u.namespace, u.name, u.effect())
            }),
        );
        self.notes(g, &mut outcome, &proof);
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
    fn today(&self, shape: &Shape<'_>, client: &Client<'_>) -> ProxySize {
        let egress = listeners(shape.mesh.applied(shape.namespace, client.labels));
        Scope::new(shape.mesh, shape.namespace, &egress, shape.policy).size(client.labels)
    }

    fn notes(&self, g: &Group, outcome: &mut Outcome, proof: &Minimal) {
        for id in &g.members {
            let known = self.input.known(id);
            notes::of_dependencies(known, &mut outcome.notes);
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
        if proof.hosts == [SILENT] {
            outcome.notes.push(
                "~/*: nothing is known that it calls in the mesh, so it gets no Service at all: a call that comes later passes \
                 its proxy as one to the outside, or is refused where the policy is REGISTRY_ONLY"
                    .to_owned(),
            );
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

/// The mesh that a group's pods have. Where they belong to revisions that can differ, no one list
/// is proved for all of them.
fn mesh_of<'a>(g: &mut Group, input: &Input<'a>, running: &Running<'_>) -> &'a Mesh {
    let meshes = input.meshes;
    let pods = running
        .selected(&g.namespace, g.selector.as_ref())
        .filter(|p| p.data_plane == DataPlane::Sidecar);
    let mut of: BTreeMap<&str, &Mesh> = BTreeMap::new();
    for p in pods {
        let mesh = meshes.of_pod(&g.namespace, &p.name);
        of.insert(&mesh.revision, mesh);
    }
    if of.len() > 1 {
        let all: Vec<&str> = of.keys().copied().collect();
        g.several_revisions = Some(format!(
            "its pods belong to the revisions {} of istiod, which have configurations of their own: generate when they have \
             moved to one",
            all.join(", ")
        ));
    }
    let mesh = of.into_values().next().unwrap_or(meshes.first());
    if mesh.hides(&g.namespace) {
        g.undiscovered = Some(format!(
            "istiod does not look at the namespace {} (discoverySelectors of its MeshConfig), so no Sidecar in it counts",
            g.namespace
        ));
    }
    mesh
}

impl Outcome {
    fn new(workloads: Vec<WorkloadId>, withheld: Option<Withheld>) -> Self {
        Self {
            workloads,
            manifest: None,
            withheld,
            gaps: Vec::new(),
            notes: Vec::new(),
            proof: None,
            calls: Vec::new(),
            implied: Vec::new(),
            rejected: BTreeMap::new(),
            readiness: BTreeMap::new(),
            before: ProxySize::default(),
            today: ProxySize::default(),
        }
    }
}
