//! Which namespaces and objects an istiod reads: `discoverySelectors` of its MeshConfig
//! (`pkg/kube/namespace/filter.go`) and its revision (`pkg/config/model.go`, `LabelsInRevision`).
//!
//! Owns both rules. Must never decide what an object means.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::config;
use crate::objects::{ConfigMap, LabelSelector, MeshConfigSpec, Namespace, ObjectMeta, PodObject};

/// The revision of an istiod that was installed without one.
pub const DEFAULT_REVISION: &str = "default";

/// Label of an Istio object's revision, and of the revision that injected a pod's proxy.
const LABEL: &str = "istio.io/rev";

/// Whether an istiod of this revision reads an object with these labels.
pub(super) fn in_revision(meta: &ObjectMeta, revision: &str) -> bool {
    meta.labels.get(LABEL).is_none_or(|r| r == revision)
}

/// Whether an object belongs to one revision alone.
pub(super) fn of_one_revision(meta: &ObjectMeta) -> bool {
    meta.labels.contains_key(LABEL)
}

/// The revision of the istiod that a pod's proxy talks to: what the injector wrote, else the pod's
/// label. `None` for a pod without a proxy.
pub fn revision_of(pod: &PodObject) -> Option<String> {
    let meta = &pod.metadata;
    let status = meta.annotations.get("sidecar.istio.io/status");
    let written = status
        .and_then(|s| serde_json::from_str::<Value>(s).ok())
        .and_then(|s| Some(s.get("revision")?.as_str()?.to_owned()));
    let said = || meta.annotations.get(LABEL).or_else(|| meta.labels.get(LABEL)).cloned();
    let found = written.filter(|r| !r.is_empty()).or_else(said);
    match found {
        None if status.is_none() => None,
        found => Some(found.unwrap_or_else(|| DEFAULT_REVISION.to_owned())),
    }
}

/// The ConfigMaps that contain a MeshConfig, the one of this revision first
/// (`pilot/pkg/bootstrap/mesh.go`, `getMeshConfigMapName`).
pub(super) fn mesh_configs<'c>(all: &'c [ConfigMap], revision: &str) -> Vec<&'c ConfigMap> {
    let is_mesh = |c: &&ConfigMap| {
        let name = c.metadata.name.as_str();
        c.data.contains_key("mesh") && (name == "istio" || name.starts_with("istio-"))
    };
    let own = config_map_name(revision);
    let mut found: Vec<&ConfigMap> = all.iter().filter(is_mesh).collect();
    found.sort_by_key(|c| {
        let m = &c.metadata;
        let rank = (m.name != own, m.name != "istio", m.namespace != "istio-system");
        (rank, m.name.clone(), m.namespace.clone())
    });
    found
}

/// The name of the ConfigMap that contains the MeshConfig of a revision.
pub(super) fn config_map_name(revision: &str) -> String {
    if revision == DEFAULT_REVISION { "istio".to_owned() } else { format!("istio-{revision}") }
}

/// Which namespaces exist for istiod.
#[derive(Clone, Debug, Default)]
pub struct Discovery {
    selectors: Vec<LabelSelector>,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
}

impl Discovery {
    /// From a MeshConfig's selectors and the namespaces.
    pub(super) fn new(selectors: Vec<LabelSelector>, namespaces: &[Namespace]) -> Self {
        let labels = |n: &Namespace| (n.metadata.name.clone(), (*n.metadata.labels).clone());
        Self { selectors, namespaces: namespaces.iter().map(labels).collect() }
    }

    /// From the ConfigMaps and namespaces of a cluster, for indexes of addresses. It uses the
    /// MeshConfig of the default revision, else the first one.
    pub fn of_objects(maps: &[ConfigMap], namespaces: &[Namespace]) -> Self {
        let map = mesh_configs(maps, DEFAULT_REVISION).into_iter().next();
        let spec = map.and_then(|m| config::read(&m.data["mesh"]).ok()).unwrap_or_default();
        let MeshConfigSpec { discovery_selectors, .. } = spec;
        Self::new(discovery_selectors, namespaces)
    }

    /// Whether there are selectors at all.
    pub fn is_limited(&self) -> bool {
        !self.selectors.is_empty()
    }

    /// Whether istiod ignores a namespace. A namespace whose labels are unknown counts as not
    /// ignored, so that its Services are listed and not left out.
    pub fn hides(&self, namespace: &str) -> bool {
        let Some(labels) = self.namespaces.get(namespace) else { return false };
        self.is_limited() && !self.selectors.iter().any(|s| meets(s, labels))
    }

    /// Whether the objects include this Namespace.
    pub(super) fn has_namespace(&self, namespace: &str) -> bool {
        self.namespaces.contains_key(namespace)
    }

    /// Whether it is a guess that istiod reads a namespace: there are selectors, and the snapshot
    /// lacks the Namespace object.
    pub fn is_uncertain(&self, namespace: &str) -> bool {
        self.is_limited() && !self.namespaces.contains_key(namespace)
    }

    /// Those of the given namespaces that istiod ignores.
    pub fn hidden<'n>(&self, all: impl Iterator<Item = &'n str>) -> BTreeSet<String> {
        if !self.is_limited() {
            return BTreeSet::new();
        }
        all.filter(|n| self.hides(n)).map(str::to_owned).collect()
    }
}

/// Whether labels meet all conditions of a selector (`LabelSelectorAsSelector`). A selector without
/// conditions is met by all labels.
fn meets(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let by_expression = selector.match_expressions.iter().all(|e| {
        let value = labels.get(&e.key);
        match e.operator.as_str() {
            "In" => value.is_some_and(|v| e.values.contains(v)),
            "NotIn" => value.is_none_or(|v| !e.values.contains(v)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    });
    by_expression && selector.match_labels.iter().all(|(k, v)| labels.get(k) == Some(v))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::LabelExpression;

    #[test]
    fn selectors_are_alternatives_and_their_conditions_are_not() {
        let expression = |key: &str, operator: &str, values: &[&str]| LabelExpression {
            key: key.to_owned(),
            operator: operator.to_owned(),
            values: values.iter().map(|v| (*v).to_owned()).collect(),
        };
        let labels: BTreeMap<String, String> =
            [("mesh".to_owned(), "on".to_owned()), ("team".to_owned(), "a".to_owned())].into();
        let by = |e: Vec<LabelExpression>| LabelSelector {
            match_expressions: e,
            ..LabelSelector::default()
        };
        assert!(meets(&LabelSelector::default(), &labels));
        assert!(meets(&by(vec![expression("team", "In", &["a", "b"])]), &labels));
        assert!(!meets(&by(vec![expression("team", "NotIn", &["a"])]), &labels));
        assert!(meets(&by(vec![expression("other", "DoesNotExist", &[])]), &labels));
        assert!(!meets(
            &by(vec![expression("mesh", "Exists", &[]), expression("team", "In", &["b"])]),
            &labels
        ));
    }
}
