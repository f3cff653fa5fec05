//! The tenancy of an address: which pod had it when, where several had it one after another.
//!
//! Owns the rules, on packet time. Must never give an address to a pod at a time at which another
//! pod may have had it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::brief::SECOND;
use super::{Backing, Cluster, Pod, objects};
use crate::model::{Time, selects};

/// When a pod or an endpoint ceased to exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum EndTime {
    /// At this time at the latest. The end was noticed as it happened.
    By(Time),
    /// It still existed at the first time, and was missed at the second. Nobody watched in between.
    Between(Time, Time),
}

impl EndTime {
    /// The latest time at which it is known to have existed.
    pub fn last_known(self) -> Time {
        match self {
            Self::By(time) | Self::Between(time, _) => time,
        }
    }

    /// When the end was noticed.
    pub fn noticed(self) -> Time {
        match self {
            Self::By(time) | Self::Between(_, time) => time,
        }
    }
}

/// How the end of a deleted pod is known.
pub(super) enum EndEvidence {
    /// Its last container ended then.
    Exact,
    /// Its deletion was noticed as it happened.
    Noticed,
    /// It was missed at this time. The end is the latest time at which it is known to have existed.
    Missed(Time),
}

impl EndEvidence {
    pub fn of(end: EndTime, exact: bool) -> Self {
        match end {
            _ if exact => Self::Exact,
            EndTime::By(_) => Self::Noticed,
            EndTime::Between(_, missed) => Self::Missed(missed),
        }
    }
}

/// What is known of the limits of a pod's tenancy, beside its start and end.
pub(super) struct TenancyLimits {
    /// How the end is known, if the pod was deleted.
    pub end: Option<EndEvidence>,
    /// When its first container ran: the pod had its addresses by then.
    pub up: Option<Time>,
}

/// Decides the limits between pods that had an address one after another. The pod that ends later
/// is the later holder.
///
/// Its start is a time before it had the address, in whole seconds. So its tenancy begins where
/// that of the earlier pod ends, if that end is exact or lies within the same second. Otherwise the
/// deletion was noticed late, and the start of the later pod is the better limit.
///
/// If nobody watched when the address changed hands, the earlier pod had it as long as the pod is
/// known to have existed and the later one had not started. The later one has it from the second
/// after its first container ran, or from when it was seen. In between, the owner of the address is
/// unknown.
pub(super) fn hand_over(cluster: &mut Cluster, limits: &[TenancyLimits]) {
    let ended = |i: &u32| limits[*i as usize].end.is_some();
    let shared = cluster.pods_by_address.iter().filter(|(_, h)| h.len() > 1 && h.iter().any(ended));
    // A pod has one interval for all its addresses. Sorted, so that the result does not depend on
    // the order of the hash table.
    let mut shared: Vec<(IpAddr, Vec<u32>)> = shared.map(|(a, h)| (*a, h.clone())).collect();
    shared.sort();
    let pods = &mut cluster.pods;
    for (_, mut holders) in shared {
        holders.sort_by_key(|&i| (pods[i as usize].end, pods[i as usize].start));
        for (at, &earlier) in holders.iter().enumerate() {
            let earlier = earlier as usize;
            let Some(how) = &limits[earlier].end else { continue };
            for &later in &holders[at + 1..] {
                let later = later as usize;
                let (begun, end, start) =
                    (pods[earlier].start, pods[earlier].end, pods[later].start);
                match how {
                    EndEvidence::Missed(missed) if start < *missed => {
                        let up = limits[later]
                            .up
                            .map_or(*missed, |up| Time(up.0.saturating_add(SECOND)));
                        pods[earlier].end = end.min(start.max(begun));
                        pods[later].start = start.max(up.min(*missed)).min(pods[later].end);
                    }
                    EndEvidence::Exact | EndEvidence::Noticed if start < end => {
                        let noticed_late = matches!(how, EndEvidence::Noticed)
                            && begun < start
                            && start.0.saturating_add(SECOND) <= end.0;
                        let limit = if noticed_late { start } else { end };
                        pods[earlier].end = limit;
                        pods[later].start = limit;
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Decides the limits of endpoints. An endpoint is valid from the start of the pod that now has its
/// address, unless an earlier pod with that address served the same Service. Uncertain intervals
/// end at that start, too.
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
        // Whether an earlier pod served the Service, as its slices say, or else its labels.
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
        let limited = |b: &Backing| match (b.until, b.sure) {
            (Time::MAX, _) if !continues(b) => Backing { from: start, ..*b },
            (until, false) if b.from < start && start < until => Backing { until: start, ..*b },
            _ => *b,
        };
        all.iter_mut().for_each(|b| *b = limited(b));
    }
}

#[cfg(test)]
mod tests;
