//! The loop that reads a node's interfaces and converts their packets to observations.
//!
//! Owns the handles and the meter. It is one thread, which packets, changes of interfaces and a
//! clock wake. Must never wait for the receiver of observations while it collects, and never end
//! without reporting what it has seen.

mod buffer;
mod rings;
mod watch;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::event::{EventfdFlags, PollFd, PollFlags, epoll, eventfd, poll};

pub use super::report::{
    CollectError, CollectorConfig, CollectorControl, CollectorReport, CollectorStatus, PodAddresses,
};

use self::buffer::{CHUNK, ObservationBuffer};
use super::evidence::NodeEvidence;
use super::handle::{DroppedPackets, Handle, HandleRead, OpenError};
use super::links::{Link, Links};
use super::report::ControlState;
use crate::flow::ListeningPorts;
use crate::frame::{Direction, Frame};
use crate::layout::sll2;
use crate::meter::Meter;
use crate::observation::{InterfaceId, Nanos, Observation};

/// Frames read from one interface before the next one is read.
const READ_FRAMES: usize = 4_096;
/// Nanoseconds by which the system's clock may differ from the monotonic clock between two ticks.
/// Beyond that, the clock was set. NTP slews by 500 ppm.
const CLOCK_STEP_NANOS: i64 = 500_000_000;
/// How long the first list of interfaces is awaited. It takes milliseconds. Interfaces that come
/// later are changes.
const FIRST_LIST: Duration = Duration::from_secs(5);
/// How long the node's first evidence of the addresses behind interfaces is awaited.
const FIRST_EVIDENCE: Duration = Duration::from_secs(1);
/// Shortest pause between two readings of the rings. A wake-up interrupts whatever runs on the
/// processor, and costs as much as reading some dozen packets. A ring of the default size has room
/// for some 800 segments that open a connection. At 100,000 a second they come in 8 ms.
const READ_PAUSE: Duration = Duration::from_millis(3);
/// How much longer than the block timeout the rings are read at the end.
const MAX_DRAIN: Duration = Duration::from_secs(2);
/// Interval in which the kernel is asked how many packets it dropped, where no block shows that it
/// did.
const DROPPED_INTERVAL: Duration = Duration::from_secs(5);

/// A larger ring for an interface, or why there is none.
struct LargerRing {
    index: u32,
    name: String,
    old_ring_bytes: u32,
    ring_bytes: u32,
    handle: Result<Handle, OpenError>,
}

/// A handle that receives no more packets. Those that the kernel still has are read.
struct EndingHandle {
    until: Instant,
    index: u32,
    handle: Handle,
    /// Dropped packets that were counted before.
    dropped: DroppedPackets,
}

/// A watched interface.
struct WatchedInterface {
    name: String,
    /// Absent where one handle reads all interfaces.
    handle: Option<Handle>,
    /// It leads to a pod, so that the direction of a packet identifies the sender.
    of_pod: bool,
    dropped: DroppedPackets,
    /// Bytes of its ring.
    ring_bytes: u32,
    /// Its ring overflowed since it was last enlarged_bytes.
    overflows: bool,
    /// It was logged that its ring cannot grow further.
    at_limit: bool,
    /// End of the last span that was reported; at first, the time since when it is watched.
    reported_until: Nanos,
    packets: u64,
}

/// Reads a node's interfaces, and sends reports.
pub struct Collector {
    config: CollectorConfig,
    links: Links,
    evidence: NodeEvidence,
    epoll: OwnedFd,
    shared: Arc<ControlState>,
    meter: Meter,
    any: Option<Handle>,
    any_dropped: DroppedPackets,
    watched: HashMap<u32, WatchedInterface>,
    listed: HashSet<u32>,
    /// A list of all interfaces was received.
    complete: bool,
    /// Handles of interfaces that are gone, or that have another handle now. They are read until
    /// the kernel has no more packets for them.
    ending: Vec<EndingHandle>,
    /// Larger rings that are being opened.
    opening: Vec<JoinHandle<LargerRing>>,
    /// Handles that are being closed.
    closing: Vec<JoinHandle<()>>,
    /// Bytes of all rings beyond their configured size.
    enlarged_bytes: u32,
    /// Interfaces that could not be opened, and when to try again.
    retries: BTreeMap<u32, (Instant, Link)>,
    buffer: ObservationBuffer,
    /// Slot of the flow table at which the report of all changed connections continues.
    round: Option<u32>,
    status: CollectorStatus,
}

// Tokens of epoll. The token of an interface is its index.
const LINKS: u64 = u64::MAX;
const WAKE: u64 = u64::MAX - 1;
const ALL: u64 = u64::MAX - 2;
const EVIDENCE: u64 = u64::MAX - 3;

fn system(what: &'static str) -> impl FnOnce(rustix::io::Errno) -> CollectError {
    move |e| CollectError::System { what, error: e.into() }
}

/// The system's clock, in nanoseconds since the Unix epoch. The kernel takes packet times from it.
fn clock() -> Nanos {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

fn nanos(d: Duration) -> Nanos {
    i64::try_from(d.as_nanos()).unwrap_or(i64::MAX)
}

/// Puts totals of interfaces into `spans`, and other observations into the buffer.
fn separate_spans(
    observation: Observation,
    buffer: &mut ObservationBuffer,
    spans: &mut Vec<Observation>,
) {
    match observation {
        Observation::Interface(_) => spans.push(observation),
        _ => buffer.push(observation),
    }
}

impl Collector {
    /// Opens all that is needed before any interface is.
    ///
    /// # Errors
    /// When the kernel refuses a netlink socket or, with [`CollectorConfig::any`], a handle.
    pub fn open(config: CollectorConfig) -> Result<(Self, CollectorControl), CollectError> {
        let io = |what| move |error| CollectError::System { what, error };
        let mut links = Links::open().map_err(io("follow the network interfaces"))?;
        links.list().map_err(io("list the network interfaces"))?;
        let evidence = NodeEvidence::open().map_err(io("follow the node's routes"))?;
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(system("make an epoll instance"))?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(system("make an eventfd"))?;
        let add = |fd: BorrowedFd<'_>, token| {
            epoll::add(&epoll, fd, epoll::EventData::new_u64(token), epoll::EventFlags::IN)
                .map_err(system("wait on a descriptor"))
        };
        add(links.as_fd(), LINKS)?;
        add(wake.as_fd(), WAKE)?;
        add(evidence.as_fd(), EVIDENCE)?;
        let shared = Arc::new(ControlState {
            stop: AtomicBool::new(false),
            listening: Mutex::new(None),
            pods: Mutex::new(None),
            wake,
        });
        let mut this = Self {
            meter: Meter::new(config.flows, ListeningPorts::default()),
            config,
            links,
            evidence,
            epoll,
            shared: Arc::clone(&shared),
            any: None,
            any_dropped: DroppedPackets::default(),
            watched: HashMap::new(),
            listed: HashSet::new(),
            complete: false,
            ending: Vec::new(),
            opening: Vec::new(),
            closing: Vec::new(),
            enlarged_bytes: 0,
            retries: BTreeMap::new(),
            buffer: ObservationBuffer::default(),
            round: None,
            status: CollectorStatus::default(),
        };
        if this.config.any {
            this.open_any()?;
        }
        this.first_list()?;
        Ok((this, CollectorControl(shared)))
    }

    /// Opens the interfaces that are there already, so that they are watched when this returns.
    fn first_list(&mut self) -> Result<(), CollectError> {
        let until = Instant::now() + FIRST_LIST;
        while !self.complete && Instant::now() < until {
            let mut fds = [PollFd::new(&self.links, PollFlags::IN)];
            let wait = rustix::time::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            match poll(&mut fds, Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(system("wait for the list of interfaces")(e)),
            }
            self.changes()?;
        }
        // Then the node's evidence of their owners.
        let until = Instant::now() + FIRST_EVIDENCE;
        while !self.evidence.is_complete() && Instant::now() < until {
            let mut fds = [PollFd::new(&self.evidence, PollFlags::IN)];
            let wait = rustix::time::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            match poll(&mut fds, Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(system("wait for the node's routes")(e)),
            }
            self.read_evidence()?;
        }
        Ok(())
    }

    /// Collects until it is stopped.
    ///
    /// # Errors
    /// See [`CollectError`]. What was seen until then is reported first.
    pub fn run(mut self, out: &SyncSender<CollectorReport>) -> Result<(), CollectError> {
        let result = self.work(out);
        // The larger rings have no packets that the smaller ones lack.
        for thread in std::mem::take(&mut self.opening) {
            let _ = thread.join();
        }
        self.drain();
        let now = clock();
        let mut unheard = false;
        let (buffer, status, mut spans) = (&mut self.buffer, &self.status, Vec::new());
        self.meter.finish(&mut |o| {
            separate_spans(o, buffer, &mut spans);
            // Sending may block here, since nothing is read any more.
            if buffer.len() >= CHUNK && !unheard {
                let (observations, over) = buffer.take();
                let (last, status) = (false, status.clone());
                unheard =
                    out.send(CollectorReport { now, observations, over, status, last }).is_err();
            }
        });
        self.spans(spans, now);
        while self.buffer.len() > CHUNK && !unheard {
            let report = self.report(now, false);
            unheard = out.send(report).is_err();
        }
        let report = self.report(now, true);
        unheard = unheard || out.send(report).is_err();
        let sent = if unheard { Err(CollectError::Unheard) } else { Ok(()) };
        for thread in std::mem::take(&mut self.closing) {
            let _ = thread.join();
        }
        result.and(sent)
    }

    fn work(&mut self, out: &SyncSender<CollectorReport>) -> Result<(), CollectError> {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(256);
        let (mut tick, mut round, mut ask) = (Instant::now(), Instant::now(), Instant::now());
        let mut clocks = (clock(), Instant::now());
        while !self.shared.stop.load(Ordering::SeqCst) {
            let mut until = tick + self.config.tick;
            // Ending handles are polled, since the loop does not wait on their descriptors.
            if !self.ending.is_empty() {
                until = until.min(
                    Instant::now()
                        + Duration::from_millis(
                            u64::from(self.config.handle.block_timeout_millis) / 2,
                        ),
                );
            }
            let wait = until.saturating_duration_since(Instant::now());
            let wait = rustix::time::Timespec {
                tv_sec: wait.as_secs() as i64,
                tv_nsec: wait.subsec_nanos().into(),
            };
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&wait))
            {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(system("wait for packets")(e)),
            }
            let mut read = false;
            if let Some(listening) =
                self.shared.listening.lock().unwrap_or_else(PoisonError::into_inner).take()
            {
                self.meter.set_listening(listening);
            }
            if let Some(pods) =
                self.shared.pods.lock().unwrap_or_else(PoisonError::into_inner).take()
            {
                self.meter.set_pods(&pods);
            }
            // The node's evidence comes before the packets that are checked against it.
            if events.iter().any(|e| e.data.u64() == EVIDENCE) {
                self.read_evidence()?;
            }
            for event in &events {
                read |= !matches!(event.data.u64(), LINKS | WAKE | EVIDENCE);
                match event.data.u64() {
                    LINKS => self.changes()?,
                    EVIDENCE => {}
                    WAKE => drop(rustix::io::read(&self.shared.wake, &mut [0u8; 8])),
                    ALL => self.read_any()?,
                    index => self.read(index as u32),
                }
            }
            self.read_ending();
            if !self.opening.is_empty() {
                self.take_opened()?;
            }
            let now = Instant::now();
            if now < tick + self.config.tick {
                if self.buffer.len() >= CHUNK {
                    self.send_buffered(clock(), out)?;
                }
                if read {
                    std::thread::sleep(READ_PAUSE);
                }
                continue;
            }
            tick = now;
            clocks = self.check_clock(clocks);
            let wall = clocks.0;
            self.retry_open()?;
            self.evidence.request_neighbours().map_err(|error| CollectError::System {
                what: "ask for the node's neighbours",
                error,
            })?;
            if now >= ask + DROPPED_INTERVAL
                || self.watched.values().any(|w| w.handle.as_ref().is_some_and(Handle::is_losing))
            {
                ask = now;
                self.ask_dropped();
                self.enlarge();
            }
            if now >= round + self.config.round {
                round = now;
                self.round.get_or_insert(0);
            }
            self.report_due(wall, out)?;
        }
        Ok(())
    }

    /// Reports what is due, in parts, as far as the receiver takes it. The rest is reported at the
    /// next tick.
    fn report_due(
        &mut self,
        now: Nanos,
        out: &SyncSender<CollectorReport>,
    ) -> Result<(), CollectError> {
        loop {
            let (limit, before) = (self.buffer.room(), self.buffer.len());
            let (buffer, mut spans) = (&mut self.buffer, Vec::new());
            let mut take = |o| separate_spans(o, buffer, &mut spans);
            if let Some(from) = self.round {
                self.round = self.meter.report_changed_some(now, from, limit, &mut take);
            } else {
                self.meter.report_fresh_some(now, nanos(self.config.patience), limit, &mut take);
            }
            self.spans(spans, now);
            let report = self.buffer.len().saturating_sub(before);
            self.send_buffered(now, out)?;
            if report < limit || report == 0 {
                return Ok(());
            }
        }
    }

    /// Sends buffered observations, as far as the receiver takes them.
    fn send_buffered(
        &mut self,
        now: Nanos,
        out: &SyncSender<CollectorReport>,
    ) -> Result<(), CollectError> {
        loop {
            let report = self.report(now, false);
            match out.try_send(report) {
                Ok(()) if self.buffer.len() < CHUNK => return Ok(()),
                Ok(()) => {}
                // It is sent with the next report.
                Err(TrySendError::Full(CollectorReport { observations, over, .. })) => {
                    self.buffer.put_back(observations, over);
                    return Ok(());
                }
                Err(TrySendError::Disconnected(_)) => return Err(CollectError::Unheard),
            }
        }
    }

    fn report(&mut self, now: Nanos, last: bool) -> CollectorReport {
        self.status.counters = self.meter.counters();
        self.status.any = self.any.is_some();
        self.status.watched = self.watched.iter().map(|(i, w)| (*i, w.name.clone())).collect();
        self.status.unheard = self.buffer.unheard;
        let (observations, over) = self.buffer.take();
        CollectorReport { now, observations, over, status: self.status.clone(), last }
    }

    /// Reads the node's new evidence of the addresses behind its interfaces.
    fn read_evidence(&mut self) -> Result<(), CollectError> {
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

    fn check_clock(&mut self, (wall, steady): (Nanos, Instant)) -> (Nanos, Instant) {
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

    fn read(&mut self, index: u32) {
        let (meter, buffer) = (&mut self.meter, &mut self.buffer);
        let Some(watched) = self.watched.get_mut(&index) else { return };
        let Some(handle) = &mut watched.handle else { return };
        match handle.read(READ_FRAMES, &mut |frame| meter.frame(&frame, &mut |o| buffer.push(o))) {
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

    fn read_any(&mut self) -> Result<(), CollectError> {
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

    /// Converts the totals that were just reported to spans, and buffers them.
    fn spans(&mut self, spans: Vec<Observation>, now: Nanos) {
        for span in spans {
            if let Some(span) = self.span(span, now) {
                self.buffer.push(span);
            }
        }
    }

    /// The difference of an interface's totals to its last report. The time span is the time in
    /// which it was watched, even where no packet came.
    fn span(&mut self, observation: Observation, now: Nanos) -> Option<Observation> {
        let Observation::Interface(mut span) = observation else { return Some(observation) };
        // An interface without packets shows no owner.
        let watched = self.watched.get_mut(&span.interface.index).filter(|_| span.packets > 0)?;
        span.first = watched.reported_until.min(now);
        span.last = now;
        let total = span.packets;
        span.packets = total.saturating_sub(watched.packets);
        watched.reported_until = now;
        watched.packets = total;
        Some(Observation::Interface(span))
    }

    /// Reads the last packets: those that the kernel holds back for the block timeout, and those in
    /// the rings by then. Does not read on without end where packets continue to come.
    fn drain(&mut self) {
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
