//! Two things at once.
//!
//! Owns the fallback where the system gives no thread. Nobody is left behind: where one of the two
//! waits on something outside the process, it must be the other's to end that.

use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, scope};

/// Does `there` on a thread of its own while `here` is done on this one; `there` first where the
/// system gives no thread.
pub(crate) fn both<A: Send, B>(
    there: impl FnOnce() -> A + Send,
    here: impl FnOnce() -> B,
) -> (A, B) {
    // A thread that cannot be started must not take the work with it.
    let work = Mutex::new(Some(there));
    let take = || work.lock().unwrap_or_else(PoisonError::into_inner).take();
    scope(|scope| {
        let started = Builder::new()
            .name("second".to_owned())
            .spawn_scoped(scope, || take().map(|work| work()));
        let instead = if started.is_err() { take().map(|work| work()) } else { None };
        let here = here();
        let there = match started {
            Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
            Err(_) => instead,
        };
        match there {
            Some(there) => (there, here),
            None => unreachable!("the work is taken once, by whoever does it"),
        }
    })
}
