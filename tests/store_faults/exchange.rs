//! Exports and imports on the command line, what a command leaves behind that fails, and who may
//! read what is stored.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::common::{expect, run, samples};
use super::{export, replay};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// All below a directory, and itself.
fn all(dir: &Path) -> Vec<PathBuf> {
    let mut out = vec![dir.to_owned()];
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            out.extend(all(&entry.path()));
        } else {
            out.push(entry.path());
        }
    }
    out
}

#[test]
fn a_store_is_for_its_owner_alone_whatever_the_umask() {
    let dir = tempfile::tempdir().unwrap();
    let check = |store: &Path| {
        let all = all(store);
        assert!(all.len() > 6, "{all:?}");
        for path in all {
            let wanted = if path.is_dir() { 0o700 } else { 0o600 };
            assert_eq!(mode(&path), wanted, "{}", path.display());
        }
    };
    for umask in ["000", "022", "077"] {
        let store = dir.path().join(umask);
        let script = format!("umask {umask}; exec \"$0\" \"$@\"");
        for _ in 0..2 {
            let mut command = Command::new("bash");
            command.args(["-c", &script, env!("CARGO_BIN_EXE_sidecarta")]).args(replay(&store));
            let out = command.env_remove("SIDECARTA_STORE").output().unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            check(&store);
        }
    }
    // One that was made before is closed when it is written to, not when it is read.
    let store = dir.path().join("022");
    for path in all(&store) {
        let open = if path.is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(open)).unwrap();
    }
    export(&store);
    assert_eq!(mode(&store), 0o755);
    expect(0, &replay(&store));
    check(&store);
}

#[test]
fn a_command_that_fails_removes_the_store_that_it_made() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("export.ndjson");
    let failing = |store: &Path| {
        let out = run(&["import", file.to_str().unwrap(), "--store", store.to_str().unwrap()]);
        assert_eq!(out.status.code(), Some(1));
    };
    fs::write(&file, "{\"sidecarta\":{\"version\":1}}\n").unwrap();
    let store = dir.path().join("a/b/store");
    failing(&store);
    assert!(!dir.path().join("a").exists());
    // What was there stays: directories, and a store.
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    failing(&store);
    assert!(dir.path().join("a/b").exists() && !store.exists());
    fs::create_dir(&store).unwrap();
    failing(&store);
    assert_eq!(fs::read_dir(&store).unwrap().count(), 0);
    let capture = dir.path().join("no.pcap");
    fs::write(&capture, "no capture").unwrap();
    let cluster = samples().join("d-bookinfo/cluster.yaml");
    fs::remove_dir(&store).unwrap();
    let out = run(&[
        Path::new("replay"),
        Path::new("--cluster"),
        &cluster,
        Path::new("--store"),
        &store,
        &capture,
    ]);
    assert_eq!(out.status.code(), Some(1));
    assert!(!store.exists());
    expect(0, &replay(&store));
    let before = export(&store);
    failing(&store);
    assert_eq!(export(&store), before);
}

#[test]
fn an_export_of_a_store_imports_and_exports_again() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    expect(0, &replay(&first));
    let file = dir.path().join("export.ndjson");
    fs::write(&file, export(&first)).unwrap();
    for _ in 0..2 {
        expect(0, &["import", file.to_str().unwrap(), "--store", second.to_str().unwrap()]);
        // The import is marked as a batch of its own.
        let marks = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.retain(|l| !l.contains("\"import:") && !l.starts_with("{\"end\""));
            lines
        };
        assert_eq!(marks(&export(&second)), marks(&export(&first)));
    }
}
