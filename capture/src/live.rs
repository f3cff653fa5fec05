//! Live capture on the interfaces of a node's pods.
//!
//! Owns the interfaces, the handles, the filter in the kernel and the loop that reads them. Nothing
//! here contains pods: an interface is watched because its other end is in another network
//! namespace. Must never wait for the receiver of observations. Observations that cannot be sent
//! are buffered, or counted.

pub mod collector;
mod evidence;
pub mod filter;
pub mod handle;
mod links;
mod rates;
mod report;
mod ring;
pub mod rule;
mod uplink;
