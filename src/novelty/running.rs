//! Which pods run.
//!
//! Owns that question for the rules of alerts. Must never read a store.

use crate::cluster::{Cluster, Pod};
use crate::model::Time;

/// The pods that run at this time.
pub(super) fn running_pods(cluster: &Cluster, now: Time) -> impl Iterator<Item = &Pod> {
    cluster.pods().iter().filter(move |pod| pod.start <= now && now < pod.end)
}
