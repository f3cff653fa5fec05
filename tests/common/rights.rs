//! Tests that make network namespaces or mount file systems: as root, or each in a user namespace
//! of its own where the kernel allows it.

#![allow(clippy::unwrap_used, clippy::print_stderr)] // a test that cannot go on should say where
#![allow(dead_code)] // not every test file has such tests

use std::io::Write;
use std::process::{Command, Output};
use std::sync::OnceLock;

/// A user namespace in which this user is root, with its own mounts and its own network. `ip netns`
/// needs both: its files are below /run, which this user cannot write, and it returns to the
/// network in which it began.
const ENTER: [&str; 4] = ["--map-root-user", "--mount", "--net", "sh"];
const BEGIN: &str = "mount -t tmpfs tmpfs /run && ip link set lo up && exec \"$0\" \"$@\"";

/// Whether the calling test goes on. As root it does. Otherwise it is run again in another process,
/// as root of a user namespace, and passes or fails there. If that is impossible, this prints that
/// the test did not run, and why; in CI the test fails then.
///
/// # Panics
/// When the test fails in the namespace, or does not run in CI.
pub fn rooted(what: &str) -> bool {
    if root() {
        return true;
    }
    static REFUSED: OnceLock<Option<String>> = OnceLock::new();
    match REFUSED.get_or_init(refused) {
        None => again(),
        Some(why) => not_run(what, why),
    }
    false
}

/// Whether this process is root, also of a user namespace.
pub fn root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Prints that a test did not run. It bypasses the test harness, which hides the output of tests
/// that pass.
///
/// # Panics
/// In CI.
pub fn not_run(what: &str, why: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "NOT RUN: {name}: {what}: {why}");
    assert!(std::env::var_os("CI").is_none(), "CI runs this test: {why}");
}

/// Runs the calling test in a namespace.
fn again() {
    // libtest names the thread of a test after it.
    let name = std::thread::current().name().unwrap().to_owned();
    let program = std::env::current_exe().unwrap();
    let out =
        unshare(&[program.to_str().unwrap(), "--exact", &name, "--include-ignored", "--nocapture"])
            .unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    eprintln!("{name}, in a user namespace: {said}");
    // A name that no test has would pass as well.
    assert!(
        out.status.success() && said.contains("test result: ok. 1 passed"),
        "{name} failed in a user namespace, see above"
    );
}

fn unshare(command: &[&str]) -> std::io::Result<Output> {
    Command::new("unshare").args(ENTER).args(["-c", BEGIN]).args(command).output()
}

/// Why this user cannot be root of a namespace; `None` if it can.
fn refused() -> Option<String> {
    let why = match unshare(&["ip", "netns", "add", "probe"]) {
        Ok(out) if out.status.success() => return None,
        Ok(out) => String::from_utf8_lossy(&out.stderr).trim().to_owned(),
        Err(error) => format!("unshare (util-linux): {error}"),
    };
    // The settings by which distributions forbid it, each with the value that does.
    let settings = [
        ("kernel/unprivileged_userns_clone", "0"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1"),
        ("user/max_user_namespaces", "0"),
        ("user/max_mnt_namespaces", "0"),
        ("user/max_net_namespaces", "0"),
    ];
    let set = |name: &str| std::fs::read_to_string(format!("/proc/sys/{name}")).unwrap_or_default();
    let by: Vec<String> = settings
        .iter()
        .filter(|(name, value)| set(name).trim() == *value)
        .map(|(name, value)| format!("{}={value}", name.replace('/', ".")))
        .collect();
    let by = match by.is_empty() {
        true if why.contains("not permitted") => {
            "; no setting forbids it, a container's seccomp profile may".to_owned()
        }
        true => String::new(),
        false => format!("; {}", by.join(", ")),
    };
    Some(format!(
        "not root, and this user cannot have namespaces of its own ({why}{by}); run the tests as \
         root"
    ))
}
