//! The input of generation for one workload: what was learned, and what people declare.
//!
//! Owns the types. Must never decide what follows from them.

use serde::Serialize;

use super::declared::DeclaredCall;
use crate::model::{Dependency, Lookups, Watch};

/// What was learned of one workload, with the calls that are declared for it.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    /// Its dependencies, sorted by key.
    pub dependencies: Vec<Dependency>,
    /// Dependencies whose connections go past its proxy. They need no host.
    pub past: Vec<Dependency>,
    /// Its pods that were watched.
    pub watches: Vec<Watch>,
    /// The hosts that it looked up.
    pub lookups: Vec<Lookups>,
    /// Calls that people or other tools declare for it.
    pub declared: Vec<DeclaredCall>,
    /// Declared lines for it that cannot be read, each with the reason.
    pub unreadable: Vec<String>,
}

/// Stands for a workload of which nothing was learned.
pub(super) static NOTHING: Learned = Learned {
    dependencies: Vec::new(),
    past: Vec::new(),
    watches: Vec::new(),
    lookups: Vec::new(),
    declared: Vec::new(),
    unreadable: Vec::new(),
};

impl Learned {
    /// Whether there is anything that a Sidecar could be written from.
    pub(super) fn has_anything(&self) -> bool {
        self.has_observations() || !self.declared.is_empty() || !self.unreadable.is_empty()
    }

    /// Whether packets of the workload were seen, or one of its pods was watched.
    pub(super) fn has_observations(&self) -> bool {
        !self.dependencies.is_empty() || !self.past.is_empty() || !self.watches.is_empty()
    }
}

/// Something known of a workload's calls that no list of hosts is sure to keep.
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
