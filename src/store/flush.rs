//! Flushing sled, which may wait for ever when a write fails.
//!
//! sled 0.34.7 writes a buffer on a thread of its own. Where that fails after the last writer left
//! the buffer (`Log::exit_reservation` in `pagecache/logger.rs`), it stores the error and wakes
//! nobody, so a flush that waits already never ends. Another flush finds the error, and wakes all
//! that wait (`make_stable_inner` in `pagecache/iobuf.rs`).
//!
//! Owns these other flushes. Must never end before sled's own flush has: what is not flushed is not
//! acknowledged.

use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::{self, Builder, Scope};
use std::time::Duration;

use super::caught::caught;

/// How long a flush may take before sled is asked again. It doubles each time: a slow disk may take
/// long, and each question waits as long as the flush does.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Whether the flush has ended.
#[derive(Default)]
struct Ended {
    ended: Mutex<bool>,
    changed: Condvar,
}

impl Ended {
    fn set(&self) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Waits for the end, at most this long. Returns whether it has come.
    fn wait(&self, longest: Duration) -> bool {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(ended, longest, |ended| !*ended);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Sets the end when it is dropped, so that a panic of sled ends the waiting too.
struct EndOnDrop<'a>(&'a Ended);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.set();
    }
}

/// Flushes a database.
///
/// # Errors
/// When sled reports one, or did before.
pub(super) fn flush(db: &sled::Db) -> sled::Result<()> {
    let ended = Ended::default();
    thread::scope(|scope| {
        let ended = &ended;
        // Without a thread the flush goes on, as sled does it.
        let _ = Builder::new()
            .name("flush".to_owned())
            .spawn_scoped(scope, move || ask_again(scope, db, ended));
        let _end = EndOnDrop(ended);
        db.flush().map(|_| ())
    })
}

/// Flushes again and again, each time on a thread of its own, until the flush has ended.
fn ask_again<'s>(scope: &'s Scope<'s, '_>, db: &'s sled::Db, ended: &Ended) {
    let mut pause = FIRST_PAUSE;
    while !ended.wait(pause) {
        let again = move || drop(caught(|| db.flush()));
        let _ = Builder::new().name("flush again".to_owned()).spawn_scoped(scope, again);
        pause *= 2;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_flush_ends_at_once_and_leaves_no_thread() {
        let dir = tempfile::tempdir().unwrap();
        let db = sled::Config::new().path(dir.path()).flush_every_ms(None).open().unwrap();
        db.insert("a", "b").unwrap();
        let begun = Instant::now();
        flush(&db).unwrap();
        // The thread that would ask again does not wait for its pause.
        assert!(begun.elapsed() < FIRST_PAUSE * 50);
    }

    #[test]
    fn what_waits_is_told_of_the_end() {
        let ended = Ended::default();
        assert!(!ended.wait(Duration::from_millis(1)));
        thread::scope(|scope| {
            let waiting = scope.spawn(|| ended.wait(Duration::from_secs(60)));
            drop(EndOnDrop(&ended));
            assert!(waiting.join().unwrap());
        });
    }
}
