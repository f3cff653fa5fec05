//! Live capture: the interfaces of a node's pods, opened as they come, read with next to no cost.
//!
//! Owns the interfaces, the handles, the filter in the kernel and the loop that reads them. Nothing
//! here knows what a pod is: an interface is watched because its other end lies in another network
//! namespace. Must never wait for whoever takes the observations: what cannot be handed on is kept,
//! or counted.

pub mod collector;
mod evidence;
pub mod filter;
pub mod handle;
mod links;
mod report;
mod ring;
pub mod rule;
mod uplink;
