//! Packets in, observations out.
//!
//! This crate is a leaf: it reads captures (libpcap, pcapng, compressed or piped), decodes frames
//! without allocation, follows connections in a bounded table on packet time, and reads the names
//! that packets show (DNS answers, TLS ClientHello, HTTP authority). It must never know Kubernetes,
//! an async runtime, or a database.
//!
//! Capturing on the interfaces of a node (`live`) is Linux's alone, and a cargo feature of that
//! name, which is on by default. Without it no dependency is of one system only.
//!
//! ```text
//! source ─► Batch of frames ─► decode ─► Segment ─► flow ─► Observation
//!                                 names: dns, tls, http ─┘     └─ meter composes
//! ```

#![warn(unreachable_pub)]

mod bytes;
pub mod decode;
pub mod dns;
pub mod flow;
pub mod frame;
pub mod http;
mod interfaces;
// Some of it only the filter in the kernel needs.
#[cfg_attr(not(feature = "live"), allow(dead_code))]
mod layout;
#[cfg(feature = "live")]
pub mod live;
pub mod loss;
pub mod meter;
pub mod observation;
mod owners;
mod skim;
pub mod source;
pub mod tls;
mod tunnel;
