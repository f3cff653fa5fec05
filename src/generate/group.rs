//! Which workloads share a Sidecar, and whom its selector meets.
//!
//! Owns grouping and the proof of selectors over all pods and Sidecars of the namespace (Istio's
//! analyzers IST0101, IST0110, IST0111, IST0167). Must never let two generated Sidecars select one
//! pod.

use std::collections::{BTreeMap, BTreeSet};

use super::known::Subject;
use crate::cluster::{Cluster, Pod};
use crate::mesh::{Mesh, Sidecar, SidecarNames};
use crate::model::{DataPlane, Time, WorkloadId, selects};

/// What one Sidecar is written for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupBy {
    /// One workload.
    #[default]
    Workload,
    /// All workloads of an `app` label.
    App,
    /// All workloads of a namespace.
    Namespace,
}

/// Workloads that share a Sidecar.
#[derive(Clone, Debug)]
pub struct Group {
    /// Namespace.
    pub namespace: String,
    /// Name for the Sidecar.
    pub name: String,
    /// Labels of the pods; `None`: the namespace's default.
    pub selector: Option<BTreeMap<String, String>>,
    /// Members that asked for it.
    pub members: Vec<WorkloadId>,
    /// Workloads whose pods the selector meets as well.
    pub bystanders: BTreeSet<WorkloadId>,
    /// For the reviewer.
    pub notes: Vec<String>,
    /// Why none can be written.
    pub refused: Option<String>,
    /// Its pods belong to several revisions of istiod.
    pub several_revisions: Option<String>,
    /// istiod does not look at its namespace.
    pub undiscovered: Option<String>,
    /// The Sidecar of somebody else whose place it takes.
    pub replaces: Option<String>,
    /// Why none is written: a Sidecar of somebody else is in its place.
    pub not_adopted: Option<String>,
}

/// Running pods of the cluster by namespace.
pub struct Running<'a> {
    by_namespace: BTreeMap<&'a str, Vec<&'a Pod>>,
}

impl<'a> Running<'a> {
    /// Of a cluster.
    pub fn new(cluster: &'a Cluster) -> Self {
        let mut by_namespace: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
        for p in cluster.pods().iter().filter(|p| p.end == Time::MAX) {
            by_namespace.entry(p.workload.namespace.as_str()).or_default().push(p);
        }
        Self { by_namespace }
    }

    /// Pods of a namespace that a selector meets; `None` meets all.
    pub fn selected<'s>(
        &'s self,
        namespace: &str,
        selector: Option<&'s BTreeMap<String, String>>,
    ) -> impl Iterator<Item = &'a Pod> + use<'a, 's> {
        let all = self.by_namespace.get(namespace).into_iter().flatten().copied();
        all.filter(move |p| selector.is_none_or(|s| selects(s, &p.labels)))
    }
}

/// Forms the groups of the subjects that a Sidecar can serve, sorted by name.
pub fn groups(subjects: &[&Subject], by: GroupBy, running: &Running<'_>) -> Vec<Group> {
    match by {
        GroupBy::Workload => by_workload(subjects, running),
        GroupBy::App => by_app(subjects, running),
        GroupBy::Namespace => by_namespace(subjects, running),
    }
}

fn group(
    namespace: &str,
    name: &str,
    selector: Option<BTreeMap<String, String>>,
    members: Vec<WorkloadId>,
) -> Group {
    Group {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        selector,
        members,
        bystanders: BTreeSet::new(),
        notes: Vec::new(),
        refused: None,
        several_revisions: None,
        undiscovered: None,
        replaces: None,
        not_adopted: None,
    }
}

fn by_workload(subjects: &[&Subject], running: &Running<'_>) -> Vec<Group> {
    let mut out: Vec<Group> = Vec::new();
    let mut names = Names::default();
    let mut sorted = subjects.to_vec();
    // The widest selector first: one that it holds within it joins it.
    sorted.sort_by_key(|s| (s.id.namespace.clone(), s.selector.len(), s.id.clone()));
    let mut home: BTreeMap<WorkloadId, usize> = BTreeMap::new();
    let mut by_selector: BTreeMap<(&str, &BTreeMap<String, String>), usize> = BTreeMap::new();
    for s in sorted {
        let met: BTreeSet<&WorkloadId> = running
            .selected(&s.id.namespace, Some(&s.selector))
            .map(|p| &p.workload)
            .filter(|w| **w != s.id)
            .collect();
        let key = (s.id.namespace.as_str(), &s.selector);
        let at = home.get(&s.id).or_else(|| by_selector.get(&key)).copied();
        let at = match at {
            Some(at) => {
                if !out[at].members.contains(&s.id) {
                    out[at].members.push(s.id.clone());
                }
                at
            }
            None => {
                out.push(group(
                    &s.id.namespace,
                    &names.unique(&s.id),
                    Some(s.selector.clone()),
                    vec![s.id.clone()],
                ));
                by_selector.insert(key, out.len() - 1);
                out.len() - 1
            }
        };
        for w in met {
            home.entry(w.clone()).or_insert(at);
            out[at].bystanders.insert(w.clone());
        }
    }
    for g in &mut out {
        g.members.sort();
        g.bystanders.retain(|w| !g.members.contains(w));
        if g.members.len() > 1 {
            let all: Vec<String> = g.members.iter().map(ToString::to_string).collect();
            g.notes.push(format!(
                "shared by {}: their labels do not tell them apart, so it holds the union of their hosts",
                all.join(", ")
            ));
        }
    }
    out.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    out
}

fn by_app(subjects: &[&Subject], running: &Running<'_>) -> Vec<Group> {
    let mut apps: BTreeMap<(String, String), Vec<WorkloadId>> = BTreeMap::new();
    let mut alone: Vec<&Subject> = Vec::new();
    for s in subjects {
        let app = s.selector.get("app").cloned().or_else(|| {
            let of_pods =
                running.selected(&s.id.namespace, Some(&s.selector)).filter(|p| p.workload == s.id);
            of_pods.filter_map(|p| p.labels.get("app").cloned()).min()
        });
        match app {
            Some(app) => apps.entry((s.id.namespace.clone(), app)).or_default().push(s.id.clone()),
            None => alone.push(s),
        }
    }
    let mut out: Vec<Group> = apps
        .into_iter()
        .map(|((namespace, app), members)| {
            let mut g = group(
                &namespace,
                &app,
                Some(BTreeMap::from([("app".to_owned(), app.clone())])),
                members,
            );
            let met = running.selected(&namespace, g.selector.as_ref()).map(|p| p.workload.clone());
            g.bystanders = met.filter(|w| !g.members.contains(w)).collect();
            g
        })
        .collect();
    out.extend(by_workload(&alone, running).into_iter().map(|mut g| {
        g.notes.push("its pods have no label `app`: it has a Sidecar of its own".to_owned());
        g
    }));
    out
}

fn by_namespace(subjects: &[&Subject], running: &Running<'_>) -> Vec<Group> {
    let mut all: BTreeMap<&str, Vec<WorkloadId>> = BTreeMap::new();
    for s in subjects {
        all.entry(&s.id.namespace).or_default().push(s.id.clone());
    }
    all.into_iter()
        .map(|(namespace, members)| {
            let mut g = group(namespace, "default", None, members);
            let met =
                running.selected(namespace, None).filter(|p| p.data_plane == DataPlane::Sidecar);
            g.bystanders =
                met.map(|p| p.workload.clone()).filter(|w| !g.members.contains(w)).collect();
            g
        })
        .collect()
}

/// Holds the group against the Sidecars and pods that are there; `served` are the workloads that
/// get a Sidecar. The Sidecar whose settings it takes over, where it replaces one that is written
/// for its pods: one that somebody else wrote only with `adopt`.
pub fn check<'m>(
    g: &mut Group,
    mesh: &'m Mesh,
    running: &Running<'_>,
    served: &BTreeSet<&WorkloadId>,
    adopt: bool,
) -> Option<&'m Sidecar> {
    let pods: Vec<&Pod> = running.selected(&g.namespace, g.selector.as_ref()).collect();
    if pods.is_empty() {
        g.notes.push("no pod of the snapshot matches its selector (IST0101)".to_owned());
    }
    let ambient: BTreeSet<String> = pods
        .iter()
        .filter(|p| p.data_plane == DataPlane::Ambient)
        .map(|p| p.workload.to_string())
        .collect();
    if !ambient.is_empty() {
        let all: Vec<String> = ambient.into_iter().collect();
        g.notes.push(format!(
            "its selector also meets ambient pods of {}: it does nothing for them (IST0167)",
            all.join(", ")
        ));
    }
    // Of two Sidecars for one pod the older applies (IST0110).
    let written = mesh.sidecars().iter().filter(|s| s.namespace == g.namespace && s.generated);
    let before = written.filter(|s| {
        s.name != g.name && s.selector.is_some() && pods.iter().any(|p| s.selects(&p.labels))
    });
    for s in before {
        g.notes.push(format!(
            "the Sidecar {} that Sidecarta wrote before selects its pods as well, and the older of two applies (IST0110): \
             delete it where this one takes its place",
            s.name
        ));
    }
    let own = mesh.sidecars().iter().filter(|s| s.namespace == g.namespace && !s.generated);
    if g.selector.is_none() {
        let defaults: Vec<&Sidecar> = own.filter(|s| s.selector.is_none()).collect();
        let first = defaults.first().copied()?;
        if !adopt {
            g.not_adopted = Some(format!(
                "the namespace has a default Sidecar {}/{} that Sidecarta did not write: pass --adopt to replace it",
                first.namespace, first.name
            ));
            return Some(first);
        }
        g.name.clone_from(&first.name);
        g.replaces = Some(first.name.clone());
        g.notes.push(format!(
            "replaces the namespace's default Sidecar {} (two would be IST0111)",
            first.name
        ));
        return Some(first);
    }
    let meets = |s: &&Sidecar| s.selector.is_some() && pods.iter().any(|p| s.selects(&p.labels));
    let with_selector: Vec<&Sidecar> = own.filter(meets).collect();
    let first = with_selector.first().copied()?;
    if !adopt {
        g.not_adopted = Some(format!(
            "the Sidecar {}/{} selects its pods, and Sidecarta did not write it: pass --adopt to replace it",
            first.namespace, first.name
        ));
        return Some(first);
    }
    let beyond: BTreeSet<&WorkloadId> = running
        .selected(&g.namespace, first.selector.as_ref())
        .filter(|p| !pods.iter().any(|q| q.name == p.name))
        .map(|p| &p.workload)
        .collect();
    if !beyond.is_empty() && beyond.iter().all(|w| served.contains(w)) {
        g.notes.push(format!(
            "delete the Sidecar {} when you apply this: it selects the same pods (IST0110) and, being older, wins; all its pods have \
             Sidecars of their own now",
            first.name
        ));
        return Some(first);
    }
    if !beyond.is_empty() {
        let all: Vec<String> = beyond.into_iter().map(ToString::to_string).collect();
        g.refused = Some(format!(
            "the Sidecar {}/{} selects its pods and those of {}: both would match (IST0110) and the older one would win; narrow \
             its selector or delete it",
            first.namespace,
            first.name,
            all.join(", ")
        ));
        return None;
    }
    g.name.clone_from(&first.name);
    g.replaces = Some(first.name.clone());
    g.notes.push(format!(
        "replaces the Sidecar {} that selects the same pods (two would be IST0110)",
        first.name
    ));
    for other in &with_selector[1..] {
        g.notes.push(format!(
            "delete the Sidecar {} as well: it selects the same pods (IST0110)",
            other.name
        ));
    }
    Some(first)
}

/// Gives a group another name where an object of another's has it: applying would replace that
/// object, whatever it selects. `used` are the names of the Sidecars that are written together.
pub fn rename(g: &mut Group, taken: &SidecarNames, used: &mut BTreeSet<(String, String)>) {
    let free = |name: &str, used: &BTreeSet<(String, String)>| {
        // `default` stands for a namespace's default in every document about Sidecars.
        let reserved = g.selector.is_some() && name == "default";
        // One that was written before is written again.
        let other = taken.get(&g.namespace, name).is_some_and(|s| !s.generated);
        let replaced = g.replaces.as_deref() == Some(name);
        (replaced || !reserved && !other) && !used.contains(&(g.namespace.clone(), name.to_owned()))
    };
    let wanted = g.name.clone();
    let mut tries = std::iter::once(wanted.clone())
        .chain(std::iter::once(format!("{wanted}-sidecarta")))
        .chain((2..).map(|n| format!("{wanted}-sidecarta-{n}")));
    let name = tries.find(|n| free(n, used)).unwrap_or_else(|| wanted.clone());
    if name != wanted {
        g.notes.push(format!(
            "it is called {name}: the Sidecar {}/{wanted} is another object, or has the name of a namespace's default",
            g.namespace
        ));
        g.name = name;
    }
    used.insert((g.namespace.clone(), g.name.clone()));
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
