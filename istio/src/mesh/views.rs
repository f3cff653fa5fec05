//! For which namespaces istiod can select something else than for all others.
//!
//! Owns the reasons: visibility, hosts of several namespaces, rules for one source namespace, and
//! routes of the Gateway API. Must never leave one out.

use foldhash::HashSet;

use super::service::ExportTo;
use super::{Mesh, MeshService, VirtualService};

impl Mesh {
    /// Whether clients in this namespace may see other Services or VirtualServices than clients in
    /// a namespace that no object names, or may see them in another order.
    pub fn has_own_view(&self, namespace: &str) -> bool {
        self.own_views.contains(namespace)
    }
}

/// The namespaces that have a view of their own: see [`Mesh::has_own_view`].
pub(super) fn own_views(services: &[MeshService], rules: &[VirtualService]) -> HashSet<String> {
    let mut out = HashSet::default();
    for s in services {
        // Of several Services with one host, clients get that of their own namespace.
        if s.contested {
            out.insert(s.namespace.clone());
        }
        add_exported(&s.export, &s.namespace, &mut out);
    }
    for v in rules {
        if v.route.is_some() {
            out.insert(v.namespace.clone());
        }
        add_exported(&v.export, &v.namespace, &mut out);
        let sources = v.http.iter().flat_map(|r| &r.matches).map(|m| &m.source_namespace);
        out.extend(sources.filter(|n| !n.is_empty()).cloned());
    }
    out
}

/// Adds the namespaces that an `exportTo` can mean: those that it lists, and that of its object.
fn add_exported(export: &ExportTo, owner: &str, out: &mut HashSet<String>) {
    if !export.public() {
        out.insert(owner.to_owned());
        out.extend(export.iter().map(str::to_owned));
    }
}

#[cfg(test)]
mod tests {
    use crate::mesh::MeshBuilder;
    use crate::objects::read_yaml;

    /// Of the namespaces `a` to `e`, those that have a view of their own.
    fn own_views(text: &str) -> Vec<&'static str> {
        let mut builder = MeshBuilder::default();
        read_yaml(text).expect("objects").into_iter().for_each(|o| builder.add(o));
        let (mesh, _) = builder.build();
        ["a", "b", "c", "d", "e"].into_iter().filter(|n| mesh.has_own_view(n)).collect()
    }

    #[test]
    fn public_objects_give_no_namespace_a_view_of_its_own() {
        let all = own_views(
            "
{apiVersion: v1, kind: Service, metadata: {name: s, namespace: a}}
---
{apiVersion: v1, kind: Service, metadata: {name: s, namespace: b}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: v, namespace: c}
spec: {hosts: [s.a.svc.cluster.local], http: [{route: [{destination: {host: s.b.svc}}]}]}",
        );
        assert!(all.is_empty(), "{all:?}");
    }

    #[test]
    fn a_service_that_is_exported_by_name_gives_a_view_to_its_owner_and_to_whom_it_names() {
        let all = own_views(
            "
apiVersion: v1
kind: Service
metadata: {name: s, namespace: a, annotations: {networking.istio.io/exportTo: 'c,d'}}",
        );
        assert_eq!(all, ["a", "c", "d"]);
    }

    #[test]
    fn a_host_of_two_namespaces_gives_both_a_view() {
        let entry = |namespace: &str| {
            format!(
                "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: x, namespace: {namespace}}}
spec: {{hosts: [x.example.com], ports: [{{number: 80, name: http, protocol: HTTP}}]}}"
            )
        };
        assert_eq!(own_views(&format!("{}\n---\n{}", entry("b"), entry("d"))), ["b", "d"]);
    }

    #[test]
    fn a_rule_for_one_source_namespace_gives_it_a_view() {
        let all = own_views(
            "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: v, namespace: c}
spec:
  hosts: [s.a.svc.cluster.local]
  http: [{match: [{sourceNamespace: e}], route: [{destination: {host: s.b.svc}}]}]",
        );
        assert_eq!(all, ["e"]);
    }
}
