//! Flushing sled, which may wait for ever when a write fails.
//!
//! sled 0.34.7 writes a buffer on a thread of its own. Where that fails after the last writer left
//! the buffer (`Log::exit_reservation` in `pagecache/logger.rs`), it stores the error and wakes
//! nobody, so a flush that waits already never ends. Another flush finds the error, and wakes all
//! that wait (`make_stable_inner` in `pagecache/iobuf.rs`).
//!
//! Owns these other flushes. Must never end before sled's own flush has: what is not flushed is not
//! acknowledged.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, Builder, Scope};
use std::time::Duration;

use super::caught::caught;

/// How long a flush may take before sled is asked again. It doubles each time: a slow disk may take
/// long, and each question waits as long as the flush does.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Flushes a database.
///
/// # Errors
/// When sled reports one, or did before.
pub(super) fn flush(db: &sled::Db) -> sled::Result<()> {
    let (end, ended) = mpsc::channel();
    thread::scope(|scope| {
        // Without a thread the flush goes on, as sled does it.
        let _ = Builder::new()
            .name("flush".to_owned())
            .spawn_scoped(scope, move || ask_again(scope, db, &ended));
        // Dropped when the flush has ended, and also when sled panics.
        let _end: mpsc::Sender<()> = end;
        db.flush().map(|_| ())
    })
}

/// Flushes again and again, each time on a thread of its own, until the sender is dropped.
fn ask_again<'s>(scope: &'s Scope<'s, '_>, db: &'s sled::Db, ended: &Receiver<()>) {
    let mut pause = FIRST_PAUSE;
    while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
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
        let dir = tempfile::tempdir().unwrap();
        let db = sled::Config::new().path(dir.path()).flush_every_ms(None).open().unwrap();
        let (end, ended) = mpsc::channel();
        let waiting = ended.recv_timeout(Duration::from_millis(1));
        assert_eq!(waiting, Err(RecvTimeoutError::Timeout), "it has not ended");
        thread::scope(|scope| {
            let db = &db;
            let asks = scope.spawn(move || ask_again(scope, db, &ended));
            drop(end);
            asks.join().unwrap();
        });
    }
}
