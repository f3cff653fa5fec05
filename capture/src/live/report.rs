//! What goes into a collector and what comes out of it.
//!
//! Owns plain values, and the means to stop a collector. Must never read a packet.

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

/// How to collect.
#[derive(Clone, Debug)]
pub struct CollectorConfig {
    /// Of each interface.
    pub handle: HandleConfig,
    /// One handle for all interfaces in place of one each.
    pub any: bool,
    /// How often new connections are handed on.
    pub tick: Duration,
    /// How often all connections that go on are.
    pub round: Duration,
    /// How long the name of a connection is waited for before it is told without.
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

/// What was lost and what is watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CollectorStatus {
    /// Of the packets that were read.
    pub counters: CaptureCounters,
    /// Packets that the kernel dropped for want of room in a ring, or a device did.
    pub dropped: DroppedPackets,
    /// Observations dropped because nobody took them.
    pub unheard: u64,
    /// Attempts to open an interface that failed, though it was there.
    pub not_opened: u64,
    /// Interfaces that failed while they were read.
    pub failed: u64,
    /// Times that the kernel dropped messages on interfaces; all were listed anew.
    pub links_lost: u64,
    /// Times that the system's clock was set.
    pub clock_steps: u64,
    /// Interfaces watched now, by index.
    pub watched: BTreeMap<u32, String>,
    /// One handle is used for all.
    pub any: bool,
}

/// What is handed on at a tick.
#[derive(Debug)]
pub struct CollectorReport {
    /// The clock at the tick.
    pub now: Nanos,
    /// In the order in which they were made.
    pub observations: Vec<Observation>,
    /// Connections by the address of who opened them, where they were too many to be handed on one
    /// by one.
    pub over: BTreeMap<IpAddr, u64>,
    /// As of the last tick.
    pub status: CollectorStatus,
    /// There will be no more.
    pub last: bool,
}

/// Why collecting cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The kernel refuses something without which nothing works.
    #[error("cannot {what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        error: std::io::Error,
    },
    /// An interface cannot be opened for a reason that holds for all.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Whoever takes the observations has gone.
    #[error("nobody takes the observations any more")]
    Unheard,
}

/// The addresses of pods, of each apart.
pub type PodAddresses = Vec<Arc<[IpAddr]>>;

/// Steers a collector from other threads.
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
    /// Ends collecting: what is in the rings is read, everything is told.
    pub fn stop(&self) {
        self.0.stop.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Replaces what is known to listen, at once.
    pub fn listening(&self, listening: ListeningPorts) {
        *self.0.listening.lock().unwrap_or_else(PoisonError::into_inner) = Some(listening);
        self.wake();
    }

    /// Replaces what is known of which addresses are one pod's, at once.
    pub fn pods(&self, pods: PodAddresses) {
        *self.0.pods.lock().unwrap_or_else(PoisonError::into_inner) = Some(pods);
        self.wake();
    }

    fn wake(&self) {
        // A full counter wakes as well.
        let _ = rustix::io::write(&self.0.wake, &1u64.to_ne_bytes());
    }
}
