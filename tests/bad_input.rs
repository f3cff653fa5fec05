//! Bad input gives one clear message, the right exit code, and never costs what was good.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod common;

use std::path::{Path, PathBuf};

use common::{dependencies, run, samples};

/// Replays and returns exit code and standard error.
fn replay(cluster: &Path, captures: &[&Path], store: &Path) -> (i32, String) {
    let mut args =
        vec!["replay".into(), "--store".into(), store.as_os_str().to_owned(), "--cluster".into()];
    args.push(cluster.as_os_str().to_owned());
    args.extend(captures.iter().map(|c| c.as_os_str().to_owned()));
    let out = run(&args);
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(!said.contains("panicked"), "{said}");
    (out.status.code().unwrap(), said)
}

fn case() -> PathBuf {
    samples().join("a-before")
}

fn good() -> PathBuf {
    case().join("veth5f577e0f.pcap")
}

#[test]
fn captures_that_are_none_are_named_and_the_others_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = case().join("cluster.yaml");
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let whole = std::fs::read(good()).unwrap();
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
        let (code, said) = replay(&cluster, &[path], &dir.path().join(format!("alone{i}")));
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(message) && said.contains(&path.display().to_string()), "{said}");
        let store = dir.path().join(format!("both{i}"));
        let (code, said) = replay(&cluster, &[path, &good()], &store);
        assert_eq!(code, 3, "{said}");
        assert!(said.contains(message), "{said}");
        assert_eq!(dependencies(&store).len(), 3);
    }
    let cut = file("cut.pcap", &whole[..whole.len() / 2]);
    let store = dir.path().join("cut");
    let (code, said) = replay(&cluster, &[&cut], &store);
    assert_eq!(code, 3);
    assert!(
        said.contains("cut or damaged") && said.contains("packets before that are used"),
        "{said}"
    );
    assert!(!dependencies(&store).is_empty());
    let (code, said) =
        replay(&cluster, &[&file("header.pcap", &whole[..24])], &dir.path().join("header"));
    assert_eq!(code, 0);
    assert!(said.contains("contains no packet"), "{said}");
}

/// A pcapng file that never ends to describe interfaces.
#[test]
fn a_capture_that_is_cut_is_counted_as_a_loss() {
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
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(3), "{said}");
    assert!(said.contains("describes more than 65536 interfaces"), "{said}");
    let summary = String::from_utf8(out.stdout).unwrap();
    let lost = summary.lines().find(|l| l.starts_with("lost")).unwrap();
    assert_eq!(lost, "lost          captures-cut 1, captures-not-read 1");
    // The loss is kept: also later it is known that something is missing.
    let status = common::expect(0, &["status", "--store", store.to_str().unwrap()]);
    assert!(status.contains("captures-cut 1, captures-not-read 1"), "{status}");
}

#[test]
fn broken_objects_are_named_with_file_and_line_and_the_rest_goes_on() {
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
        let (code, said) = replay(&path, &[&good()], &store);
        assert_eq!(code, 3, "{said}");
        assert!(
            said.contains(&format!("{}:", path.display())) && said.contains(message),
            "{message}: {said}"
        );
        assert_eq!(dependencies(&store).len(), 3, "{said}");
    }
    let double = good_text
        .replace("podIP: 10.244.2.35", "podIP: 10.244.2.34")
        .replace("- ip: 10.244.2.35", "- ip: 10.244.2.34");
    assert_ne!(double, good_text);
    let path = dir.path().join("double.yaml");
    std::fs::write(&path, double).unwrap();
    let store = dir.path().join("double");
    let (code, said) = replay(&path, &[&good()], &store);
    assert_eq!(code, 3);
    assert!(said.contains("both claim the address 10.244.2.34"), "{said}");
    assert!(dependencies(&store).is_empty(), "an address of two pods was given to one of them");
}

#[test]
fn json_snapshots_say_the_same_as_yaml() {
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
fn a_snapshot_of_another_cluster_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other.yaml");
    std::fs::write(
        &path,
        "kind: Pod\nmetadata: {namespace: a, name: b}\nstatus: {podIP: 192.0.2.7}\n",
    )
    .unwrap();
    let (code, said) = replay(&path, &[&good()], &dir.path().join("s"));
    assert_eq!(code, 4, "{said}");
    assert!(
        said.contains("most likely the snapshot is of another cluster")
            && said.contains("192.0.2.7"),
        "{said}"
    );
}

#[test]
fn wrong_stores_are_told_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = case().join("cluster.yaml");
    std::fs::write(dir.path().join("mine.txt"), "mine").unwrap();
    let (code, said) = replay(&cluster, &[&good()], dir.path());
    assert_eq!(code, 1);
    assert!(said.contains("is not a store and not empty"), "{said}");
    let below_a_file = dir.path().join("mine.txt").join("store");
    let (code, said) = replay(&cluster, &[&good()], &below_a_file);
    assert_eq!(code, 1);
    assert!(said.contains("mine.txt"), "{said}");
    let none = dir.path().join("none");
    let out = run(&["status".as_ref(), "--store".as_ref(), none.as_os_str()]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("there is no store at"));
    assert!(!none.exists());
}

#[test]
fn every_command_explains_itself_with_an_example() {
    for command in ["replay", "dependencies", "generate", "status", "export", "import"] {
        let out = run(&[command, "--help"]);
        assert!(out.status.success());
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(text.contains("Example"), "{command}: {text}");
    }
    assert_eq!(run(&["replay"]).status.code(), Some(2));
}
