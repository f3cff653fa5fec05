//! Builds the indexes anew when something has changed, and not too often.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::known::Input;
use super::shared::Shared;
use crate::cluster::{Cluster, ClusterBuilder};

/// Changes come in bursts: when none came for so long, one has ended.
const QUIET: Duration = Duration::from_millis(50);
/// A busy cluster is never quiet.
const AT_LATEST: Duration = Duration::from_millis(500);
/// One build per this many times its duration: a tenth of a core at most.
const SHARE: u32 = 10;
/// Where nothing is to be forgotten, this is as good as never.
const LONG: Duration = Duration::from_secs(24 * 60 * 60);

/// Keeps the indexes up to date until the word to stop. A build that runs then is awaited.
pub(super) async fn keep(
    shared: &Shared,
    domain: Option<&str>,
    publish: &watch::Sender<Arc<Cluster>>,
    tell: &watch::Sender<bool>,
    mut stop: watch::Receiver<bool>,
) {
    let mut said = BTreeSet::new();
    let mut forget = None;
    let mut not_before = Instant::now();
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = pause(shared, forget, not_before) => {}
        }
        let input = shared.known().input(Instant::now());
        shared.pool().sweep();
        let settled = input.settled;
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
                // Before everything is listed, much seems to contradict itself. Later, each is said
                // once as long as it lasts.
                if settled {
                    let problems = BTreeSet::from_iter(problems);
                    problems.difference(&said).for_each(|problem| tracing::warn!("{problem}"));
                    said = problems;
                    tell.send_if_modified(|synced| !std::mem::replace(synced, true));
                }
            }
            Err(error) => {
                tracing::error!("the indexes could not be built, the former ones stay: {error}")
            }
        }
        not_before = begun + begun.elapsed() * SHARE;
    }
}

/// Waits for a change, or for something to forget, and then until it is time to build.
async fn pause(shared: &Shared, forget: Option<Instant>, not_before: Instant) {
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
    // Nobody is left who could say so: then there is nobody to serve either.
    let _ = stop.wait_for(|stop| *stop).await;
}

fn build(input: Input, domain: Option<&str>) -> (Cluster, Vec<String>) {
    let mut builder =
        domain.map_or_else(ClusterBuilder::default, |d| ClusterBuilder::default().domain(d));
    input.feed(&mut builder);
    builder.build()
}
