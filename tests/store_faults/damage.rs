//! Damaged files of a store.

use std::fs;
use std::path::Path;

use super::common::{expect, run};
use super::{copy, export, reads, refused, replay};

/// That a damaged store says so, or holds all that it held. True: it said so.
fn never_less(store: &Path, want: &str, damage: &str) -> bool {
    let before = reads::contents(store);
    let out = run(&["export", "--store", store.to_str().unwrap()]);
    assert!(reads::contents(store) == before, "{damage}: reading changed it");
    if out.status.success() {
        assert!(out.stdout == want.as_bytes(), "{damage}: it opens with other content");
        return false;
    }
    let message = String::from_utf8_lossy(&out.stderr);
    assert!(
        matches!(out.status.code(), Some(1 | 3)) && message.contains("damaged")
            || message.contains("cannot be read"),
        "{damage}: {message}"
    );
    true
}

#[test]
fn a_damaged_store_never_opens_with_fewer_rows() {
    let dir = tempfile::tempdir().unwrap();
    let (store, hurt) = (dir.path().join("store"), dir.path().join("hurt"));
    expect(0, &replay(&store));
    let want = export(&store);
    let bytes = fs::read(store.join("db/db")).unwrap();
    let mut noticed = 0;
    for length in [0, 1, 100, 4096].into_iter().chain((1..10).map(|i| bytes.len() * i / 10)) {
        copy(&store, &hurt);
        fs::write(hurt.join("db/db"), &bytes[..length]).unwrap();
        noticed += u32::from(never_less(
            &hurt,
            &want,
            &format!("cut to {length} of {} bytes", bytes.len()),
        ));
    }
    for at in (0..bytes.len()).step_by(bytes.len() / 12 + 1) {
        copy(&store, &hurt);
        let mut bytes = bytes.clone();
        let end = bytes.len().min(at + 4096);
        bytes[at..end].fill(0);
        fs::write(hurt.join("db/db"), bytes).unwrap();
        never_less(&hurt, &want, &format!("4 KiB of zeros at {at}"));
    }
    copy(&store, &hurt);
    fs::remove_dir_all(hurt.join("db")).unwrap();
    assert!(never_less(&hurt, &want, "without its database"));
    copy(&store, &hurt);
    fs::write(hurt.join("sidecarta.json"), "{").unwrap();
    assert!(never_less(&hurt, &want, "with half a marker"));
    assert!(noticed >= 4, "only {noticed} cuts were noticed");
}

/// Every state in which a kill leaves the two files that sled does not write in one step.
#[test]
fn files_that_sled_was_writing_when_it_was_killed_are_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (store, hurt) = (dir.path().join("store"), dir.path().join("hurt"));
    expect(0, &replay(&store));
    let want = export(&store);
    // Opened to write again, it has a snapshot of what the log holds.
    expect(0, &replay(&store));
    assert_eq!(export(&store), want);
    let snapshot_of = |store: &Path| {
        let mut files = fs::read_dir(store.join("db")).unwrap().map(|e| e.unwrap().path());
        files.find(|p| p.file_name().unwrap().to_str().unwrap().starts_with("snap.")).unwrap()
    };
    let (snapshot, conf) =
        (fs::read(snapshot_of(&store)).unwrap(), fs::read(store.join("db/conf")).unwrap());
    for length in (0..=snapshot.len())
        .step_by(snapshot.len() / 40)
        .chain(snapshot.len() - 14..=snapshot.len())
    {
        copy(&store, &hurt);
        // Longer than the log is, so that it is the last of them.
        fs::write(hurt.join("db/snap.0000000000FFFFFF.generating"), &snapshot[..length]).unwrap();
        assert!(
            export(&hurt) == want,
            "{length} of {} bytes of a snapshot: other content",
            snapshot.len()
        );
    }
    for length in 0..=conf.len() {
        copy(&store, &hurt);
        fs::write(hurt.join("db/conf"), &conf[..length]).unwrap();
        assert!(
            export(&hurt) == want,
            "{length} of {} bytes of the configuration: other content",
            conf.len()
        );
    }
    copy(&store, &hurt);
    let finished = snapshot_of(&hurt);
    fs::write(&finished, &snapshot[..snapshot.len() / 2]).unwrap();
    // The log holds all of it.
    assert!(!never_less(&hurt, &want, "half of a finished snapshot"));
    assert!(finished.exists(), "it was removed");
    expect(0, &replay(&hurt));
    assert!(export(&hurt) == want);
}

#[test]
fn a_store_of_a_newer_program_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    expect(0, &replay(&store));
    let marker = store.join("sidecarta.json");
    let text = fs::read_to_string(&marker).unwrap();
    fs::write(&marker, text.replace("\"schema\":", "\"added\":\"later\",\"schema\":9")).unwrap();
    let before = fs::read(store.join("db/db")).unwrap();
    for command in ["export", "status", "dependencies"] {
        refused(&run(&[command, "--store", store.to_str().unwrap()]), "use the newer sidecarta");
    }
    refused(&run(&replay(&store)), "use the newer sidecarta");
    assert_eq!(fs::read(store.join("db/db")).unwrap(), before);
}
