//! The meshes of a cluster: one for each revision of istiod.
//!
//! Owns which one a pod has, and which names of Sidecars are in use. Must never decide what a mesh
//! contains.

use std::collections::BTreeMap;

use super::{Mesh, Sidecar};

/// The names of all Sidecars, whatever their revision: applying one replaces the object of its
/// name.
#[derive(Debug, Default)]
pub struct SidecarNames {
    by_name: BTreeMap<(String, String), Sidecar>,
}

impl SidecarNames {
    pub(super) fn new(all: impl Iterator<Item = Sidecar>) -> Self {
        Self { by_name: all.map(|s| ((s.namespace.clone(), s.name.clone()), s)).collect() }
    }

    /// The Sidecar of this name.
    pub fn get(&self, namespace: &str, name: &str) -> Option<&Sidecar> {
        self.by_name.get(&(namespace.to_owned(), name.to_owned()))
    }
}

/// One mesh for each revision, at least one.
#[derive(Debug, Default)]
pub struct Meshes {
    /// The mesh that most pods use.
    first: Mesh,
    others: Vec<Mesh>,
    sidecar_names: SidecarNames,
}

impl Meshes {
    pub(super) fn new(all: Vec<Mesh>, sidecar_names: SidecarNames) -> Self {
        let mut all = all.into_iter();
        Self { first: all.next().unwrap_or_default(), others: all.collect(), sidecar_names }
    }

    /// The mesh of most pods.
    pub fn first(&self) -> &Mesh {
        &self.first
    }

    /// The mesh of most pods, alone.
    pub fn into_first(self) -> Mesh {
        self.first
    }

    /// All meshes. The mesh of most pods is the first.
    pub fn all(&self) -> impl Iterator<Item = &Mesh> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// The mesh of a revision. A revision without a mesh of its own has the first mesh.
    pub fn of(&self, revision: Option<&str>) -> &Mesh {
        let own = revision.and_then(|r| self.others.iter().find(|m| m.revision == r));
        own.unwrap_or(&self.first)
    }

    /// The mesh that a pod's proxy has.
    pub fn of_pod(&self, namespace: &str, name: &str) -> &Mesh {
        let revision = self.all().find_map(|m| m.pod(namespace, name)?.revision.as_deref());
        self.of(revision)
    }

    /// The names of Sidecars.
    pub fn sidecar_names(&self) -> &SidecarNames {
        &self.sidecar_names
    }
}
