//! What generation is given of a workload.
//!
//! Owns the words. Must never decide what follows.

use std::collections::BTreeMap;

use serde::Serialize;

use super::declared::Declared;
use crate::model::{DataPlane, Dependency, Lookups, Watch, WorkloadId};

/// What is known of one workload, gathered for generation.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Its dependencies, sorted by key.
    pub dependencies: Vec<Dependency>,
    /// What goes past its proxy, and needs no host.
    pub past: Vec<Dependency>,
    /// Its pods that were watched.
    pub watches: Vec<Watch>,
    /// The hosts it looked up.
    pub lookups: Vec<Lookups>,
    /// Calls that people or other tools declare for it.
    pub declared: Vec<Declared>,
    /// Lines that were declared for it and cannot be read, each with its reason.
    pub unreadable: Vec<String>,
}

/// Of a workload of which nothing is known.
pub(super) static NOTHING: Known = Known {
    dependencies: Vec::new(),
    past: Vec::new(),
    watches: Vec::new(),
    lookups: Vec::new(),
    declared: Vec::new(),
    unreadable: Vec::new(),
};

impl Known {
    /// Whether there is anything that a Sidecar could be written from.
    pub(super) fn anything(&self) -> bool {
        self.learned() || !self.declared.is_empty() || !self.unreadable.is_empty()
    }

    pub(super) fn learned(&self) -> bool {
        !self.dependencies.is_empty() || !self.past.is_empty() || !self.watches.is_empty()
    }
}

/// A workload as the snapshot, or failing that the store, describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Which one.
    pub id: WorkloadId,
    /// Labels that select its pods.
    pub selector: BTreeMap<String, String>,
    /// How its pods take part in the mesh.
    pub data_plane: DataPlane,
    /// It stands in the snapshot.
    pub present: bool,
}

impl Subject {
    /// Why no Sidecar can select its pods, and what to do.
    pub(super) fn no_selector(&self) -> String {
        format!(
            "no label selects the pods of the {} {} for good: those that they have are of one pod, revision or run; add a label \
             of your own to the template of its pods",
            self.id.kind, self.id.name
        )
    }
}

/// Something that is known of a workload's calls and that no list is sure to keep.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Gap {
    /// The call, as far as it is known.
    pub call: String,
    /// Why it is not sure to be kept.
    pub why: String,
}

impl std::fmt::Display for Gap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.call, self.why)
    }
}
