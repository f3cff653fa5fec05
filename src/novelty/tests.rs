use super::*;
use crate::generate::readiness::Thresholds;
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

pub(super) struct World {
    pub dir: tempfile::TempDir,
    pub store: Store,
    batches: u64,
}

impl World {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s"), Access::CreateOrOpen).unwrap();
        Self { dir, store, batches: 0 }
    }

    pub fn learn(&mut self, mut records: Vec<Record>) -> Batch {
        records.sort_by(|a, b| a.key().cmp(&b.key()));
        self.batches += 1;
        let id = crate::model::BatchId { source: format!("t{}", self.batches), sequence: 0 };
        let batch = Batch { id, records };
        self.store.apply(&batch).unwrap();
        batch
    }

    /// Learns, and returns the ids of the alerts that are new.
    fn learn_and_raise(&mut self, records: Vec<Record>) -> Vec<String> {
        let batch = self.learn(records);
        let new =
            raise_from_batch(&mut self.store, &batch, Time(9), AlertPatience::default()).unwrap();
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
fn nothing_is_alerted_before_anything_was_accepted() {
    let mut world = World::new();
    assert!(world.learn_and_raise(calls(&id("shop", "web"), 80, 3, 10, 20)).is_empty());
}

/// A world in which `shop` was accepted while it had one workload.
fn accepted_shop() -> World {
    let mut world = World::new();
    world.learn(calls(&id("shop", "web"), 80, 3, 10, 20));
    world.accept(Some("shop"), &[]);
    world
}

#[test]
fn a_workload_that_calls_after_its_namespace_was_accepted_is_new() {
    let (mut world, late) = (accepted_shop(), id("shop", "late"));
    assert!(world.learn_and_raise(vec![known(&late)]).is_empty(), "it calls nothing");
    let raised = world.learn_and_raise(calls(&late, 80, 3, 10, 20));
    assert_eq!(raised, ["new-workload/shop/Deployment/late"]);
    let other = id("bank", "ledger");
    let raised = world.learn_and_raise(calls(&other, 80, 3, 10, 20));
    assert!(raised.is_empty(), "its namespace is still being learned");
}

#[test]
fn more_calls_of_a_new_workload_update_its_alert() {
    let (mut world, late) = (accepted_shop(), id("shop", "late"));
    world.learn_and_raise(calls(&late, 80, 3, 10, 20));
    assert!(world.learn_and_raise(calls(&late, 80, 2, 30, 40)).is_empty());
    assert!(world.learn_and_raise(calls(&late, 443, 1, 5, 6)).is_empty());
    let alert = world.alerts().pop().unwrap();
    assert_eq!((alert.dependencies, alert.connections), (Some(2), 6));
    assert_eq!((alert.first_seen.seconds(), alert.last_seen.seconds()), (5, 40));
    let text = "shop/late is a new workload, which nobody accepted, and has 2 dependencies";
    assert_eq!(alert.text(), text);
}

#[test]
fn accepting_a_new_workload_ends_its_alert_and_later_calls_are_new() {
    let (mut world, late) = (accepted_shop(), id("shop", "late"));
    world.learn_and_raise(calls(&late, 80, 3, 10, 20));
    world.accept(Some("shop"), &["late"]);
    assert_eq!(world.alerts(), []);
    let new = world.learn_and_raise(calls(&late, 22, 1, 50, 50));
    assert_eq!(new.len(), 1, "{new:?}");
    assert!(new[0].starts_with("new-dependency/shop/Deployment/late/"), "{new:?}");
}

#[test]
fn calls_of_the_mesh_itself_are_not_alerted() {
    let mut world = accepted_shop();
    let mut records = calls(&id("shop", "web"), 15012, 1, 10, 20);
    let Some(Record::Dependency(d)) = records.last_mut() else { panic!("no dependency") };
    d.key.destination = Destination::Infrastructure {
        what: crate::model::Infrastructure::ControlPlane,
        namespace: None,
        name: None,
    };
    assert!(world.learn_and_raise(records).is_empty());
}

#[test]
fn an_ambiguous_destination_is_alerted_when_it_stays_so_for_a_day() {
    let mut world = World::new();
    let ambiguous = |to: i64| {
        let mut records = calls(&id("shop", "web"), 80, 1, 0, to);
        let Some(Record::Dependency(d)) = records.last_mut() else { panic!("no dependency") };
        d.key.destination = Destination::Ambiguous { candidates: BTreeSet::new() };
        records
    };
    let day = 24 * 3_600;
    world.learn(ambiguous(day - 1));
    let patience = AlertPatience::default();
    assert_eq!(review(&mut world.store, Time(9), patience).unwrap(), []);
    world.learn(ambiguous(day));
    let raised = review(&mut world.store, Time(9), patience).unwrap();
    assert_eq!(raised.iter().map(|a| a.kind).collect::<Vec<_>>(), [AlertKind::Ambiguous]);
}

#[test]
fn an_acceptance_of_everything_covers_later_namespaces_and_one_by_name_covers_none() {
    let mut world = World::new();
    let (web, late) = (id("shop", "web"), id("bank", "late"));
    world.learn(calls(&web, 80, 3, 10, 20));
    world.accept(None, &["web"]);
    assert!(world.learn_and_raise(calls(&late, 80, 1, 10, 20)).is_empty(), "only web was accepted");
    world.accept(Some("none-such"), &[]);
    assert_eq!(world.store.acceptances().unwrap(), [], "nothing is known there");
    world.accept(Some("shop"), &[]);
    assert!(world.learn_and_raise(calls(&late, 80, 1, 10, 20)).is_empty());
    world.accept(None, &[]);
    assert!(world.learn_and_raise(calls(&late, 80, 1, 10, 20)).is_empty(), "it was accepted");
    assert_eq!(
        world.learn_and_raise(calls(&id("else", "new"), 80, 1, 10, 20)),
        ["new-workload/else/Deployment/new"]
    );
}

#[test]
fn a_workload_that_is_accepted_automatically_leaves_the_others_learning() {
    let mut world = World::new();
    let (web, late) = (id("shop", "web"), id("shop", "late"));
    world.learn(calls(&web, 80, 3, 10, 20));
    let least = Thresholds::default();
    let accepted = accept_ready(&mut world.store, &least, Time(5)).unwrap();
    assert_eq!(accepted.into_keys().collect::<Vec<_>>(), std::slice::from_ref(&web));
    assert!(world.learn_and_raise(calls(&late, 80, 1, 10, 20)).is_empty());
    let by = world.store.baseline(&web).unwrap().unwrap().by;
    assert_eq!(by.as_deref(), Some("sidecarta (enough is known)"));
}

#[test]
fn a_review_raises_the_alerts_that_a_crash_left_unraised() {
    let mut world = World::new();
    world.learn(calls(&id("shop", "web"), 80, 3, 10, 20));
    world.accept(None, &[]);
    world.learn(calls(&id("shop", "late"), 80, 3, 10, 20));
    for new in [1, 0] {
        assert_eq!(review(&mut world.store, Time(9), AlertPatience::default()).unwrap().len(), new);
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
    world.learn_and_raise(calls(&late, 80, 3, 10, 20));
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
    world.learn_and_raise(calls(&late, 81, 3, 10, 20));
    assert_eq!(world.alerts().pop().unwrap().ignored.as_deref(), Some("moved"));
}

#[test]
fn baselines_and_alerts_of_older_programs_are_read() {
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
