//! What generation is given of a workload.
//!
//! Owns the words, and whether a declared call is one. Must never decide what follows.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;

use crate::model::{DataPlane, Dependency, Lookups, Watch, WorkloadId, valid};
use crate::scope::CallProtocol;

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
}

/// Of a workload of which nothing is known.
pub(super) static NOTHING: Known = Known {
    dependencies: Vec::new(),
    past: Vec::new(),
    watches: Vec::new(),
    lookups: Vec::new(),
    declared: Vec::new(),
};

impl Known {
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

/// A call that a person or another tool declares.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declared {
    /// `NAMESPACE/NAME` of a workload or a pod.
    pub workload: String,
    /// Host, in full or as a client in that namespace may shorten it.
    pub host: String,
    /// Port; absent: all that the host has.
    #[serde(default)]
    pub port: Option<u16>,
    /// `http`, `tls` or `tcp`; absent: as the port declares.
    #[serde(default)]
    pub protocol: Option<String>,
    /// What the host resolves to; absent: as the mesh says.
    #[serde(default)]
    pub address: Option<IpAddr>,
}

impl Declared {
    /// The call, where its words are what they should be.
    ///
    /// # Errors
    /// In words, when the host is none, the port 0, or the protocol unknown.
    pub fn checked(self) -> Result<Self, String> {
        valid::called_host(&self.host).map_err(|e| e.to_string())?;
        if self.port == Some(0) {
            return Err("the port is 0, which nobody listens on".to_owned());
        }
        match self.protocol.as_deref() {
            Some(other) if protocol(other).is_none() => {
                Err(format!("the protocol {other:?} is none of http, tls, tcp"))
            }
            _ => Ok(self),
        }
    }
}

/// The protocol of this name.
pub(super) fn protocol(name: &str) -> Option<CallProtocol> {
    match name.to_ascii_lowercase().as_str() {
        "http" | "http1" | "http2" | "grpc" => Some(CallProtocol::Http),
        "tls" | "https" => Some(CallProtocol::Tls),
        "tcp" => Some(CallProtocol::Tcp),
        _ => None,
    }
}
