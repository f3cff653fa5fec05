//! Builds new indexes when the cache has changed.
//!
//! Owns how often they are built. Must never publish indexes that are built in part.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::cache::IndexInput;
use super::shared::SharedCache;
use crate::cluster::{Cluster, ClusterBuilder};

/// Changes come in bursts. A burst has ended when no change came for this long.
const QUIET: Duration = Duration::from_millis(50);
/// In a busy cluster bursts never end: a build waits no longer than this for it.
const AT_LATEST: Duration = Duration::from_millis(500);
/// From one build to the next there is this many times the duration of the first: building takes a
/// tenth of a core at most.
const SHARE: u32 = 10;
/// How long to wait if nothing is to be forgotten: as good as never.
const LONG: Duration = Duration::from_secs(24 * 60 * 60);

/// Rebuilds the indexes after changes until `stop` becomes true. Waits for a build that runs then.
pub(super) async fn run(
    shared: &SharedCache,
    domain: Option<&str>,
    publish: &watch::Sender<Arc<Cluster>>,
    publish_synced: &watch::Sender<bool>,
    mut stop: watch::Receiver<bool>,
) {
    let mut logged = BTreeSet::new();
    let mut forget = None;
    let mut not_before = Instant::now();
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = pause(shared, forget, not_before) => {}
        }
        let input = shared.cache().input(Instant::now());
        shared.pool().sweep();
        let synced = input.synced;
        forget = input.forget;
        let domain = domain.map(str::to_owned);
        let begun = Instant::now();
        match tokio::task::spawn_blocking(move || build(input, domain.as_deref())).await {
            Ok((cluster, problems)) => {
                tracing::debug!(
                    pods = cluster.pods().len(),
                    services = cluster.services().len(),
                    "indexes built"
                );
                publish.send_replace(Arc::new(cluster));
                // Before all kinds are listed, many objects seem to contradict each other, so
                // problems are logged only afterwards: each once, for as long as it lasts.
                if synced {
                    let problems = BTreeSet::from_iter(problems);
                    problems.difference(&logged).for_each(|problem| tracing::warn!("{problem}"));
                    logged = problems;
                    publish_synced.send_if_modified(|synced| !std::mem::replace(synced, true));
                }
            }
            Err(error) => {
                tracing::error!("the indexes could not be built, the old ones stay: {error}")
            }
        }
        not_before = begun + begun.elapsed() * SHARE;
    }
}

/// Waits for a change, or for something to forget, and then until it is time to build.
async fn pause(shared: &SharedCache, forget: Option<Instant>, not_before: Instant) {
    tokio::select! {
        () = shared.changed.notified() => {}
        () = sleep_until(forget.unwrap_or_else(|| Instant::now() + LONG)) => {}
    }
    let at_latest = Instant::now() + AT_LATEST;
    loop {
        tokio::select! {
            () = sleep(QUIET) => break,
            () = sleep_until(at_latest) => break,
            () = shared.changed.notified() => {}
        }
    }
    sleep_until(not_before).await;
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender was dropped, which is a stop as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

fn build(input: IndexInput, domain: Option<&str>) -> (Cluster, Vec<String>) {
    let mut builder =
        domain.map_or_else(ClusterBuilder::default, |d| ClusterBuilder::default().domain(d));
    input.feed(&mut builder);
    builder.build()
}
