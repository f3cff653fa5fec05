//! The loop that reads a node's interfaces and converts their packets to observations.
//!
//! Owns the handles and the meter. It is one thread, which packets, changes of interfaces and a
//! clock wake. Must never wait for the receiver of observations while it collects, and never end
//! without reporting what it has seen.

mod buffer;
mod datagrams;
mod read;
mod rings;
mod send;
mod watch;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::event::{EventfdFlags, PollFd, PollFlags, epoll, eventfd, poll};

pub use super::report::{
    CollectError, CollectorConfig, CollectorControl, CollectorReport, CollectorStatus, PodAddresses,
};

use self::buffer::{CHUNK, ObservationBuffer, separate_spans};
use super::evidence::NodeEvidence;
use super::handle::{DroppedPackets, Handle, OpenError};
use super::links::{Link, Links};
use super::rates::{DatagramRate, RingUse};
use super::report::{ControlState, ReportKind};
use crate::flow::ListeningPorts;
use crate::meter::Meter;
use crate::observation::Nanos;

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

/// A ring of another size for an interface, or why there is none.
struct NewRing {
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

/// An interface that the collector watches.
struct LiveInterface {
    name: String,
    /// Absent where one handle reads all interfaces.
    handle: Option<Handle>,
    /// It leads to a pod, so that the direction of a packet identifies the sender.
    of_pod: bool,
    dropped: DroppedPackets,
    /// Bytes of its ring.
    ring_bytes: u32,
    /// Its ring overflowed since it was last enlarged.
    overflows: bool,
    ring_use: RingUse,
    /// It was logged that its ring cannot grow further.
    at_limit: bool,
    datagrams: DatagramRate,
    /// Packets of it that were lost since its last report.
    lost: u64,
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
    watched: HashMap<u32, LiveInterface>,
    listed: HashSet<u32>,
    /// A list of all interfaces was received.
    complete: bool,
    /// Handles of interfaces that are gone, or that have another handle now. They are read until
    /// the kernel has no more packets for them.
    ending: Vec<EndingHandle>,
    /// Rings of another size that are being opened.
    opening: Vec<JoinHandle<NewRing>>,
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

/// Waits for a descriptor, at most 100 ms.
fn poll_briefly(fd: &impl AsFd, what: &'static str) -> Result<(), CollectError> {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    let wait = rustix::time::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    match poll(&mut fds, Some(&wait)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(system(what)(e)),
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
            poll_briefly(&self.links, "wait for the list of interfaces")?;
            self.changes()?;
        }
        // Then the node's evidence of their owners.
        let until = Instant::now() + FIRST_EVIDENCE;
        while !self.evidence.is_complete() && Instant::now() < until {
            poll_briefly(&self.evidence, "wait for the node's routes")?;
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
        // They have no packets that the rings lack which they would replace.
        for thread in std::mem::take(&mut self.opening) {
            let _ = thread.join();
        }
        self.drain();
        let now = clock();
        let mut receiver_gone = false;
        let (buffer, status, mut spans) = (&mut self.buffer, &self.status, Vec::new());
        self.meter.finish(&mut |o| {
            separate_spans(o, buffer, &mut spans);
            // Sending may block here, since nothing is read any more.
            if buffer.len() >= CHUNK && !receiver_gone {
                let (observations, over) = buffer.take();
                let (last, status) = (false, status.clone());
                receiver_gone =
                    out.send(CollectorReport { now, observations, over, status, last }).is_err();
            }
        });
        self.spans(spans, now);
        while self.buffer.len() > CHUNK && !receiver_gone {
            let report = self.report(now, ReportKind::Tick);
            receiver_gone = out.send(report).is_err();
        }
        let report = self.report(now, ReportKind::Last);
        receiver_gone = receiver_gone || out.send(report).is_err();
        let sent = if receiver_gone { Err(CollectError::ReceiverGone) } else { Ok(()) };
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
            self.wait(tick + self.config.tick, &mut events)?;
            self.take_settings();
            let read = self.read_events(&events)?;
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
            self.limit_datagrams(now - tick);
            self.shrink(now - tick);
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

    /// Waits until there is something to read, or `until`.
    fn wait(&self, mut until: Instant, events: &mut Vec<epoll::Event>) -> Result<(), CollectError> {
        // Ending handles are polled, since the loop does not wait on their descriptors.
        if !self.ending.is_empty() {
            let half = u64::from(self.config.handle.block_timeout_millis) / 2;
            until = until.min(Instant::now() + Duration::from_millis(half));
        }
        let wait = until.saturating_duration_since(Instant::now());
        let wait = rustix::time::Timespec {
            tv_sec: wait.as_secs() as i64,
            tv_nsec: wait.subsec_nanos().into(),
        };
        events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(system("wait for packets")(e)),
        }
    }

    /// Applies the listening ports and pods that other threads have set.
    fn take_settings(&mut self) {
        let listening = self.shared.listening.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(listening) = listening {
            self.meter.set_listening(listening);
        }
        let pods = self.shared.pods.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(pods) = pods {
            self.meter.set_pods(&pods);
        }
    }

    /// Reads everything that has an event. True where a handle was read.
    fn read_events(&mut self, events: &[epoll::Event]) -> Result<bool, CollectError> {
        let mut read = false;
        // The node's evidence comes before the packets that are checked against it.
        if events.iter().any(|e| e.data.u64() == EVIDENCE) {
            self.read_evidence()?;
        }
        for event in events {
            read |= !matches!(event.data.u64(), LINKS | WAKE | EVIDENCE);
            match event.data.u64() {
                LINKS => self.changes()?,
                EVIDENCE => {}
                WAKE => drop(rustix::io::read(&self.shared.wake, &mut [0u8; 8])),
                ALL => self.read_any()?,
                index => self.read(index as u32),
            }
        }
        Ok(read)
    }
}
