use std::path::Path;

use super::*;
use crate::generate::running::running_pods;
use crate::generate::subjects::subjects;
use crate::snapshot::{self, Builders, Report, Snapshot};

/// Pods with a proxy in the namespace `shop`, each with its labels as YAML.
fn snapshot_of(pods: &[(&str, &str)], more: &str) -> Snapshot {
    let mut text = more.to_owned();
    for (name, labels) in pods {
        text.push_str(&format!(
            "\n---\nkind: Pod\napiVersion: v1\nmetadata: {{namespace: shop, name: {name}, labels: \
             {{{labels}}}}}\nspec: {{containers: [{{name: istio-proxy, args: [proxy, \
             sidecar]}}]}}\nstatus: {{phase: Running}}\n"
        ));
    }
    let (mut builders, mut report) = (Builders::both(None), Report::default());
    snapshot::read(Path::new("test.yaml"), text.as_bytes(), &mut builders, &mut report);
    let snapshot = builders.build(report);
    assert_eq!(snapshot.report.problems, Vec::<String>::new());
    snapshot
}

fn groups_of(snapshot: &Snapshot, by: GroupBy) -> Vec<Group> {
    let all = subjects(&snapshot.cluster, &[]);
    let all: Vec<&Subject> = all.iter().collect();
    groups(&all, by, &running_pods(&snapshot.cluster))
}

/// Name and number of members of each group.
fn in_short(groups: &[Group]) -> Vec<(&str, usize)> {
    groups.iter().map(|g| (g.name.as_str(), g.members.len())).collect()
}

#[test]
fn workloads_with_different_labels_have_a_sidecar_each() {
    let snapshot = snapshot_of(&[("cart", "app: cart"), ("web", "app: web")], "");
    let groups = groups_of(&snapshot, GroupBy::Workload);
    assert_eq!(in_short(&groups), [("cart", 1), ("web", 1)]);
}

#[test]
fn a_workload_whose_pods_another_selector_matches_joins_that_group() {
    let pods = [("cart", "app: cart"), ("cart-canary", "app: cart, track: canary")];
    let groups = groups_of(&snapshot_of(&pods, ""), GroupBy::Workload);
    assert_eq!(in_short(&groups), [("cart", 2)]);
    assert!(groups[0].remarks[0].starts_with("shared by"), "{:?}", groups[0].remarks);
}

#[test]
fn a_workload_without_the_label_app_is_no_part_of_a_group_by_app() {
    let pods = [("a", "app: cart, x: a"), ("b", "app: cart, x: b"), ("c", "team: bi")];
    let groups = groups_of(&snapshot_of(&pods, ""), GroupBy::App);
    assert_eq!(in_short(&groups), [("cart", 2), ("c", 1)]);
}

#[test]
fn a_foreign_sidecar_for_the_same_pods_is_replaced_only_with_adopt() {
    let foreign = "kind: Sidecar\napiVersion: networking.istio.io/v1\nmetadata: {namespace: shop, \
                   name: hers}\nspec: {workloadSelector: {labels: {app: cart}}, egress: [{hosts: \
                   ['*/*']}]}\n";
    let snapshot = snapshot_of(&[("cart", "app: cart")], foreign);
    let running = running_pods(&snapshot.cluster);
    let checked = |adopt| {
        let mut group = groups_of(&snapshot, GroupBy::Workload).remove(0);
        let found = check(&mut group, snapshot.meshes.first(), &running, &BTreeSet::new(), adopt);
        assert_eq!(found.map(|s| s.name.as_str()), Some("hers"));
        group
    };
    let refused = checked(false);
    assert!(refused.not_adopted.is_some() && refused.replaces.is_none());
    let adopted = checked(true);
    assert_eq!((adopted.name.as_str(), adopted.replaces.as_deref()), ("hers", Some("hers")));
}
