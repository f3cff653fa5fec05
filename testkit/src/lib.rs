//! What the tests and benchmarks of several packages need: packets, messages and captures, one
//! builder for each.
//!
//! Owns the bytes that tests write: frames ([`frame`]), DNS messages ([`dns`]), ClientHellos
//! ([`tls`]), classic captures ([`pcap`]); random numbers ([`random`]); and how much memory a
//! process has ([`memory`]). Must never read what it writes, or import a package of the project: a builder that shares code with a parser shares its
//! faults.

// A test that cannot go on should say where.
#![allow(clippy::unwrap_used)]

pub mod dns;
pub mod frame;
pub mod memory;
pub mod pcap;
pub mod random;
pub mod tls;
