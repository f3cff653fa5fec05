use super::*;
use crate::model::{DataPlane, DependencyKey, Protocol, ServicePort, Workload};
use crate::store::Access;

fn id(namespace: &str, name: &str) -> WorkloadId {
    WorkloadId { namespace: namespace.into(), kind: "Deployment".into(), name: name.into() }
}

/// A workload that calls a Service on a port, so many times, at these seconds.
fn calls(who: &WorkloadId, port: u16, connections: u64, from: i64, to: i64) -> Vec<Record> {
    let time = |seconds| Time(seconds * 1_000_000_000);
    let destination = Destination::Service(ServicePort {
        namespace: "shop".into(),
        name: "cart".into(),
        host: "cart.shop.svc.cluster.local".into(),
        port,
    });
    let key = DependencyKey { workload: who.clone(), destination, port, protocol: Protocol::Tcp };
    let tally = Tally::new(connections, time(from), time(to));
    vec![known(who), Record::Dependency(Dependency::new(key, tally))]
}

fn known(who: &WorkloadId) -> Record {
    Record::Workload(Workload {
        id: who.clone(),
        selector: BTreeMap::new(),
        data_plane: DataPlane::Sidecar,
        last_seen: Time(0),
    })
}

struct World {
    _dir: tempfile::TempDir,
    store: Store,
    batches: u64,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s"), Access::CreateOrOpen).unwrap();
        Self { _dir: dir, store, batches: 0 }
    }

    fn learn(&mut self, mut records: Vec<Record>) -> Batch {
        records.sort_by(|a, b| a.key().cmp(&b.key()));
        self.batches += 1;
        let id = crate::model::BatchId { source: format!("t{}", self.batches), sequence: 0 };
        let batch = Batch { id, records };
        self.store.apply(&batch).unwrap();
        batch
    }

    /// Learns, and raises what is new.
    fn notice(&mut self, records: Vec<Record>) -> Vec<String> {
        let batch = self.learn(records);
        let new = notice(&mut self.store, &batch, Time(9), Patience::default()).unwrap();
        new.iter().map(Alert::id).collect()
    }

    fn accept(&mut self, namespace: Option<&str>, names: &[&str]) {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let decision = Decision { by: Some("ann".into()), at: Time(5) };
        accept(&mut self.store, namespace, &names, &decision).unwrap();
    }

    fn alerts(&self) -> Vec<Alert> {
        self.store.alerts(None).unwrap().into_iter().map(|r| r.alert).collect()
    }
}

#[test]
fn a_workload_that_comes_after_its_namespace_was_accepted_is_one_alert() {
    let mut world = World::new();
    let (web, late, other) = (id("shop", "web"), id("shop", "late"), id("bank", "ledger"));
    assert!(world.notice(calls(&web, 80, 3, 10, 20)).is_empty(), "nobody has accepted anything");
    world.accept(Some("shop"), &[]);
    assert!(world.notice(calls(&other, 80, 3, 10, 20)).is_empty(), "its namespace is learned yet");
    assert!(world.notice(vec![known(&late)]).is_empty(), "it calls nothing");
    assert_eq!(world.notice(calls(&late, 80, 3, 10, 20)), ["new-workload/shop/Deployment/late"]);
    // More of it is the same alert, brought up to date.
    assert!(world.notice(calls(&late, 80, 2, 30, 40)).is_empty());
    assert!(world.notice(calls(&late, 443, 1, 5, 6)).is_empty());
    let alert = world.alerts().pop().unwrap();
    assert_eq!((alert.dependencies, alert.connections), (Some(2), 6));
    assert_eq!((alert.first_seen.seconds(), alert.last_seen.seconds()), (5, 40));
    let text = "shop/late is a new workload, which nobody accepted, and has 2 dependencies";
    assert_eq!(alert.text(), text);
    // Accepted, it is new no more; what it calls from then on is.
    world.accept(Some("shop"), &["late"]);
    assert_eq!(world.alerts(), []);
    let new = world.notice(calls(&late, 22, 1, 50, 50));
    assert!(
        new.len() == 1 && new[0].starts_with("new-dependency/shop/Deployment/late/"),
        "{new:?}"
    );
}

#[test]
fn everything_accepted_covers_namespaces_to_come_and_named_workloads_cover_none() {
    let mut world = World::new();
    let (web, late) = (id("shop", "web"), id("bank", "late"));
    world.learn(calls(&web, 80, 3, 10, 20));
    world.accept(None, &["web"]);
    assert!(world.notice(calls(&late, 80, 1, 10, 20)).is_empty(), "only web was accepted");
    world.accept(Some("none-such"), &[]);
    assert_eq!(world.store.acceptances().unwrap(), [], "nothing is known there");
    world.accept(Some("shop"), &[]);
    assert!(world.notice(calls(&late, 80, 1, 10, 20)).is_empty());
    world.accept(None, &[]);
    assert!(world.notice(calls(&late, 80, 1, 10, 20)).is_empty(), "it is among the accepted");
    assert_eq!(
        world.notice(calls(&id("else", "new"), 80, 1, 10, 20)),
        ["new-workload/else/Deployment/new"]
    );
}

#[test]
fn a_workload_accepted_by_itself_leaves_the_others_learning() {
    let mut world = World::new();
    let (web, late) = (id("shop", "web"), id("shop", "late"));
    world.learn(calls(&web, 80, 3, 10, 20));
    let least = Thresholds::default();
    let accepted = accept_ready(&mut world.store, &least, Time(5)).unwrap();
    assert_eq!(accepted.into_keys().collect::<Vec<_>>(), std::slice::from_ref(&web));
    assert!(world.notice(calls(&late, 80, 1, 10, 20)).is_empty());
    let by = world.store.baseline(&web).unwrap().unwrap().by;
    assert_eq!(by.as_deref(), Some("sidecarta (enough is known)"));
}

#[test]
fn what_a_crash_left_unraised_is_raised_from_what_is_stored() {
    let mut world = World::new();
    world.learn(calls(&id("shop", "web"), 80, 3, 10, 20));
    world.accept(None, &[]);
    world.learn(calls(&id("shop", "late"), 80, 3, 10, 20));
    for new in [1, 0] {
        assert_eq!(review(&mut world.store, Time(9), Patience::default()).unwrap().len(), new);
    }
    let alert = world.alerts().pop().unwrap();
    assert_eq!((alert.kind, alert.connections), (AlertKind::NewWorkload, 3));
}

#[test]
fn who_decided_and_when_outlives_an_export() {
    let mut world = World::new();
    let late = id("shop", "late");
    world.learn(calls(&id("shop", "web"), 80, 3, 10, 20));
    world.accept(Some("shop"), &[]);
    world.notice(calls(&late, 80, 3, 10, 20));
    let decision = Decision { by: Some("bob (local)".into()), at: Time(7) };
    let found = ignore(&mut world.store, "new-workload/shop/Deployment/late", "moved", &decision);
    assert_eq!(found.unwrap(), 1);
    let mut export = Vec::new();
    world.store.export(&mut export).unwrap();
    let mut there = World::new();
    there.store.import(export.as_slice()).unwrap();
    let baseline = there.store.baseline(&id("shop", "web")).unwrap().unwrap();
    assert_eq!((baseline.by.as_deref(), baseline.accepted), (Some("ann"), Time(5)));
    let acceptance = there.store.acceptances().unwrap();
    assert_eq!(acceptance, world.store.acceptances().unwrap());
    assert_eq!(acceptance[0].namespace.as_deref(), Some("shop"));
    let alert = there.alerts().pop().unwrap();
    assert_eq!(
        (alert.ignored.as_deref(), alert.ignored_by.as_deref(), alert.ignored_at),
        (Some("moved"), Some("bob (local)"), Some(Time(7)))
    );
    // What is ignored stays so when more of it is seen.
    world.notice(calls(&late, 81, 3, 10, 20));
    assert_eq!(world.alerts().pop().unwrap().ignored.as_deref(), Some("moved"));
}

#[test]
fn what_older_programs_wrote_is_read() {
    let baseline = r#"{"workload":{"namespace":"n","kind":"Deployment","name":"w"},
        "accepted":"2026-01-01T00:00:00Z","dependencies":[]}"#;
    let baseline: Baseline = serde_json::from_str(baseline).unwrap();
    assert_eq!(baseline.by, None);
    let alert = r#"{"kind":"scope-miss","workload":{"namespace":"n","kind":"Deployment","name":"w"},
        "firstSeen":"2026-01-01T00:00:00Z","lastSeen":"2026-01-01T00:00:00Z","connections":1,
        "raised":"2026-01-01T00:00:00Z","ignored":"why"}"#;
    let alert: Alert = serde_json::from_str(alert).unwrap();
    assert_eq!((alert.ignored_by, alert.ignored_at, alert.dependencies), (None, None, None));
}
