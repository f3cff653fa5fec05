//! The owner that an object names, and the labels that stay over its rollouts.
//!
//! Owns which labels can be in a selector. Must never follow an owner.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::objects::ObjectMeta;
use super::pool::Pool;

/// Whether a controller or the injector sets a label on pods, and changes it with a rollout or a
/// new pod. Such a label is never fit for a selector.
fn is_unstable(label: &str) -> bool {
    matches!(
        label,
        "pod-template-hash"
            | "controller-revision-hash"
            | "pod-template-generation"
            | "statefulset.kubernetes.io/pod-name"
            | "apps.kubernetes.io/pod-index"
            | "controller-uid"
            | "job-name"
            | "batch.kubernetes.io/controller-uid"
            | "batch.kubernetes.io/job-name"
            | "batch.kubernetes.io/job-completion-index"
            | "security.istio.io/tlsMode"
            | "service.istio.io/canonical-name"
            | "service.istio.io/canonical-revision"
            | "istio.io/rev"
            | "sidecar.istio.io/inject"
            | "rollouts-pod-template-hash"
            | "serving.knative.dev/revision"
            | "serving.knative.dev/revisionUID"
            | "serving.knative.dev/configurationGeneration"
            | "strimzi.io/pod-name"
            | "spark-app-selector"
            | "workflows.argoproj.io/workflow"
            | "openshift.io/deployment-config.latest-version"
    )
}

/// The words of a label's name, in lower case: `revisionUID` and `instance-role` have two each.
fn words(label: &str) -> Vec<String> {
    let name = label.rsplit('/').next().unwrap_or(label);
    let mut words: Vec<String> = vec![String::new()];
    let mut lower = false;
    for c in name.chars() {
        if !c.is_ascii_alphanumeric() || (lower && c.is_ascii_uppercase()) {
            words.push(String::new());
        }
        lower = c.is_ascii_lowercase();
        if let Some(word) = words.last_mut().filter(|_| c.is_ascii_alphanumeric()) {
            word.push(c.to_ascii_lowercase());
        }
    }
    words
}

/// Whether the words of a label's name say that its value is one of a revision, run, role or
/// version. The labels that a controller selects by cannot change; any other label of a pod can.
fn may_change(label: &str) -> bool {
    const WORDS: [&str; 30] = [
        "hash",
        "revision",
        "generation",
        "uid",
        "id",
        "chart",
        "version",
        "role",
        "leader",
        "primary",
        "master",
        "completed",
        "attempt",
        "retry",
        "index",
        "ordinal",
        "timestamp",
        "submission",
        "exec",
        "phase",
        "state",
        "status",
        "build",
        "commit",
        "heritage",
        "node",
        "identifier",
        "creator",
        "created",
        "group",
    ];
    words(label).iter().any(|w| WORDS.contains(&w.as_str()))
}

/// Whether a label can name the workload of a pod.
fn is_identifying(label: &str) -> bool {
    const LAST: [&str; 12] = [
        "app",
        "name",
        "instance",
        "service",
        "cluster",
        "application",
        "workload",
        "component",
        "release",
        "deploymentconfig",
        "workflow",
        "template",
    ];
    let words = words(label);
    // Many workloads share a queue.
    let is_shared = words.iter().any(|w| w == "queue" || w == "priority");
    !is_shared && words.last().is_some_and(|w| LAST.contains(&w.as_str()))
}

/// Whether each object of a kind is one run or one revision. No later pod has its name.
fn is_single_run(kind: &str) -> bool {
    matches!(
        kind,
        "Job"
            | "Workflow"
            | "PipelineRun"
            | "TaskRun"
            | "Revision"
            | "ReplicaSet"
            | "ReplicationController"
            | "ControllerRevision"
            | "Run"
    )
}

/// The labels of a template or a pod that stay. They are used where no controller states its
/// selector.
pub(crate) fn lasting(labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut out = stable(labels);
    out.retain(|k, _| !may_change(k));
    out
}

/// The labels of a pod that also select the next pods of its workload. `owners` are its owners,
/// from the nearest to the top. The result is empty if none of the labels names the workload.
pub(super) fn lasting_of(
    labels: &BTreeMap<String, String>,
    pod: &str,
    owners: &[Owner],
) -> BTreeMap<String, String> {
    let mut out = lasting(labels);
    let top = owners.last();
    let names_one_run = |value: &str| {
        let below = owners.iter().rev().skip(1).any(|o| &*o.name == value);
        let once = top.is_some_and(|o| is_single_run(&o.kind) && &*o.name == value);
        value == pod || below || once
    };
    out.retain(|_, v| !names_one_run(v));
    let names_workload = |(k, v): (&String, &String)| {
        is_identifying(k) || top.is_some_and(|o| !is_single_run(&o.kind) && *o.name == **v)
    };
    if out.iter().any(names_workload) { out } else { BTreeMap::new() }
}

/// The labels that stay over a rollout.
pub(super) fn stable(labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    labels.iter().filter(|(k, _)| !is_unstable(k)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// The controller that an object names as its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Owner {
    pub(super) kind: Arc<str>,
    pub(super) name: Arc<str>,
}

impl Owner {
    /// The same owner, with its strings shared.
    pub(super) fn pooled(&self, pool: &mut Pool) -> Self {
        Self { kind: pool.word(&self.kind), name: pool.word(&self.name) }
    }
}

/// The controller of an object, else its first owner.
pub(super) fn controller_of(meta: &ObjectMeta, pool: &mut Pool) -> Option<Owner> {
    let owner =
        meta.owner_references.iter().find(|o| o.controller).or(meta.owner_references.first())?;
    // A static pod is "owned" by its node, which is no workload.
    (owner.kind != "Node")
        .then(|| Owner { kind: pool.word(&owner.kind), name: pool.word(&owner.name) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_a_version_a_run_or_a_role_do_not_last() {
        for label in [
            "helm.sh/chart",
            "app.kubernetes.io/version",
            "cnpg.io/instanceRole",
            "spilo-role",
            "sparkoperator.k8s.io/submission-id",
            "serving.knative.dev/configurationUID",
            "pod-template-hash",
        ] {
            assert!(may_change(label), "{label}");
        }
        for label in ["app", "app.kubernetes.io/name", "team", "strimzi.io/cluster", "conversion"] {
            assert!(!may_change(label), "{label}");
        }
    }

    #[test]
    fn labels_that_name_only_one_run_are_no_selector() {
        let labels = |all: &[(&str, &str)]| {
            all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let owner = |kind: &str, name: &str| Owner { kind: kind.into(), name: name.into() };
        let of_run: BTreeMap<String, String> =
            labels(&[("workflows.argoproj.io/workflow", "x-1"), ("team", "bi")]);
        assert_eq!(lasting_of(&of_run, "x-1-2", &[owner("Workflow", "x-1")]), BTreeMap::new());
        let of_set: BTreeMap<String, String> =
            labels(&[("cluster", "events"), ("pod", "events-0")]);
        let lasting = lasting_of(&of_set, "events-0", &[owner("PodSet", "events")]);
        assert_eq!(lasting.keys().collect::<Vec<_>>(), ["cluster"]);
    }
}
