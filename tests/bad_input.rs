//! Bad input gives one clear message and the right exit code, and the good input is still used.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod common;

use std::path::{Path, PathBuf};

use common::{dependencies, run, samples};

/// Replays captures. Returns the exit code and standard error.
fn replay(cluster: &Path, captures: &[&Path], store: &Path) -> (i32, String) {
    let mut args =
        vec!["replay".into(), "--store".into(), store.as_os_str().to_owned(), "--cluster".into()];
    args.push(cluster.as_os_str().to_owned());
    args.extend(captures.iter().map(|c| c.as_os_str().to_owned()));
    let out = run(&args);
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert!(!stderr.contains("panicked"), "{stderr}");
    (out.status.code().unwrap(), stderr)
}

/// Writes a file, and returns its path.
fn file(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn case() -> PathBuf {
    samples().join("a-before")
}

fn good() -> PathBuf {
    case().join("veth5f577e0f.pcap")
}

#[test]
fn files_that_are_no_captures_are_named_and_the_others_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = case().join("cluster.yaml");
    let file = |name: &str, bytes: &[u8]| file(dir.path(), name, bytes);
    let bad = [
        (file("empty.pcap", b""), "empty (0 bytes)"),
        (file("text.pcap", b"hello, this is no capture"), "not a capture"),
        (
            file(
                "version.pcap",
                b"\xd4\xc3\xb2\xa1\x09\0\x04\0\0\0\0\0\0\0\0\0\xff\xff\0\0\x01\0\0\0",
            ),
            "cannot be opened",
        ),
        (dir.path().join("missing.pcap"), "cannot read"),
    ];
    for (i, (path, message)) in bad.iter().enumerate() {
        let (code, stderr) = replay(&cluster, &[path], &dir.path().join(format!("alone{i}")));
        assert_eq!(code, 1, "{stderr}");
        assert!(
            stderr.contains(message) && stderr.contains(&path.display().to_string()),
            "{stderr}"
        );
        let store = dir.path().join(format!("both{i}"));
        let (code, stderr) = replay(&cluster, &[path, &good()], &store);
        assert_eq!(code, 3, "{stderr}");
        assert!(stderr.contains(message), "{stderr}");
        assert_eq!(dependencies(&store).len(), 3);
    }
}

#[test]
fn a_cut_capture_is_used_up_to_the_cut() {
    let dir = tempfile::tempdir().unwrap();
    let whole = std::fs::read(good()).unwrap();
    let cut = file(dir.path(), "cut.pcap", &whole[..whole.len() / 2]);
    let store = dir.path().join("store");
    let (code, stderr) = replay(&case().join("cluster.yaml"), &[&cut], &store);
    assert_eq!(code, 3);
    assert!(
        stderr.contains("cut or damaged") && stderr.contains("packets before that are used"),
        "{stderr}"
    );
    assert!(!dependencies(&store).is_empty());
}

#[test]
fn a_capture_without_packets_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let whole = std::fs::read(good()).unwrap();
    let header = file(dir.path(), "header.pcap", &whole[..24]);
    let (code, stderr) =
        replay(&case().join("cluster.yaml"), &[&header], &dir.path().join("store"));
    assert_eq!(code, 0);
    assert!(stderr.contains("contains no packet"), "{stderr}");
}

#[test]
fn a_capture_that_is_read_in_part_is_counted_as_a_loss() {
    // A pcapng file that describes more interfaces than are read.
    let dir = tempfile::tempdir().unwrap();
    let section = b"\x0a\x0d\x0d\x0a\x1c\0\0\0\x4d\x3c\x2b\x1a\x01\0\0\0\
                    \xff\xff\xff\xff\xff\xff\xff\xff\x1c\0\0\0";
    let interface = b"\x01\0\0\0\x14\0\0\0\x01\0\0\0\0\0\x04\0\x14\0\0\0";
    let path = dir.path().join("interfaces.pcapng.zst");
    let file = [&section[..], &interface.repeat(200_000)].concat();
    std::fs::write(&path, zstd::encode_all(&file[..], 1).unwrap()).unwrap();
    let missing = dir.path().join("missing.pcap");
    let (cluster, good, store) = (case().join("cluster.yaml"), good(), dir.path().join("s"));
    let files = [&path, &missing, &good].map(|p| p.as_os_str());
    let options = ["replay", "--store", store.to_str().unwrap(), "--cluster"].map(AsRef::as_ref);
    let out = run(&[&options[..], &[cluster.as_os_str()], &files].concat());
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("describes more than 65536 interfaces"), "{stderr}");
    let summary = String::from_utf8(out.stdout).unwrap();
    let lost = summary.lines().find(|l| l.starts_with("lost")).unwrap();
    assert_eq!(lost, "lost          captures-cut 1, captures-not-read 1");
    // The loss is stored: `status` shows it later.
    let status = common::expect(0, &["status", "--store", store.to_str().unwrap()]);
    assert!(status.contains("captures-cut 1, captures-not-read 1"), "{status}");
}

#[test]
fn broken_objects_are_named_with_file_and_line_and_the_rest_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let good_text = std::fs::read_to_string(case().join("cluster.yaml")).unwrap();
    let broken = [
        ("kind: Pod\nmetadata:\n  name: twice\n  name: twice\n", "duplicate"),
        ("kind: Pod\nmetadata:\n\tname: tab\n", "tab"),
        (
            "kind: Service\nmetadata: {name: wrong, namespace: x}\nspec:\n  ports: nonsense\n",
            "wrong type",
        ),
        ("kind: Pod\nmetadata: {name: cut, labels: {a: [\n", "cannot be read"),
        ("just text\n", "not a Kubernetes object"),
    ];
    for (i, (text, message)) in broken.iter().enumerate() {
        let path = dir.path().join(format!("{i}.yaml"));
        std::fs::write(&path, format!("{text}---\n{good_text}")).unwrap();
        let store = dir.path().join(format!("s{i}"));
        let (code, stderr) = replay(&path, &[&good()], &store);
        assert_eq!(code, 3, "{stderr}");
        assert!(
            stderr.contains(&format!("{}:", path.display())) && stderr.contains(message),
            "{message}: {stderr}"
        );
        assert_eq!(dependencies(&store).len(), 3, "{stderr}");
    }
}

#[test]
fn an_address_that_two_pods_claim_is_given_to_neither() {
    let dir = tempfile::tempdir().unwrap();
    let good_text = std::fs::read_to_string(case().join("cluster.yaml")).unwrap();
    let double = good_text
        .replace("podIP: 10.244.2.35", "podIP: 10.244.2.34")
        .replace("- ip: 10.244.2.35", "- ip: 10.244.2.34");
    assert_ne!(double, good_text);
    let path = file(dir.path(), "double.yaml", double.as_bytes());
    let store = dir.path().join("double");
    let (code, stderr) = replay(&path, &[&good()], &store);
    assert_eq!(code, 3);
    assert!(stderr.contains("both claim the address 10.244.2.34"), "{stderr}");
    assert!(dependencies(&store).is_empty(), "an address of two pods was given to one of them");
}

#[test]
fn a_snapshot_in_json_gives_the_same_as_one_in_yaml() {
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(case().join("cluster.yaml")).unwrap();
    let mut json = String::new();
    for document in serde_yaml::Deserializer::from_str(&text) {
        let value: serde_json::Value = serde::Deserialize::deserialize(document).unwrap();
        json.push_str(&serde_json::to_string_pretty(&value).unwrap());
        json.push('\n');
    }
    let path = dir.path().join("cluster.json");
    std::fs::write(&path, json).unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    assert_eq!(replay(&path, &[&good()], &one).0, 0);
    assert_eq!(replay(&case().join("cluster.yaml"), &[&good()], &two).0, 0);
    assert_eq!(dependencies(&one), dependencies(&two));
}

#[test]
fn a_snapshot_of_another_cluster_gives_exit_code_4() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other.yaml");
    std::fs::write(
        &path,
        "kind: Pod\nmetadata: {namespace: a, name: b}\nstatus: {podIP: 192.0.2.7}\n",
    )
    .unwrap();
    let (code, stderr) = replay(&path, &[&good()], &dir.path().join("s"));
    assert_eq!(code, 4, "{stderr}");
    assert!(
        stderr.contains("most likely the snapshot is of another cluster")
            && stderr.contains("192.0.2.7"),
        "{stderr}"
    );
}

#[test]
fn a_directory_with_other_files_is_not_used_as_a_store() {
    let dir = tempfile::tempdir().unwrap();
    file(dir.path(), "mine.txt", b"mine");
    let (code, stderr) = replay(&case().join("cluster.yaml"), &[&good()], dir.path());
    assert_eq!(code, 1);
    assert!(stderr.contains("is not a store and not empty"), "{stderr}");
}

#[test]
fn a_store_below_a_file_is_an_error_that_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = case().join("cluster.yaml");
    file(dir.path(), "mine.txt", b"mine");
    let below_a_file = dir.path().join("mine.txt").join("store");
    let (code, stderr) = replay(&cluster, &[&good()], &below_a_file);
    assert_eq!(code, 1);
    assert!(stderr.contains("mine.txt"), "{stderr}");
}

#[test]
fn reading_a_store_that_is_not_there_makes_none() {
    let dir = tempfile::tempdir().unwrap();
    let none = dir.path().join("none");
    let out = run(&["status".as_ref(), "--store".as_ref(), none.as_os_str()]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("there is no store at"));
    assert!(!none.exists());
}

#[test]
fn the_help_of_each_command_has_an_example() {
    for command in ["replay", "dependencies", "generate", "status", "export", "import"] {
        let out = run(&[command, "--help"]);
        assert!(out.status.success());
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(text.contains("Example"), "{command}: {text}");
    }
    assert_eq!(run(&["replay"]).status.code(), Some(2));
}
