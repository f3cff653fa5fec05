//! Configuration, control and reports of a collector.
//!
//! Owns plain values, and the way to stop a collector. Must never read a packet.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::handle::{DroppedPackets, HandleConfig, OpenError};
use crate::flow::{FlowConfig, ListeningPorts};
use crate::loss::CaptureCounters;
use crate::observation::{Nanos, Observation};

/// Whether more reports follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReportKind {
    Tick,
    Last,
}

/// Configuration of a collector.
#[derive(Clone, Debug)]
pub struct CollectorConfig {
    /// How each interface is opened.
    pub handle: HandleConfig,
    /// One handle for all interfaces, in place of one for each.
    pub any: bool,
    /// Interval in which new connections are reported.
    pub tick: Duration,
    /// Interval in which all connections that go on are reported.
    pub round: Duration,
    /// How long the name of a connection is awaited, before it is reported without one.
    pub patience: Duration,
    /// Limits of the flow table.
    pub flows: FlowConfig,
}

impl Default for CollectorConfig {
    fn default() -> Self {
        Self {
            handle: HandleConfig::default(),
            any: false,
            tick: Duration::from_millis(500),
            round: Duration::from_secs(30),
            patience: Duration::from_secs(2),
            flows: FlowConfig { live: true, ..FlowConfig::default() },
        }
    }
}

/// Losses, and the interfaces that are watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CollectorStatus {
    /// Counters of the packets that were read.
    pub counters: CaptureCounters,
    /// Packets that the kernel dropped because a ring was full, or that a device dropped.
    pub dropped: DroppedPackets,
    /// Observations dropped because the receiver was too slow.
    pub unheard: u64,
    /// Failed attempts to open an interface that was there.
    pub not_opened: u64,
    /// Number of times that reading an interface failed.
    pub failed: u64,
    /// Number of times that the kernel dropped messages about interfaces. All interfaces were
    /// listed anew.
    pub links_lost: u64,
    /// Number of times that the system's clock was set.
    pub clock_steps: u64,
    /// Names of the interfaces watched now, by the kernel's index.
    pub watched: BTreeMap<u32, String>,
    /// Whether one handle reads all interfaces.
    pub any: bool,
}

/// What a collector reports at a tick.
#[derive(Debug)]
pub struct CollectorReport {
    /// The system's clock at the tick, in nanoseconds since the Unix epoch.
    pub now: Nanos,
    /// Observations, in the order in which they were made.
    pub observations: Vec<Observation>,
    /// Number of connections by initiator, where there were too many to report each.
    pub over: BTreeMap<IpAddr, u64>,
    /// Status at the last tick.
    pub status: CollectorStatus,
    /// Whether this is the last report.
    pub last: bool,
}

/// Why collecting cannot begin or continue.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The kernel refuses something that collecting needs.
    #[error("cannot {what}: {error}")]
    System {
        /// Attempted operation, as a verb phrase.
        what: &'static str,
        /// Error of the system.
        error: std::io::Error,
    },
    /// An interface cannot be opened, for a reason that applies to all.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The receiver of observations was dropped.
    #[error("the receiver of the observations is gone")]
    ReceiverGone,
}

/// Addresses of pods, pod by pod.
pub type PodAddresses = Vec<Arc<[IpAddr]>>;

/// Controls a collector from other threads.
#[derive(Clone, Debug)]
pub struct CollectorControl(pub(super) Arc<ControlState>);

#[derive(Debug)]
pub(super) struct ControlState {
    pub stop: AtomicBool,
    pub listening: Mutex<Option<ListeningPorts>>,
    pub pods: Mutex<Option<PodAddresses>>,
    pub wake: OwnedFd,
}

impl CollectorControl {
    /// Ends collecting. The rings are read, and everything is reported first.
    pub fn stop(&self) {
        self.0.stop.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Replaces the listening ports, at once.
    pub fn set_listening(&self, listening: ListeningPorts) {
        *self.0.listening.lock().unwrap_or_else(PoisonError::into_inner) = Some(listening);
        self.wake();
    }

    /// Replaces the addresses of the pods, at once.
    pub fn set_pods(&self, pods: PodAddresses) {
        *self.0.pods.lock().unwrap_or_else(PoisonError::into_inner) = Some(pods);
        self.wake();
    }

    fn wake(&self) {
        // The collector wakes even where the counter is full and the write fails.
        let _ = rustix::io::write(&self.0.wake, &1u64.to_ne_bytes());
    }
}
