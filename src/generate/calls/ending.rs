//! The end of a call, as packets show it.
//!
//! Owns the type. Must never decide which host was addressed.

use crate::model::Dependency;

/// A dependency whose connections ended at a host.
#[derive(Clone, Copy)]
pub(super) struct Ending<'d> {
    /// Index of the dependency.
    pub index: usize,
    pub dependency: &'d Dependency,
    /// The host where the connections ended.
    pub host: &'d str,
}

impl Ending<'_> {
    /// The port of the host.
    pub fn port(&self) -> u16 {
        self.dependency.key.port
    }
}
