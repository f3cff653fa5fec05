//! The lives of long-running processes: threads that say how they end, and the signals that ask for
//! it.
//!
//! Owns no thread's work. Must never let a thread end unseen.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use tokio::sync::oneshot;

/// Raises the limit of open descriptors to what it may be raised to (RLIMIT_NOFILE, getrlimit(2)),
/// and says what it is: an agent needs one for each interface, a recorder one for each connection.
pub(crate) fn raise_descriptors() {
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

/// A thread that says when it ends.
pub(crate) struct Part {
    pub name: &'static str,
    pub ended: Ended,
    thread: JoinHandle<()>,
}

/// Tells once how a thread ended.
pub(crate) struct Ended(Option<oneshot::Receiver<Result<(), String>>>);

impl Ended {
    pub fn is_terminated(&self) -> bool {
        self.0.is_none()
    }
}

impl Future for Ended {
    type Output = Option<Result<(), String>>;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        let Some(receiver) = &mut self.0 else { return std::task::Poll::Pending };
        let polled = std::pin::Pin::new(receiver).poll(context);
        polled.map(|r| {
            self.0 = None;
            // A thread that panics drops its end.
            r.ok()
        })
    }
}

impl Part {
    pub fn start(
        name: &'static str,
        work: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (ended_in, ended) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || drop(ended_in.send(work())))?;
        Ok(Self { name, ended: Ended(Some(ended)), thread })
    }

    pub fn join(self) {
        // How it ended was told.
        let _ = self.thread.join();
    }
}

/// What is to be said of how a thread ended; nothing where it ended well.
pub(crate) fn reason(name: &str, ended: Option<Result<(), String>>) -> Option<String> {
    match ended {
        Some(Ok(())) => None,
        Some(Err(why)) => Some(format!("the {name} ended: {why}")),
        None => Some(format!("the {name} ended unexpectedly; this is a bug")),
    }
}

/// The same signal within this time is the same wish: of one Ctrl-C, `sudo` passes on what the
/// terminal has sent to the whole group already.
const ONE_WISH: Duration = Duration::from_millis(500);

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

    /// The next one, but for the last one come twice.
    pub async fn next(&mut self) -> &'static str {
        loop {
            let name = tokio::select! {
                _ = self.terminate.recv() => "SIGTERM",
                _ = self.interrupt.recv() => "SIGINT",
            };
            let now = Instant::now();
            if self.last.is_none_or(|(last, at)| last != name || now - at >= ONE_WISH) {
                self.last = Some((name, now));
                return name;
            }
        }
    }
}
