//! The live view: watches of a cluster's API that feed the same indexes as snapshot files do.
//!
//! Owns the watches, the cache of what they delivered, for how long a deleted pod is remembered,
//! and what of the cache is saved over a restart. New indexes replace old ones whole, so that a
//! reader of old ones is not disturbed. While the API server does not answer, the cache stays in
//! use. Must never write to the cluster, nor decide what an address means: `cluster` does.

mod cache;
mod client;
mod controllers;
mod follow;
mod former;
mod kinds;
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
use cache::ObjectCache;
use cache::recall::SavedView;
use shared::SharedCache;

pub use cache::recall::{ViewChanges, ViewRow};
pub use client::{ViewError, client, config, connect};
pub use status::{KindStatus, ViewStatus};

/// How long an agent remembers a deleted pod. The pod's packets from before the deletion may be
/// attributed this much later.
pub const REMEMBERED: Duration = Duration::from_secs(10 * 60);
/// How long a recorder remembers a deleted pod. Agents that cannot reach it spool what they have
/// seen, and send it later.
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

/// The latest indexes of a cluster. Clones share them.
#[derive(Clone, Debug)]
pub struct View {
    cluster: watch::Receiver<Arc<Cluster>>,
    synced: watch::Receiver<bool>,
    shared: Arc<SharedCache>,
    saved: Arc<Mutex<SavedView>>,
}

impl View {
    /// The view of a snapshot, which never changes.
    pub fn fixed(cluster: Cluster) -> Self {
        let (_, cluster) = watch::channel(Arc::new(cluster));
        let (_, synced) = watch::channel(true);
        Self { cluster, synced, shared: Arc::default(), saved: Arc::default() }
    }

    /// The view of a live cluster. `saved` are the rows that an earlier run has saved. The watches
    /// end soon after `stop` becomes true or its sender is dropped; the handle is joined when all
    /// of them have ended.
    pub fn start(
        client: kube::Client,
        extent: Extent,
        domain: Option<String>,
        saved: Vec<ViewRow>,
        stop: watch::Receiver<bool>,
    ) -> (Self, JoinHandle<()>) {
        let mut cache = ObjectCache::new(extent.remembered());
        let mut pool = Pool::default();
        let (saved, unreadable) = cache.recall(saved, &mut pool, Instant::now());
        if unreadable > 0 {
            tracing::warn!(
                rows = unreadable,
                "some rows of the view that an earlier run saved cannot be read: who had these \
                 addresses before is not known"
            );
        }
        let shared = Arc::new(SharedCache {
            cache: Mutex::new(cache),
            pool: Mutex::new(pool),
            ..SharedCache::default()
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
        let (publish_synced, synced) = watch::channel(false);
        let view = Self {
            cluster,
            synced,
            shared: Arc::clone(&shared),
            saved: Arc::new(Mutex::new(saved)),
        };
        let task = tokio::spawn(async move {
            rebuild::run(&shared, domain.as_deref(), &publish, &publish_synced, stop).await;
            watches.shutdown().await;
        });
        (view, task)
    }

    /// The latest indexes. Incomplete before the view is [`ready`](Self::ready).
    pub fn current(&self) -> Arc<Cluster> {
        Arc::clone(&self.cluster.borrow())
    }

    /// Waits until the indexes contain pods, and every other kind that is served and allowed, or
    /// until the view is stopped.
    pub async fn ready(&mut self) {
        // An error means that the view was stopped before.
        let _ = self.synced.wait_for(|synced| *synced).await;
    }

    /// Waits until the indexes have changed since this clone last waited. Returns `false` when they
    /// will never change again.
    pub async fn changed(&mut self) -> bool {
        self.cluster.changed().await.is_ok()
    }

    /// How often the watches have changed the cache in a way that the indexes show.
    pub fn revision(&self) -> u64 {
        self.shared.revision.load(Ordering::Relaxed)
    }

    /// The rows to write and to remove so that the saved view is up to date. The caller writes
    /// them and then calls [`saved`](Self::saved). Empty for the view of a snapshot.
    pub fn changes(&self) -> ViewChanges {
        self.shared.cache().changes(&self.saved.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Records that these changes are on the disk.
    pub fn saved(&self, changes: ViewChanges) {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner).written(changes);
    }

    /// The state of all watches.
    pub fn status(&self) -> ViewStatus {
        self.status_in(None)
    }

    /// The state of all watches; objects are counted in this namespace, or in all.
    pub fn status_in(&self, namespace: Option<&str>) -> ViewStatus {
        let mut status = self.shared.cache().status(namespace, Instant::now());
        status.synced = *self.synced.borrow();
        status
    }
}
