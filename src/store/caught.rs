//! Panics of sled, which become errors.
//!
//! Owns which panics are silent: those that an error reports. Must never silence a panic of
//! anything else.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// Whether this thread is in a call of sled, whose panic becomes an error.
    static CALLING: Cell<bool> = const { Cell::new(false) };
}

/// Calls sled. `Err`: the message with which it panicked.
pub(super) fn caught<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    let before = CALLING.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(call));
    CALLING.set(before);
    result.map_err(|payload| {
        payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "it gave no reason".to_owned())
    })
}

/// Silences panics that become errors, since the errors report them. Others are reported as before.
pub(super) fn silence_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !CALLING.get() {
                before(info);
            }
        }));
    });
}
