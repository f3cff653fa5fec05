//! The live view: watches of a cluster's API that feed the same indexes as snapshot files do.
//!
//! Owns the watches, what they told so far, for how long a deleted pod is remembered, and what of
//! it outlives a restart; swaps the indexes whole, so that whoever holds one goes on undisturbed.
//! What is known stays in use while the API server is away. Must never write to the cluster, nor
//! decide what an address means: that is `cluster`'s part.

mod client;
mod follow;
mod former;
mod kinds;
mod known;
mod object;
mod rebuild;
mod shared;
mod status;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::cluster::{Cluster, Pool};
use known::Known;
use known::recall::Noted;
use shared::Shared;

pub use client::{ViewError, client, config, connect};
pub use known::recall::{Changes, Row};
pub use status::{KindStatus, Status};

/// How long an agent remembers a deleted pod: its own packets from before the deletion may be told
/// this much later.
pub const REMEMBERED: Duration = Duration::from_secs(10 * 60);
/// How long a recorder does: agents that cannot reach it keep what they have seen, and bring it
/// when they can.
const SPOOLED: Duration = Duration::from_secs(60 * 60);

/// What is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The pods of this node, and nothing else.
    Node(String),
    /// Pods, their controllers, Services, EndpointSlices, Nodes and ServiceEntries of the whole
    /// cluster.
    Cluster,
}

impl Extent {
    fn remembered(&self) -> Duration {
        match self {
            Self::Node(_) => REMEMBERED,
            Self::Cluster => SPOOLED,
        }
    }
}

/// The latest indexes of a cluster. A clone sees the same.
#[derive(Clone, Debug)]
pub struct View {
    cluster: watch::Receiver<Arc<Cluster>>,
    synced: watch::Receiver<bool>,
    shared: Arc<Shared>,
    noted: Arc<Mutex<Noted>>,
}

impl View {
    /// Of a snapshot: never changes.
    pub fn fixed(cluster: Cluster) -> Self {
        let (_, cluster) = watch::channel(Arc::new(cluster));
        let (_, synced) = watch::channel(true);
        Self { cluster, synced, shared: Arc::default(), noted: Arc::default() }
    }

    /// Of a live cluster, with what an earlier run has noted of it. All that runs for it has ended
    /// when the handle is joined, which is soon after `stop` turns true or its sender is dropped.
    pub fn start(
        client: kube::Client,
        extent: Extent,
        domain: Option<String>,
        noted: Vec<Row>,
        stop: watch::Receiver<bool>,
    ) -> (Self, JoinHandle<()>) {
        let mut known = Known::new(extent.remembered());
        let mut pool = Pool::default();
        let (noted, unreadable) = known.recall(noted, &mut pool, Instant::now());
        if unreadable > 0 {
            tracing::warn!(
                rows = unreadable,
                "what an earlier run knew of the cluster cannot be read in part: who had these addresses before is not known"
            );
        }
        let shared = Arc::new(Shared {
            known: Mutex::new(known),
            pool: Mutex::new(pool),
            ..Shared::default()
        });
        let mut watches = JoinSet::new();
        match extent {
            Extent::Node(node) => {
                let fields = format!("spec.nodeName={node}");
                kinds::PODS.follow(&client, Some(fields), &shared, &mut watches);
            }
            Extent::Cluster => follow::all(&client, &shared, &mut watches),
        }
        let (publish, cluster) = watch::channel(Arc::default());
        let (tell, synced) = watch::channel(false);
        let view = Self {
            cluster,
            synced,
            shared: Arc::clone(&shared),
            noted: Arc::new(Mutex::new(noted)),
        };
        let task = tokio::spawn(async move {
            rebuild::keep(&shared, domain.as_deref(), &publish, &tell, stop).await;
            watches.shutdown().await;
        });
        (view, task)
    }

    /// The latest indexes. Incomplete before the view is [`ready`](Self::ready).
    pub fn current(&self) -> Arc<Cluster> {
        Arc::clone(&self.cluster.borrow())
    }

    /// Waits until the indexes hold pods, and every other kind that is served and allowed, or the
    /// view is stopped.
    pub async fn ready(&mut self) {
        // An error means that nobody will ever say so.
        let _ = self.synced.wait_for(|synced| *synced).await;
    }

    /// Waits until the indexes are others than when this clone last waited. `false` when they will
    /// never change again.
    pub async fn changed(&mut self) -> bool {
        self.cluster.changed().await.is_ok()
    }

    /// Counts what the watches have told that was news.
    pub fn revision(&self) -> u64 {
        self.shared.revision.load(Ordering::Relaxed)
    }

    /// What a store must write to hold what is known of addresses and endpoints; to be told
    /// [`noted`](Self::noted) when it has. Of a snapshot there is nothing.
    pub fn changes(&self) -> Changes {
        self.shared.known().changes(&self.noted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// These changes are on the disk.
    pub fn noted(&self, changes: Changes) {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).written(changes);
    }

    /// How far it has come.
    pub fn status(&self) -> Status {
        self.status_in(None)
    }

    /// How far it has come, with the number of objects in this namespace alone.
    pub fn status_in(&self, namespace: Option<&str>) -> Status {
        let mut status = self.shared.known().status(namespace, Instant::now());
        status.synced = *self.synced.borrow();
        status
    }
}
