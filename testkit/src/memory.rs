//! How much memory a process has.

/// A field of a process's status in KiB (proc_pid_status(5)): `VmRSS` is what it has now, `VmHWM`
/// the most that it has had. `None` where the process has ended, or has no such field.
pub fn kib(process: u32, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let of_field = |line: &str| {
        line.strip_prefix(field)?.strip_prefix(':')?.split_whitespace().next()?.parse().ok()
    };
    status.lines().find_map(of_field)
}
