use std::path::Path;

use super::*;
use crate::snapshot::{self, Builders, Report};

const MESH: &str = "
kind: ConfigMap
apiVersion: v1
metadata: {namespace: istio-system, name: istio}
data:
  mesh: |
    extensionProviders:
    - name: jaeger
      opentelemetry: {service: jaeger.tracing.svc.cluster.local, port: 4317}
    - name: zipkin
      zipkin: {service: zipkin.tracing.svc.cluster.local, port: 9411}
---
kind: Pod
apiVersion: v1
metadata: {namespace: shop, name: web, labels: {app: web}}
spec: {containers: [{name: istio-proxy, args: [proxy, sidecar]}]}
status: {phase: Running}
";

fn telemetry(namespace: &str, name: &str, selector: &str, provider: &str) -> String {
    format!(
        "---\nkind: Telemetry\napiVersion: telemetry.istio.io/v1\nmetadata: {{namespace: \
         {namespace}, name: {name}}}\nspec: {{{selector} tracing: [{{providers: [{{name: \
         {provider}}}]}}]}}\n"
    )
}

/// Hosts and ports that the proxy of `shop/web` sends to.
fn implied_with(objects: &str) -> Vec<(String, u16)> {
    let (mut builders, mut report) = (Builders::both(None), Report::default());
    let text = format!("{MESH}{objects}");
    snapshot::read(Path::new("test.yaml"), text.as_bytes(), &mut builders, &mut report);
    let snapshot = builders.build(report);
    assert_eq!(snapshot.report.problems, Vec::<String>::new());
    let mesh = snapshot.meshes.first();
    let pod = mesh.pod("shop", "web").expect("the pod is in the mesh");
    let hosts = implied_hosts(mesh, pod, None).into_iter();
    hosts.map(|i| (i.host, i.port)).collect()
}

#[test]
fn a_provider_that_nothing_selects_is_not_implied() {
    assert_eq!(implied_with(""), []);
}

#[test]
fn the_telemetry_of_the_root_namespace_applies_in_every_namespace() {
    let root = telemetry("istio-system", "default", "", "jaeger");
    let jaeger = ("jaeger.tracing.svc.cluster.local".to_owned(), 4317);
    assert_eq!(implied_with(&root), [jaeger]);
}

#[test]
fn a_telemetry_of_the_namespace_overrules_that_of_the_root_namespace() {
    let root = telemetry("istio-system", "default", "", "jaeger");
    let own = telemetry("shop", "default", "", "zipkin");
    let zipkin = ("zipkin.tracing.svc.cluster.local".to_owned(), 9411);
    assert_eq!(implied_with(&format!("{root}{own}")), [zipkin]);
}

#[test]
fn a_telemetry_of_the_root_namespace_with_a_selector_does_not_apply() {
    let selector = "selector: {matchLabels: {app: web}},";
    assert_eq!(implied_with(&telemetry("istio-system", "web", selector, "jaeger")), []);
}

#[test]
fn a_key_server_of_the_mesh_is_implied_where_its_authentication_selects_the_pod() {
    let server = "---\nkind: Service\napiVersion: v1\nmetadata: {namespace: auth, name: keys}\n\
                  spec: {clusterIP: 10.96.0.9, ports: [{name: http, port: 8080}]}\n";
    let authentication = |namespace: &str, app: &str| {
        format!(
            "{server}---\nkind: RequestAuthentication\napiVersion: security.istio.io/v1\n\
             metadata: {{namespace: {namespace}, name: jwt}}\nspec:\n  selector: {{matchLabels: \
             {{app: {app}}}}}\n  jwtRules:\n  - issuer: a\n    jwksUri: \
             http://keys.auth.svc.cluster.local:8080/jwks\n  - issuer: b\n    jwksUri: \
             https://accounts.example.org/jwks\n"
        )
    };
    let keys = ("keys.auth.svc.cluster.local".to_owned(), 8080);
    for namespace in ["shop", "istio-system"] {
        assert_eq!(implied_with(&authentication(namespace, "web")), std::slice::from_ref(&keys));
    }
    assert_eq!(implied_with(&authentication("shop", "other")), []);
    assert_eq!(implied_with(&authentication("bank", "web")), []);
}
