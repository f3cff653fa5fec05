//! Rings that overflow, and handles that are read to their end.
//!
//! Owns what the kernel dropped and what is done about it. Must never wait for the kernel while
//! packets come, nor let rings grow without a limit. While one ring takes the place of another,
//! packets of some milliseconds are in both: connections are the same, packets count twice.

use std::panic::resume_unwind;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use super::{CollectError, Collector, EndingHandle, LargerRing, READ_FRAMES};
use crate::live::handle::{DroppedPackets, Handle, HandleConfig, HandleRead};

/// Largest ring of an interface, in bytes: what short connections bring in 100 ms where nothing but
/// they happens.
const MAX_RING_BYTES: u32 = 2 * 1024 * 1024;
/// How much larger a ring gets at once.
const RING_GROWTH: u32 = 4;
/// Bytes that all rings together may have more than was asked for.
const MAX_ENLARGED_BYTES: u32 = 16 * 1024 * 1024;

impl Collector {
    pub(super) fn read_ending(&mut self) {
        let now = Instant::now();
        let (meter, buffer, status) = (&mut self.meter, &mut self.buffer, &mut self.status);
        let mut over = Vec::new();
        for mut e in std::mem::take(&mut self.ending) {
            while e
                .handle
                .read(READ_FRAMES, &mut |frame| meter.frame(&frame, &mut |o| buffer.push(o)))
                == HandleRead::More
            {}
            if now < e.until {
                self.ending.push(e);
                continue;
            }
            if let Some(dropped) = e.handle.dropped() {
                status.dropped.add(e.dropped, dropped);
            }
            over.push((e.index, e.handle));
        }
        let (over, handles): (Vec<u32>, Vec<Handle>) = over.into_iter().unzip();
        self.close_in_background(handles);
        for index in over {
            // It may have another handle, or have come up again meanwhile.
            if self.watched.get(&index).is_some_and(|w| w.handle.is_none()) {
                self.forget(index);
            }
        }
    }

    /// The kernel hands over a block of packets when it is full or its time has come, even of a
    /// device that is gone.
    pub(super) fn end_handle(&mut self, index: u32, handle: Handle, dropped: DroppedPackets) {
        let block_timeout_millis =
            Duration::from_millis(u64::from(self.config.handle.block_timeout_millis));
        self.wait_no_more(&handle);
        self.ending.push(EndingHandle {
            until: Instant::now() + block_timeout_millis * 2 + Duration::from_millis(50),
            index,
            handle,
            dropped,
        });
    }

    /// Closes handles on a thread of its own: for each the kernel waits for all processors, for
    /// longer than a ring may hold. Where there is no thread to be had, on this one.
    fn close_in_background(&mut self, handles: Vec<Handle>) {
        self.closing.retain(|thread| !thread.is_finished());
        if !handles.is_empty() {
            self.closing
                .extend(Builder::new().name("close".to_owned()).spawn(move || drop(handles)));
        }
    }

    pub(super) fn ask_dropped(&mut self) {
        for w in self.watched.values_mut() {
            let Some(dropped) = w.handle.as_mut().and_then(Handle::dropped) else { continue };
            w.overflows |= dropped.ring > w.dropped.ring;
            self.status.dropped.add(w.dropped, dropped);
            w.dropped = dropped;
        }
        if let Some(dropped) = self.any.as_mut().and_then(Handle::dropped) {
            self.status.dropped.add(self.any_dropped, dropped);
            self.any_dropped = dropped;
        }
    }

    /// Opens larger rings for interfaces whose rings have overflown: most pods need a small one
    /// only. On threads of their own: the kernel waits for all processors when a ring is made, and
    /// the other rings would overflow meanwhile.
    pub(super) fn enlarge(&mut self) {
        let full = self.watched.iter_mut().filter_map(|(index, w)| {
            std::mem::take(&mut w.overflows).then(|| (*index, w.name.clone(), w.ring))
        });
        let mut full: Vec<(u32, String, u32)> = full.collect();
        full.sort_unstable();
        for (index, name, old_ring_bytes) in full {
            let ring = old_ring_bytes.saturating_mul(RING_GROWTH);
            if ring > MAX_RING_BYTES || self.enlarged + (ring - old_ring_bytes) > MAX_ENLARGED_BYTES
            {
                if let Some(w) = self.watched.get_mut(&index).filter(|w| !w.at_limit) {
                    w.at_limit = true;
                    tracing::warn!(interface = %name, kib = old_ring_bytes / 1024, "its ring overflows, and may get no larger");
                }
                continue;
            }
            let settings = HandleConfig { ring, ..self.config.handle.clone() };
            let work = move || LargerRing {
                handle: Handle::open(&name, index, &settings),
                index,
                name,
                old_ring_bytes,
                ring,
            };
            match Builder::new().name("ring".to_owned()).spawn(work) {
                Ok(thread) => self.opening.push(thread),
                Err(error) => {
                    tracing::warn!(%error, "a ring overflows, and no thread can be had to open a larger one")
                }
            }
        }
    }

    /// Takes the larger rings that have been opened in place of those that overflowed.
    pub(super) fn take_opened(&mut self) -> Result<(), CollectError> {
        let (done, not): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.opening).into_iter().partition(JoinHandle::is_finished);
        self.opening = not;
        for thread in done {
            let LargerRing { index, name, old_ring_bytes, ring, handle } =
                thread.join().unwrap_or_else(|panic| resume_unwind(panic));
            let new = match handle {
                Ok(new) => new,
                Err(error) => {
                    tracing::warn!(interface = %name, %error, "its ring overflows, and it gets no larger one");
                    continue;
                }
            };
            // It may be gone meanwhile, another interface may have taken its name, or it overflowed
            // twice before this one was there.
            let same = self.is_named(index, &name);
            let Some(w) = self
                .watched
                .get_mut(&index)
                .filter(|w| same && w.ring == old_ring_bytes && w.handle.is_some())
            else {
                continue;
            };
            // From here on the old one gets nothing more.
            if let Some(Err(error)) = w.handle.as_ref().map(Handle::close_to_packets) {
                tracing::warn!(interface = %name, %error, "packets of its old ring count twice for a moment");
            }
            tracing::info!(interface = %name, kib = ring / 1024, "its ring overflowed: it has a larger one");
            w.ring = ring;
            self.enlarged += ring - old_ring_bytes;
            let (old, dropped) = (w.handle.replace(new), std::mem::take(&mut w.dropped));
            if let Some(old) = old {
                self.end_handle(index, old, dropped);
            }
            self.wait_for(index)?;
        }
        Ok(())
    }
}
