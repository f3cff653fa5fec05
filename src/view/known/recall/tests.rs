use super::*;
use crate::view::object::Seen;

const HORIZON: Duration = Duration::from_secs(600);

fn seen(name: &str, uid: &str, address: &str) -> Seen {
    let pod = serde_json::json!({
        "metadata": {"name": name, "namespace": "n", "uid": uid, "labels": {"app": name}},
        "spec": {"containers": [{"name": "app", "ports": [{"containerPort": 80}]}]}, "status": {"podIP": address},
    });
    let pod = PodBrief::new(&serde_json::from_value(pod).unwrap(), &mut Pool::default());
    Seen { key: ("n".into(), name.into()), uid: uid.into(), object: Ok(Object::Pod(Arc::new(pod))) }
}

fn slice(addresses: &[&str]) -> Seen {
    let slice = serde_json::json!({
        "metadata": {"name": "s-1", "namespace": "n", "uid": "s", "labels": {"kubernetes.io/service-name": "s"}},
        "endpoints": [{"addresses": addresses}], "ports": [{"name": "", "port": 80}],
    });
    let slice = Pool::default().slice(serde_json::from_value(slice).unwrap());
    Seen {
        key: ("n".into(), "s-1".into()),
        uid: "s".into(),
        object: Ok(Object::Slice(Arc::new(slice))),
    }
}

/// A store of rows.
#[derive(Default)]
struct Disk(BTreeMap<Vec<u8>, Vec<u8>>);

impl Disk {
    fn write(&mut self, known: &mut Known, noted: &mut Noted) -> Changes {
        let changes = known.changes(noted);
        self.0.extend(changes.put.iter().cloned());
        changes.remove.iter().for_each(|k| drop(self.0.remove(k)));
        noted.written(changes.clone());
        changes
    }

    fn started(&self) -> (Known, Noted) {
        let mut known = Known::new(HORIZON);
        let (noted, unreadable) = known.recall(
            self.0.clone().into_iter().collect(),
            &mut Pool::default(),
            Instant::now(),
        );
        assert_eq!(unreadable, 0);
        known.expect(PODS);
        known.expect(SLICES);
        (known, noted)
    }
}

fn listed(known: &mut Known, pods: Vec<Seen>, slices: Vec<Seen>) {
    known.replace(PODS, pods);
    known.replace(SLICES, slices);
}

#[test]
fn what_is_missing_after_a_restart_ended_between_the_last_look_and_the_first_list() {
    let mut disk = Disk::default();
    let (mut known, mut noted) = disk.started();
    assert!(disk.write(&mut known, &mut noted).is_empty(), "nothing is listed yet");
    listed(
        &mut known,
        vec![seen("a", "1", "10.0.0.1"), seen("b", "2", "10.0.0.2")],
        vec![slice(&["10.0.0.1", "10.0.0.2"])],
    );
    assert_eq!(disk.write(&mut known, &mut noted).put.len(), 4, "two pods, a slice, the time");
    assert_eq!(disk.write(&mut known, &mut noted).put.len(), 1, "the time alone");
    // A pod that is seen to go is noted as such.
    known.delete(PODS, seen("b", "2", "10.0.0.2"));
    let changes = disk.write(&mut known, &mut noted);
    assert_eq!((changes.put.len(), changes.remove.len()), (2, 1));
    let looked = known.kinds[PODS].current.unwrap();

    let (mut known, mut noted) = disk.started();
    let before = known.input(Instant::now());
    assert_eq!(
        (before.objects.len(), before.gone.len(), before.settled),
        (2, 1, false),
        "as it was, until it is listed"
    );
    // Meanwhile `a` went, its successor of the same name has its address, and the slice has lost
    // one.
    listed(&mut known, vec![seen("a", "3", "10.0.0.1")], vec![slice(&["10.0.0.1"])]);
    let ended = |known: &Known| -> Vec<(String, EndTime)> {
        known.gone.iter().map(|g| (g.pod.uid.to_string(), g.ended)).collect()
    };
    let [(b, by), (a, between)] = &ended(&known)[..] else { panic!("{:?}", known.gone) };
    assert_eq!((a.as_str(), b.as_str()), ("1", "2"));
    assert!(matches!(by, EndTime::By(t) if *t >= looked));
    assert!(matches!(between, EndTime::Between(k, m) if *k == looked && m > k), "{between:?}");
    let lost: Vec<_> = known.former.all();
    assert_eq!((lost.len(), &lost[0].0.endpoints[0].addresses), (1, &vec!["10.0.0.2".to_owned()]));
    assert!(matches!(lost[0].1, EndTime::Between(k, _) if k == looked || k < now()));
    // From then on what goes is noticed.
    known.delete(PODS, seen("a", "3", "10.0.0.1"));
    assert!(matches!(known.gone[2].ended, EndTime::By(_)));

    // And the next run knows all of it as this one does.
    disk.write(&mut known, &mut noted);
    let (again, _) = disk.started();
    let sorted = |known: &Known| {
        let mut all = ended(known);
        all.sort_by_key(|(uid, _)| uid.clone());
        all
    };
    assert_eq!(sorted(&again), sorted(&known));
    assert_eq!(again.former.all().len(), 1);
    assert!(again.kinds[PODS].objects.is_empty());
}

#[test]
fn the_time_of_absence_does_not_count_and_what_is_forgotten_leaves_the_store() {
    let mut disk = Disk::default();
    let (mut known, mut noted) = disk.started();
    listed(&mut known, vec![seen("a", "1", "10.0.0.1")], Vec::new());
    known.delete(PODS, seen("a", "1", "10.0.0.1"));
    disk.write(&mut known, &mut noted);
    // Another run, whenever: it has all of its time left, less what passed until somebody looked
    // last.
    let (mut known, mut noted) = disk.started();
    listed(&mut known, Vec::new(), Vec::new());
    assert_eq!(known.input(Instant::now() + HORIZON - Duration::from_secs(30)).gone.len(), 1);
    assert_eq!(known.input(Instant::now() + HORIZON).gone.len(), 0);
    assert_eq!(disk.write(&mut known, &mut noted).remove.len(), 1);
    assert_eq!(disk.0.keys().collect::<Vec<_>>(), [b"c"]);
}

#[test]
fn a_pod_that_stays_is_no_news_and_one_that_cannot_be_read_is_as_it_was() {
    let mut disk = Disk::default();
    let (mut known, mut noted) = disk.started();
    listed(&mut known, vec![seen("a", "1", "10.0.0.1"), seen("b", "2", "10.0.0.2")], Vec::new());
    disk.write(&mut known, &mut noted);
    let (mut known, mut noted) = disk.started();
    let broken = Seen { object: Err("wrong type".to_owned()), ..seen("b", "2", "10.0.0.2") };
    listed(&mut known, vec![seen("a", "1", "10.0.0.1"), broken], Vec::new());
    assert_eq!((known.kinds[PODS].objects.len(), known.gone.len()), (2, 0));
    let changes = disk.write(&mut known, &mut noted);
    assert_eq!((changes.put.len(), changes.remove.len()), (1, 0), "the time alone");
}

#[test]
fn rows_that_cannot_be_read_are_counted_and_go() {
    let mut known = Known::new(HORIZON);
    let (mut noted, unreadable) =
        known.recall(vec![(b"px".to_vec(), b"{}".to_vec())], &mut Pool::default(), Instant::now());
    assert_eq!(unreadable, 1);
    known.expect(PODS);
    known.replace(PODS, Vec::new());
    let changes = known.changes(&noted);
    assert_eq!(changes.remove, [b"px"]);
    noted.written(changes);
    assert!(known.changes(&noted).remove.is_empty());
}

#[test]
fn much_is_written_in_parts_and_nothing_is_dropped_before_the_last() {
    let mut disk = Disk::default();
    let (mut known, mut noted) = disk.started();
    let pods = |n: usize| {
        (0..n)
            .map(|i| {
                seen(&format!("p{i}"), &format!("u{i}"), &format!("10.0.{}.{}", i / 250, i % 250))
            })
            .collect()
    };
    listed(&mut known, pods(TOGETHER + 5), Vec::new());
    let first = disk.write(&mut known, &mut noted);
    assert!(first.more && first.put.len() == TOGETHER && !disk.0.contains_key(&b"c"[..]));
    assert!(!disk.write(&mut known, &mut noted).more);
    assert_eq!(disk.0.len(), TOGETHER + 6);
    // All go at once: what ended is there before what was there goes.
    known.replace(PODS, Vec::new());
    assert!(disk.write(&mut known, &mut noted).remove.is_empty());
    assert_eq!(disk.0.len(), 2 * TOGETHER + 6);
    assert_eq!(disk.write(&mut known, &mut noted).remove.len(), TOGETHER + 5);
    assert_eq!(disk.0.len(), TOGETHER + 6);
}
