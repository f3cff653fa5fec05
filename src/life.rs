//! Threads that report how they end, the signals that ask a process to end, and what a program that
//! runs for months sets at its start: the limit of open descriptors, and freed memory.
//!
//! Owns no thread's work. Must never let a thread end without a report.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use tokio::sync::oneshot;

/// Sets what a program that runs for months needs, and logs it.
pub(crate) fn prepare_long_run() {
    raise_descriptors();
    return_freed_memory();
}

/// Raises the soft limit of open descriptors to the hard limit (RLIMIT_NOFILE, getrlimit(2)): an
/// agent needs a descriptor for each interface, a recorder one for each connection.
fn raise_descriptors() {
    let before = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: before.maximum, maximum: before.maximum };
    if before.current != before.maximum
        && let Err(error) = setrlimit(Resource::Nofile, wanted)
    {
        tracing::warn!(%error, "the limit of open descriptors cannot be raised");
    }
    let now = getrlimit(Resource::Nofile).current;
    let words = |n: Option<u64>| n.map_or_else(|| "unlimited".to_owned(), |n| n.to_string());
    tracing::info!(limit = %words(now), before = %words(before.current), "open descriptors");
}

/// Bytes from which an allocation is a mapping of its own, which goes back to the system when it is
/// freed.
#[cfg(target_env = "gnu")]
const MAPPED_FROM: libc::c_int = 1024 * 1024;

/// Makes the allocator give large allocations back to the system when they are freed.
///
/// glibc raises the size from which it maps memory to that of each freed mapping (up to 32 MiB),
/// and what is smaller stays in the heap of its thread (M_MMAP_THRESHOLD, mallopt(3)). A burst of
/// large batches would stay in memory for as long as the process lives.
fn return_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two numbers, and sets an option of the allocator.
    if unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM) } == 0 {
        tracing::warn!("the allocator does not take M_MMAP_THRESHOLD: freed memory may stay");
    }
}

/// A thread that reports how it ended.
pub(crate) struct Worker {
    pub name: &'static str,
    pub ended: WorkerEnd,
    thread: JoinHandle<()>,
}

/// A future of how a thread ended: `None` if it panicked. It gives this once.
pub(crate) struct WorkerEnd(Option<oneshot::Receiver<Result<(), String>>>);

impl WorkerEnd {
    pub fn is_terminated(&self) -> bool {
        self.0.is_none()
    }
}

impl Future for WorkerEnd {
    type Output = Option<Result<(), String>>;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        let Some(receiver) = &mut self.0 else { return std::task::Poll::Pending };
        let polled = std::pin::Pin::new(receiver).poll(context);
        polled.map(|r| {
            self.0 = None;
            // A thread that panics drops its sender.
            r.ok()
        })
    }
}

impl Worker {
    pub fn start(
        name: &'static str,
        work: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (ended_in, ended) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || drop(ended_in.send(work())))?;
        Ok(Self { name, ended: WorkerEnd(Some(ended)), thread })
    }

    pub fn join(self) {
        // `ended` has reported a panic already.
        let _ = self.thread.join();
    }
}

/// The message about how a thread ended; `None` if it ended without an error.
pub(crate) fn reason(name: &str, ended: Option<Result<(), String>>) -> Option<String> {
    match ended {
        Some(Ok(())) => None,
        Some(Err(why)) => Some(format!("the {name} ended: {why}")),
        None => Some(format!("the {name} ended unexpectedly; this is a bug")),
    }
}

/// The same signal again within this time is ignored: on one Ctrl-C the terminal signals the whole
/// process group, and `sudo` forwards its own copy.
const SAME_SIGNAL: Duration = Duration::from_millis(500);

/// The signals that ask for an end.
pub(crate) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    last: Option<(&'static str, Instant)>,
}

impl Signals {
    pub fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            last: None,
        })
    }

    /// Waits for the next signal. A repetition within [`SAME_SIGNAL`] does not count.
    pub async fn next(&mut self) -> &'static str {
        loop {
            let name = tokio::select! {
                _ = self.terminate.recv() => "SIGTERM",
                _ = self.interrupt.recv() => "SIGINT",
            };
            let now = Instant::now();
            if self.last.is_none_or(|(last, at)| last != name || now - at >= SAME_SIGNAL) {
                self.last = Some((name, now));
                return name;
            }
        }
    }
}
