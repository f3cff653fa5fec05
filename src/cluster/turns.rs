//! Who had an address when, where several had it one after another.
//!
//! Owns the rules for it, on packet time. Must never give an address to anybody at a time at which
//! it may have been another's.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::brief::SECOND;
use super::{Backing, Cluster, Pod, objects};
use crate::model::{Time, selects};

/// When something was over that is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ended {
    /// By then: that was noticed as it happened.
    By(Time),
    /// It was still there at the first of these times, and was missed at the second; nobody looked
    /// between the two.
    Between(Time, Time),
}

impl Ended {
    /// Until when it is known to have been there at the latest.
    pub fn known(self) -> Time {
        match self {
            Self::By(time) | Self::Between(time, _) => time,
        }
    }

    /// When it was noticed.
    pub fn noticed(self) -> Time {
        match self {
            Self::By(time) | Self::Between(_, time) => time,
        }
    }
}

/// How the end of a deleted pod is known.
pub(super) enum End {
    /// By that of its last container.
    Exact,
    /// By its deletion.
    Noticed,
    /// It was missed at this time, and is known to have been there until its end.
    Missed(Time),
}

impl End {
    pub fn of(ended: Ended, exact: bool) -> Self {
        match ended {
            _ if exact => Self::Exact,
            Ended::By(_) => Self::Noticed,
            Ended::Between(_, missed) => Self::Missed(missed),
        }
    }
}

/// What tells where the turn of one holder of an address ends, and that of the next begins.
pub(super) struct Turn {
    /// Of a pod that is known to be deleted.
    pub end: Option<End>,
    /// When it had its addresses at the latest.
    pub up: Option<Time>,
}

/// Settles between those that had an address one after another. The one that ends later is the
/// later holder. Its start comes from before it had the address, and in whole seconds; so it begins
/// where the earlier one's end is well known, or lies within the same second. Otherwise the end is
/// that of a deletion that was noticed late, and the start tells better.
///
/// Where nobody looked when the address changed hands, it was the earlier one's as long as that is
/// known and the later one had not started, and is the later one's from the second after its first
/// container began, or when it was seen. Between the two it is nobody's that is known.
pub(super) fn hand_over(cluster: &mut Cluster, turns: &[Turn]) {
    let ended = |i: &u32| turns[*i as usize].end.is_some();
    let shared = cluster.pods_by_address.iter().filter(|(_, h)| h.len() > 1 && h.iter().any(ended));
    // A pod has one interval for all its addresses: sorted, the outcome does not hang on hash
    // order.
    let mut shared: Vec<(IpAddr, Vec<u32>)> = shared.map(|(a, h)| (*a, h.clone())).collect();
    shared.sort();
    let pods = &mut cluster.pods;
    for (_, mut holders) in shared {
        holders.sort_by_key(|&i| (pods[i as usize].end, pods[i as usize].start));
        for (at, &earlier) in holders.iter().enumerate() {
            let earlier = earlier as usize;
            let Some(how) = &turns[earlier].end else { continue };
            for &later in &holders[at + 1..] {
                let later = later as usize;
                let (begun, end, start) =
                    (pods[earlier].start, pods[earlier].end, pods[later].start);
                match how {
                    End::Missed(missed) if start < *missed => {
                        let up =
                            turns[later].up.map_or(*missed, |up| Time(up.0.saturating_add(SECOND)));
                        pods[earlier].end = end.min(start.max(begun));
                        pods[later].start = start.max(up.min(*missed)).min(pods[later].end);
                    }
                    End::Exact | End::Noticed if start < end => {
                        let noticed_late = matches!(how, End::Noticed)
                            && begun < start
                            && start.0.saturating_add(SECOND) <= end.0;
                        let turn = if noticed_late { start } else { end };
                        pods[earlier].end = turn;
                        pods[later].start = turn;
                    }
                    _ => {}
                }
            }
        }
    }
}

/// An endpoint begins with the pod that has its address, unless those before it stood behind the
/// same Service; and what may have gone on while nobody looked ends there.
pub(super) fn hand_over_endpoints(cluster: &mut Cluster, services: &[&objects::ServiceObject]) {
    let Cluster { endpoints, pods, pods_by_address, .. } = cluster;
    for ((address, ..), all) in endpoints.iter_mut() {
        let holders =
            || pods_by_address.get(address).into_iter().flatten().map(|i| &pods[*i as usize]);
        let Some(start) = holders().filter(|p| p.end == Time::MAX).map(|p| p.start).max() else {
            continue;
        };
        let former: Vec<Backing> = all.iter().filter(|b| b.until != Time::MAX).copied().collect();
        let before: Vec<&Pod> = holders().filter(|p| p.end != Time::MAX).collect();
        // Also of a former pod, as far as is known: its slices have said so, or its labels do.
        let continues = |b: &Backing| match former
            .iter()
            .filter(|f| (f.service, f.port) == (b.service, b.port))
            .max_by_key(|f| f.until)
        {
            Some(last) => last.sure,
            None if !former.is_empty() => false,
            None => {
                let service = services[b.service as usize];
                let (namespace, selector) = (&service.metadata.namespace, &service.spec.selector);
                before.iter().any(|p| {
                    p.workload.namespace == *namespace
                        && (selector.is_empty() || selects(selector, &p.labels))
                })
            }
        };
        let turn = |b: &Backing| match (b.until, b.sure) {
            (Time::MAX, _) if !continues(b) => Backing { from: start, ..*b },
            (until, false) if b.from < start && start < until => Backing { until: start, ..*b },
            _ => *b,
        };
        all.iter_mut().for_each(|b| *b = turn(b));
    }
}

#[cfg(test)]
mod tests;
