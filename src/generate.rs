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
mod running;
mod subjects;
mod withheld;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::ScopedJoinHandle;

use crate::mesh::{Mesh, Sidecar};
use crate::model::WorkloadId;
use crate::scope::Scope;
use assemble::OutcomeBuilder;
use context::{GroupContext, mesh_of};
use group::{Group, GroupBy};
use running::{RunningPods, running_pods};

pub use declared::{DeclaredCall, UnreadableCall};
pub use input::{GenerateInput, GenerateOptions};
pub use learned::{Gap, Learned};
pub use manifest::Manifest;
pub use minimal::SILENT;
pub use outcome::{GroupOutcome, KeptCall};
pub use past::separate_past_proxy;
pub use subjects::{Subject, subjects};
pub use withheld::{Cause, Withheld};

/// Generates for every subject, and for the namespaces where that is asked for. The result is
/// sorted by namespace and name.
///
/// Most of the time goes into the proofs: some scopes for each group, and one for each host that
/// may be left out. They are spread over all processors.
pub fn generate(input: &GenerateInput<'_>, subjects: &[Subject]) -> Vec<GroupOutcome> {
    let Sorted { serveable, unready, mut outcomes } = sort_out(input, subjects);
    let running = running_pods(input.cluster);
    let by_id: BTreeMap<&WorkloadId, &Subject> = subjects.iter().map(|s| (&s.id, s)).collect();
    let (groups, contexts) = groups_with_contexts(input, &serveable, &running, &by_id);

    let baselines = baseline_scopes(&contexts);
    let builder = OutcomeBuilder { input, by_id: &by_id, unready: &unready };
    let jobs: Vec<(Group, &GroupContext<'_>, &Scope<'_>)> = groups
        .into_iter()
        .zip(&contexts)
        .zip(&baselines)
        .map(|((g, context), baseline)| (g, context, baseline))
        .collect();
    outcomes.extend(in_parallel(&jobs, |(g, context, full)| builder.outcome(g, context, full)));
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
    sorted
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
    groups.iter_mut().for_each(|g| group::rename(g, input.meshes.sidecar_names(), &mut used));
    let contexts = groups
        .iter()
        .zip(meshes)
        .zip(replaced)
        .map(|((g, mesh), replaced)| GroupContext::new(g, mesh, replaced, running, by_id))
        .collect();
    (groups, contexts)
}

/// The baseline scope of each context. Those with the same view share what they import.
fn baseline_scopes<'s>(contexts: &'s [GroupContext<'_>]) -> Vec<Scope<'s>> {
    let compute =
        |c: &'s GroupContext<'_>| Scope::new(c.mesh, c.namespace, &c.baseline_egress, c.policy);
    let views: BTreeMap<&[String], &GroupContext<'_>> =
        contexts.iter().map(|c| (c.view.as_slice(), c)).collect();
    let views: Vec<(&[String], &GroupContext<'_>)> = views.into_iter().collect();
    let shared: BTreeMap<&[String], Scope<'s>> =
        in_parallel(&views, |(view, c)| (*view, compute(c))).into_iter().collect();
    let scope = |c: &'s GroupContext<'_>| {
        let of_view = shared.get(c.view.as_slice());
        of_view.and_then(|s| s.for_namespace(c.namespace, c.policy)).unwrap_or_else(|| compute(c))
    };
    contexts.iter().map(scope).collect()
}

/// Runs the jobs on all processors. The results are in the order of the jobs.
fn in_parallel<'j, J: Sync, R: Send>(jobs: &'j [J], run: impl Fn(&'j J) -> R + Sync) -> Vec<R> {
    /// Jobs that a thread takes at once. Few enough that no thread waits long for the last one.
    const AT_ONCE: usize = 16;
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let shares: Vec<&[J]> = jobs.chunks(AT_ONCE).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done: Vec<(usize, Vec<R>)> = Vec::new();
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let Some(share) = shares.get(n) else { return done };
            done.push((n, share.iter().map(&run).collect()));
        }
    };
    let mut done = std::thread::scope(|s| {
        let threads: Vec<_> = (0..workers.min(shares.len())).map(|_| s.spawn(work)).collect();
        // A panic of a thread becomes a panic here.
        let join = |t: ScopedJoinHandle<'_, _>| t.join().unwrap_or_else(|e| resume_unwind(e));
        threads.into_iter().flat_map(join).collect::<Vec<_>>()
    });
    done.sort_unstable_by_key(|(n, _)| *n);
    done.into_iter().flat_map(|(_, results)| results).collect()
}

/// Namespace, then the name of the Sidecar, else of the first workload.
fn sort_key(o: &GroupOutcome) -> (Option<String>, Option<String>, Vec<WorkloadId>) {
    let first = o.workloads.first();
    let written = o.manifest.as_ref().map(|m| m.name().to_owned());
    let name = written.or_else(|| first.map(|w| w.name.clone()));
    (first.map(|w| w.namespace.clone()), name, o.workloads.clone())
}
