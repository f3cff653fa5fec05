//! Packets, messages and captures that the tests of several packages build: one builder for each.
//!
//! Owns the bytes that tests write: frames ([`frame`]), DNS messages ([`dns`]), ClientHellos
//! ([`tls`]), classic captures ([`pcap`]), and random numbers ([`random`]). Must never read what it
//! writes, or import a package of the project: a builder that shares code with a parser shares its
//! faults.

// A test that cannot go on should say where.
#![allow(clippy::unwrap_used)]

pub mod dns;
pub mod frame;
pub mod pcap;
pub mod random;
pub mod tls;
