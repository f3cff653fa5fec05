//! Capabilities: the one that capturing needs, and no other (capabilities(7)).
//!
//! Owns what the process may do. Must be called before any thread is started: capabilities are per
//! thread, and threads inherit them.

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs,
};

/// What is missing.
#[derive(Debug, thiserror::Error)]
#[error(
    "capturing needs the capability CAP_NET_RAW, which this process does not have; run it as root, or give the capability to the \
     program (`setcap cap_net_raw+ep $(command -v sidecarta)`), or in Kubernetes to the container \
     (`securityContext.capabilities: {{drop: [ALL], add: [NET_RAW]}}` with `hostNetwork: true`)"
)]
pub struct Missing;

/// Keeps `CAP_NET_RAW` and drops everything else, for good. True where nothing else was held.
///
/// # Errors
/// When `CAP_NET_RAW` is not permitted.
pub fn keep_only_capture() -> Result<bool, Missing> {
    let held = capabilities(None).map_err(|_| Missing)?;
    if !held.permitted.contains(CapabilitySet::NET_RAW) {
        return Err(Missing);
    }
    let only = CapabilitySets {
        effective: CapabilitySet::NET_RAW,
        permitted: CapabilitySet::NET_RAW,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, only).map_err(|_| Missing)?;
    // Nothing is executed, so nothing could regain them; where the kernel has no such bit, that
    // stays true.
    let _ = set_no_new_privs(true);
    Ok(held.permitted == CapabilitySet::NET_RAW)
}
