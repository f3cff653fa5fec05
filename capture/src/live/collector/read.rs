//! Reading of handles, of the node's evidence and of the clock.
//!
//! Owns how much is read at a time. Must never wait for packets.

use std::time::{Duration, Instant};

use super::{CLOCK_STEP_NANOS, CollectError, Collector, MAX_DRAIN, READ_FRAMES, clock, nanos};
use crate::frame::{Direction, Frame};
use crate::layout::sll2;
use crate::live::handle::HandleRead;
use crate::live::links::Link;
use crate::live::rates::is_datagram;
use crate::observation::{InterfaceId, Nanos};

impl Collector {
    /// Reads the node's new evidence of the addresses behind its interfaces.
    pub(super) fn read_evidence(&mut self) -> Result<(), CollectError> {
        let changed = self
            .evidence
            .read()
            .map_err(|error| CollectError::System { what: "follow the node's routes", error })?;
        if changed {
            for index in self.watched.keys() {
                self.meter.set_evidence(*index, self.evidence.of(*index));
            }
        }
        Ok(())
    }

    pub(super) fn check_clock(&mut self, (wall, steady): (Nanos, Instant)) -> (Nanos, Instant) {
        let (now, then) = (clock(), Instant::now());
        let step = now.saturating_sub(wall).saturating_sub(nanos(then - steady));
        if step.abs() > CLOCK_STEP_NANOS {
            self.status.clock_steps += 1;
            self.meter.rebase(now, step);
            for w in self.watched.values_mut() {
                w.reported_until = now.min(w.reported_until.saturating_add(step));
            }
        }
        (now, then)
    }

    pub(super) fn read(&mut self, index: u32) {
        let (meter, buffer) = (&mut self.meter, &mut self.buffer);
        let Some(watched) = self.watched.get_mut(&index) else { return };
        let Some(handle) = &mut watched.handle else { return };
        let (datagrams, bytes) = (&mut watched.datagrams.read, &mut watched.ring_use.read_bytes);
        let mut take = |frame: Frame<'_>| {
            *bytes += frame.data.len() as u64;
            *datagrams += u32::from(is_datagram(frame.data));
            meter.frame(&frame, &mut |o| buffer.push(o));
        };
        match handle.read(READ_FRAMES, &mut take) {
            HandleRead::Empty | HandleRead::More => {}
            HandleRead::Gone => self.unwatch(index),
            HandleRead::Failed(why) => {
                self.status.failed += 1;
                let name = watched.name.clone();
                tracing::warn!(interface = %name, %why, "reading failed; opening it again in 1 s");
                self.unwatch(index);
                let link = Link { index, name, leads_elsewhere: true, up: true };
                self.retries.insert(index, (Instant::now() + Duration::from_secs(1), link));
            }
        }
    }

    pub(super) fn read_any(&mut self) -> Result<(), CollectError> {
        let (meter, buffer, watched) = (&mut self.meter, &mut self.buffer, &self.watched);
        let Some(handle) = &mut self.any else { return Ok(()) };
        let mut take = |frame: Frame<'_>| {
            // A packet passes a veth, a bridge and a device of the node. Only veths count that have
            // no handle of their own.
            let index = sll2::interface(frame.data);
            let of = index.and_then(|i| watched.get(&i)).filter(|w| w.handle.is_none());
            if let (Some(index), Some(of)) = (index, of) {
                let direction = match sll2::is_sent(frame.data) {
                    _ if !of.of_pod => Direction::Unknown,
                    true => Direction::Sent,
                    false => Direction::Received,
                };
                let interface = InterfaceId { index, ..frame.interface };
                meter.frame(&Frame { direction, interface, ..frame }, &mut |o| buffer.push(o));
            }
        };
        match handle.read(READ_FRAMES, &mut take) {
            HandleRead::Empty | HandleRead::More | HandleRead::Gone => Ok(()),
            HandleRead::Failed(why) => {
                tracing::warn!(%why, "reading all interfaces failed; opening them again");
                self.status.failed += 1;
                self.ask_dropped();
                self.open_any()
            }
        }
    }

    /// Reads the last packets: those that the kernel holds back for the block timeout, and those in
    /// the rings by then. Does not read on without end where packets continue to come.
    pub(super) fn drain(&mut self) {
        let block_timeout_millis =
            Duration::from_millis(u64::from(self.config.handle.block_timeout_millis));
        let until = Instant::now() + block_timeout_millis + Duration::from_millis(50);
        loop {
            let before = self.meter.counters().packets;
            let all: Vec<u32> = self.watched.keys().copied().collect();
            all.into_iter().for_each(|i| self.read(i));
            let _ = self.read_any();
            self.read_ending();
            let more = self.meter.counters().packets - before >= READ_FRAMES as u64;
            let now = Instant::now();
            if now >= until && (!more || now >= until + MAX_DRAIN) {
                break;
            }
            if !more {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        self.ask_dropped();
    }
}
