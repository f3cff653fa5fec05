//! Agents that are killed, and outputs that fail.

#![allow(clippy::unwrap_used, clippy::print_stderr)] // a test that cannot go on should say where

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use crate::netns::Net;
use crate::world::{REQUEST, World, call, eventually, expected, possible, serve};

/// One client, and three services of one pod.
fn shop() -> (World, Net) {
    let mut world = World::new();
    let (web, cart) = (world.pod("web", 10), world.pod("cart", 11));
    for (name, n) in [("one", 1), ("two", 2), ("three", 3)] {
        world.service(name, &format!("10.96.0.{n}"), &[("10.244.1.11", 8080 + n)]);
        serve(&cart, &format!("0.0.0.0:{}", 8080 + n));
    }
    (world, web)
}

/// Kills an agent as if it was writing its second batch: `cut` gives how much of that is in the
/// file. Imports the file afterwards, and returns standard error.
fn killed(cut: impl Fn(&str) -> usize) -> String {
    let (world, web) = shop();
    let out = world.path("out.ndjson");
    let agent = world.agent("");
    call(&web, "10.244.1.11:8081", REQUEST);
    world.wait_for_batch("10.244.1.11:8081");
    call(&web, "10.244.1.11:8082", REQUEST);
    world.wait_for_batch("10.244.1.11:8082");
    agent.kill();
    let text = fs::read_to_string(&out).unwrap();
    fs::write(&out, &text[..cut(&text)]).unwrap();
    let agent = world.agent("");
    call(&web, "10.244.1.11:8083", REQUEST);
    assert_eq!(agent.end(), Some(0));
    let said = world.import(3);
    assert_eq!(
        world.dependencies(),
        expected(&[("web -> one:80", 1), ("web -> three:80", 1)]),
        "{said}"
    );
    said
}

#[test]
fn a_file_of_a_killed_agent_is_continued() {
    if !possible() {
        return;
    }
    let said = killed(|text| text.rfind("\"end\"").unwrap() - 1);
    assert!(said.contains("the batch that begins there is cut"), "{said}");
    let said = killed(|text| text.rfind("\"end\"").unwrap() + 3);
    assert!(said.contains("its batch is skipped"), "{said}");
}

/// A file system that is full until `free` is called.
struct Full(PathBuf);

impl Full {
    fn mount(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"])
            .arg(&path)
            .status()
            .unwrap();
        assert!(mounted.success());
        let full = Self(path);
        full.fill();
        full
    }

    fn fill(&self) {
        let mut file = fs::File::create(self.0.join("filler")).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_batch_that_cannot_be_written_is_delivered_once_later() {
    if !possible() {
        return;
    }
    let (world, web) = shop();
    let full = Full::mount(world.path("full"));
    let (to, spool) = (full.0.join("out.ndjson"), world.path("spool"));
    let start = || {
        let what = format!(
            "agent --pods {} --to {} --spool {}",
            world.snapshot(),
            to.display(),
            spool.display()
        );
        world.start(&what, "")
    };
    let spooled = |words: &str| {
        let path = spool.join("spool.ndjson");
        eventually(words, || fs::read_to_string(&path).is_ok_and(|t| t.contains(words)));
    };
    let agent = start();
    (0..3).for_each(|_| call(&web, "10.244.1.11:8081", REQUEST));
    spooled("10.244.1.11:8081");
    call(&web, "10.244.1.11:8082", REQUEST);
    // This goes into the next batch: the one whose delivery fails is not changed any more.
    spooled("10.244.1.11:8082");
    assert!(agent.log().contains("a batch cannot be delivered now"), "{}", agent.log());
    agent.kill();

    let agent = start();
    call(&web, "10.244.1.11:8083", REQUEST);
    agent.signal("TERM");
    assert_eq!(agent.ended(), Some(1), "what could not be delivered is no success");
    spooled("10.244.1.11:8083");

    full.free();
    let agent = start();
    eventually("the spool to be empty", || !spool.join("spool.ndjson").exists());
    call(&web, "10.244.1.11:8081", REQUEST);
    assert_eq!(agent.end(), Some(0));
    fs::copy(&to, world.path("out.ndjson")).unwrap();
    let want = expected(&[("web -> one:80", 4), ("web -> three:80", 1), ("web -> two:80", 1)]);
    assert_eq!(world.learned(), want, "{:?}", world.counters());
}

#[test]
fn without_a_spool_batches_wait_in_memory() {
    if !possible() {
        return;
    }
    let (world, web) = shop();
    let full = Full::mount(world.path("full"));
    let to = full.0.join("out.ndjson");
    let agent =
        world.start(&format!("agent --pods {} --to {}", world.snapshot(), to.display()), "");
    call(&web, "10.244.1.11:8081", REQUEST);
    agent.wait_for(0, "a batch cannot be delivered");
    call(&web, "10.244.1.11:8082", REQUEST);
    full.free();
    call(&web, "10.244.1.11:8083", REQUEST);
    assert_eq!(agent.end(), Some(0));
    fs::copy(&to, world.path("out.ndjson")).unwrap();
    let want = expected(&[("web -> one:80", 1), ("web -> three:80", 1), ("web -> two:80", 1)]);
    assert_eq!(world.learned(), want, "{:?}", world.counters());
}
