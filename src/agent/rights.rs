//! Capabilities: the process retains the one that capturing needs and drops all others
//! (capabilities(7)).
//!
//! Owns what the process may do. Must be called before any thread is started: each thread has its
//! own capabilities, and inherits them from the thread that starts it.

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs,
};

/// The process does not have `CAP_NET_RAW`.
#[derive(Debug, thiserror::Error)]
#[error(
    "capturing needs the capability CAP_NET_RAW, which this process does not have; run it as \
     root, or give the capability to the program \
     (`setcap cap_net_raw+ep $(command -v sidecarta)`), or in Kubernetes to the container \
     (`securityContext.capabilities: {{drop: [ALL], add: [NET_RAW]}}` with `hostNetwork: true`)"
)]
pub struct MissingCapability;

/// Drops all capabilities but `CAP_NET_RAW`, for good. Returns true if there was no other.
///
/// # Errors
/// When `CAP_NET_RAW` is not permitted.
pub fn keep_only_capture() -> Result<bool, MissingCapability> {
    let before = capabilities(None).map_err(|_| MissingCapability)?;
    if !before.permitted.contains(CapabilitySet::NET_RAW) {
        return Err(MissingCapability);
    }
    let only = CapabilitySets {
        effective: CapabilitySet::NET_RAW,
        permitted: CapabilitySet::NET_RAW,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, only).map_err(|_| MissingCapability)?;
    // An error is ignored: the agent executes no other program, so it cannot regain capabilities
    // even where the kernel does not support this bit.
    let _ = set_no_new_privs(true);
    Ok(before.permitted == CapabilitySet::NET_RAW)
}
