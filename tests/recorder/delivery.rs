//! What an agent does with batches that the recorder refuses, in part or for good.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use std::path::Path;
use std::time::Duration;

use sidecarta::agent::outbox::{DeliveryPace, Outbox};
use sidecarta::agent::outlet::ToRecorder;
use sidecarta::observed::{Gatherer, Reader};

use super::CART;
use super::lines::{batch, cluster, edge, hours_ago, now, object, objects, pod_line, settled};
use super::running::Recorder;

/// An agent's delivery without its interfaces: batches come from `bytes`.
struct Agent {
    gatherer: Gatherer,
    outbox: Outbox,
    _runtime: tokio::runtime::Runtime,
}

impl Agent {
    fn start(recorder: &Recorder, token: &Path, spool: &Path, node: &str, boot: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let handle = runtime.handle().clone();
        let to = ToRecorder::new(&recorder.url(), token.to_owned(), None, handle).unwrap();
        let mut gatherer = Gatherer::new(node, boot);
        let pace = DeliveryPace { refresh: Duration::ZERO, delay: Duration::ZERO };
        let (outbox, problems) =
            Outbox::open(Box::new(to), pace, Some(spool), &mut gatherer).unwrap();
        assert_eq!(problems, Vec::<String>::new());
        Self { gatherer, outbox, _runtime: runtime }
    }

    /// Gathers what is in this batch, and tries to deliver it.
    fn send(&mut self, bytes: &[u8]) {
        self.gatherer.absorb(&Reader::new(bytes).next().unwrap().unwrap());
        self.step();
    }

    fn step(&mut self) {
        self.outbox.step(now(), &mut self.gatherer, true).unwrap();
    }
}

#[test]
fn a_pod_that_moved_while_the_recorder_was_away_silences_no_node() {
    let mut items = objects();
    // It runs on n2 now; the pod of this name that ran on n1 was deleted, and no watch has reported
    // it.
    items.push(object("shop", "web-0", "10.244.1.30", "n2"));
    let cluster = cluster(&items);
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::start(&dir.path().join("store"), Some(cluster.kubeconfig.path()), &[]);
    let (token, spool) = (dir.path().join("token"), dir.path().join("spool"));
    std::fs::write(&token, "agent-n1").unwrap();
    let mut agent = Agent::start(&recorder, &token, &spool, "n1", "boot");
    let mut before = pod_line("shop", "web-0", "n1");
    before["uid"] = "uid-before".into();
    let at = hours_ago(1);
    let lines = [edge(0, CART, 7, at), edge(1, CART, 1, at)];
    agent.send(&batch("n1", 0, &[before.clone(), pod_line("shop", "web", "n1")], &lines));
    recorder.connections(Some("ann"), 1);
    agent.send(&batch("n1", 1, &[before, pod_line("shop", "web", "n1")], &lines));
    recorder.connections(Some("ann"), 2);
    settled(&recorder, 2);
    assert_eq!((agent.outbox.progress.delivered, agent.outbox.progress.refused), (2, 0));
    assert_eq!(recorder.kill("TERM").0, Some(0));
}

#[test]
fn a_batch_that_is_refused_for_good_is_set_aside_and_a_wrong_token_is_waited_out() {
    let cluster = cluster(&objects());
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::start(&dir.path().join("store"), Some(cluster.kubeconfig.path()), &[]);
    let (token, spool) = (dir.path().join("token"), dir.path().join("spool"));
    let (web, at) = (pod_line("shop", "web", "n1"), hours_ago(1));
    // The spool was another node's, whose disk is here now: its batch is never accepted.
    std::fs::create_dir(&spool).unwrap();
    let foreign = batch("n7", 0, &[pod_line("shop", "other", "n7")], &[edge(0, CART, 9, at)]);
    std::fs::write(spool.join("spool.ndjson"), &foreign).unwrap();
    std::fs::write(&token, "not-yet").unwrap();
    let mut agent = Agent::start(&recorder, &token, &spool, "n1", "boot");
    agent.send(&batch("n1", 0, std::slice::from_ref(&web), &[edge(0, CART, 3, at)]));
    let progress = &agent.outbox.progress;
    assert_eq!((progress.delivered, progress.refused), (0, 0));
    assert!(progress.failing.as_ref().unwrap().contains("unknown token"), "{progress:?}");
    // A token of somebody else is no fault of the batch either.
    std::fs::write(&token, "ann").unwrap();
    agent.step();
    let progress = &agent.outbox.progress;
    assert_eq!((progress.delivered, progress.refused, progress.failing.is_some()), (0, 0, true));
    std::fs::write(&token, "agent-n1").unwrap();
    agent.step();
    agent.step();
    let progress = &agent.outbox.progress;
    assert_eq!(
        (progress.delivered, progress.refused, progress.set_aside, progress.discarded),
        (1, 1, 1, 0)
    );
    recorder.connections(Some("ann"), 3);
    assert_eq!(
        std::fs::read(spool.join("refused/1.ndjson")).unwrap(),
        foreign_as_written(&foreign)
    );
    let why = std::fs::read_to_string(spool.join("refused/1.txt")).unwrap();
    assert!(why.contains("agent:n7:b#0") && why.contains("the agent on n1"), "{why}");
    assert!(agent.gatherer.totals()["edges-refused"] == 1);
    assert_eq!(recorder.kill("TERM").0, Some(0));
}

/// What a batch is when it was read and written again.
fn foreign_as_written(bytes: &[u8]) -> Vec<u8> {
    let batch = Reader::new(bytes).next().unwrap().unwrap();
    let mut out = Vec::new();
    sidecarta::observed::write(&batch, &mut out).unwrap();
    out
}
