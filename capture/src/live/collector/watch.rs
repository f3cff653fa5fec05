//! Watched interfaces: opened when they appear, closed when they are gone.
//!
//! Owns which interfaces are watched. Must never close a handle while the kernel may still have
//! packets for it.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll;

use super::{ALL, CollectError, Collector, LiveInterface, clock, system};
use crate::live::handle::{ANY, DroppedPackets, Handle, HandleConfig, OpenError};
use crate::live::links::{Link, LinkChange};
use crate::live::rates::{DatagramRate, RingUse};
use crate::live::uplink;
use crate::observation::InterfaceId;

impl Collector {
    pub(super) fn changes(&mut self) -> Result<(), CollectError> {
        let mut all = Vec::new();
        self.links.read(&mut |c| all.push(c)).map_err(|error| CollectError::System {
            what: "follow the network interfaces",
            error,
        })?;
        for change in all {
            match change {
                LinkChange::Present(link) => {
                    self.listed.insert(link.index);
                    if link.leads_elsewhere && link.up {
                        self.watch(link)?;
                    } else if self
                        .watched
                        .get(&link.index)
                        .is_some_and(|w| !link.up || w.name != link.name)
                    {
                        self.unwatch(link.index);
                    }
                }
                LinkChange::Removed(index) => self.unwatch(index),
                LinkChange::Listed => {
                    self.complete = true;
                    let gone: Vec<u32> =
                        self.watched.keys().filter(|i| !self.listed.contains(i)).copied().collect();
                    gone.into_iter().for_each(|i| self.unwatch(i));
                }
                LinkChange::Lost => {
                    self.status.links_lost += 1;
                    self.listed.clear();
                    self.links.list().map_err(|error| CollectError::System {
                        what: "list the network interfaces",
                        error,
                    })?;
                }
            }
        }
        Ok(())
    }

    fn watch(&mut self, link: Link) -> Result<(), CollectError> {
        if let Some(watched) = self.watched.get(&link.index) {
            // It was down and is up again, while its last packets are awaited.
            if watched.handle.is_none() && self.any.is_none() {
                self.retries
                    .insert(link.index, (Instant::now() + Duration::from_millis(100), link));
            }
            return Ok(());
        }
        let handle = if self.any.is_some() {
            None
        } else {
            match self.open_link(link.index, &link.name, &self.config.handle) {
                Ok(handle) => Some(handle),
                Err(OpenError::Gone(_)) => return Ok(()),
                Err(e @ OpenError::Rights(_)) => return Err(e.into()),
                Err(OpenError::Exhausted { source, .. }) => {
                    tracing::warn!(
                        interface = %link.name,
                        why = %source,
                        "no handle for one more interface: one handle for all is used in addition"
                    );
                    self.status.not_opened += 1;
                    match self.open_any() {
                        Ok(()) => None,
                        Err(CollectError::Open(OpenError::Exhausted { source, .. })) => {
                            tracing::warn!(
                                why = %source,
                                "no handle for all interfaces either; trying again in 1 s"
                            );
                            let at = Instant::now() + Duration::from_secs(1);
                            self.retries.insert(link.index, (at, link));
                            return Ok(());
                        }
                        Err(e) => return Err(e),
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "trying again in 1 s");
                    self.status.not_opened += 1;
                    self.retries
                        .insert(link.index, (Instant::now() + Duration::from_secs(1), link));
                    return Ok(());
                }
            }
        };
        self.retries.remove(&link.index);
        tracing::debug!(
            interface = %link.name,
            index = link.index,
            own = handle.is_some(),
            "watched"
        );
        let of_pod = !uplink::leads_to_other_hosts(&link.name);
        let since = clock();
        if of_pod {
            self.evidence.watch(link.index);
            self.meter.watch(link.index, since);
            self.meter.set_evidence(link.index, self.evidence.of(link.index));
        }
        let watched = LiveInterface {
            name: link.name,
            handle,
            of_pod,
            dropped: DroppedPackets::default(),
            ring_bytes: self.config.handle.ring_bytes,
            overflows: false,
            ring_use: RingUse::default(),
            at_limit: false,
            datagrams: DatagramRate::default(),
            lost: 0,
            reported_until: since,
            packets: 0,
        };
        self.watched.insert(link.index, watched);
        self.wait_for(link.index)
    }

    /// Opens the interface with this index. Fails where another interface has its name meanwhile.
    fn open_link(
        &self,
        index: u32,
        name: &str,
        settings: &HandleConfig,
    ) -> Result<Handle, OpenError> {
        let handle = Handle::open(name, index, settings)?;
        if self.is_named(index, name) { Ok(handle) } else { Err(OpenError::Gone(name.to_owned())) }
    }

    /// Whether the interface with this name still has this index.
    pub(super) fn is_named(&self, index: u32, name: &str) -> bool {
        rustix::net::netdevice::name_to_index(&self.links, name) == Ok(index)
    }

    /// Adds the handle of an interface, where it has one, to those that the loop waits on.
    pub(super) fn wait_for(&self, index: u32) -> Result<(), CollectError> {
        let handle = self.watched.get(&index).and_then(|w| w.handle.as_ref());
        handle.map_or(Ok(()), |handle| self.wait_on(handle, u64::from(index)))
    }

    /// Removes a handle from those that the loop waits on.
    pub(super) fn wait_no_more(&self, handle: &Handle) {
        // SAFETY: the descriptor is that of a handle that is open.
        let _ = epoll::delete(&self.epoll, unsafe { BorrowedFd::borrow_raw(handle.raw_fd()) });
    }

    fn wait_on(&self, handle: &Handle, token: u64) -> Result<(), CollectError> {
        // SAFETY: the descriptor is that of a handle that is open.
        let fd = unsafe { BorrowedFd::borrow_raw(handle.raw_fd()) };
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), epoll::EventFlags::IN)
            .map_err(system("wait on an interface"))
    }

    pub(super) fn open_any(&mut self) -> Result<(), CollectError> {
        // One ring for all interfaces needs more room.
        let settings = HandleConfig {
            ring_bytes: self.config.handle.ring_bytes.max(4 * 1024 * 1024),
            ..self.config.handle.clone()
        };
        let handle = Handle::open(ANY, 0, &settings)?;
        self.wait_on(&handle, ALL)?;
        self.any = Some(handle);
        self.any_dropped = DroppedPackets::default();
        Ok(())
    }

    pub(super) fn retry_open(&mut self) -> Result<(), CollectError> {
        let now = Instant::now();
        let due: Vec<u32> =
            self.retries.iter().filter(|(_, (at, _))| *at <= now).map(|(i, _)| *i).collect();
        for index in due {
            if let Some((_, link)) = self.retries.remove(&index) {
                self.watch(link)?;
            }
        }
        Ok(())
    }

    pub(super) fn unwatch(&mut self, index: u32) {
        self.retries.remove(&index);
        self.listed.remove(&index);
        let Some(watched) = self.watched.get_mut(&index) else { return };
        self.evidence.forget(index);
        self.meter.release(index);
        match watched.handle.take() {
            Some(handle) => {
                let dropped = std::mem::take(&mut watched.dropped);
                self.end_handle(index, handle, dropped);
            }
            None => self.forget(index),
        }
    }

    /// Removes an interface, after its last span was reported.
    pub(super) fn forget(&mut self, index: u32) {
        let mut spans = Vec::new();
        self.meter.forget(InterfaceId { source: 0, index }, &mut |o| spans.push(o));
        let now = clock();
        for o in spans {
            if let Some(span) = self.span(o, now) {
                self.buffer.push(span);
            }
        }
        if let Some(watched) = self.watched.remove(&index) {
            self.enlarged_bytes = self
                .enlarged_bytes
                .saturating_sub(watched.ring_bytes - self.config.handle.ring_bytes);
            tracing::debug!(interface = %watched.name, index, "gone");
        }
    }
}
