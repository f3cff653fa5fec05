//! Which workloads share a Sidecar, and which pods its selector matches.
//!
//! Owns grouping, and the check of selectors against all pods and Sidecars of the namespace
//! (Istio's analyzers IST0101, IST0110, IST0111, IST0167). Must never let two generated Sidecars
//! select one pod.

use std::collections::{BTreeMap, BTreeSet};

use super::running::RunningPods;
use super::subjects::Subject;
use crate::cluster::Pod;
use crate::mesh::{Mesh, Sidecar, SidecarNames};
use crate::model::{DataPlane, WorkloadId};

/// Which workloads share a Sidecar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupBy {
    /// Each workload has its own.
    #[default]
    Workload,
    /// All workloads with the same label `app`.
    App,
    /// All workloads of a namespace.
    Namespace,
}

/// Workloads that share a Sidecar.
#[derive(Clone, Debug)]
pub struct Group {
    /// Namespace.
    pub namespace: String,
    /// Name of the Sidecar.
    pub name: String,
    /// Labels that the Sidecar selects by; `None` for the default of the namespace.
    pub selector: Option<BTreeMap<String, String>>,
    /// Workloads that it is written for.
    pub members: Vec<WorkloadId>,
    /// Other workloads whose pods the selector matches.
    pub bystanders: BTreeSet<WorkloadId>,
    /// Sentences for the reviewer.
    pub remarks: Vec<String>,
    /// Why no Sidecar can be written.
    pub refused: Option<String>,
    /// Set if its pods belong to several revisions of istiod: why that withholds it.
    pub several_revisions: Option<String>,
    /// Set if istiod does not look at its namespace: why that withholds it.
    pub undiscovered: Option<String>,
    /// Name of the Sidecar that it replaces and that Sidecarta did not write.
    pub replaces: Option<String>,
    /// Why none is written: a Sidecar that Sidecarta did not write already applies to its pods.
    pub not_adopted: Option<String>,
}

/// Forms the groups of the subjects that a Sidecar can serve, sorted by name.
pub fn groups(subjects: &[&Subject], by: GroupBy, running: &RunningPods<'_>) -> Vec<Group> {
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
        remarks: Vec::new(),
        refused: None,
        several_revisions: None,
        undiscovered: None,
        replaces: None,
        not_adopted: None,
    }
}

fn by_workload(subjects: &[&Subject], running: &RunningPods<'_>) -> Vec<Group> {
    let mut out: Vec<Group> = Vec::new();
    let mut names = UniqueNames::default();
    let mut sorted = subjects.to_vec();
    // The widest selector first: a workload whose pods it matches joins its group.
    sorted.sort_by_key(|s| (s.id.namespace.clone(), s.selector.len(), s.id.clone()));
    let mut group_of: BTreeMap<WorkloadId, usize> = BTreeMap::new();
    let mut by_selector: BTreeMap<(&str, &BTreeMap<String, String>), usize> = BTreeMap::new();
    for s in sorted {
        let matched: BTreeSet<&WorkloadId> = running
            .selected(&s.id.namespace, Some(&s.selector))
            .map(|p| &p.workload)
            .filter(|w| **w != s.id)
            .collect();
        let key = (s.id.namespace.as_str(), &s.selector);
        let joined = group_of.get(&s.id).or_else(|| by_selector.get(&key)).copied();
        let at = match joined {
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
        for w in matched {
            group_of.entry(w.clone()).or_insert(at);
            out[at].bystanders.insert(w.clone());
        }
    }
    for g in &mut out {
        g.members.sort();
        g.bystanders.retain(|w| !g.members.contains(w));
        if g.members.len() > 1 {
            let all: Vec<String> = g.members.iter().map(ToString::to_string).collect();
            g.remarks.push(format!(
                "shared by {}: their labels do not tell them apart, so it holds the union of their \
                 hosts",
                all.join(", ")
            ));
        }
    }
    out.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    out
}

fn by_app(subjects: &[&Subject], running: &RunningPods<'_>) -> Vec<Group> {
    let mut apps: BTreeMap<(String, String), Vec<WorkloadId>> = BTreeMap::new();
    let mut alone: Vec<&Subject> = Vec::new();
    for s in subjects {
        let app = s.selector.get("app").cloned().or_else(|| {
            let selected = running.selected(&s.id.namespace, Some(&s.selector));
            let own = selected.filter(|p| p.workload == s.id);
            own.filter_map(|p| p.labels.get("app").cloned()).min()
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
            let selected = running.selected(&namespace, g.selector.as_ref());
            let matched = selected.map(|p| p.workload.clone());
            g.bystanders = matched.filter(|w| !g.members.contains(w)).collect();
            g
        })
        .collect();
    out.extend(by_workload(&alone, running).into_iter().map(|mut g| {
        g.remarks.push("its pods have no label `app`: it has a Sidecar of its own".to_owned());
        g
    }));
    out
}

fn by_namespace(subjects: &[&Subject], running: &RunningPods<'_>) -> Vec<Group> {
    let mut all: BTreeMap<&str, Vec<WorkloadId>> = BTreeMap::new();
    for s in subjects {
        all.entry(&s.id.namespace).or_default().push(s.id.clone());
    }
    all.into_iter()
        .map(|(namespace, members)| {
            let mut g = group(namespace, "default", None, members);
            let all = running.selected(namespace, None);
            let injected = all.filter(|p| p.data_plane == DataPlane::Sidecar);
            let matched = injected.map(|p| p.workload.clone());
            g.bystanders = matched.filter(|w| !g.members.contains(w)).collect();
            g
        })
        .collect()
}

/// Checks a group against the Sidecars and pods that exist. `served` are the workloads that get a
/// Sidecar. Returns the existing Sidecar that is written for the group's pods, whose settings are
/// carried over. A Sidecar that Sidecarta did not write is replaced only with `adopt`.
pub fn check<'m>(
    g: &mut Group,
    mesh: &'m Mesh,
    running: &RunningPods<'_>,
    served: &BTreeSet<&WorkloadId>,
    adopt: bool,
) -> Option<&'m Sidecar> {
    let pods: Vec<&Pod> = running.selected(&g.namespace, g.selector.as_ref()).collect();
    remark_on_pods(g, &pods);
    remark_on_generated(g, &pods, mesh);
    let mut others = mesh.sidecars_in(&g.namespace).filter(|s| !s.generated);
    if g.selector.is_none() {
        let default = others.find(|s| s.selector.is_none())?;
        replace_default(g, default, adopt);
        return Some(default);
    }
    let selects_pods =
        |s: &&Sidecar| s.selector.is_some() && pods.iter().any(|p| s.selects(&p.labels));
    let selecting: Vec<&Sidecar> = others.filter(selects_pods).collect();
    let (&first, rest) = selecting.split_first()?;
    if !adopt {
        g.not_adopted = Some(format!(
            "the Sidecar {}/{} selects its pods, and Sidecarta did not write it: pass --adopt to \
             replace it",
            first.namespace, first.name
        ));
        return Some(first);
    }
    let selected_by_first = running.selected(&g.namespace, first.selector.as_ref());
    let beyond: BTreeSet<&WorkloadId> = selected_by_first
        .filter(|p| !pods.iter().any(|q| q.name == p.name))
        .map(|p| &p.workload)
        .collect();
    if beyond.is_empty() {
        replace_selecting(g, first, rest);
        return Some(first);
    }
    if beyond.iter().all(|w| served.contains(w)) {
        g.remarks.push(format!(
            "delete the Sidecar {} when you apply this: it selects the same pods (IST0110) and, \
             being older, wins; all its pods have Sidecars of their own now",
            first.name
        ));
        return Some(first);
    }
    let all: Vec<String> = beyond.into_iter().map(ToString::to_string).collect();
    g.refused = Some(format!(
        "the Sidecar {}/{} selects its pods and those of {}: both would match (IST0110) and the \
         older one would win; narrow its selector or delete it",
        first.namespace,
        first.name,
        all.join(", ")
    ));
    None
}

/// Remarks on a selector that matches no pod, or ambient pods.
fn remark_on_pods(g: &mut Group, pods: &[&Pod]) {
    if pods.is_empty() {
        g.remarks.push("no pod of the snapshot matches its selector (IST0101)".to_owned());
    }
    let ambient = pods.iter().filter(|p| p.data_plane == DataPlane::Ambient);
    let ambient: BTreeSet<String> = ambient.map(|p| p.workload.to_string()).collect();
    if !ambient.is_empty() {
        let all: Vec<String> = ambient.into_iter().collect();
        g.remarks.push(format!(
            "its selector also meets ambient pods of {}: it does nothing for them (IST0167)",
            all.join(", ")
        ));
    }
}

/// Remarks on Sidecars of other names that Sidecarta wrote before for the same pods. Of two
/// Sidecars for one pod the older applies (IST0110).
fn remark_on_generated(g: &mut Group, pods: &[&Pod], mesh: &Mesh) {
    let generated = mesh.sidecars_in(&g.namespace).filter(|s| s.generated);
    let before = generated.filter(|s| {
        s.name != g.name && s.selector.is_some() && pods.iter().any(|p| s.selects(&p.labels))
    });
    g.remarks.extend(before.map(|s| {
        format!(
            "the Sidecar {} that Sidecarta wrote before selects its pods as well, and the older \
             of two applies (IST0110): delete it where this one takes its place",
            s.name
        )
    }));
}

/// Replaces the default Sidecar of the namespace, or says that it is not adopted.
fn replace_default(g: &mut Group, default: &Sidecar, adopt: bool) {
    if !adopt {
        g.not_adopted = Some(format!(
            "the namespace has a default Sidecar {}/{} that Sidecarta did not write: pass --adopt \
             to replace it",
            default.namespace, default.name
        ));
        return;
    }
    g.name.clone_from(&default.name);
    g.replaces = Some(default.name.clone());
    g.remarks.push(format!(
        "replaces the namespace's default Sidecar {} (two would be IST0111)",
        default.name
    ));
}

/// Replaces the first of the Sidecars that select the group's pods. The rest must be deleted.
fn replace_selecting(g: &mut Group, first: &Sidecar, rest: &[&Sidecar]) {
    g.name.clone_from(&first.name);
    g.replaces = Some(first.name.clone());
    g.remarks.push(format!(
        "replaces the Sidecar {} that selects the same pods (two would be IST0110)",
        first.name
    ));
    g.remarks.extend(rest.iter().map(|other| {
        format!("delete the Sidecar {} as well: it selects the same pods (IST0110)", other.name)
    }));
}

/// Gives a group another name if a Sidecar that Sidecarta did not write has its name: applying
/// would replace that Sidecar, whatever it selects. `used` are namespace and name of the Sidecars
/// that are written together.
pub fn rename(g: &mut Group, taken: &SidecarNames, used: &mut BTreeSet<(String, String)>) {
    let free = |name: &str, used: &BTreeSet<(String, String)>| {
        // Every document about Sidecars calls the default of a namespace `default`.
        let reserved = g.selector.is_some() && name == "default";
        // A Sidecar that Sidecarta wrote before is written again.
        let is_foreign = taken.get(&g.namespace, name).is_some_and(|s| !s.generated);
        let replaced = g.replaces.as_deref() == Some(name);
        (replaced || !reserved && !is_foreign)
            && !used.contains(&(g.namespace.clone(), name.to_owned()))
    };
    let wanted = g.name.clone();
    let mut tries = std::iter::once(wanted.clone())
        .chain(std::iter::once(format!("{wanted}-sidecarta")))
        .chain((2..).map(|n| format!("{wanted}-sidecarta-{n}")));
    let name = tries.find(|n| free(n, used)).unwrap_or_else(|| wanted.clone());
    if name != wanted {
        g.remarks.push(format!(
            "it is called {name}: the Sidecar {}/{wanted} is another object, or has the name of a \
             namespace's default",
            g.namespace
        ));
        g.name = name;
    }
    used.insert((g.namespace.clone(), g.name.clone()));
}

/// Names of Sidecars: that of the workload, with its kind where two workloads of a namespace share
/// a name.
#[derive(Default)]
struct UniqueNames {
    taken: BTreeSet<(String, String)>,
}

impl UniqueNames {
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

#[cfg(test)]
mod tests;
