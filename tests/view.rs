//! The live view, tested with a small API server.
#![allow(clippy::unwrap_used)]

#[path = "view/fake.rs"]
mod fake;

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fake::Server;
use serde_json::{Value, json};
use sidecarta::cluster::{Cluster, Holder};
use sidecarta::model::{Protocol, Time};
use sidecarta::view::{self, Extent, KindStatus, View};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Long enough for the slowest machine. A test that passes does not wait this long.
const DEADLINE: Duration = Duration::from_secs(30);

struct Live {
    view: View,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Live {
    fn start(server: &Server, extent: Extent) -> Self {
        let config = kube::Config::new(format!("http://{}", server.address).parse().unwrap());
        let (stop, stopped) = watch::channel(false);
        let (view, task) =
            View::start(kube::Client::try_from(config).unwrap(), extent, None, Vec::new(), stopped);
        Self { view, stop, task }
    }

    async fn ready(server: &Server, extent: Extent) -> Self {
        let mut live = Self::start(server, extent);
        tokio::time::timeout(DEADLINE, live.view.ready())
            .await
            .unwrap_or_else(|_| panic!("{:?}", live.view.status()));
        live
    }

    async fn until(&self, what: &str, done: impl Fn(&View) -> bool) {
        let begun = tokio::time::Instant::now();
        while !done(&self.view) {
            assert!(
                begun.elapsed() < DEADLINE,
                "waited in vain for {what}: {:?}",
                self.view.status()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stop(self) {
        self.stop.send(true).unwrap();
        tokio::time::timeout(DEADLINE, self.task).await.unwrap().unwrap();
    }
}

fn now() -> Time {
    Time(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64)
}

/// A time as the API has it: in whole seconds.
fn whole(time: Time) -> String {
    Time(time.seconds() * 1_000_000_000).to_string()
}

fn pod(name: &str, uid: &str, address: &str) -> Value {
    pod_since(name, uid, address, "2026-01-01T00:00:00Z")
}

fn pod_since(name: &str, uid: &str, address: &str, start: &str) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": "shop", "uid": uid, "labels": {"app": name},
            "managedFields": [{"manager": "kubelet"}],
        },
        "spec": {"containers": [{"name": "app"}], "nodeName": "n1"},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "hostIP": "192.168.0.1", "startTime": start},
    })
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The UID of the pod that had the address.
fn uid(cluster: &Cluster, at: &str, time: Time) -> Option<String> {
    match cluster.holder(address(at), time) {
        Holder::Pod(pod) => Some(pod.uid.to_string()),
        _ => None,
    }
}

/// Whether the pod with this UID has the address now; `None`: whether no pod has it.
fn has_address(view: &View, at: &str, who: Option<&str>) -> bool {
    uid(&view.current(), at, now()).as_deref() == who
}

/// A server with 1,200 pods, one broken pod, and one Deployment `web` with its Service.
fn large_cluster() -> Server {
    let server = Server::start();
    for i in 0..1200 {
        server.put(
            "pods",
            "Pod",
            pod(&format!("p{i}"), &format!("u{i}"), &format!("10.0.{}.{}", i / 250, i % 250 + 1)),
        );
    }
    let mut owned = pod("web-5d4f-x", "web", "10.1.0.1");
    owned["metadata"]["ownerReferences"] =
        json!([{"kind": "ReplicaSet", "name": "web-5d4f", "controller": true}]);
    server.put("pods", "Pod", owned);
    let mut set = json!({"metadata": {"name": "web-5d4f", "namespace": "shop"}});
    set["metadata"]["ownerReferences"] =
        json!([{"kind": "Deployment", "name": "web", "controller": true}]);
    server.put("replicasets", "ReplicaSet", set);
    server.put(
        "services",
        "Service",
        json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"clusterIP": "10.96.0.7", "ports": [{"name": "http", "port": 80}]},
        }),
    );
    server.put(
        "endpointslices",
        "EndpointSlice",
        json!({
            "metadata": {"name": "web-a", "namespace": "shop",
                "labels": {"kubernetes.io/service-name": "web"}},
            "endpoints": [{"addresses": ["10.1.0.1"]}], "ports": [{"name": "http", "port": 8080}],
        }),
    );
    server.put(
        "nodes",
        "Node",
        json!({"metadata": {"name": "n1"}, "spec": {"podCIDR": "10.1.0.0/16"}}),
    );
    let entry = json!({"metadata": {"name": "out", "namespace": "shop"},
        "spec": {"hosts": ["a.test"], "addresses": ["1.2.3.4"]}});
    server.put("serviceentries", "ServiceEntry", entry);
    // A field of a wrong type.
    let mut broken = pod("broken", "broken", "10.1.0.9");
    broken["spec"]["containers"] = json!("none");
    server.put("pods", "Pod", broken);
    server
}

#[tokio::test]
async fn a_view_lists_all_kinds_in_pages_and_leaves_out_a_broken_object() {
    let server = large_cluster();
    let live = Live::ready(&server, Extent::Cluster).await;
    let cluster = live.view.current();
    assert_eq!(cluster.pods().len(), 1201, "three pages");
    assert!(live.view.status().synced);
    assert_eq!(live.view.status().behind, None);
    assert_eq!(live.view.status().broken, 1);
    assert_eq!(live.view.status().kinds["Pod"], KindStatus::Synced { objects: 1201 });
    assert_eq!(live.view.status().kinds.len(), 17);
    let Holder::Pod(web) = cluster.holder(address("10.1.0.1"), now()) else { panic!() };
    assert_eq!((web.workload.kind.as_str(), web.workload.name.as_str()), ("Deployment", "web"));
    assert_eq!(cluster.services_at(address("10.96.0.7")).count(), 1);
    assert_eq!(cluster.endpoint(address("10.1.0.1"), 8080, Protocol::Tcp, now()).count(), 1);
    assert_eq!(cluster.entries_at(address("1.2.3.4")).len(), 1);
    assert_eq!(cluster.holder(address("10.1.7.7"), now()), Holder::NobodyInPodRange);
    live.stop().await;
}

#[tokio::test]
async fn a_view_knows_which_namespaces_istiod_reads_and_what_proxies_refuse() {
    let server = Server::start();
    let mut web = pod("web", "web", "10.0.0.1");
    web["spec"]["containers"] = json!([{"name": "app"}, {"name": "istio-proxy"}]);
    server.put("pods", "Pod", web);
    server.put("namespaces", "Namespace", json!({"metadata": {"name": "hidden", "uid": "n"}}));
    let service = json!({
        "metadata": {"name": "cart", "namespace": "shop", "uid": "s"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "http", "port": 80}]},
    });
    server.put("services", "Service", service);
    let sidecar = json!({
        "metadata": {"name": "default", "namespace": "shop", "uid": "d"},
        "spec": {"egress": [{"hosts": ["~/*"]}]},
    });
    server.put("sidecars", "Sidecar", sidecar);
    let live = Live::ready(&server, Extent::Cluster).await;
    assert!(!live.view.current().hides("hidden"));
    let config = json!({
        "metadata": {"name": "istio", "namespace": "istio-system", "uid": "c"},
        "data": {"mesh": "{discoverySelectors: [{matchLabels: {mesh: 'yes'}}], \
                           outboundTrafficPolicy: {mode: REGISTRY_ONLY}}"},
    });
    server.put("configmaps", "ConfigMap", config);
    live.until("the MeshConfig", |v| v.current().hides("hidden")).await;
    let cluster = live.view.current();
    let host = "cart.shop.svc.cluster.local";
    assert_eq!(cluster.refused_hosts(&[&cluster.pods()[0]], &[host]), [host]);
    live.stop().await;
}

#[tokio::test]
async fn a_view_follows_new_changed_and_deleted_pods() {
    let server = large_cluster();
    let live = Live::ready(&server, Extent::Cluster).await;
    let cluster = live.view.current();
    server.put("pods", "Pod", pod("new", "new", "10.1.0.2"));
    live.until("ADDED", |v| has_address(v, "10.1.0.2", Some("new"))).await;
    server.put("pods", "Pod", pod("new", "new", "10.1.0.3"));
    live.until("MODIFIED", |v| {
        has_address(v, "10.1.0.3", Some("new")) && has_address(v, "10.1.0.2", None)
    })
    .await;
    let before = now();
    server.delete("pods", "shop/new", "Pod", |_| ());
    live.until("DELETED", |v| has_address(v, "10.1.0.3", None)).await;
    assert_eq!(
        uid(&live.view.current(), "10.1.0.3", before).as_deref(),
        Some("new"),
        "packets from before the deletion are attributed to the pod"
    );
    // Indexes that a reader has do not change.
    assert_eq!(cluster.pods().len(), 1201);
    live.stop().await;
}

#[tokio::test]
async fn the_view_of_a_snapshot_never_changes() {
    let mut view = View::fixed(Cluster::default());
    view.ready().await;
    assert!(view.status().synced && view.current().pods().is_empty());
    assert!(!view.changed().await);
}

#[tokio::test]
async fn a_view_lists_again_when_its_version_is_outdated() {
    let server = Server::start();
    server.put("pods", "Pod", pod("stays", "stays", "10.0.0.1"));
    server.put("pods", "Pod", pod("goes", "goes", "10.0.0.2"));
    let live = Live::ready(&server, Extent::Node("n1".to_owned())).await;
    let before = now();
    server.vanish("pods", "shop/goes");
    live.until("the list", |v| has_address(v, "10.0.0.2", None)).await;
    assert!(has_address(&live.view, "10.0.0.1", Some("stays")));
    assert_eq!(uid(&live.view.current(), "10.0.0.2", before).as_deref(), Some("goes"));
    server.put("pods", "Pod", pod("comes", "comes", "10.0.0.3"));
    live.until("the watch", |v| has_address(v, "10.0.0.3", Some("comes"))).await;
    live.stop().await;
}

/// An API server that has just started refuses everything until it has read its own rules.
#[tokio::test]
async fn a_refusal_that_passes_is_forgotten_within_seconds() {
    let server = Server::start();
    server.refuse("pods", 403);
    server.refuse("services", 403);
    let live = Live::start(&server, Extent::Cluster);
    live.until("the refusal", |v| matches!(v.status().kinds["Pod"], KindStatus::Forbidden(_)))
        .await;
    server.allow("pods");
    server.allow("services");
    server.put("pods", "Pod", pod("a", "a", "10.0.0.1"));
    live.until("the pod", |v| has_address(v, "10.0.0.1", Some("a"))).await;
    live.stop().await;
}

#[tokio::test]
async fn a_forbidden_or_absent_kind_does_not_stop_the_others() {
    let server = Server::start();
    server.refuse("replicasets", 403);
    server.refuse("serviceentries", 404);
    server.put("pods", "Pod", pod("a", "a", "10.0.0.1"));
    let live = Live::ready(&server, Extent::Cluster).await;
    let status = live.view.status();
    assert_eq!(
        status.kinds["ReplicaSet"],
        KindStatus::Forbidden("replicasets is refused".to_owned())
    );
    assert_eq!(status.kinds["ServiceEntry"], KindStatus::Absent);
    assert_eq!(status.kinds["Pod"], KindStatus::Synced { objects: 1 });
    assert!(status.synced && status.behind.is_none());
    server.put("pods", "Pod", pod("b", "b", "10.0.0.2"));
    live.until("ADDED", |v| has_address(v, "10.0.0.2", Some("b"))).await;
    live.stop().await;
}

#[tokio::test]
async fn the_view_stays_in_use_while_the_server_does_not_answer() {
    let mut server = Server::start();
    server.put("pods", "Pod", pod("a", "a", "10.0.0.1"));
    server.put("pods", "Pod", pod("b", "b", "10.0.0.2"));
    let live = Live::ready(&server, Extent::Node("n1".to_owned())).await;
    server.kill();
    live.until("the failure", |v| {
        matches!(v.status().kinds["Pod"], KindStatus::Failing { objects: 2, .. })
    })
    .await;
    let status = live.view.status();
    assert!(status.synced && status.behind.is_some());
    assert!(
        has_address(&live.view, "10.0.0.1", Some("a"))
            && has_address(&live.view, "10.0.0.2", Some("b"))
    );
    // Meanwhile the cluster changes.
    server.delete("pods", "shop/b", "Pod", |_| ());
    server.put("pods", "Pod", pod("c", "c", "10.0.0.3"));
    server.restart();
    live.until("the return", |v| v.status().kinds["Pod"] == KindStatus::Synced { objects: 2 })
        .await;
    live.until("the news", |v| {
        has_address(v, "10.0.0.3", Some("c")) && has_address(v, "10.0.0.2", None)
    })
    .await;
    assert_eq!(live.view.status().behind, None);
    live.stop().await;
}

#[tokio::test]
async fn a_view_waits_for_a_server_that_does_not_listen_yet() {
    let mut server = Server::start();
    server.kill();
    let mut live = Live::start(&server, Extent::Node("n1".to_owned()));
    live.until("the failure", |v| {
        matches!(v.status().kinds["Pod"], KindStatus::Failing { objects: 0, .. })
    })
    .await;
    assert!(!live.view.status().synced);
    server.restart();
    tokio::time::timeout(DEADLINE, live.view.ready()).await.unwrap();
    assert!(live.view.status().synced);
    // It ends although a watch is open.
    live.stop().await;
}

#[tokio::test]
async fn the_view_of_a_node_watches_only_pods_of_the_node() {
    let server = Server::start();
    let live = Live::ready(&server, Extent::Node("n1".to_owned())).await;
    let watched =
        |s: &Server| s.cluster.lock().unwrap().requests.iter().any(|r| r.contains("watch=true"));
    live.until("the watch", |_| watched(&server)).await;
    let requests = server.cluster.lock().unwrap().requests.clone();
    assert!(
        requests
            .iter()
            .all(|r| r.starts_with("/api/v1/pods?")
                && r.contains("fieldSelector=spec.nodeName%3Dn1")),
        "{requests:?}"
    );
    live.stop().await;
}

#[tokio::test]
async fn an_address_that_is_reused_within_a_second_is_attributed_by_time() {
    let server = Server::start();
    server.put("pods", "Pod", pod("old", "old", "10.0.0.1"));
    // Another pod of this name will follow, without a deletion of the first.
    server.put("pods", "Pod", pod("db-0", "first", "10.0.0.2"));
    let live = Live::ready(&server, Extent::Cluster).await;
    let sent = now();
    server.delete("pods", "shop/old", "Pod", |_| ());
    server.put("pods", "Pod", pod_since("new", "new", "10.0.0.1", &whole(now())));
    server.put("pods", "Pod", pod_since("db-0", "second", "10.0.0.2", &whole(now())));
    live.until("the new pods", |v| {
        has_address(v, "10.0.0.1", Some("new")) && has_address(v, "10.0.0.2", Some("second"))
    })
    .await;
    let cluster = live.view.current();
    assert_eq!(uid(&cluster, "10.0.0.1", sent).as_deref(), Some("old"));
    assert_eq!(uid(&cluster, "10.0.0.2", sent).as_deref(), Some("first"));
    live.stop().await;
}

/// Names of the Services that had the endpoint.
fn behind(cluster: &Cluster, at: &str, time: Time) -> Vec<String> {
    cluster.endpoint(address(at), 8080, Protocol::Tcp, time).map(|(s, _)| s.name.clone()).collect()
}

#[tokio::test]
async fn a_former_endpoint_counts_for_connections_from_before() {
    let server = Server::start();
    let service = |name: &str| {
        json!({"metadata": {"name": name, "namespace": "shop"},
            "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]}})
    };
    let slice = |service: &str, addresses: &[&str]| {
        json!({
            "metadata": {"name": format!("{service}-1"), "namespace": "shop",
                "labels": {"kubernetes.io/service-name": service}},
            "endpoints": [{"addresses": addresses}], "ports": [{"name": "http", "port": 8080}],
        })
    };
    for name in ["old", "new", "both"] {
        server.put("services", "Service", service(name));
    }
    server.put("pods", "Pod", pod("old", "old", "10.0.0.1"));
    server.put("endpointslices", "EndpointSlice", slice("old", &["10.0.0.1"]));
    server.put("endpointslices", "EndpointSlice", slice("both", &["10.0.0.1", "10.0.0.5"]));
    let live = Live::ready(&server, Extent::Cluster).await;
    let sent = now();
    assert_eq!(behind(&live.view.current(), "10.0.0.1", sent), ["both", "old"]);
    // Its pod is replaced by a pod of other Services with the same address.
    server.delete("pods", "shop/old", "Pod", |_| ());
    server.delete("endpointslices", "shop/old-1", "EndpointSlice", |_| ());
    server.put("endpointslices", "EndpointSlice", slice("both", &["10.0.0.5"]));
    server.put("pods", "Pod", pod_since("new", "new", "10.0.0.1", &whole(now())));
    server.put("endpointslices", "EndpointSlice", slice("new", &["10.0.0.1"]));
    live.until("the new endpoint", |v| behind(&v.current(), "10.0.0.1", now()) == ["new"]).await;
    assert_eq!(behind(&live.view.current(), "10.0.0.1", sent), ["both", "old"]);
    assert_eq!(behind(&live.view.current(), "10.0.0.5", now()), ["both"]);
    live.stop().await;
}

#[tokio::test]
async fn a_pod_ends_when_its_last_container_ended() {
    let server = Server::start();
    server.put("pods", "Pod", pod("old", "old", "10.0.0.1"));
    let live = Live::ready(&server, Extent::Cluster).await;
    // It ended seconds ago. The next pod was created before that, and had no address yet.
    let at = |seconds: i64| Time(now().0 - seconds * 1_000_000_000);
    let (ended, waited) = (at(10), whole(at(20)));
    server.delete("pods", "shop/old", "Pod", |pod| {
        pod["status"]["podIP"] = json!("");
        pod["status"]["podIPs"] = json!([]);
        pod["status"]["containerStatuses"] =
            json!([{"name": "app", "state": {"terminated": {"finishedAt": whole(ended)}}}]);
    });
    server.put("pods", "Pod", pod_since("new", "new", "10.0.0.1", &waited));
    live.until("the new pod", |v| has_address(v, "10.0.0.1", Some("new"))).await;
    let cluster = live.view.current();
    assert_eq!(uid(&cluster, "10.0.0.1", at(15)).as_deref(), Some("old"));
    assert_eq!(uid(&cluster, "10.0.0.1", Time(ended.0 + 1_500_000_000)).as_deref(), Some("new"));
    live.stop().await;
}

#[tokio::test]
async fn a_pod_whose_deletion_was_missed_ends_when_the_next_one_starts() {
    let server = Server::start();
    server.put("pods", "Pod", pod("old", "old", "10.0.0.1"));
    let live = Live::ready(&server, Extent::Cluster).await;
    let at = |seconds: i64| Time(now().0 - seconds * 1_000_000_000);
    let next = pod_since("new", "new", "10.0.0.1", &whole(at(20)));
    server.vanish("pods", "shop/old");
    server.put("pods", "Pod", next);
    live.until("the new pod", |v| has_address(v, "10.0.0.1", Some("new"))).await;
    let cluster = live.view.current();
    assert_eq!(uid(&cluster, "10.0.0.1", at(30)).as_deref(), Some("old"));
    assert_eq!(uid(&cluster, "10.0.0.1", at(10)).as_deref(), Some("new"));
    live.stop().await;
}

#[tokio::test]
async fn a_kubeconfig_makes_a_client_or_says_why_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "a",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "a", "context": {"cluster": "c", "user": "u"}}],
    });
    std::fs::write(&file, config.to_string()).unwrap();
    // With TLS: its provider is chosen here, or this panics.
    view::client(Some(&file), None).await.unwrap();
    let error = |e: Result<kube::Client, view::ViewError>| e.err().unwrap().to_string();
    let text = error(view::client(Some(&file), Some("other")).await);
    assert!(text.contains(&file.display().to_string()) && text.contains("other"), "{text}");
    let text = error(view::client(Some(&dir.path().join("none")), None).await);
    assert!(text.contains("none"), "{text}");
}

#[test]
fn without_a_kubeconfig_the_error_says_what_to_do() {
    const NOWHERE: &str = "SIDECARTA_TEST_NOWHERE";
    if std::env::var_os(NOWHERE).is_some() {
        return tokio::runtime::Runtime::new().unwrap().block_on(nowhere());
    }
    // In a process of its own: the environment is that of all tests here.
    let home = tempfile::tempdir().unwrap();
    let out = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "without_a_kubeconfig_the_error_says_what_to_do"])
        .env(NOWHERE, "1")
        .env_remove("KUBECONFIG")
        .env_remove("KUBERNETES_SERVICE_HOST")
        .env("HOME", home.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && said.contains("1 passed"), "{said}");
}

async fn nowhere() {
    let text = view::client(None, None).await.err().unwrap().to_string();
    assert!(
        text.starts_with(
            "no kubeconfig and not in a cluster: pass --cluster FILES, or set KUBECONFIG"
        ),
        "{text}"
    );
    let text = view::client(None, Some("prod")).await.err().unwrap().to_string();
    assert!(text.starts_with("cannot use the kubeconfig"), "{text}");
}
