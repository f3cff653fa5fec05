//! What surrounds the calls of a group: its mesh, its pods, and what the Sidecar repeats.
//!
//! Owns which pods stand for a group and which settings are carried over. Must never read what was
//! learned.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::group::Group;
use super::running::RunningPods;
use super::subjects::Subject;
use crate::mesh::{Egress, Mesh, MeshPod, Meshes, Sidecar, TrafficMode};
use crate::model::{DataPlane, WorkloadId};
use crate::scope::{everything, policy};

/// The surroundings of one group.
pub(super) struct GroupContext<'m> {
    pub mesh: &'m Mesh,
    pub namespace: &'m str,
    /// The Sidecar whose settings are carried over.
    pub replaced: Option<&'m Sidecar>,
    pub policy: TrafficMode,
    /// Egress listeners with a port, carried over.
    pub bound: Vec<Egress>,
    /// Pods that the Sidecar selects, one for each workload and set of labels.
    pub pods: Vec<(MeshPod, WorkloadId)>,
    /// The egress listeners of the baseline scope.
    pub baseline_egress: Vec<Egress>,
    /// What the imports of the baseline scope depend on: revision, listeners with a port, and the
    /// namespace where istiod may select something else for it.
    pub view: Vec<String>,
}

impl<'m> GroupContext<'m> {
    /// Collects the surroundings of a group. `replaced` is the Sidecar whose settings it carries
    /// over, where it takes the place of one.
    pub fn new(
        g: &Group,
        mesh: &'m Mesh,
        replaced: Option<&'m Sidecar>,
        running: &RunningPods<'_>,
        by_id: &BTreeMap<&'m WorkloadId, &'m Subject>,
    ) -> Self {
        let pods = pods_of(g, mesh, running, by_id);
        let of_member = pods.iter().find(|(_, w)| g.members.contains(w));
        let no_labels = BTreeMap::new();
        let labels = of_member.map_or(&no_labels, |(pod, _)| &*pod.labels);
        let replaced = replaced.or_else(|| mesh.applied_before(&g.namespace, labels));
        let has_port = |e: &&Egress| e.port.as_ref().is_some_and(|p| p.number != 0);
        let bound: Vec<Egress> =
            replaced.iter().flat_map(|s| &s.egress).filter(has_port).cloned().collect();
        let first = g.members.first().and_then(|m| by_id.get_key_value(m));
        let namespace = first.map_or("", |(id, _)| id.namespace.as_str());
        let policy = policy(mesh, replaced);
        let of_client = bound.iter().any(Egress::depends_on_client);
        let has_own_view = of_client || mesh.has_own_view(namespace);
        let of_namespace = if has_own_view { namespace } else { "" };
        let mut view = vec![mesh.revision.clone(), of_namespace.to_owned()];
        view.extend(bound.iter().map(|e| format!("{e:?}")));
        let baseline_egress = bound.iter().cloned().chain([everything()]).collect();
        Self { mesh, namespace, replaced, policy, bound, pods, baseline_egress, view }
    }
}

/// The pods with a proxy that the group's selector matches. A member without one is represented by
/// a pod that is made up from its selector.
fn pods_of(
    g: &Group,
    mesh: &Mesh,
    running: &RunningPods<'_>,
    by_id: &BTreeMap<&WorkloadId, &Subject>,
) -> Vec<(MeshPod, WorkloadId)> {
    // Istio treats pods with the same labels alike.
    let mut seen: BTreeSet<(&WorkloadId, &BTreeMap<String, String>)> = BTreeSet::new();
    let mut pods: Vec<(MeshPod, WorkloadId)> = Vec::new();
    let selected = running.selected(&g.namespace, g.selector.as_ref());
    for pod in selected.filter(|p| p.data_plane == DataPlane::Sidecar) {
        let in_mesh = mesh.pod(&g.namespace, &pod.name);
        if let Some(in_mesh) = in_mesh.filter(|_| seen.insert((&pod.workload, &pod.labels))) {
            pods.push((in_mesh.clone(), pod.workload.clone()));
        }
    }
    let present: BTreeSet<WorkloadId> = pods.iter().map(|(_, w)| w.clone()).collect();
    for id in g.members.iter().filter(|m| !present.contains(*m)) {
        let labels = by_id.get(id).map(|s| s.selector.clone()).unwrap_or_default();
        let pod = MeshPod {
            namespace: g.namespace.clone(),
            name: id.name.clone(),
            labels: Arc::new(labels),
            addresses: Vec::new(),
            ready: false,
            revision: None,
        };
        pods.push((pod, id.clone()));
    }
    pods
}

/// The mesh of a group's pods. Where the pods belong to several revisions of istiod, no list is
/// proved for all of them, and the group says so.
pub(super) fn mesh_of<'m>(
    g: &mut Group,
    meshes: &'m Meshes,
    running: &RunningPods<'_>,
) -> &'m Mesh {
    let selected = running.selected(&g.namespace, g.selector.as_ref());
    let mut by_revision: BTreeMap<&str, &Mesh> = BTreeMap::new();
    for pod in selected.filter(|p| p.data_plane == DataPlane::Sidecar) {
        let mesh = meshes.of_pod(&g.namespace, &pod.name);
        by_revision.insert(&mesh.revision, mesh);
    }
    if by_revision.len() > 1 {
        let all: Vec<&str> = by_revision.keys().copied().collect();
        g.several_revisions = Some(format!(
            "its pods belong to the revisions {} of istiod, which have configurations of their \
             own: generate when they have moved to one",
            all.join(", ")
        ));
    }
    let mesh = by_revision.into_values().next().unwrap_or(meshes.first());
    if mesh.hides(&g.namespace) {
        g.undiscovered = Some(format!(
            "istiod does not look at the namespace {} (discoverySelectors of its MeshConfig), so \
             no Sidecar in it counts",
            g.namespace
        ));
    }
    mesh
}
