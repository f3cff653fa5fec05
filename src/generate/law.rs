//! The first law of generation: every dependency of a workload ends as a call that its Sidecar
//! keeps, or nothing is written for it.
//!
//! A call is kept where its treatment equals that with all hosts imported. What istiod does not
//! see passes through in both, and is kept. What cannot be told to be kept is a [`Gap`].
//!
//! Owns which dependencies, declared calls and look-ups are accounted for. Must never let one go
//! without a call, a host that is listed for it, or a gap.

use std::collections::BTreeSet;

use super::calls::Plan;
use super::known::{Gap, Known};
use crate::mesh::{Mesh, Registry};
use crate::model::{Destination, Protocol};

/// What the plan of a workload leaves open. `plan` has what was found behind each dependency.
pub(super) fn gaps(mesh: &Mesh, known: &Known, plan: &Plan) -> BTreeSet<Gap> {
    let mut out: BTreeSet<Gap> = plan.gaps.iter().cloned().collect();
    // Envoy captures TCP alone.
    let tcp = |d: &&crate::model::Dependency| d.key.protocol == Protocol::Tcp;
    for (i, d) in known.dependencies.iter().enumerate() {
        if !tcp(&d) || plan.covered.contains(&i) {
            continue;
        }
        let why = match &d.key.destination {
            // The mesh's own machinery does not go by a proxy's configuration.
            Destination::Infrastructure { .. } => continue,
            Destination::Unresolved { why, .. } | Destination::Others { why: Some(why), .. } => {
                format!("it could not be resolved ({why})")
            }
            // Outside the mesh when they were folded: only an entry can have changed that.
            Destination::Others { why: None, .. } => {
                if mesh.services().iter().all(|s| s.registry == Registry::Kubernetes) {
                    continue;
                }
                "more hosts outside the mesh than are listed one by one, and the mesh has \
                 ServiceEntries that may be for one of them"
                    .to_owned()
            }
            _ => "nothing tells which address or host was called".to_owned(),
        };
        let n = d.tally.connections;
        out.insert(Gap {
            call: format!("{}:{} ({n} connections)", d.key.destination, d.key.port),
            why,
        });
    }
    for line in &known.unreadable {
        out.insert(Gap { call: line.clone(), why: "the line cannot be read as a call".to_owned() });
    }
    let folded = known.watches.iter().fold(0u64, |n, w| n.saturating_add(w.folded.connections()));
    if folded > 0 {
        out.insert(Gap {
            call: format!("{folded} connections beyond what an agent takes of one pod"),
            why: "they are not known one by one; declare what it calls with --calls".to_owned(),
        });
    }
    out
}
