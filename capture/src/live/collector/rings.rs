//! Rings that overflow, and handles that are read to their end.
//!
//! Owns the counts of packets that the kernel dropped, and the sizes of rings: a ring that
//! overflows grows, and one that is no longer needed is given back. Must never wait for the kernel
//! while packets come, nor let rings grow without a limit. While a ring is replaced, a few
//! milliseconds of packets are in both. Connections are still counted once; packet counters may
//! count these packets twice.

use std::panic::resume_unwind;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use super::{CollectError, Collector, EndingHandle, NewRing, READ_FRAMES};
use crate::live::handle::{DroppedPackets, Handle, HandleConfig, HandleRead};
use crate::live::rates::RingUse;

/// Largest ring of an interface, in bytes. Short connections alone fill it in 100 ms.
const MAX_RING_BYTES: u32 = 2 * 1024 * 1024;
/// Factor by which a ring grows at a time.
const RING_GROWTH: u32 = 4;
/// Bytes that all rings together may have beyond their configured size.
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
                let lost = status.dropped.add(e.dropped, dropped);
                if let Some(w) = self.watched.get_mut(&e.index) {
                    w.lost += lost;
                }
            }
            over.push((e.index, e.handle));
        }
        let (over, handles): (Vec<u32>, Vec<Handle>) = over.into_iter().unzip();
        self.close_in_background(handles);
        for index in over {
            // Meanwhile the interface may have another handle, or be up again.
            if self.watched.get(&index).is_some_and(|w| w.handle.is_none()) {
                self.forget(index);
            }
        }
    }

    /// Reads a handle for a while longer, then closes it. The kernel delivers a block when it is
    /// full or its timeout has passed, even of a device that is gone.
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

    /// Closes handles on a thread of its own. For each, the kernel waits for all processors, and
    /// the other rings would overflow meanwhile. Without a thread, handles are closed here.
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
            w.lost += self.status.dropped.add(w.dropped, dropped);
            w.dropped = dropped;
        }
        if let Some(dropped) = self.any.as_mut().and_then(Handle::dropped) {
            let lost = self.status.dropped.add(self.any_dropped, dropped);
            self.any_dropped = dropped;
            // Nothing shows whose packets they were.
            self.watched.values_mut().filter(|w| w.handle.is_none()).for_each(|w| w.lost += lost);
        }
    }

    /// Opens larger rings for interfaces whose rings have overflowed. Most pods only need a small
    /// one. Each ring is opened on a thread of its own: the kernel waits for all processors when a
    /// ring is made, and the other rings would overflow meanwhile.
    pub(super) fn enlarge(&mut self) {
        let full = self.watched.iter_mut().filter_map(|(index, w)| {
            std::mem::take(&mut w.overflows).then(|| (*index, w.name.clone(), w.ring_bytes))
        });
        let mut full: Vec<(u32, String, u32)> = full.collect();
        full.sort_unstable();
        for (index, name, old_ring_bytes) in full {
            let ring_bytes = old_ring_bytes.saturating_mul(RING_GROWTH);
            if ring_bytes > MAX_RING_BYTES
                || self.enlarged_bytes + (ring_bytes - old_ring_bytes) > MAX_ENLARGED_BYTES
            {
                if let Some(w) = self.watched.get_mut(&index).filter(|w| !w.at_limit) {
                    w.at_limit = true;
                    tracing::warn!(
                        interface = %name,
                        kib = old_ring_bytes / 1024,
                        "its ring overflows and cannot grow further"
                    );
                }
                continue;
            }
            self.open_ring(index, name, (old_ring_bytes, ring_bytes));
        }
    }

    /// Gives larger rings back that were not needed for a while. `tick`: the time since the last
    /// call.
    pub(super) fn shrink(&mut self, tick: Duration) {
        let configured = self.config.handle.ring_bytes;
        let mut calm = Vec::new();
        for (index, w) in &mut self.watched {
            if w.ring_use.fits(configured, tick) && w.ring_bytes > configured {
                // Where it fails, it is tried again after as long.
                w.ring_use = RingUse::default();
                calm.push((*index, w.name.clone(), w.ring_bytes));
            }
        }
        calm.sort_unstable();
        for (index, name, old_ring_bytes) in calm {
            self.open_ring(index, name, (old_ring_bytes, configured));
        }
    }

    /// Opens a ring of another size on a thread of its own.
    fn open_ring(&mut self, index: u32, name: String, (old_ring_bytes, ring_bytes): (u32, u32)) {
        let settings = HandleConfig { ring_bytes, ..self.config.handle.clone() };
        let work = move || NewRing {
            handle: Handle::open(&name, index, &settings),
            index,
            name,
            old_ring_bytes,
            ring_bytes,
        };
        match Builder::new().name("ring".to_owned()).spawn(work) {
            Ok(thread) => self.opening.push(thread),
            Err(error) => {
                tracing::warn!(%error, "the system gives no thread to open a ring of another size");
            }
        }
    }

    /// Replaces rings by those of another size that were opened.
    pub(super) fn take_opened(&mut self) -> Result<(), CollectError> {
        let (done, not): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.opening).into_iter().partition(JoinHandle::is_finished);
        self.opening = not;
        for thread in done {
            let NewRing { index, name, old_ring_bytes, ring_bytes, handle } =
                thread.join().unwrap_or_else(|panic| resume_unwind(panic));
            let new = match handle {
                Ok(new) => new,
                Err(error) => {
                    tracing::warn!(
                        interface = %name,
                        %error,
                        kib = ring_bytes / 1024,
                        "a ring of another size cannot be opened"
                    );
                    continue;
                }
            };
            // Meanwhile the interface may be gone, another one may have its name, or its ring may
            // have overflowed twice.
            let same = self.is_named(index, &name);
            let Some(w) = self
                .watched
                .get_mut(&index)
                .filter(|w| same && w.ring_bytes == old_ring_bytes && w.handle.is_some())
            else {
                continue;
            };
            // From here on the old ring receives no packets.
            if let Some(Err(error)) = w.handle.as_ref().map(Handle::close_to_packets) {
                tracing::warn!(
                    interface = %name,
                    %error,
                    "packets of its old ring count twice for a moment"
                );
            }
            let why = match ring_bytes > old_ring_bytes {
                true => "its ring overflowed and was replaced by a larger one",
                false => "its ring was larger than needed and was replaced by a smaller one",
            };
            tracing::info!(interface = %name, kib = ring_bytes / 1024, "{why}");
            w.ring_bytes = ring_bytes;
            w.ring_use = RingUse::default();
            w.at_limit = false;
            self.enlarged_bytes = self.enlarged_bytes + ring_bytes - old_ring_bytes;
            let (old, dropped) = (w.handle.replace(new), std::mem::take(&mut w.dropped));
            if let Some(old) = old {
                self.end_handle(index, old, dropped);
            }
            self.wait_for(index)?;
        }
        Ok(())
    }
}
