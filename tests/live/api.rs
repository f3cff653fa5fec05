//! Agents whose pods come from an API server.

#![allow(clippy::unwrap_used, clippy::print_stderr)] // a test that cannot go on should say where

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fake::Server;
use crate::netns::inside;
use crate::world::{
    Agent, REQUEST, World, ask, call, eventually, expected, metric, possible, serve,
};

/// An API server on the node's loopback address.
pub struct Api {
    server: Option<Server>,
    ns: String,
}

impl Api {
    pub fn start(world: &mut World) -> Self {
        let server = inside(&world.node.ns, Server::start).join().unwrap();
        let kubeconfig = world.path("kubeconfig");
        crate::common::kubeconfig(&kubeconfig, server.address, &json!({}));
        world.kubeconfig = Some(kubeconfig);
        Self { server: Some(server), ns: world.node.ns.clone() }
    }

    fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    /// Adds all objects of a world.
    pub fn add_objects(&self, world: &World) {
        world.objects.iter().for_each(|o| self.put(o));
    }

    fn put(&self, object: &Value) {
        let kind = object["kind"].as_str().unwrap();
        let plural = if kind == "EndpointSlice" {
            "endpointslices".to_owned()
        } else {
            format!("{}s", kind.to_lowercase())
        };
        self.server().put(&plural, kind, object.clone());
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        let server = self.server.take();
        // `kill` connects to the listener to wake it, so it must run in the same namespace.
        let _ = inside(&self.ns, move || drop(server)).join();
    }
}

fn agent(world: &World, more: &str) -> Agent {
    world.start(&format!("agent --to {}", world.path("out.ndjson").display()), more)
}

fn whole_seconds() -> String {
    sidecarta::model::Time(jiff_now() / 1_000_000_000 * 1_000_000_000).to_string()
}

fn jiff_now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64
}

#[test]
fn an_address_that_changes_owner_within_a_second_is_attributed_by_time() {
    if !possible() {
        return;
    }
    let mut world = World::new();
    let api = Api::start(&mut world);
    world.cart();
    api.add_objects(&world);
    let agent = agent(&world, "");
    for n in 0..3 {
        let name = format!("job{n}");
        // As in a real cluster, the pod calls before the API has its address.
        let net = world.node.bridged(&name, 20);
        world.object(
            &name,
            &format!("{name}-1"),
            &["10.244.1.20"],
            &json!({"status": {"startTime": whole_seconds()}}),
        );
        let object = world.objects.last().unwrap().clone();
        call(&net, "10.244.1.11:8080", REQUEST);
        api.put(&object);
        call(&net, "10.244.1.11:8080", REQUEST);
        std::thread::sleep(Duration::from_millis(400));
        call(&net, "10.244.1.11:8080", REQUEST);
        world.node.remove(&net);
        api.server().delete("pods", &format!("shop/{name}-1"), "Pod", |_| ());
    }
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(agent.end(), Some(0));
    assert_eq!(world.counters().get("learned"), Some(&9), "{:?}", world.counters());
    let requests = api.server().cluster.lock().unwrap().requests.clone();
    assert!(
        requests.iter().all(|r| r.contains("fieldSelector=spec.nodeName%3Dn1")),
        "{requests:?}"
    );
    // The batches name the pods, so `import` need not know who had the address.
    world.objects.retain(|o| !o["metadata"]["name"].as_str().unwrap().starts_with("job"));
    let want = expected(&[("job0 -> cart:80", 3), ("job1 -> cart:80", 3), ("job2 -> cart:80", 3)]);
    assert_eq!(world.learned(), want, "{:?}", world.counters());
}

#[test]
fn observations_from_before_the_first_list_wait_for_it() {
    if !possible() {
        return;
    }
    let mut world = World::new();
    let api = Api::start(&mut world);
    let (web, _) = world.web_and_cart();
    api.add_objects(&world);
    api.server().refuse("pods", 500);
    let agent = agent(&world, "--patience 1s --listen 127.0.0.1:15099");
    call(&web, "10.244.1.11:8080", REQUEST);
    std::thread::sleep(Duration::from_secs(3));
    let (code, why) = ask(&world.node, "/readyz");
    assert!(code == 503 && why.contains("Pod: cannot be watched"), "{code} {why}");
    assert!(metric(&world.node, "sidecarta_agent_waiting_observations") > 0);
    api.server().allow("pods");
    eventually("the first list", || ask(&world.node, "/readyz").0 == 200);
    eventually("the connection from before", || world.counters().get("learned") == Some(&1));
    assert_eq!(agent.end(), Some(0));
    assert_eq!(world.learned(), expected(&[("web -> cart:80", 1)]), "{:?}", world.counters());
}

#[test]
fn an_agent_that_may_not_list_pods_is_not_ready_and_says_why() {
    if !possible() {
        return;
    }
    let mut world = World::new();
    let api = Api::start(&mut world);
    api.server().refuse("pods", 403);
    let agent = agent(&world, "--listen 127.0.0.1:15099");
    eventually("the answer", || {
        ask(&world.node, "/readyz").1.contains("Pod: forbidden: pods is refused")
    });
    let (code, why) = ask(&world.node, "/readyz");
    assert!(code == 503 && why.contains("not complete"), "{code} {why}");
    assert_eq!(ask(&world.node, "/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(metric(&world.node, "sidecarta_agent_view_synced"), 0);
    let log = agent.log();
    assert_eq!(log.matches("allow `list` and `watch` on").count(), 1, "{log}");
    assert_eq!(agent.end(), Some(0));
}

#[test]
fn run_learns_with_an_api_server() {
    if !possible() {
        return;
    }
    let mut world = World::new();
    let api = Api::start(&mut world);
    let (web, _) = world.web_and_cart();
    api.add_objects(&world);
    let run = world.start(&format!("run --store {}", world.path("store").display()), "--settle 1s");
    for _ in 0..5 {
        call(&web, "10.244.1.11:8080", REQUEST);
    }
    let begun = Instant::now();
    run.signal("INT");
    assert_eq!(run.ended(), Some(0));
    eprintln!("run ended within {:?}", begun.elapsed());
    assert_eq!(world.dependencies(), expected(&[("web -> cart:80", 5)]));
}

#[test]
fn run_learns_with_a_snapshot() {
    if !possible() {
        return;
    }
    let mut world = World::new();
    let (web, cart) = (world.node.bridged("web", 10), world.node.bridged("cart", 11));
    world.object("web", "web-1", &["10.244.1.10", "fd00:1::a"], &json!({}));
    world.object("cart", "cart-1", &["10.244.1.11", "fd00:1::b"], &json!({}));
    world.service("cart", "10.96.0.11", &[("10.244.1.11", 8080), ("fd00:1::b", 8080)]);
    serve(&cart, "[::]:8080");
    let store = world.path("store").display().to_string();
    let run =
        world.start(&format!("run --cluster {} --store {store}", world.snapshot()), "--settle 0s");
    (0..3).for_each(|_| call(&web, "10.244.1.11:8080", REQUEST));
    (0..2).for_each(|_| call(&web, "[fd00:1::b]:8080", REQUEST));
    run.signal("INT");
    assert_eq!(run.ended(), Some(0));
    assert_eq!(world.dependencies(), expected(&[("web -> cart:80", 5)]));
}
