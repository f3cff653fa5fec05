//! What a connection resolved to.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Destination, Grade};

/// What a connection resolved to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// Where it went.
    pub destination: Destination,
    /// The Service's port where there is a Service, else the port on the wire.
    pub port: u16,
    /// Every grade of evidence for it, with the name that was the evidence.
    pub grades: BTreeMap<Grade, Option<String>>,
    /// Mesh hosts by which the application addressed it, other than the destination's own host.
    pub addressed: BTreeSet<String>,
    /// An injected pod reached a Service's own address on a port that its proxy captures.
    pub scope_miss: bool,
}

impl Resolution {
    pub(super) fn new(destination: Destination, port: u16) -> Self {
        Self {
            destination,
            port,
            grades: BTreeMap::new(),
            addressed: BTreeSet::new(),
            scope_miss: false,
        }
    }

    pub(super) fn graded(mut self, grade: Grade, name: Option<&str>) -> Self {
        self.grades.entry(grade).or_insert_with(|| name.map(str::to_owned));
        self
    }
}
