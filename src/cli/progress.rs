//! A line of progress on standard error, for people at a terminal.

#![allow(clippy::print_stderr)] // moves the cursor, which output.rs would escape

use std::io::{IsTerminal, Write};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sidecarta_capture::source::ReadProgress;

/// How often the line changes.
const EVERY: Duration = Duration::from_millis(250);

/// Shows how much of the captures was read. Prints nothing if standard error is no terminal.
pub(super) struct ProgressLine {
    shown: bool,
    enabled: bool,
    next: Instant,
}

impl ProgressLine {
    pub fn new() -> Self {
        Self {
            shown: false,
            enabled: std::io::stderr().is_terminal(),
            next: Instant::now() + EVERY,
        }
    }

    pub fn show(&mut self, progress: &ReadProgress) {
        if !self.enabled || Instant::now() < self.next {
            return;
        }
        self.next = Instant::now() + EVERY;
        self.shown = true;
        let packets = progress.packets.load(Ordering::Relaxed);
        let (done, total) =
            (progress.bytes.load(Ordering::Relaxed), progress.total.load(Ordering::Relaxed));
        let share = (100 * done)
            .checked_div(total)
            .map_or_else(String::new, |p| format!(", {} %", p.min(100)));
        eprint!("\r{packets} packets{share}\x1b[K");
        let _ = std::io::stderr().flush();
    }

    /// Removes the line from the terminal.
    pub fn clear(&mut self) {
        if self.shown {
            eprint!("\r\x1b[K");
            self.shown = false;
        }
    }
}
