//! One object counts once, in whatever form and however often it is in the files.

use std::net::IpAddr;
use std::path::Path;

use super::*;
use crate::cluster::Holder;
use crate::model::{Protocol, Time};

const LATE: Time = Time(1_800_000_000_000_000_000);

fn of(files: &[&[u8]]) -> Snapshot {
    let (mut builders, mut report) = (Builders::both(None), Report::default());
    for (i, file) in files.iter().enumerate() {
        read(Path::new(&format!("{i}.yaml")), file, &mut builders, &mut report);
    }
    builders.build(report)
}

fn pod(name: &str, uid: &str, address: &str, day: u32) -> String {
    format!(
        "{{kind: Pod, apiVersion: v1, metadata: {{name: {name}, namespace: shop, uid: {uid}, \
         labels: {{app: cart}}}}, spec: {{}}, \
         status: {{phase: Running, podIP: {address}, startTime: \
         '2026-01-{day:02}T00:00:00Z'}}}}\n---\n"
    )
}

fn service(uid: &str, version: u32, address: &str) -> String {
    format!(
        "---\n{{kind: Service, apiVersion: v1, metadata: {{name: cart, namespace: shop, uid: \
         {uid}, resourceVersion: '{version}'}}, \
         spec: {{clusterIP: {address}, selector: {{app: cart}}, ports: [{{port: 80}}]}}}}\n---\n"
    )
}

fn slice(version: u32, address: &str) -> String {
    format!(
        "{{kind: EndpointSlice, apiVersion: discovery.k8s.io/v1, metadata: {{name: cart-x, \
         namespace: shop, uid: s, \
         resourceVersion: '{version}', labels: {{kubernetes.io/service-name: cart}}}}, endpoints: \
         [{{addresses: [{address}]}}], \
         ports: [{{port: 8080}}]}}\n---\n"
    )
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn backing(cluster: &Cluster, at: &str, time: Time) -> Vec<String> {
    let found = cluster.endpoint(address(at), 8080, Protocol::Tcp, time);
    found.map(|(s, _)| s.name.clone()).collect()
}

#[test]
fn two_snapshots_of_different_times_add_up() {
    let before =
        service("a", 1, "10.96.0.1") + &pod("cart-1", "p1", "10.1.0.1", 1) + &slice(1, "10.1.0.1");
    let after =
        service("a", 1, "10.96.0.1") + &pod("cart-2", "p2", "10.1.0.2", 9) + &slice(7, "10.1.0.2");
    for files in [[&before, &after], [&after, &before]] {
        let Snapshot { cluster, report, .. } = of(&files.map(|f| f.as_bytes()));
        assert_eq!(report.problems, Vec::<String>::new());
        assert_eq!((report.used["Service"], report.used["Pod"]), (1, 2));
        assert_eq!(backing(&cluster, "10.1.0.1", LATE), ["cart"]);
        assert_eq!(backing(&cluster, "10.1.0.2", LATE), ["cart"]);
    }
}

#[test]
fn an_address_belongs_to_the_earlier_pod_until_a_later_pod_has_it() {
    let before =
        service("a", 1, "10.96.0.1") + &pod("cart-1", "p1", "10.1.0.1", 1) + &slice(1, "10.1.0.1");
    let mail = pod("mail-1", "p3", "10.1.0.1", 9).replace("app: cart", "app: mail");
    let after = service("a", 1, "10.96.0.1") + &mail + &slice(7, "10.1.0.2");
    for files in [[&before, &after], [&after, &before]] {
        let Snapshot { cluster, report, .. } = of(&files.map(|f| f.as_bytes()));
        assert_eq!(report.problems, Vec::<String>::new());
        let holder = |day: &str| match cluster.holder(address("10.1.0.1"), day.parse().unwrap()) {
            Holder::Pod(pod) => pod.name.to_string(),
            other => format!("{other:?}"),
        };
        assert_eq!(holder("2026-01-05T00:00:00Z"), "cart-1");
        assert_eq!(holder("2026-01-10T00:00:00Z"), "mail-1");
        assert_eq!(
            backing(&cluster, "10.1.0.1", "2026-01-05T00:00:00Z".parse().unwrap()),
            ["cart"]
        );
        assert_eq!(backing(&cluster, "10.1.0.1", LATE), Vec::<String>::new());
    }
    // In one file together, both claim it.
    let both = before + &mail;
    assert_eq!(of(&[both.as_bytes()]).report.problems.len(), 1);
}

#[test]
fn files_of_two_clusters_are_reported_and_both_addresses_count() {
    let api = |uid: &str, address: &str| {
        service(uid, 1, address)
            .replace("name: cart, namespace: shop", "name: kubernetes, namespace: default")
    };
    let (one, two) = (
        service("a", 5, "10.96.0.1") + &api("k1", "10.96.0.9"),
        service("b", 3, "10.112.0.1") + &api("k2", "10.112.0.9"),
    );
    for files in [[&one, &two], [&two, &one]] {
        let Snapshot { cluster, report, .. } = of(&files.map(|f| f.as_bytes()));
        assert!(
            report.problems.iter().any(|p| p.contains("two clusters")),
            "{:?}",
            report.problems
        );
        for at in ["10.96.0.1", "10.112.0.1"] {
            let found: Vec<&str> =
                cluster.services_at(address(at)).map(|s| s.name.as_str()).collect();
            assert_eq!(found, ["cart"]);
        }
    }
}

#[test]
fn all_forms_of_a_list_give_the_same_objects() {
    let pod = r#"{"metadata": {"name": "web", "namespace": "shop"}, "spec": {},
        "status": {"podIP": "10.1.0.1"}}"#;
    let whole = pod.replacen('{', r#"{"kind": "Pod", "apiVersion": "v1", "#, 1);
    let list = format!(r#"{{"kind": "List", "apiVersion": "v1", "items": [{whole}]}}"#);
    let typed = format!(r#"{{"kind": "PodList", "apiVersion": "v1", "items": [{pod}]}}"#);
    let yaml = format!("apiVersion: v1\nitems:\n- {pod}\nkind: PodList\nmetadata: {{}}\n");
    let wide = |mark: [u8; 2], bytes: fn(u16) -> [u8; 2]| {
        [&mark[..], &list.encode_utf16().flat_map(bytes).collect::<Vec<u8>>()].concat()
    };
    let forms: Vec<Vec<u8>> = vec![
        whole.clone().into_bytes(),
        list.clone().into_bytes(),
        typed.clone().into_bytes(),
        yaml.into_bytes(),
        format!(
            r#"{{"kind": "List", "items": [{typed}, {{"kind": "List", "items": [[{list}]]}}]}}"#
        )
        .into_bytes(),
        format!("[{list}, {typed}]").into_bytes(),
        format!("- {whole}\n- {list}\n").into_bytes(),
        wide([0xff, 0xfe], u16::to_le_bytes),
        wide([0xfe, 0xff], u16::to_be_bytes),
    ];
    for form in forms {
        let Snapshot { cluster, report, .. } = of(&[&form]);
        let text = String::from_utf8_lossy(&form);
        assert_eq!(report.problems, Vec::<String>::new(), "{text}");
        assert_eq!((cluster.pods().len(), report.used.get("Pod")), (1, Some(&1)), "{text}");
    }
}

#[test]
fn the_domain_is_the_one_that_proxies_have() {
    let proxy = "{kind: Pod, metadata: {name: web, namespace: shop}, spec: {containers: \
                 [{name: istio-proxy, args: [proxy, sidecar, \
                 --domain, $(POD_NAMESPACE).svc.prod.example]}]}}\n---\n";
    let text = service("a", 1, "10.96.0.1") + proxy;
    let Snapshot { cluster, meshes, report } = of(&[text.as_bytes()]);
    assert_eq!(cluster.domain(), "prod.example");
    assert!(meshes.first().has_host("cart.shop.svc.prod.example"));
    assert_eq!(report.problems, Vec::<String>::new());
    // What was asked for stands, and is contradicted.
    let (mut builders, mut report) = (Builders::both(Some("cluster.local")), Report::default());
    read(Path::new("a.yaml"), text.as_bytes(), &mut builders, &mut report);
    let Snapshot { cluster, report, .. } = builders.build(report);
    assert_eq!((cluster.domain(), report.problems.len()), ("cluster.local", 1));
}
