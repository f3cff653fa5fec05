//! Two things at once, or one that feeds another.
//!
//! Owns the fallback where the system gives no thread. Nobody is left behind: where one of the two
//! waits on something outside the process, it must be the other's to end that.

use std::panic::resume_unwind;
use std::sync::mpsc::sync_channel;
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

/// Consumes on a thread of its own what is produced on this one, in its order; on this one where
/// the system gives no thread.
pub(crate) fn stream<T: Send>(
    produce: impl FnOnce(&mut dyn FnMut(T)),
    consume: impl FnMut(T) + Send,
) {
    /// Items handed over at once.
    const CHUNK: usize = 256;
    /// Chunks on their way.
    const DEPTH: usize = 8;
    // A thread that cannot be started must not take the consumer with it.
    let consume = Mutex::new(consume);
    let all = |items: &mut dyn Iterator<Item = T>| {
        items.for_each(&mut *consume.lock().unwrap_or_else(PoisonError::into_inner))
    };
    scope(|scope| {
        let (full, chunks) = sync_channel::<Vec<T>>(DEPTH);
        let Ok(thread) = Builder::new()
            .name("second".to_owned())
            .spawn_scoped(scope, || all(&mut chunks.into_iter().flatten()))
        else {
            return produce(&mut |item| all(&mut std::iter::once(item)));
        };
        let mut chunk = Vec::with_capacity(CHUNK);
        // A receiver that went away has panicked, which joining tells.
        produce(&mut |item| {
            chunk.push(item);
            if chunk.len() == CHUNK {
                let _ = full.send(std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK)));
            }
        });
        let _ = full.send(chunk);
        drop(full);
        thread.join().unwrap_or_else(|panic| resume_unwind(panic));
    });
}
