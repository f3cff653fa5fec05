//! The first law of generation: every dependency of a workload ends as a call that its Sidecar
//! keeps, or no Sidecar is written.
//!
//! A call is kept if its treatment equals that with all hosts imported. A call to something that
//! istiod does not see passes through in both, and is kept. What is not sure to be kept is a
//! [`Gap`].
//!
//! Owns which dependencies, declared calls and lookups are accounted for. Must never leave one
//! without a call, a host that is listed for it, or a gap.

use std::collections::BTreeSet;

use super::calls::CallPlan;
use super::learned::{Gap, Learned};
use crate::mesh::{Mesh, Registry};
use crate::model::{Dependency, Destination, Protocol};

/// The gaps of a workload. `plan` has the calls that were found behind each dependency.
pub(super) fn gaps(mesh: &Mesh, learned: &Learned, plan: &CallPlan) -> BTreeSet<Gap> {
    let mut gaps: BTreeSet<Gap> = plan.gaps.iter().cloned().collect();
    for (i, d) in learned.dependencies.iter().enumerate() {
        // Envoy captures TCP alone.
        if d.key.protocol == Protocol::Tcp && !plan.covered.contains(&i) {
            gaps.extend(gap_of_dependency(mesh, d));
        }
    }
    for line in &learned.unreadable {
        let why = "the line cannot be read as a call".to_owned();
        gaps.insert(Gap { call: line.clone(), why });
    }
    let folded = learned.watches.iter().fold(0u64, |n, w| n.saturating_add(w.folded.connections()));
    if folded > 0 {
        gaps.insert(Gap {
            call: format!("{folded} connections beyond what an agent takes of one pod"),
            why: "they are not known one by one; declare what it calls with --calls".to_owned(),
        });
    }
    gaps
}

/// The gap that a dependency without a call leaves, where it leaves one.
fn gap_of_dependency(mesh: &Mesh, d: &Dependency) -> Option<Gap> {
    let why = match &d.key.destination {
        // The mesh's own machinery does not depend on the configuration of a proxy.
        Destination::Infrastructure { .. } => return None,
        Destination::Unresolved { why, .. } | Destination::Others { why: Some(why), .. } => {
            format!("it could not be resolved ({why})")
        }
        Destination::Others { why: None, .. } => {
            // They were outside the mesh when they were folded. Only a ServiceEntry can have
            // changed that.
            let has_entries = mesh.services().iter().any(|s| s.registry != Registry::Kubernetes);
            if !has_entries {
                return None;
            }
            "more hosts outside the mesh than are listed one by one, and the mesh has \
             ServiceEntries that may be for one of them"
                .to_owned()
        }
        _ => "nothing tells which address or host was called".to_owned(),
    };
    let n = d.tally.connections;
    Some(Gap { call: format!("{}:{} ({n} connections)", d.key.destination, d.key.port), why })
}
