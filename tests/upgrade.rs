//! A rolling upgrade: agents, a recorder and a store of another commit (`SIDECARTA_BEFORE` names
//! its program) together with those of this one. Nothing is lost, and nothing counts twice.

#![allow(clippy::unwrap_used, dead_code)] // a test that cannot go on should say where

#[path = "recorder/running.rs"]
mod running;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use running::{Recorder, batch, snapshot};
use sidecarta::agent::outbox::{Outbox, Pace};
use sidecarta::agent::outlet::ToRecorder;
use sidecarta::model::Time;
use sidecarta::observed::{Gatherer, Reader, write};

/// An endpoint of the Service `cart`.
const CART: &str = "10.244.1.11:8080";
const NO_AUTH: [&str; 2] = ["--no-auth", "--cluster"];

fn before() -> PathBuf {
    std::env::var_os("SIDECARTA_BEFORE")
        .unwrap_or_else(|| panic!("SIDECARTA_BEFORE names no program: make test-upgrade"))
        .into()
}

/// A recorder of this program, or of the other one.
fn recorder(program: &Path, store: &Path, cluster: &Path) -> Recorder {
    let arguments = [NO_AUTH[0], NO_AUTH[1], cluster.to_str().unwrap()];
    let plain = Recorder::command(store, None, &arguments);
    let mut command = Command::new(program);
    command.args(plain.get_args()).env_remove("KUBECONFIG").env_remove("SIDECARTA_STORE");
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
    Recorder::by(command)
}

/// A batch as this program writes it.
fn today(boot: &str, sequence: u64, connections: u64) -> Vec<u8> {
    let told = batch("n1", boot, sequence, CART, connections);
    let told = Reader::new(&told[..]).next().unwrap().unwrap();
    let mut text = Vec::new();
    write(&told, &mut text).unwrap();
    text
}

#[test]
fn a_recorder_is_upgraded_first_and_then_its_agents() {
    let (before, now) = (before(), PathBuf::from(env!("CARGO_BIN_EXE_sidecarta")));
    let dir = tempfile::tempdir().unwrap();
    let (cluster, store) = (snapshot(dir.path()), dir.path().join("store"));
    let old = recorder(&before, &store, &cluster);
    assert_eq!(old.post(None, &batch("n1", "a", 0, CART, 3)).0, 200);
    old.connections(None, 3);
    // One is acknowledged and not yet learned, perhaps.
    assert_eq!(old.post(None, &batch("n1", "a", 1, CART, 4)).0, 200);
    old.kill("KILL");

    let new = recorder(&now, &store, &cluster);
    new.connections(None, 7);
    assert_eq!(new.post(None, &batch("n1", "a", 1, CART, 4)).0, 200, "it is held already");
    assert_eq!(new.post(None, &batch("n1", "a", 2, CART, 5)).0, 200, "of an agent of before");
    assert_eq!(new.post(None, &today("b", 0, 6)).0, 200, "of an agent of today");
    let all = new.connections(None, 18);
    assert_eq!(all.len(), 1, "both tell of one dependency: {all:?}");
    new.kill("TERM");
}

#[test]
fn an_agent_that_is_upgraded_first_waits_for_its_recorder() {
    let (before, now) = (before(), PathBuf::from(env!("CARGO_BIN_EXE_sidecarta")));
    let dir = tempfile::tempdir().unwrap();
    let (cluster, store) = (snapshot(dir.path()), dir.path().join("store"));
    let (spool, token) = (dir.path().join("spool"), dir.path().join("token"));
    std::fs::write(&token, "").unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let agent = |recorder: &Recorder, boot: &str| {
        let handle = runtime.handle().clone();
        let to = ToRecorder::new(&recorder.url(), token.clone(), None, handle).unwrap();
        let mut gatherer = Gatherer::new("n1", boot);
        let pace = Pace { refresh: Duration::ZERO, settle: Duration::ZERO };
        let (outbox, problems) =
            Outbox::open(Box::new(to), pace, Some(&spool), &mut gatherer).unwrap();
        assert_eq!(problems, Vec::<String>::new());
        (gatherer, outbox)
    };
    let old = recorder(&before, &store, &cluster);
    let (mut gatherer, mut outbox) = agent(&old, "a");
    let told = batch("n1", "x", 0, CART, 3);
    gatherer.absorb(&Reader::new(&told[..]).next().unwrap().unwrap());
    let made = Time(1_764_147_600_000_000_000);
    outbox.step(made, &mut gatherer, true).unwrap();
    // A program that reads the version takes it; one that does not is waited for.
    let waits = outbox.progress.delivered == 0;
    assert_eq!(outbox.progress.refused, 0, "it is not refused for good");
    drop((gatherer, outbox));
    old.kill("TERM");
    let new = recorder(&now, &store, &cluster);
    if waits {
        let (mut gatherer, mut outbox) = agent(&new, "b");
        outbox.step(made, &mut gatherer, true).unwrap();
        assert_eq!((outbox.progress.delivered, outbox.is_empty()), (1, true));
    }
    new.connections(None, 3);
    new.kill("TERM");
}
