//! Runs two closures at the same time.
//!
//! Owns the fallback where the system gives no thread. Both closures are always joined: if one can
//! wait for something outside the process, the other must be able to end that wait. Must never
//! leave a thread running.

use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, scope};

/// Runs `there` on a thread of its own while `here` runs on this one. If the system gives no
/// thread, runs `there` first and then `here`, both on this one.
pub(crate) fn both<A: Send, B>(
    there: impl FnOnce() -> A + Send,
    here: impl FnOnce() -> B,
) -> (A, B) {
    // If the thread cannot be started, its closure is dropped; the work must not be in it.
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
            None => unreachable!("the work is taken once, either by the thread or here"),
        }
    })
}
