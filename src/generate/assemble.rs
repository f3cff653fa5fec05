//! From a group and what was learned of it to its outcome.
//!
//! Owns the order of the steps: calls, implied hosts, gaps, proof, remarks, manifest. Must never
//! write a manifest for a group that is withheld.

use std::collections::{BTreeMap, BTreeSet};

use super::calls::{CallPlan, PlannedCall, Planner};
use super::context::GroupContext;
use super::demand::{Demand, Instance};
use super::group::Group;
use super::implied::{ImpliedHost, implied_hosts};
use super::input::GenerateInput;
use super::learned::{Gap, Learned};
use super::manifest::Manifest;
use super::minimal::{Minimal, minimal};
use super::outcome::{GroupOutcome, KeptCall};
use super::presence::{HostPresence, host_presence};
use super::subjects::Subject;
use super::withheld::Withheld;
use super::{law, remarks, withheld};
use crate::mesh::Egress;
use crate::model::WorkloadId;
use crate::scope::clusters::ProxySize;
use crate::scope::{Client, Scope, ScopeCall, listeners};

/// Makes outcomes of groups.
pub(super) struct OutcomeBuilder<'a> {
    pub input: &'a GenerateInput<'a>,
    pub by_id: &'a BTreeMap<&'a WorkloadId, &'a Subject>,
    /// Workloads that are explained, and for which no Sidecar is written yet.
    pub unready: &'a BTreeMap<&'a WorkloadId, Withheld>,
}

/// The plans of all workloads whose pods get one Sidecar, as one.
#[derive(Default)]
struct GroupPlan {
    calls: BTreeMap<ScopeCall, (WorkloadId, PlannedCall)>,
    assumed: BTreeSet<String>,
    unreached: BTreeSet<String>,
    gaps: BTreeSet<Gap>,
}

impl GroupPlan {
    /// Adds the plan of one workload. What is only for the reader goes to the outcome.
    fn add(&mut self, id: &WorkloadId, plan: CallPlan, outcome: &mut GroupOutcome) {
        self.assumed.extend(plan.assumed);
        self.unreached.extend(plan.unreached);
        outcome.remarks.extend(plan.remarks);
        outcome.rejected.extend(plan.rejected);
        for planned in plan.calls {
            self.calls.entry(planned.call.clone()).or_insert_with(|| (id.clone(), planned));
        }
    }
}

impl<'a> OutcomeBuilder<'a> {
    /// The outcome of one group. `full` is its baseline scope.
    pub fn outcome<'s>(
        &self,
        g: &Group,
        context: &'s GroupContext<'a>,
        full: &'s Scope<'s>,
    ) -> GroupOutcome {
        let unready = || g.members.iter().find_map(|m| self.unready.get(m)).cloned();
        let withheld = withheld::refused(g).or_else(unready);
        let mut outcome = GroupOutcome::new(g.members.clone(), withheld);
        outcome.remarks.clone_from(&g.remarks);

        // Bystanders get this Sidecar too, so what was learned of them counts as well.
        let callers: BTreeSet<&WorkloadId> = g.members.iter().chain(&g.bystanders).collect();
        let mut plan = self.plan_of_all(g, &callers, context, full, &mut outcome);
        let implied = implied_by(context);
        assume_implied(&mut plan.assumed, &implied, full, &g.namespace);
        remarks::of_assumed(&plan.assumed, &mut outcome.remarks);

        let calls: Vec<ScopeCall> = plan.calls.keys().cloned().collect();
        let instances: Vec<Instance<'_>> =
            context.pods.iter().map(|(p, w)| Instance::new(p, callers.contains(w))).collect();
        let listed: Vec<String> = plan.assumed.into_iter().chain(plan.unreached).collect();
        let implied_ports: BTreeSet<(String, u16)> =
            implied.iter().map(|i| (i.host.clone(), i.port)).collect();
        let implied_ports: Vec<(String, u16)> = implied_ports.into_iter().collect();
        let demand = Demand {
            full,
            bound: &context.bound,
            carried: context.replaced,
            instances: &instances,
            calls: &calls,
            implied: &implied_ports,
            assumed: &listed,
            unrouted_http: self.input.options.unrouted_http,
        };
        let proof = minimal(&demand);

        // What may break a call stands first, what explains the list last.
        let explanations = std::mem::take(&mut outcome.remarks);
        self.withhold_for_gaps(plan.gaps, &mut outcome);
        outcome.implied = implied.into_iter().collect();
        remarks::of_proof(&proof, &mut outcome.remarks);
        remarks::of_telemetry(&proof, &calls, full.policy, &mut outcome.remarks);
        remarks::of_unread(context.mesh, &g.namespace, &mut outcome.remarks);
        remarks::of_group(g, &mut outcome.remarks);
        self.remarks_of_members(g, &mut outcome.remarks);
        outcome.remarks.extend(explanations);
        if self.input.options.detail {
            add_detail(&mut outcome, plan.calls, &demand, &proof, context);
        }
        if outcome.withheld.is_none() {
            outcome.manifest = Some(manifest(g, context, &proof));
        }
        outcome.proof = Some(proof);
        outcome
    }

    /// The calls of all callers, with what no list is sure to keep.
    fn plan_of_all(
        &self,
        g: &Group,
        callers: &BTreeSet<&WorkloadId>,
        context: &GroupContext<'_>,
        full: &Scope<'_>,
        outcome: &mut GroupOutcome,
    ) -> GroupPlan {
        let mut all = GroupPlan::default();
        for &id in callers {
            let learned = self.input.learned_of(id);
            let plan = plan_of_one(context, full, id, learned);
            if g.members.contains(id) {
                outcome.readiness.insert(id.clone(), self.input.readiness_of(id));
            }
            all.gaps.extend(law::gaps(context.mesh, learned, &plan));
            all.add(id, plan, outcome);
        }
        all
    }

    /// Withholds a group for its gaps, unless it is to be written all the same.
    fn withhold_for_gaps(&self, gaps: BTreeSet<Gap>, outcome: &mut GroupOutcome) {
        outcome.gaps = gaps.into_iter().collect();
        if outcome.withheld.is_some() || outcome.gaps.is_empty() {
            return;
        }
        if self.input.options.include_incomplete {
            let unsure = outcome.gaps.iter().map(|gap| format!("not kept for sure: {gap}"));
            outcome.remarks.extend(unsure);
        } else {
            outcome.withheld = Some(withheld::incomplete(&outcome.gaps));
        }
    }

    /// Remarks on each member: its dependencies, how it was watched, whether it still exists.
    fn remarks_of_members(&self, g: &Group, remarks: &mut Vec<String>) {
        for id in &g.members {
            let learned = self.input.learned_of(id);
            remarks::of_dependencies(learned, remarks);
            if learned.watches.is_empty() && learned.has_observations() {
                remarks.push(
                    "seen only on interfaces that are not its own: calls that never passed there \
                     are missing"
                        .to_owned(),
                );
            }
            remarks.extend(remarks::of_watching(learned));
            if self.by_id.get(id).is_some_and(|s| !s.present) {
                remarks.push("not in the snapshot any more".to_owned());
            }
        }
    }
}

/// The calls of one workload, as its first pod makes them.
fn plan_of_one(
    context: &GroupContext<'_>,
    full: &Scope<'_>,
    id: &WorkloadId,
    learned: &Learned,
) -> CallPlan {
    let Some((pod, _)) = context.pods.iter().find(|(_, w)| w == id) else {
        return CallPlan::default();
    };
    let address = pod.addresses.first().map(ToString::to_string);
    let client =
        Client { namespace: &pod.namespace, labels: &pod.labels, address: address.as_deref() };
    let mut planner = Planner::new(full, client);
    planner.learn(learned);
    learned.declared.iter().for_each(|d| planner.declare(d));
    planner.finish()
}

/// The hosts that the proxies of the group's pods send to by themselves.
fn implied_by(context: &GroupContext<'_>) -> BTreeSet<ImpliedHost> {
    let of_pods = context.pods.iter().map(|(p, _)| p);
    of_pods.flat_map(|p| implied_hosts(context.mesh, p, context.replaced)).collect()
}

/// Adds the implied hosts that the snapshot lacks to those that are assumed.
fn assume_implied(
    assumed: &mut BTreeSet<String>,
    implied: &BTreeSet<ImpliedHost>,
    full: &Scope<'_>,
    client_namespace: &str,
) {
    for i in implied {
        if let HostPresence::Missing { namespace, host } =
            host_presence(full, &i.host, client_namespace)
            && host == i.host
        {
            assumed.insert(format!("{namespace}/{host}"));
        }
    }
}

/// Adds what explanations and forecasts show: each call with its hosts, and the sizes of scopes.
fn add_detail(
    outcome: &mut GroupOutcome,
    calls: BTreeMap<ScopeCall, (WorkloadId, PlannedCall)>,
    demand: &Demand<'_, '_>,
    proof: &Minimal,
    context: &GroupContext<'_>,
) {
    let instances = demand.instances;
    let Some(instance) = instances.iter().find(|i| i.calls).or(instances.first()) else { return };
    let full = demand.full;
    let kept = |(workload, planned): (WorkloadId, PlannedCall)| {
        let treatment = full.treat(&instance.client(), &planned.call);
        let mut hosts = demand.entries_of(&planned.call);
        hosts.retain(|h| proof.hosts.contains(h));
        KeptCall { workload, planned, treatment, hosts }
    };
    outcome.calls = calls.into_values().map(kept).collect();
    outcome.before = full.size(&instance.pod.labels);
    outcome.today = size_today(context, &instance.client());
}

/// The size of the scope under the Sidecar that applies now, whoever wrote it.
fn size_today(context: &GroupContext<'_>, client: &Client<'_>) -> ProxySize {
    let egress = listeners(context.mesh.applied(context.namespace, client.labels));
    Scope::new(context.mesh, context.namespace, &egress, context.policy).size(client.labels)
}

fn manifest(g: &Group, context: &GroupContext<'_>, proof: &Minimal) -> Manifest {
    let catch_all = Egress { hosts: proof.hosts.clone(), ..Egress::default() };
    let egress = context.bound.iter().cloned().chain([catch_all]).collect();
    Manifest::new(&g.namespace, &g.name, g.selector.clone(), egress).carrying(context.replaced)
}
